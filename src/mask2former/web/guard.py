"""Protects the page: only what it needs is reachable, and the browser loads nothing from elsewhere.

Gradio serves much more than a page: files by path, other addresses through the server, statistics. All of this is
refused here, by a list of what is needed. An ASGI application around another; knows no framework.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from pathlib import Path
from typing import Any

from mask2former.documents import parse_json
from mask2former.errors import UserError

__all__ = ["Application", "Guard"]

_logger = logging.getLogger(__name__)

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
Application = Callable[[_Message, _Receive, _Send], Awaitable[None]]
_Refusal = tuple[int, str]  # status, sentence

_UPLOAD, _EVENT = "/gradio_api/upload", "/gradio_api/queue/join"
_PATHS = {
    *("/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json"),
    *("/gradio_api/startup-events", "/gradio_api/upload_progress", "/gradio_api/queue/data", "/gradio_api/cancel"),
    "/gradio_api/app_id",  # by which a page that lost its server notices that it is back
    *(_UPLOAD, _EVENT),
}
_FOLDERS = ("/assets/", "/static/", "/gradio_api/heartbeat/")
_EVENT_BYTES = 1 << 16  # names of tasks, a threshold, indices of classes
_FORM_BYTES = 1 << 20  # around a file that is uploaded
_UPLOADS = 32  # of the largest size, that are on disk at a time
_CROWDED: _Refusal = (503, "there are too many uploads at the moment; try again in half an hour")
_FAILED: _Refusal = (500, "this request failed on the server, whose log has the reason; reload the page")
_HEADERS = {
    # The frontend compiles templates; addresses of other servers are never contacted.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' "
    "'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src "
    "'self'; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """Passes on what the page needs, with headers for the browser.

    Args:
        app: the page.
        folder: where uploads go; events may name files in there and no others.
        upload_bytes: maximum size of a file.
        keep_seconds: after which an upload that never ended is removed; at once, when no other is in progress.
        hosts: names under which the page is reached, without port; None: any. A page on loopback that accepts any name
            can be read by websites, whose names may point to loopback.
    """

    def __init__(
        self,
        app: Application,
        folder: Path,
        upload_bytes: int,
        keep_seconds: float,
        hosts: Collection[str] | None = None,
    ) -> None:
        self._app, self._folder = app, folder.resolve()
        self._hosts = None if hosts is None else {host.lower() for host in hosts}
        self._upload_bytes, self._keep_seconds = upload_bytes, keep_seconds
        self._arriving, self._uploads = 0, 0  # bytes and number of the uploads in progress

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """The ASGI entry point."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        path = scope["path"]
        if not self._knows_host(scope["headers"]):
            sentence = (
                "this page is not reached by this name; start it with --server-name (in Python server_names) for the "
                "name of a proxy"
            )
            await _refuse(send, 421, sentence)
        elif path not in _PATHS and (not path.startswith(_FOLDERS) or ".." in path):
            await _refuse(send, 404, "there is nothing here")
        elif path == _UPLOAD:
            await self._upload(scope, receive, send)
        elif path == _EVENT and scope["method"] == "POST":
            body = await _whole(receive, _EVENT_BYTES)
            if body is not None and (refusal := self._refusal_of(body)) is not None:
                await _refuse(send, *refusal)
            elif body is not None:
                await self._pass_on(scope, _again(body, receive), send, lambda size: None)
        else:
            await self._pass_on(scope, receive, send, _at_most(_EVENT_BYTES, "the body of this request"))

    async def _pass_on(
        self, scope: _Message, receive: _Receive, send: _Send, check: Callable[[int], _Refusal | None]
    ) -> None:
        """Pass on a request, with headers for the browser, unless its body becomes too large on the way.

        ``check`` gets the number of bytes of each part of the body, and returns a refusal if they are too many.
        """
        refusal: _Refusal | None = None
        is_gone = has_begun = False

        async def received() -> _Message:
            nonlocal refusal, is_gone
            message = await receive()
            is_gone |= message["type"] == "http.disconnect"
            refusal = refusal or check(len(message.get("body", b"")))
            return message if refusal is None else {"type": "http.disconnect"}

        async def sent(message: _Message) -> None:
            nonlocal refusal, has_begun
            if message["type"] == "http.response.start":
                if message["status"] == 500:
                    refusal = refusal or _FAILED
                has_begun = refusal is None
                mine = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", ()), *mine]}
            if has_begun:
                await send(message)

        try:
            await self._app(scope, received, sent)
        except Exception:
            if not is_gone and refusal in (None, _FAILED):
                raise
            # The page was told that the visitor had left, which frameworks report as an error of some kind.
            _logger.debug("the page did not finish a request whose visitor has left or was refused", exc_info=True)
        finally:
            if refusal is not None and not has_begun:
                await _refuse(send, *refusal)

    def _knows_host(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        if self._hosts is None:
            return True
        host = dict(headers).get(b"host", b"").decode("latin-1")
        return (host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host).lower() in self._hosts

    async def _upload(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Pass on an upload while it is small enough, and with those that arrive at the same time."""
        self._remove_abandoned()
        there, most, taken = self._on_disk(), _UPLOADS * self._upload_bytes, 0
        if there + self._arriving >= most:
            await _refuse(send, *_CROWDED)
            return
        is_small = _at_most(self._upload_bytes + _FORM_BYTES, "this upload")

        def check(size: int) -> _Refusal | None:
            nonlocal taken
            taken += size
            self._arriving += size
            return is_small(size) or (_CROWDED if there + self._arriving > most else None)

        self._uploads += 1
        try:
            await self._pass_on(scope, receive, send, check)
        finally:
            self._uploads -= 1
            self._arriving -= taken
            self._remove_abandoned()

    def _remove_abandoned(self) -> None:
        """Remove uploads that never ended, which gradio forgets; those that did are in folders of their own.

        While others are in progress, which cannot be told apart, only those that are old.
        """
        oldest = time.time() - self._keep_seconds if self._uploads else math.inf
        for path in self._folder.glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.lstat().st_mtime < oldest:
                    path.unlink()

    def _on_disk(self) -> int:
        """Bytes of uploads, also of those in progress, so that these count twice rather than not at all."""
        taken = 0
        for top, _, names in os.walk(self._folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    taken += Path(top, name).lstat().st_size
        return taken

    def _refusal_of(self, body: bytes) -> _Refusal | None:
        """Why an event is refused: also if it names a file from elsewhere, which gradio would copy or download."""
        if len(body) > _EVENT_BYTES:
            return 413, f"this event has more than {_EVENT_BYTES:,} bytes; reload the page"
        try:
            left = [parse_json(body, "the event")]
            json.dumps(left, ensure_ascii=False, allow_nan=False).encode()  # gradio chokes on halves of characters
        except (UserError, ValueError):
            return 400, "this event is not valid JSON; reload the page"
        while left:
            value = left.pop()
            if isinstance(value, dict):
                if "path" in value and not self._is_upload(value["path"]):
                    return 400, "this event names a file that was not uploaded; upload it again"
                left += value.values()
            elif isinstance(value, list):
                left += value
        return None

    def _is_upload(self, path: Any) -> bool:
        if not isinstance(path, str) or "\0" in path:
            return False
        return self._folder in Path(os.path.realpath(path)).parents


def _at_most(most: int, what: str) -> Callable[[int], _Refusal | None]:
    """Counts the bytes of a body, and refuses it when there are more."""
    taken = 0

    def check(size: int) -> _Refusal | None:
        nonlocal taken
        taken += size
        return (413, f"{what} has more than {most:,} bytes; make it smaller") if taken > most else None

    return check


async def _whole(receive: _Receive, most: int) -> bytes | None:
    """The body, or the part of it that is too large; None: it did not arrive."""
    body, message = b"", {"more_body": True}
    while message.get("more_body") and len(body) <= most:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
    return body


def _again(body: bytes, receive: _Receive) -> _Receive:
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> _Message:
        return parts.pop() if parts else await receive()

    return again


async def _refuse(send: _Send, status: int, sentence: str) -> None:
    body = f"{sentence}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
