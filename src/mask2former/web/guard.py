"""Protects the page: only what it needs is reachable, and the browser loads nothing from elsewhere.

Gradio serves much more than a page: files by path, other addresses through the server, statistics. All of this is
refused here, by a list of what is needed. An ASGI application around another; knows no framework.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from pathlib import Path
from typing import Any

from mask2former.documents import parse_json
from mask2former.errors import UserError

__all__ = ["Application", "Guard"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
Application = Callable[[_Message, _Receive, _Send], Awaitable[None]]

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
        keep_seconds: after which an upload that never ended is removed.
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
        self._arriving = 0  # bytes of the uploads in progress

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
        else:
            receive = _limited(receive, _EVENT_BYTES)
            if path == _EVENT:
                body = await _whole(receive)
                if not self._names_uploads_only(body):
                    await _refuse(send, 400, "this event is too large, or names a file that was not uploaded")
                    return
                receive = _again(body, receive)
            await self._app(scope, receive, _with_headers(send))

    def _knows_host(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        if self._hosts is None:
            return True
        host = dict(headers).get(b"host", b"").decode("latin-1")
        return (host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host).lower() in self._hosts

    async def _upload(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Pass on an upload while it is small enough, and with those that arrive at the same time."""
        self._remove_abandoned()
        there, most = self._on_disk(), _UPLOADS * self._upload_bytes
        if there + self._arriving >= most:
            await _refuse(send, 503, "there are too many uploads at the moment; try again in half an hour")
            return
        taken = 0

        async def counted() -> _Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            self._arriving += len(message.get("body", b""))
            return message if there + self._arriving <= most else {"type": "http.disconnect"}

        try:
            await self._app(scope, _limited(counted, self._upload_bytes + _FORM_BYTES), _with_headers(send))
        finally:
            self._arriving -= taken

    def _remove_abandoned(self) -> None:
        """Remove uploads that never ended, which gradio forgets; those that did are in folders of their own."""
        oldest = time.time() - self._keep_seconds
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

    def _names_uploads_only(self, body: bytes | None) -> bool:
        """Whether no value of an event is a file from elsewhere, which gradio would copy or download."""
        try:
            left = [parse_json(body or b"", "the event")]
        except UserError:
            return False
        while left:
            value = left.pop()
            if isinstance(value, dict):
                if "path" in value and not self._is_upload(value["path"]):
                    return False
                left += value.values()
            elif isinstance(value, list):
                left += value
        return True

    def _is_upload(self, path: Any) -> bool:
        if not isinstance(path, str) or "\0" in path:
            return False
        return self._folder in Path(os.path.realpath(path)).parents


def _limited(receive: _Receive, most: int) -> _Receive:
    """The body, while it is small enough; beyond that as if the visitor had left."""
    taken = 0

    async def limited() -> _Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        return message if taken <= most else {"type": "http.disconnect"}

    return limited


async def _whole(receive: _Receive) -> bytes | None:
    """The body; None: it did not arrive."""
    body, message = b"", {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
    return body


def _again(body: bytes | None, receive: _Receive) -> _Receive:
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> _Message:
        return parts.pop() if parts else await receive()

    return again


def _with_headers(send: _Send) -> _Send:
    async def sent(message: _Message) -> None:
        if message["type"] == "http.response.start":
            mine = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", ()), *mine]}
        await send(message)

    return sent


async def _refuse(send: _Send, status: int, sentence: str) -> None:
    body = f"{sentence}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
