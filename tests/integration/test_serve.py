"""``mask2former serve`` as its users start it: real processes, connections and signals, on this machine alone."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mask2former import Predictor
from mask2former.cli import main
from mask2former.scenes import draw_scene

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

TOKEN = "of-sixteen-letters-or-more"


@dataclass
class Served:
    """A service in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Authorization": f"Bearer {TOKEN}"} | given)
            reply = connection.getresponse()
            return reply, reply.read()
        finally:
            connection.close()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        return self.process.wait(60), self.process.stdout.read() if self.process.stdout else ""


@contextmanager
def served(model: str | Path, folder: Path, *options: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "mask2former", "serve", str(model), "--port", "0", *options]
    log = folder / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, "MASK2FORMER_TOKEN": TOKEN}
        )
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
            assert found is not None, log.read_text()
            yield Served(process, int(found[1]), log)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()  # pyright: ignore[reportOptionalMemberAccess]


def test_a_model_is_served_until_it_is_asked_to_stop(tiny_file: Path, tmp_path: Path) -> None:
    image = draw_scene(3, (48, 64)).image
    path = tmp_path / "scene.png"
    Image.fromarray(image).save(path)
    expected = Predictor.from_pretrained(tiny_file, device="cpu", quiet=True)(path).to_dict()
    with served(tiny_file, tmp_path, "--device", "cpu") as service:
        reply, body = service.send("GET", "/health/ready", Authorization="none")
        assert (reply.status, json.loads(body)) == (200, {"status": "ok"})
        assert service.send("GET", "/v1/models", Authorization="Bearer guess")[0].status == 401
        reply, body = service.send(
            "POST", "/v1/predict", path.read_bytes(), Content_Type="image/png", X_Request_ID="a1"
        )
        [result] = json.loads(body)["results"]
        assert (reply.status, reply.headers["X-Request-ID"]) == (200, "a1")
        assert result["segments"] == expected["segments"]
        assert result["model"] == str(tiny_file)

        # A request whose body is still on its way when the end comes is finished.
        connection = socket.create_connection(("127.0.0.1", service.port))
        content = path.read_bytes()
        head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content[:100])
        time.sleep(0.2)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(OSError, match="refused"):
            service.send("GET", "/health/live")
        connection.sendall(content[100:])
        with connection.makefile("rb") as stream:
            late = stream.read()
        connection.close()
        assert late.startswith(b"HTTP/1.1 200")
        assert json.loads(late.partition(b"\r\n\r\n")[2])["results"][0]["segments"] == expected["segments"]
        assert service.process.wait(30) == 0
        assert service.process.stdout is not None
        assert service.process.stdout.read() == "stopped; all requests that had begun were finished\n"
        [line] = [line for line in service.lines() if line.get("request_id") == "a1"]
        assert (line["path"], line["status"], line["images"], line["batch"]) == ("/v1/predict", 200, 1, 1)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code = main(["serve", "scenes-tiny", *words])
    error = capsys.readouterr().err
    assert code == 2, error
    return error


def test_what_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1, port {port} (Address already in use); choose another --port" in refused(
            capsys, "--port", port
        )
    assert "'no.such.host.invalid' is no address" in refused(capsys, "--host", "no.such.host.invalid")
    assert "--queue holds 4: a request of so many" in refused(capsys, "--queue", "4")
    assert "--max-megabytes must be above 0, got 0.0" in refused(capsys, "--max-megabytes", "0")
    short = tmp_path / "token"
    short.write_text("secret\n")
    message = refused(capsys, "--token-file", str(short))
    assert "must hold a token of at least 16 letters" in message
    assert "secret\n" not in message
    assert "there is no token file" in refused(capsys, "--token-file", str(tmp_path / "none"))
    monkeypatch.setenv("MASK2FORMER_TOKEN", "")
    assert "MASK2FORMER_TOKEN must hold" in refused(capsys)
    monkeypatch.delenv("MASK2FORMER_TOKEN")
    assert "--replicas '2:1': expected a number" in refused(capsys, "--ray", "--replicas", "2:1")
    assert main(["serve", "no-such-model", "--port", "0"]) == 2
