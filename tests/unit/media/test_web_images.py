"""Images at addresses: what is downloaded, how much of it, and which links are not followed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former import limits
from mask2former.errors import UserError
from mask2former.media.images import image_size, read_image
from mask2former.media.web_images import WebImage

PIXELS = np.random.default_rng(2).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def png() -> bytes:
    stream = BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", path.removeprefix("/to/"))
            self.end_headers()
            return
        content = png()
        self.send_response({"/gone.png": 404}.get(path, 200))
        if path == "/cut.png":
            self.send_header("Content-Length", str(len(content) + 9))
        if path == "/announced.png":
            self.send_header("Content-Length", str(limits.WEB_BYTES + 1))
        self.end_headers()
        with contextlib.suppress(OSError):
            while path == "/endless.png":
                self.wfile.write(bytes(1 << 16))
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_an_image_behind_an_address_is_read_as_its_file_is(host: str) -> None:
    for path in ("/a.png", "/a.png?width=3", "/to//a.png"):
        np.testing.assert_array_equal(read_image(host + path), PIXELS)
    assert image_size(WebImage(f"{host}/a.png")) == (20, 30)


def test_names_are_those_of_files_and_show_no_password() -> None:
    assert WebImage("https://a.org/x/street%20one.jpg?key=1").name == "street_one.jpg"
    assert WebImage("https://a.org/x/..%2f..%2fetc%2fpasswd").name == "passwd"
    assert WebImage("https://a.org/..").name == WebImage("https://a.org").name == "a.org"
    assert str(WebImage("https://me:secret@a.org:8/x.png?token=secret")) == "https://a.org:8/x.png"


def test_what_cannot_be_fetched_is_one_sentence(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png())
    monkeypatch.setattr(limits, "WEB_BYTES", 1 << 20)
    for path, message in (
        ("/gone.png", r"gone\.png' cannot be fetched: the server replies 404"),
        ("/cut.png", "ended after .* bytes; try again"),
        ("/announced.png", r"has too many bytes: 1,048,577; at most 1,048,576"),
        ("/endless.png", "has more bytes than are allowed"),
        (f"/to/file://{tmp_path}/a.png", "cannot be fetched: the server replies 302"),
        ("/to/ftp://127.0.0.1/a.png", "redirects to ftp, which is not followed"),
        ("/to//to//to//to//to//to//to/a.png", "cannot be fetched"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            read_image(host + path)
        assert "\n" not in str(caught.value)
    for url in ("http://127.0.0.1:1/a.png", "http://a b/"):
        with pytest.raises(UserError, match="cannot be fetched"):
            read_image(url)
    for url in ("http://[", "https://", "http://a:x/b.png"):
        with pytest.raises(UserError, match="is not a web address"):
            read_image(url)


def test_time_is_limited(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WEB_SECONDS", 0)
    with pytest.raises(UserError, match="did not arrive within 0 s"):
        read_image(f"{host}/endless.png")


def test_other_schemes_are_paths(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    for url in (f"file://{tmp_path}/a.png", "ftp://127.0.0.1/a.png", "data:image/png;base64,"):
        with pytest.raises(UserError, match="there is no image"):
            read_image(url)
