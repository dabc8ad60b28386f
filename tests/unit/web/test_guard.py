"""Which addresses can be reached, and the headers for the browser."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from mask2former.web.guard import Guard


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

    scope = {"type": "http", "path": path, "headers": [(b"host", host.encode())]}
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
    assert ask(page, "/gradio_api/queue/join", b'"' + 100_000 * b"x" + b'"')[0] == 400
    assert page.bodies == []
    ask(page, "/gradio_api/upload", 2_000_000 * b"x")
    assert len(page.bodies.pop()) < 1_300_000


def test_uploads_are_refused_where_too_many_lie_there(tmp_path: Path) -> None:
    for number in range(31):
        (tmp_path / str(number)).write_bytes(bytes(200_000))
    assert ask(Page(), "/gradio_api/upload", b"x", folder=tmp_path)[0] == 200
    (tmp_path / "last").write_bytes(bytes(200_000))
    assert ask(Page(), "/gradio_api/upload", b"x", folder=tmp_path)[0] == 503
    assert ask(Page(), "/", folder=tmp_path)[0] == 200


def test_uploads_that_never_ended_are_removed_after_a_while(tmp_path: Path) -> None:
    (tmp_path / "finished").mkdir()
    names = [f"tmp{number}" for number in range(31)] + ["finished/image.png"]
    for name in names:
        (tmp_path / name).write_bytes(bytes(200_000))
    assert ask(Page(), "/gradio_api/upload", b"x", folder=tmp_path)[0] == 503
    for name in names:
        os.utime(tmp_path / name, (0, 0))
    assert ask(Page(), "/gradio_api/upload", b"x", folder=tmp_path)[0] == 200
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["image.png"]  # gradio removes it


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
    assert ask(page, "/gradio_api/queue/join", b"no json", folder=uploads)[0] == 400
    assert ask(page, "/gradio_api/queue/join", 60_000 * b"[", folder=uploads)[0] == 400
    assert len(page.bodies) == 1


def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(Guard(Page(), Path(), 1, 1800.0)({"type": "websocket", "path": "/", "headers": []}, receive, send))
    assert sent == ["websocket.close"]
