"""One file from the web, complete and verified: resumes broken downloads, and never leaves an incomplete file.

Knows addresses, hashes and folders, not what the files are. Only the standard library accesses the network. Nothing
that a server sends or omits can make it wait forever, write more than expected or fail without a message.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import math
import os
import re
import shutil
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mask2former import limits
from mask2former.errors import UserError
from mask2former.files import write_whole
from mask2former.text import printable

__all__ = ["CHECKSUM", "Patience", "Progress", "cache_folder", "check_address", "download", "is_offline"]

Progress = Callable[[int, int | None], object]  # bytes so far, total bytes if the server says

CHECKSUM = re.compile(r"(md5|sha256):((?<=md5:)[0-9a-f]{6,32}|(?<=sha256:)[0-9a-f]{8,64})")  # hash, its first digits

_logger = logging.getLogger(__name__)

_TITLES = {"md5": "MD5", "sha256": "SHA-256"}
_CHUNK = 1 << 18
_LONGEST_RECORD = 500  # bytes of it that are read
_VALIDATOR = re.compile(r"[\x20-\x7e]{1,500}")  # an entity tag or a date
_LATER = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)  # and all from 500 on


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server.

    Attributes:
        timeout: seconds without any data, when connecting and between bytes.
        attempts: how many in a row may gain nothing, or too little.
        pause: seconds before the second attempt; doubles each time, up to ``longest_pause``.
        longest_pause: maximum seconds between two attempts, whatever the server asks for.
        least_rate: bytes per second, averaged over each ``window``; slower connections are closed. 0: any.
        window: seconds.
    """

    timeout: float = 30.0
    attempts: int = 4
    pause: float = 1.0
    longest_pause: float = 60.0
    least_rate: float = 10_000.0
    window: float = 60.0

    @classmethod
    def from_environment(cls) -> Patience:
        """With the rate ``MASK2FORMER_DOWNLOAD_RATE`` and the longest pause ``MASK2FORMER_DOWNLOAD_PAUSE``, if set.

        Raises:
            UserError: one of them is not a valid number.
        """
        rate = _from_environment("MASK2FORMER_DOWNLOAD_RATE", "bytes per second", cls.least_rate)
        return cls(
            least_rate=rate,
            longest_pause=_from_environment("MASK2FORMER_DOWNLOAD_PAUSE", "seconds", cls.longest_pause),
        )


def _from_environment(name: str, unit: str, default: float) -> float:
    text = os.environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e9:
        raise UserError(
            f"{name}={printable(text, 40)}: expected {unit}, a number from 0 to a billion; correct or unset it"
        )
    return value


def cache_folder() -> Path:
    """The folder of downloaded weights: ``MASK2FORMER_CACHE``, else ``mask2former`` in the user's cache folder.

    Raises:
        UserError: the user has no home folder.
    """
    chosen = os.environ.get("MASK2FORMER_CACHE")
    try:
        if chosen:
            return Path(chosen).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mask2former"
    except RuntimeError as error:  # containers whose user has only a number
        raise UserError(
            "there is no home folder to keep weights in; set MASK2FORMER_CACHE to a folder for them"
        ) from error


def is_offline() -> bool:
    """Whether ``MASK2FORMER_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids the network."""
    names = ("MASK2FORMER_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in names)


def download(
    url: str,
    path: Path,
    checksum: str | None,
    progress: Progress | None = None,
    patience: Patience | None = None,
    *,
    most: int = limits.DOWNLOAD_BYTES,
) -> Path:
    """The file at ``path``, fetched from ``url`` if it is not there.

    The download is written to ``NAME.part``, which is renamed once its hash has been verified. A part left by an
    earlier call is continued where the server allows it. Several processes may call this at once: one downloads, the
    others wait.

    Args:
        url: address, http or https.
        path: where to put the file.
        checksum: what verifies it, of the form :data:`CHECKSUM`: a hash and its first hexadecimal digits. None where
            none is known: the SHA-256 of the first download is logged and recorded in ``NAME.sha256`` (in the format of
            ``sha256sum``), and compared in each later call, whether the file exists or is downloaded again.
        progress: called with the bytes so far and the total bytes.
        patience: by default from :meth:`Patience.from_environment`.
        most: bytes; if a server announces or sends more, it is another file.

    Returns:
        ``path``.

    Raises:
        UserError: no network or offline mode, a server that refuses, a file other than expected, or no room; the
            message says what to do, by hand if necessary.
    """
    if path.is_file():
        if checksum is None:
            _check_recorded(path)
        return path
    check_address(url)
    by_hand = f"fetch {url} yourself and put it at {path}"
    if is_offline():
        raise UserError(f"{path.name} is not in the cache and offline mode is on; switch it off, or {by_hand}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path):
            if not path.is_file():  # another process may have downloaded it meanwhile
                part = path.with_name(f"{path.name}.part")
                expected = _parsed(checksum) or _recorded(path)
                source = _Source(path.name, url, expected, by_hand, min(most, limits.DOWNLOAD_BYTES))
                _fetch(source, part, progress, patience or Patience.from_environment())
                if expected is None:
                    _record(path, _SHA256.of(part))
                part.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write '{error.filename or path}': {error.strerror or error}; make room there or choose another "
            "folder with MASK2FORMER_CACHE"
        ) from error
    return path


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Ensures that no other process works on it meanwhile; logs when there is one to wait for."""
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
class _Checksum:
    """The first digits of a hash, and their source, for messages."""

    algorithm: str
    digits: str = ""
    origin: str = ""

    @property
    def title(self) -> str:
        return _TITLES[self.algorithm]

    def of(self, path: Path) -> str:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.new(self.algorithm, usedforsecurity=False)).hexdigest()

    def fits(self, path: Path) -> bool:
        return self.of(path).startswith(self.digits)


_SHA256 = _Checksum("sha256")


def _parsed(checksum: str | None) -> _Checksum | None:
    if checksum is None:
        return None
    found = CHECKSUM.fullmatch(checksum)
    assert found is not None, checksum
    return _Checksum(found[1], found[2])


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> _Checksum | None:
    """The hash recorded when this file was first downloaded.

    Raises:
        UserError: the record file does not contain one.
    """
    record = _record_of(path)
    if not record.is_file():
        return None
    with record.open("rb") as stream:
        found = re.match(rb"[0-9a-f]{64}(?=\s|$)", stream.read(_LONGEST_RECORD))
    if found is None:
        raise UserError(f"'{record}' contains no SHA-256; delete it, and the hash of {path.name} is recorded again")
    origin = f", as '{record}' recorded at the first download (delete it if the authors have replaced the file)"
    return _Checksum("sha256", found[0].decode("ascii"), origin)


def _check_recorded(path: Path) -> None:
    expected = _recorded(path)
    found = _SHA256.of(path)
    if expected is None:  # the file was put there by hand, or the record was deleted
        _record(path, found)
    elif found != expected.digits:
        raise UserError(
            f"'{path}' has the SHA-256 {found}, but {expected.digits} was recorded at its first download: it was "
            "changed or damaged. Delete it, and it is downloaded again; if the change is intended, delete "
            f"'{_record_of(path).name}' beside it"
        )


def _record(path: Path, digits: str) -> None:
    record = _record_of(path)
    try:
        write_whole(record, lambda temporary: temporary.write_text(f"{digits}  {path.name}\n", encoding="ascii"))
        kept = f"is recorded in {record} and compared whenever the file is used"
    except (UserError, OSError) as error:  # a shared cache, or a full disk; the file can still be used
        kept = f"cannot be recorded: {error}"
    _logger.warning("nothing published verifies %s; its SHA-256 %s %s", path.name, digits, kept)


@dataclass(frozen=True)
class _Source:
    name: str
    url: str
    expected: _Checksum | None  # None: nothing is known
    by_hand: str  # how to get the file by hand, for messages
    most: int  # bytes


class _BrokenOffError(Exception):
    """This attempt gained nothing more; another one may. Has the reason and the pause that the server asks for."""

    def __init__(self, reason: object, pause: float = 0.0) -> None:
        super().__init__(printable(str(reason), 200))
        self.pause = pause


class _Guard:
    """Closes a connection that delivers too few bytes within a window, also one that never delivers any.

    Socket timeouts only detect silence; a server may send one byte, of the head or the body, before each expires.
    """

    def __init__(self, patience: Patience) -> None:
        self.is_slow = False
        self._window, self._least = patience.window, patience.least_rate * patience.window
        self._got, self._deadline = 0, time.monotonic() + patience.window
        self._sockets: list[socket.socket] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Guard:
        if self._least:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def watch(self, connection: socket.socket) -> None:
        """Watch this connection too, for instance after a redirection."""
        self._sockets.append(connection)
        if self.is_slow:  # the window has ended before this connection was made
            self._close()

    def count(self, number: int) -> None:
        """Report how many bytes of the body have arrived."""
        self._got += number
        if self._got >= self._least:
            self._got, self._deadline = 0, time.monotonic() + self._window

    def _watch(self) -> None:
        while not self._ended.wait(max(0.0, self._deadline - time.monotonic())):
            if time.monotonic() >= self._deadline:
                self.is_slow = True
                self._close()
                return

    def _close(self) -> None:
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def _opener(guard: _Guard) -> urllib.request.OpenerDirector:
    """Opens web addresses, follows redirections to other web addresses, and reports all connections to ``guard``."""

    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            guard.watch(self.sock)

    class SecureConnection(Connection, http.client.HTTPSConnection):
        pass

    class Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
        def http_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(Connection, req)

        def https_open(self, req: urllib.request.Request) -> Any:
            return self.do_open(SecureConnection, req)

    class Redirections(urllib.request.HTTPRedirectHandler):
        def redirect_request(
            self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
        ) -> Any:
            check_address(newurl, is_secure=req.type == "https")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

        def http_error_302(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any) -> Any:
            try:
                return super().http_error_302(req, fp, code, msg, headers)
            except ValueError:  # not an address, or one that is not followed
                fp.close()
                raise

        http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    return urllib.request.build_opener(Handler, Redirections)


def check_address(url: str, *, is_secure: bool = False) -> None:
    """Refuse anything but web addresses; with ``is_secure``, also unencrypted ones.

    Raises:
        UserError: it is refused.
    """
    scheme = urllib.parse.urlsplit(url).scheme
    allowed = ("https",) if is_secure else ("http", "https")
    if scheme not in allowed:
        raise UserError(
            f"'{printable(url, 200)}' is not an allowed download address; expected one that begins with "
            f"{' or '.join(allowed)}"
        )


def _fetch(source: _Source, part: Path, progress: Progress | None, patience: Patience) -> None:
    """Fill ``part`` with the correct bytes."""
    if part.is_symlink() or (part.exists() and not part.is_file()):
        raise UserError(f"'{part}' is not a regular file; remove it, or choose another folder with MASK2FORMER_CACHE")
    idle, most = 0, _size(part)  # consecutive attempts without gain; the furthest that any has got
    since = time.monotonic()  # when it was
    is_second = False
    while True:
        try:
            _attempt(source, part, progress, patience)
        except _BrokenOffError as broken:
            # A server that closes each connection after a few bytes gains nothing either.
            gain, now = _size(part) - most, time.monotonic()
            if gain > max(0.0, patience.least_rate * (now - since)):
                idle, since = 0, now
            else:
                idle += 1
            most = max(most, _size(part))
            if idle >= patience.attempts:
                kept = _size(part)
                if kept and source.expected is not None and source.expected.fits(part):
                    break  # the length announced by the server is wrong, the file is right
                raise UserError(
                    f"cannot download {source.name} ({broken}, {idle} times in a row); {kept // 1_000_000} MB are "
                    f"kept: try again when the network is back, or {source.by_hand}"
                ) from broken
            pause = min(patience.longest_pause, max(broken.pause, patience.pause * 2 ** max(0, idle - 1)))
            _logger.warning("%s: %s; trying again in %.0f s", source.name, broken, pause)
            time.sleep(pause)
            continue
        expected = source.expected
        if expected is None or expected.fits(part):
            break
        found = expected.of(part)
        size = _size(part)
        _discard(part)
        if is_second:  # the first may have been assembled from two versions
            raise UserError(
                f"what was received as {source.name} is another file: {size} bytes with {expected.title} {found}, "
                f"expected one that begins with {expected.digits}{expected.origin}; nothing was kept. A proxy or a "
                f"login page may have interfered; {source.by_hand}"
            )
        is_second, most, since = True, 0, time.monotonic()
    _forget(_validator_of(part))


def _attempt(source: _Source, part: Path, progress: Progress | None, patience: Patience) -> None:
    """Make one request. Returns only when all that the server announced has arrived, else raises _BrokenOffError."""
    with _Guard(patience) as guard:
        try:
            _request(source, part, progress, patience.timeout, guard)
        except _BrokenOffError as broken:
            if guard.is_slow:
                raise _BrokenOffError(
                    f"fewer than {patience.least_rate:,.0f} bytes per second in {patience.window:g} s; allow a slower "
                    "network with MASK2FORMER_DOWNLOAD_RATE"
                ) from broken
            raise


def _request(source: _Source, part: Path, progress: Progress | None, timeout: float, guard: _Guard) -> None:
    validator = _validator_of(part)
    kept = _kept_validator(validator)
    if kept is None and source.expected is None:
        _discard(part)  # a file assembled from two versions could not be detected
    there = _size(part)
    headers = {"User-Agent": "mask2former", "Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
        if kept is not None:
            headers["If-Range"] = kept
    try:
        request = urllib.request.Request(source.url, headers=headers)
        response = _opener(guard).open(request, timeout=timeout)
    except UserError:
        raise
    except urllib.error.HTTPError as error:
        with error:
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and there:
                if _announced(error.headers.get("Content-Range")) == there:
                    return  # the part was already complete
                _discard(part)
                raise _BrokenOffError("the file on the server has changed") from error
            if error.code not in _LATER and error.code < 500:
                raise UserError(
                    f"cannot download {source.name}: the server answers {error.code} "
                    f"{printable(str(error.reason), 100)}; {source.by_hand}"
                ) from error
            raise _BrokenOffError(f"the server answers {error.code} {error.reason}", _pause(error.headers)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: redirections to invalid addresses
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise UserError(f"cannot download {source.name}: {reason.verify_message}; {source.by_hand}") from error
        raise _BrokenOffError(_words(reason)) from error
    with response:
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            content_range = response.headers.get("Content-Range") or ""
            if not content_range.startswith(f"bytes {there}-"):
                _discard(part)
                raise _BrokenOffError("the server sent a different range than requested")
            total = _announced(content_range)
        else:  # the complete file: a first request, a server without ranges, or a file that has changed
            _discard(part)
            _keep_validator(validator, response.headers)
            total = _number(response.headers.get("Content-Length"))
            if total is None and source.expected is None:
                raise UserError(
                    f"the server does not give the size of {source.name}, and no published hash verifies it, so an "
                    f"incomplete file could not be detected; {source.by_hand}"
                )
        _receive(response, part, total, progress, source.most, guard)


def _receive(response: Any, part: Path, total: int | None, progress: Progress | None, most: int, guard: _Guard) -> None:
    """Append what arrives; raises :class:`_BrokenOffError` if that is not everything."""
    done = _size(part)
    if total is not None and total > most:
        _discard(part)
        raise UserError(f"the server announces {total:,} bytes; at most {most:,} are expected; nothing was kept")
    if total is not None and shutil.disk_usage(part.parent).free < total - done:
        needed, name = (total - done) // 1_000_000, part.parent
        raise UserError(f"no room: {needed} MB are needed in {name}; choose another folder with MASK2FORMER_CACHE")
    with part.open("ab") as stream:
        while True:
            if progress is not None:
                progress(done, total)
            try:
                data = response.read1(_CHUNK)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise _BrokenOffError(_words(error)) from error
            if not data:
                break
            stream.write(data)
            done += len(data)
            guard.count(len(data))
            if done > most:
                break
    if done > most:
        _discard(part)
        raise UserError(f"the server sends more than the {most:,} bytes that are expected; nothing was kept")
    if guard.is_slow or (total is not None and done != total):
        raise _BrokenOffError(f"the connection ended after {done} of {total} bytes")


def _announced(content_range: str | None) -> int | None:
    """The size of the complete file, from ``bytes 0-9/10`` or ``bytes */10``."""
    return _number((content_range or "").rpartition("/")[2])


def _number(text: str | None) -> int | None:
    """A number of bytes; None for everything else, including thousands of digits, which Python would refuse."""
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def _pause(headers: Any) -> float:
    """Seconds that the server asks to wait, given as a number or a date; 0 where it gives nothing that can be read."""
    value = (headers.get("Retry-After") or "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError, TypeError, IndexError):
            return 0.0
    return seconds if seconds > 0 else 0.0


def _words(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    return str(getattr(reason, "strerror", None) or reason) or type(reason).__name__


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _validator_of(part: Path) -> Path:
    """The file that records which version of the source a part belongs to."""
    return part.with_name(f"{part.name}.etag")


def _keep_validator(validator: Path, headers: Any) -> None:
    etag = headers.get("ETag") or ""
    value = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")  # If-Range takes no weak tags
    if value and _VALIDATOR.fullmatch(value):
        with contextlib.suppress(IsADirectoryError, PermissionError):  # without it the hash distinguishes versions
            validator.write_text(value, encoding="ascii")


def _kept_validator(validator: Path) -> str | None:
    """What an earlier attempt recorded; what is not a validator, for instance after a disk crash, is discarded."""
    try:
        if validator.is_file() and validator.stat().st_size <= 500:
            value = validator.read_bytes().decode("ascii")
            if _VALIDATOR.fullmatch(value):
                return value
    except (OSError, ValueError):
        pass
    _forget(validator)
    return None


def _forget(validator: Path) -> None:
    with contextlib.suppress(IsADirectoryError, PermissionError):  # a folder in its place does no harm
        validator.unlink(missing_ok=True)


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _forget(_validator_of(part))
