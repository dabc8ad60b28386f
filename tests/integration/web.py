"""A file server on this machine that can be made to misbehave."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

__all__ = ["Server", "Tricks", "serve"]


@dataclass
class Tricks:
    """What the server does wrong with a reply; by default nothing."""

    status: int = 200  # any other has a reply without a file
    break_after: int | None = None  # bytes of the body, then the connection is closed
    stall_after: int | None = None  # bytes of the body, then nothing for a while
    announced: int = 0  # more (or fewer) bytes than there are in Content-Length
    content: bytes | None = None  # instead of the file
    etag: str = '"one"'
    ranges: bool = True  # whether Range is understood
    range_shift: int = 0  # another range than the requested one
    location: str | None = None  # redirects there
    headers: dict[str, str] = field(default_factory=dict)
    reason: str | None = None  # the status in words
    is_announced: bool = True  # whether the body has a Content-Length
    lengths: str | None = None  # said as Content-Length instead; the body ends with the connection
    trickle: float = 0.0  # seconds before each byte
    trickle_from: Literal["head", "body"] = "body"


@dataclass
class Server:
    """The address of a server, and each request so far as (path, Range header)."""

    url: str
    requests: list[tuple[str, str | None]]


@contextlib.contextmanager
def serve(folder: Path, tricks: Callable[[int], Tricks] = lambda number: Tricks()) -> Iterator[Server]:
    """Serve the files of ``folder``; ``tricks`` gets the number of the request, from 0."""
    requests: list[tuple[str, str | None]] = []
    stopped = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            trick = tricks(len(requests))
            requests.append((self.path, self.headers.get("Range")))
            with contextlib.suppress(ConnectionError):
                self._predict(trick)

        def _predict(self, trick: Tricks) -> None:
            self.close_connection = True
            status = 302 if trick.location else trick.status
            if status != 200:
                self.send_response(status, trick.reason)
                for name, value in trick.headers.items():
                    self.send_header(name, value)
                if trick.location:
                    self.send_header("Location", trick.location)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = (folder / self.path.lstrip("/")).read_bytes() if trick.content is None else trick.content
            start, wanted = 0, self.headers.get("Range")
            is_same = self.headers.get("If-Range", trick.etag) == trick.etag
            if wanted and trick.ranges and is_same:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                first = start + trick.range_shift
                self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body) + trick.announced}")
            else:
                self.send_response(200)
            for name, value in trick.headers.items():
                self.send_header(name, value)
            if trick.etag:
                self.send_header("ETag", trick.etag)
            part = body[start:]
            if trick.is_announced:
                self.send_header("Content-Length", trick.lengths or str(len(part) + trick.announced))
            if trick.trickle:
                head = b"X: 1" if trick.trickle_from == "head" else b""
                self.flush_headers() if head else self.end_headers()
                for byte in head + 100 * b"y" if head else part:
                    if stopped.wait(trick.trickle):
                        return
                    self.wfile.write(bytes([byte]))
                return
            self.end_headers()
            end = trick.break_after if trick.break_after is not None else trick.stall_after
            self.wfile.write(part[:end])
            self.wfile.flush()
            if trick.stall_after is not None:
                stopped.wait(20)

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{httpd.server_address[1]}", requests)
    finally:
        stopped.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join()
