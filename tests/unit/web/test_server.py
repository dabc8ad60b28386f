"""The page is there from the moment its address is told until a signal ends it."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from mask2former.cli import main
from mask2former.errors import UserError
from mask2former.web import serve_page


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch, default_signals: None) -> list[Any]:
    """The host names and the upload limit that the application gets (a stand-in here), and "closed" at its end."""
    told: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/stream":  # as each open tab has some
            await send({"type": "http.response.body", "body": b"alive", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
        await send({"type": "http.response.body", "body": b"page"})

    @contextlib.contextmanager
    def opened(models: Any, *, hosts: Any, upload_bytes: int) -> Iterator[Any]:
        told.extend([hosts, upload_bytes])
        yield app
        told.append("closed")

    monkeypatch.setattr("mask2former.web.server.open_app", opened)
    monkeypatch.setattr("mask2former.web.server._SECONDS_TO_LOOK", 0.02)
    return told


def read_and_end(address: str, pages: list[bytes]) -> None:
    host, port = address.removeprefix("http://").rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("GET", "/")
        pages.append(connection.getresponse().read())
    finally:
        connection.close()
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_page_is_served_until_a_signal_comes(hosts: list[Any]) -> None:
    pages: list[bytes] = []

    def tell(address: str) -> None:
        threading.Thread(target=read_and_end, args=(address, pages), daemon=True).start()

    with pytest.raises(KeyboardInterrupt):
        serve_page({}, port=0, upload_bytes=99, tell=tell)
    assert pages == [b"page"]
    assert hosts == [("127.0.0.1", "localhost", "[::1]"), 99, "closed"]


def test_a_visitor_who_is_still_sending_gets_the_refusal(hosts: list[Any]) -> None:
    """Behind nginx, which keeps no connections by default: it would report 502 if the body were left unread."""
    replies: list[bytes] = []

    def send(address: str) -> None:
        port = int(address.rpartition(":")[2])
        with contextlib.ExitStack() as stack:
            stack.callback(os.kill, os.getpid(), signal.SIGTERM)
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            client.sendall(b"POST / HTTP/1.0\r\nHost: x\r\nContent-Length: 12000000\r\n\r\n" + bytes(12_000_000))
            replies.append(stack.enter_context(client.makefile("rb")).read())

    with pytest.raises(KeyboardInterrupt):
        serve_page({}, port=0, tell=lambda address: threading.Thread(target=send, args=(address,), daemon=True).start())
    assert [reply.partition(b"\r\n\r\n")[2] for reply in replies] == [b"page"]


def test_open_tabs_do_not_delay_the_end_and_leave_nothing_in_the_log(
    hosts: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    received: list[bytes] = []
    ended: list[float] = []

    def watch(address: str) -> None:
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=10) as client:
            client.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            with client.makefile("rb") as stream:
                while stream.readline().strip():
                    pass
                received.append(stream.readline() + stream.readline())
                ended.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGTERM)
                received.append(stream.read())

    with pytest.raises(KeyboardInterrupt):
        serve_page({}, port=0, tell=lambda address: threading.Thread(target=watch, args=(address,)).start())
    assert time.monotonic() - ended[0] < 2.5  # less than requests that are in progress have
    assert received[0] == b"5\r\nalive\r\n"
    assert caplog.text == ""


@pytest.mark.parametrize("host", ["127.0.0.2", "127.1.2.3"])
def test_any_loopback_address_answers_to_its_names_only(hosts: list[Any], host: str) -> None:
    """A page that answers to any name can be read by websites, whose names may point to it."""
    with pytest.raises(KeyboardInterrupt):
        serve_page({}, host=host, port=0, tell=lambda address: os.kill(os.getpid(), signal.SIGTERM))
    assert hosts[0] == ("127.0.0.1", "localhost", "[::1]", host)


def test_a_page_behind_a_proxy_answers_to_the_name_of_the_proxy(hosts: list[Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        serve_page(
            {},
            port=0,
            server_names=["page.example.org"],
            tell=lambda address: os.kill(os.getpid(), signal.SIGTERM),
        )
    assert hosts[0] == ("127.0.0.1", "localhost", "[::1]", "page.example.org")
    for name in ("https://page.example.org", "page.example.org:443", "page.example.org/a", ""):
        with pytest.raises(UserError, match="expected a name without scheme, port and path"):
            serve_page({}, port=0, server_names=[name])


def test_the_command_says_where_the_page_is(
    hosts: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mask2former.web.open_models", lambda models, **_: dict.fromkeys(models))

    def serve(models: Any, **options: Any) -> None:
        hosts.extend([list(models), options["port"], options["upload_bytes"], options["server_names"]])
        options["tell"]("http://127.0.0.1:7")
        raise KeyboardInterrupt

    monkeypatch.setattr("mask2former.web.serve_page", serve)
    assert main(["web", "tiny", "--port", "7", "--max-upload", "2", "--server-name", "a.example"]) == 130
    assert hosts == [["tiny"], 7, 2 << 20, ["a.example"]]
    captured = capsys.readouterr()
    assert "http://127.0.0.1:7 " in captured.out
    assert captured.err == "stopped\n"
