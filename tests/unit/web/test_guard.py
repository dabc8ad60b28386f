"""Which addresses can be reached, and the headers for the browser."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from mask2former.web.guard import Application, Guard


class Page:
    """An application that records the bodies that reach it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, message = b"", {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
            if message["type"] == "http.disconnect":
                break
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page"})


def ask(
    page: Page,
    path: str,
    body: bytes = b"{}",
    *,
    folder: Path = Path("uploads"),
    hosts: tuple[str, ...] | None = None,
    host: str = "127.0.0.1:80",
) -> tuple[int, dict[bytes, bytes]]:
    """Status and headers of the reply to a request whose body arrives in parts."""
    parts = [body[start : start + 40_000] for start in range(0, len(body), 40_000)]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"host", host.encode())]}
    asyncio.run(Guard(page, folder, 200_000, 1800.0, hosts)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize("path", ["/", "/config", "/assets/index.js", "/gradio_api/queue/join", "/gradio_api/app_id"])
def test_the_page_is_reachable_and_may_load_nothing_from_elsewhere(path: str) -> None:
    page = Page()
    status, headers = ask(page, path)
    assert (status, len(page.bodies)) == (200, 1)
    policy = headers[b"content-security-policy"].decode()
    assert policy.startswith("default-src 'self';")
    assert "http" not in policy
    assert headers[b"referrer-policy"] == b"no-referrer"


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://169.254.169.254/",
        "/gradio_api/proxy=http://localhost/",
        "/gradio_api/info",
        "/gradio_api/runs",
        "/gradio_api/call/upload",
        "/gradio_api/component_server",
        "/monitoring",
        "/docs",
        "/login",
        "/assets/../config",
        "/static/../../secret",
        "",
    ],
)
def test_nothing_else_is(path: str) -> None:
    page = Page()
    assert ask(page, path)[0] == 404
    assert page.bodies == []


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:7860", 200), ("LocalHost", 200), ("[::1]:7860", 200), ("evil.example:7860", 421), ("", 421)],
)
def test_a_page_on_loopback_answers_to_its_names_only(host: str, status: int) -> None:
    names = ("127.0.0.1", "localhost", "[::1]")
    assert ask(Page(), "/", hosts=names, host=host)[0] == status
    assert ask(Page(), "/", hosts=None, host=host)[0] == 200


def test_only_uploads_are_large() -> None:
    page = Page()
    ask(page, "/gradio_api/upload", 400_000 * b"x")
    assert len(page.bodies.pop()) == 400_000
    assert ask(page, "/gradio_api/queue/join", b'"' + 100_000 * b"x" + b'"')[0] == 413
    assert page.bodies == []
    for path in ("/gradio_api/upload", "/gradio_api/cancel"):
        assert ask(page, path, 2_000_000 * b"x")[0] == 413  # whatever the page makes of what it got
        assert len(page.bodies.pop()) < 1_300_000


def reply_to(page: Application, *messages: dict[str, Any]) -> tuple[int, bytes, bool]:
    """Status and body of the reply to an upload that arrives in these messages, and whether the application failed."""
    left, sent, has_failed = list(messages), [], False

    async def receive() -> Any:
        return left.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": []}
    try:
        asyncio.run(Guard(page, Path("uploads"), 1000, 1800.0)(scope, receive, send))
    except ConnectionError:  # which servers log
        has_failed = True
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], sent[1]["body"], has_failed


async def fragile(scope: Any, receive: Any, send: Any) -> None:
    """A page that fails as soon as a visitor leaves, after the reply that frameworks send then."""
    if (await receive())["type"] == "http.disconnect":
        await send({"type": "http.response.start", "status": 500})
        await send({"type": "http.response.body", "body": b"Internal Server Error"})
        raise ConnectionError
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"page"})


def test_a_request_that_the_page_does_not_finish_gets_a_sentence() -> None:
    large = {"type": "http.request", "body": bytes(2_000_000), "more_body": True}
    sentence = b"this upload has more than 1,049,576 bytes; make it smaller\n"
    assert reply_to(fragile, large) == (413, sentence, False)

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        async def nothing() -> Any:
            return {"type": "http.disconnect"}

        await fragile(scope, nothing, send)

    sentence = b"this request failed on the server, whose log has the reason; reload the page\n"
    assert reply_to(broken) == (500, sentence, True)


def test_a_visitor_who_leaves_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "mask2former.web.guard"):
        assert not reply_to(fragile, {"type": "http.disconnect"})[2]
    [record] = caplog.records  # the error is not lost
    assert record.exc_info is not None
    assert record.exc_info[0] is ConnectionError


def test_what_is_left_of_an_upload_is_removed_at_its_end(tmp_path: Path) -> None:
    async def leaving(scope: Any, receive: Any, send: Any) -> None:
        (tmp_path / "tmp1").write_bytes(b"half an image")
        await fragile(scope, receive, send)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    guard = Guard(leaving, tmp_path, 1000, 1800.0)
    asyncio.run(guard({"type": "http", "path": "/gradio_api/upload", "headers": []}, receive, send))
    assert list(tmp_path.iterdir()) == []


def test_uploads_are_refused_where_too_many_lie_there(tmp_path: Path) -> None:
    (tmp_path / "finished").mkdir()
    for number in range(31):
        (tmp_path / "finished" / str(number)).write_bytes(bytes(200_000))
    assert ask(Page(), "/gradio_api/upload", b"x", folder=tmp_path)[0] == 200
    (tmp_path / "finished" / "last").write_bytes(bytes(200_000))
    assert ask(Page(), "/gradio_api/upload", b"x", folder=tmp_path)[0] == 503
    assert ask(Page(), "/", folder=tmp_path)[0] == 200


def test_uploads_that_never_ended_are_removed_after_a_while(tmp_path: Path) -> None:
    """Or, where no other upload is in progress, at once."""
    (tmp_path / "finished").mkdir()
    names = ["tmp1", "tmp2", "finished/image.png"]
    guard = Guard(Page(), tmp_path, 200_000, 1800.0)
    seen: list[list[str]] = []

    async def upload(body: bytes, then: Callable[[], Awaitable[None]] | None = None) -> None:
        async def receive() -> MutableMapping[str, Any]:
            if then is not None:
                await then()
            return {"type": "http.request", "body": body}

        async def send(message: MutableMapping[str, Any]) -> None:
            pass

        await guard({"type": "http", "path": "/gradio_api/upload", "headers": []}, receive, send)
        seen.append(sorted(path.name for path in tmp_path.rglob("*") if path.is_file()))

    async def meanwhile() -> None:
        for name in names:
            (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / "tmp1", (0, 0))
        await upload(b"x")

    asyncio.run(upload(b"x", meanwhile))
    assert seen == [["image.png", "tmp2"], ["image.png"]]  # gradio removes the last one


def test_uploads_at_the_same_time_are_limited_together(tmp_path: Path) -> None:
    """Each alone is small enough, and when it starts nothing is on disk yet."""
    page = Page()
    guard = Guard(page, tmp_path, 200_000, 1800.0)

    async def upload() -> None:
        parts = [bytes(100_000)] * 2

        async def receive() -> MutableMapping[str, Any]:
            await asyncio.sleep(0)  # lets the others go on
            return {"type": "http.request", "body": parts.pop(), "more_body": bool(parts)}

        async def send(message: MutableMapping[str, Any]) -> None:
            await asyncio.sleep(0)

        await guard({"type": "http", "path": "/gradio_api/upload", "headers": []}, receive, send)

    async def many() -> None:
        await asyncio.gather(*(upload() for _ in range(40)))

    asyncio.run(many())
    assert sum(map(len, page.bodies)) == 32 * 200_000
    page.bodies.clear()
    asyncio.run(upload())
    assert list(map(len, page.bodies)) == [200_000]


def test_events_name_uploads_and_no_other_files(tmp_path: Path) -> None:
    uploads = tmp_path / "uploads"
    (uploads / "a").mkdir(parents=True)
    good = uploads / "a" / "image.png"
    good.write_bytes(b"")
    (uploads / "link.png").symlink_to("/etc/passwd")
    page = Page()

    def status(*values: Any) -> int:
        return ask(page, "/gradio_api/queue/join", json.dumps({"data": values}).encode(), folder=uploads)[0]

    assert status({"path": str(good), "url": "http://127.0.0.1/x", "meta": {}}, "panoptic", 0.5) == 200
    assert json.loads(page.bodies[0])["data"][1] == "panoptic"
    for path in (
        "/etc/passwd",
        "https://example.org/a.png",
        str(uploads),
        str(uploads / ".." / "a"),
        f"{uploads}-other/a.png",
        str(uploads / "link.png"),
        "",
        "a\0b",
        None,
        ["x"],
    ):
        assert status({"path": path, "meta": {}}) == 400
        assert status([[{"deep": {"path": path}}]]) == 400
    for body in (b"no json", 60_000 * b"[", b'["\\ud800"]', b"[NaN]", b"[1e999]", b'["\xff"]'):
        assert ask(page, "/gradio_api/queue/join", body, folder=uploads)[0] == 400
    assert len(page.bodies) == 1


def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(Guard(Page(), Path(), 1, 1800.0)({"type": "websocket", "path": "/", "headers": []}, receive, send))
    assert sent == ["websocket.close"]
