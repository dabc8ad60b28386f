"""Images at http and https addresses: fetched as a whole, within limits of size and time; nothing else is followed.

Only for addresses given by the caller of the library or on the command line. The service and the web page accept bytes
and never an address.
"""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from mask2former import limits
from mask2former.errors import UserError
from mask2former.text import printable

__all__ = ["WebImage", "is_address"]

_SCHEMES = ("http", "https")
_CHUNK = 1 << 16


def is_address(source: object) -> bool:
    """Whether a source is an address to fetch."""
    return isinstance(source, str) and re.match(r"https?://", source, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class WebImage:
    """An image file at a web address; it is fetched each time it is read.

    Attributes:
        url: begins with ``http://`` or ``https://``.
    """

    url: str

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            known = parts.hostname and parts.scheme.lower() in _SCHEMES and (parts.port or True)
        except ValueError:
            known = False
        if not known:
            raise UserError(f"'{printable(self.url, 200)}' is not a web address; expected http(s)://host/image")

    def __str__(self) -> str:
        """The address without a password, and without what follows ``?``, which often contains one."""
        parts = urlsplit(self.url)
        return printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}", 200)

    @property
    def name(self) -> str:
        """The last part of the path, else the host, as a valid file name."""
        parts = urlsplit(self.url)
        name = re.sub(r"[^\w.-]+", "_", PurePosixPath(unquote(parts.path)).name).strip(".")
        return name[:100] or parts.hostname or "image"

    def read_bytes(self) -> bytes:
        """The file.

        Raises:
            UserError: it cannot be fetched, or exceeds the limits of :mod:`mask2former.limits` on bytes or time.
        """
        end = time.monotonic() + limits.WEB_SECONDS
        try:
            request = urllib.request.Request(self.url, headers={"User-Agent": "mask2former"})
            with _opener().open(request, timeout=limits.WEB_TIMEOUT) as response:
                return self._received(response, end)
        except urllib.error.HTTPError as error:
            error.close()
            reason = printable(str(error.reason), 80)
            raise UserError(f"'{self}' cannot be fetched: the server replies {error.code} ({reason})") from error
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: not a valid address
            if isinstance(error, UserError):
                raise
            reason = printable(str(getattr(error, "reason", error)), 120)
            raise UserError(f"'{self}' cannot be fetched: {reason}") from error

    def _received(self, response: Any, end: float) -> bytes:
        chunks, size = [], 0
        announced = response.headers.get("Content-Length", "")
        limits.check_limit(
            f"'{self}' has too many bytes:",
            int(announced) if announced.isdecimal() else 0,
            limits.WEB_BYTES,
            "download it",
        )
        while chunk := response.read1(_CHUNK):
            chunks.append(chunk)
            size += len(chunk)
            limits.check_limit(f"'{self}' has more bytes than are allowed:", size, limits.WEB_BYTES, "download it")
            if time.monotonic() > end:
                raise UserError(f"'{self}' did not arrive within {limits.WEB_SECONDS} s; download it")
        if announced.isdecimal() and size < int(announced):
            raise UserError(f"'{self}' ended after {size:,} of {int(announced):,} bytes; try again")
        return b"".join(chunks)


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Follows only http and https, and not from https to http."""

    max_redirections = 5

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme.lower()
        if scheme not in _SCHEMES or (req.type == "https" and scheme == "http"):
            raise UserError(f"'{WebImage(req.full_url)}' redirects to {printable(scheme, 20)}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """For http and https only: the usual opener also opens files, data and ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirections(),
    ):
        opener.add_handler(handler)
    return opener
