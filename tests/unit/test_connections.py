"""Connections that would last forever: without a whole request, and without a reader of the reply."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("uvicorn")

import uvicorn

from mask2former import connections
from mask2former.connections import limited_connections

LARGE = 12 << 20  # bytes, more than the buffers of sockets hold
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def served(size: int, limit: float, reads_after: float | None = None) -> Iterator[int]:
    """A server, by its port, whose replies have this size, with this limit of time in seconds.

    It reads requests to their end after some seconds, or (None) never.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if reads_after is not None:
            await asyncio.sleep(reads_after)
            while (message := await receive()).get("more_body"):
                pass
            if message["type"] == "http.disconnect":
                return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(size).encode())]})
        await send({"type": "http.response.body", "body": bytes(size)})

    config = uvicorn.Config(app, http=limited_connections(limit), lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
    assert not thread.is_alive()


def connected(port: int, sent: bytes) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    client.settimeout(10)
    client.connect(("127.0.0.1", port))
    client.sendall(sent)
    return client


def received(client: socket.socket, size: int) -> bytes:
    """A reply with a body of this size, or its beginning if the connection ends."""
    reply = b""
    while len(reply.partition(b"\r\n\r\n")[2]) < size:
        try:
            if not (chunk := client.recv(1 << 20)):
                break
        except ConnectionResetError:
            break
        reply += chunk
    return reply


def is_ended(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", GET[:20]])
def test_a_client_that_sends_no_request_is_disconnected(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE", 0.2)
    with served(1, limit=0.3) as port, connected(port, sent) as client:
        assert is_ended(client)


def test_a_client_may_be_idle_before_its_request_and_between_requests() -> None:
    """As proxies are, which open connections in advance; the limit is that of proxies, not of replies."""
    with served(1, limit=0.1) as port, connected(port, b"") as client:
        for _ in range(2):
            time.sleep(0.5)
            client.sendall(GET)
            assert received(client, 1).endswith(b"\r\n\r\n\0")


def test_a_client_that_sends_endless_headers_is_disconnected() -> None:
    with served(1, limit=60) as port, connected(port, GET[:-2]) as client:  # long before its time is up
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                client.sendall(b"X: " + bytes(4096).replace(b"\0", b"x") + b"\r\n")
        assert len(received(client, LARGE)) < LARGE


def test_a_client_that_still_sends_its_image_gets_the_refusal() -> None:
    with served(1, limit=60) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for _ in range(2):  # and can go on
            connection.request("POST", "/", bytes(LARGE))
            assert connection.getresponse().read() == b"\0"
        connection.close()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_client_that_keeps_no_connection_gets_the_refusal_while_it_sends(version: str) -> None:
    """As nginx sends requests by default: the reply must not be lost because the body is not read."""
    head = f"POST / HTTP/{version}\r\nHost: x\r\nConnection: close\r\nContent-Length: {LARGE}\r\n\r\n".encode()
    with served(1, limit=60) as port, connected(port, head) as client:
        client.sendall(bytes(LARGE))
        assert received(client, LARGE).endswith(b"\r\n\r\n\0")  # to the end of the connection


def test_a_client_that_sends_no_http_gets_the_refusal_while_it_sends() -> None:
    with served(1, limit=60) as port, connected(port, b"no HTTP\r\n\r\n") as client:
        client.sendall(bytes(LARGE))
        assert received(client, LARGE).startswith(b"HTTP/1.1 400")


def test_a_client_that_sends_on_after_its_refusal_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE", 0.2)
    head = GET.replace(b"GET", b"POST")[:-2] + b"Connection: close\r\nContent-Length: 1000000000\r\n\r\n"
    with served(1, limit=0.3) as port, connected(port, head) as client:
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 10:
                client.sendall(b"x" * 1000)
                time.sleep(0.01)
        assert time.monotonic() - began < 5


def posted(size: int) -> bytes:
    return f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()


@pytest.mark.parametrize("sent", [b"", b"half of"])
def test_a_client_that_does_not_send_the_rest_of_its_image_is_disconnected(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE", 0.2)
    with served(1, limit=0.3, reads_after=0) as port, connected(port, posted(100) + sent) as client:
        assert is_ended(client)


def test_a_client_may_send_its_image_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE", 0.2)
    with served(1, limit=1.0, reads_after=0) as port, connected(port, posted(8)) as client:
        for _ in range(8):
            time.sleep(0.25)
            client.sendall(b"x")
        assert received(client, 1).endswith(b"\r\n\r\n\0")


def test_a_client_may_wait_until_the_application_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE", 0.2)
    with served(1, limit=0.3, reads_after=1.5) as port, connected(port, posted(LARGE)) as client:
        client.sendall(bytes(LARGE))
        assert received(client, 1).endswith(b"\r\n\r\n\0")


def test_a_reply_that_nobody_reads_is_given_up() -> None:
    with served(LARGE, limit=0.3) as port, connected(port, GET) as client:
        time.sleep(2)
        assert len(received(client, LARGE)) < LARGE


def test_a_slow_reader_gets_the_whole_reply() -> None:
    """Within the limit, it reads less than a third of what systems hold of a reply by default."""
    with served(LARGE, limit=2) as port, connected(port, GET) as client:
        began, size = time.monotonic(), 0
        while size < LARGE:
            chunk = client.recv(1 << 15)
            assert chunk
            size += len(chunk)
            if time.monotonic() - began < 5:
                time.sleep(0.1)


def test_a_client_that_wants_web_sockets_gets_the_usual_reply(caplog: pytest.LogCaptureFixture) -> None:
    upgrade = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    with served(1, limit=60) as port, connected(port, upgrade) as client:
        assert received(client, 1).endswith(b"\r\n\r\n\0")
    assert caplog.text == ""  # no advice to install what the service does not use
