"""One file from the web, whole and checked: goes on where a broken download stopped, and never shows half a file.

Knows addresses, hashes and folders; not what the files are. Only the standard library speaks to the network.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mask2former.errors import RequestError

__all__ = ["Patience", "Progress", "cache_folder", "download", "is_offline"]

Progress = Callable[[int, int | None], object]  # bytes so far, bytes in all if the server says

_logger = logging.getLogger(__name__)

_CHUNK = 1 << 18
_LARGEST = 4 << 30  # bytes; the largest published checkpoint has a fifth of it, and a server may send without end
_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)  # and everything from 500 on


@dataclass(frozen=True)
class Patience:
    """How long to hope for a server.

    Attributes:
        timeout: seconds without a sign of life, when connecting and between bytes.
        attempts: how many in a row may bring nothing new.
        pause: seconds before the second attempt; doubles from one to the next, up to a minute.
    """

    timeout: float = 30.0
    attempts: int = 4
    pause: float = 1.0


def cache_folder() -> Path:
    """Where downloaded weights lie: ``MASK2FORMER_CACHE``, else ``mask2former`` in the user's cache folder."""
    chosen = os.environ.get("MASK2FORMER_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mask2former"


def is_offline() -> bool:
    """Whether ``MASK2FORMER_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids the network."""
    names = ("MASK2FORMER_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in names)


def download(
    url: str, path: Path, md5_prefix: str, progress: Progress | None = None, patience: Patience | None = None
) -> Path:
    """The file at ``path``, fetched from ``url`` if it is not there.

    What is written is ``NAME.part``, which gets its name after its hash was found right. A part that an earlier call
    left is continued where the server allows it. Several processes may ask at once: one fetches, the others wait.

    Args:
        url: address, http or https.
        path: where the file shall be.
        md5_prefix: first hexadecimal digits of its MD5 hash.
        progress: called with the bytes so far and the bytes in all.
        patience: by default half a minute of silence and four attempts.

    Returns:
        ``path``.

    Raises:
        RequestError: no network or offline mode, a server that refuses, a file that is not the one expected, or no
            room; the message says what to do, by hand if need be.
    """
    if path.is_file():
        return path
    by_hand = f"fetch {url} yourself and put it at {path}"
    if is_offline():
        raise RequestError(f"{path.name} is not in the cache and offline mode is on; switch it off, or {by_hand}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not path.is_file():  # another process may have brought it meanwhile
                part = path.with_name(f"{path.name}.part")
                _fetch(_Source(path.name, url, md5_prefix, by_hand), part, progress, patience or Patience())
                part.replace(path)
    except OSError as error:
        raise RequestError(
            f"cannot write '{error.filename or path}': {error.strerror or error}; make room there or choose another "
            "folder with MASK2FORMER_CACHE"
        ) from error
    return path


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """No other process is at it meanwhile; says so when there is one to wait for."""
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        _logger.warning("another process is downloading %s; waiting for it", path.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class _Source:
    name: str
    url: str
    md5_prefix: str
    by_hand: str  # the way out, for messages


class _BrokenOffError(Exception):
    """This attempt brought no more; another one may. Carries the reason and the pause the server asks for."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


def _fetch(source: _Source, part: Path, progress: Progress | None, patience: Patience) -> None:
    """Fill ``part`` with the right bytes."""
    idle, most = 0, _size(part)  # attempts without gain; the furthest that any has come
    is_second = False
    while True:
        try:
            _attempt(source, part, progress, patience.timeout)
        except _BrokenOffError as broken:
            idle = 0 if _size(part) > most else idle + 1
            most = max(most, _size(part))
            if idle >= patience.attempts:
                kept = _size(part)
                if kept and _md5(part).startswith(source.md5_prefix):
                    break  # the length that the server announces is wrong, the file is right
                raise RequestError(
                    f"cannot download {source.name} ({broken}, {idle} times in a row); {kept // 1_000_000} MB are "
                    f"kept: try again when the network is back, or {source.by_hand}"
                ) from broken
            pause = min(60.0, max(broken.pause, patience.pause * 2 ** max(0, idle - 1)))
            _logger.warning("%s: %s; trying again in %.0f s", source.name, broken, pause)
            time.sleep(pause)
            continue
        found = _md5(part)
        if found.startswith(source.md5_prefix):
            break
        size = _size(part)
        _discard(part)
        if is_second:  # the first may have been pasted from two versions
            raise RequestError(
                f"what comes as {source.name} is another file: {size} bytes with MD5 {found}, expected one that begins "
                f"with {source.md5_prefix}; nothing was kept. A proxy or a login page may be in between; "
                f"{source.by_hand}"
            )
        is_second, most = True, 0
    _validator_of(part).unlink(missing_ok=True)


def _attempt(source: _Source, part: Path, progress: Progress | None, timeout: float) -> None:
    """One request. Returns only when the server has sent all it announced, and raises :class:`_BrokenOffError` else."""
    there, validator = _size(part), _validator_of(part)
    headers = {"User-Agent": "mask2former", "Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
        if validator.is_file():
            headers["If-Range"] = validator.read_text(encoding="utf-8")
    request = urllib.request.Request(source.url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and there:
                if _announced(error.headers.get("Content-Range")) == there:
                    return  # it was all there
                _discard(part)
                raise _BrokenOffError("the server has another file than before") from error
            if error.code not in _LATER and error.code < 500:
                raise RequestError(
                    f"cannot download {source.name}: the server answers {error.code} {error.reason}; {source.by_hand}"
                ) from error
            raise _BrokenOffError(f"the server answers {error.code} {error.reason}", _pause(error.headers)) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise RequestError(f"cannot download {source.name}: {reason.verify_message}; {source.by_hand}") from error
        raise _BrokenOffError(_words(reason)) from error
    with response:
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            content_range = response.headers.get("Content-Range") or ""
            if not content_range.startswith(f"bytes {there}-"):
                _discard(part)
                raise _BrokenOffError("the server sent another part than the one asked for")
            total = _announced(content_range)
        else:  # all of it: a first request, a server without ranges, or a file that has changed
            _discard(part)
            _keep_validator(validator, response.headers)
            length = response.headers.get("Content-Length") or ""
            total = int(length) if length.isdecimal() else None
        _receive(response, part, total, progress)


def _receive(response: Any, part: Path, total: int | None, progress: Progress | None) -> None:
    """Append what comes; raises :class:`_BrokenOffError` if that is not all of it."""
    done = _size(part)
    if total is not None and shutil.disk_usage(part.parent).free < total - done:
        needed, name = (total - done) // 1_000_000, part.parent
        raise RequestError(f"no room: {needed} MB are needed in {name}; choose another folder with MASK2FORMER_CACHE")
    with part.open("ab") as stream:
        while True:
            if progress is not None:
                progress(done, total)
            try:
                data = response.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenOffError(_words(error)) from error
            if not data:
                break
            stream.write(data)
            done += len(data)
            if done > _LARGEST:
                break
    if done > _LARGEST:
        _discard(part)
        raise RequestError(f"the server sends more than {_LARGEST >> 30} GiB, which is no checkpoint; nothing was kept")
    if total is not None and done != total:
        raise _BrokenOffError(f"the connection ended after {done} of {total} bytes")


def _announced(content_range: str | None) -> int | None:
    """The size of the whole file, of ``bytes 0-9/10`` or ``bytes */10``."""
    size = (content_range or "").rpartition("/")[2]
    return int(size) if size.isdecimal() else None


def _pause(headers: Any) -> float:
    value = headers.get("Retry-After") or ""
    return float(value) if value.isdecimal() else 0.0


def _words(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _validator_of(part: Path) -> Path:
    """The file that remembers which version of the source a part is of."""
    return part.with_name(f"{part.name}.etag")


def _keep_validator(validator: Path, headers: Any) -> None:
    etag = headers.get("ETag") or ""
    value = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")  # If-Range takes no weak tags
    if value:
        validator.write_text(value, encoding="utf-8")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_of(part).unlink(missing_ok=True)
