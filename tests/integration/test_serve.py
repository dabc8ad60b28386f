"""``mask2former serve`` from the user's view: real processes, connections and signals, only on this machine."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
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

pytestmark = pytest.mark.long

TOKEN = "of-sixteen-letters-or-more"
CONFORMS = ("status_code", "content_type", "response_schema")


@dataclass
class Served:
    """A service in a separate process."""

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


@contextmanager
def served(
    model: str | Path, folder: Path, *options: str, program: Sequence[str] = ("-m", "mask2former")
) -> Iterator[Served]:
    command = [sys.executable, *program, "serve", str(model), "--port", "0", *options]
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


def test_a_model_is_served_until_it_is_asked_to_stop(tmp_path: Path) -> None:
    image = draw_scene(3, (48, 64)).image
    path = tmp_path / "scene.png"
    Image.fromarray(image).save(path)
    expected = Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True, short_edge=64)(path).to_dict()
    with served("scenes-tiny", tmp_path, "--device", "cpu", "--short-edge", "64") as service:
        reply, body = service.send("GET", "/health/ready", Authorization="none")
        assert (reply.status, json.loads(body)) == (200, {"status": "ok"})
        assert service.send("GET", "/v1/models", Authorization="Bearer guess")[0].status == 401
        reply, body = service.send(
            "POST", "/v1/predict", path.read_bytes(), Content_Type="image/png", X_Request_ID="a1"
        )
        [result] = json.loads(body)["results"]
        assert (reply.status, reply.headers["X-Request-ID"]) == (200, "a1")
        assert result["segments"] == expected["segments"]
        assert result["model"] == "scenes-tiny"

        # A request whose body is still arriving when the service is stopped is completed.
        connection = socket.create_connection(("127.0.0.1", service.port))
        content = path.read_bytes()
        head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content[:100])
        time.sleep(0.2)
        for _ in range(2):  # as shells and service managers do, once to the process and once to its group
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
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
        assert service.process.stdout.read() == "stopped\n"
        [line] = [line for line in service.lines() if line.get("request_id") == "a1"]
        assert (line["path"], line["status"], line["images"], line["batch"]) == ("/v1/predict", 200, 1, 1)


_ENDLESS = """
import sys, time, torch
from mask2former import Predictor
from mask2former.__main__ import main
from mask2former.config import InferenceConfig
from mask2former.serve import running
from mask2former.structures import Categories, Prediction

def network(images):
    size = images[0].shape[-2:]
    time.sleep(0 if size == (64, 64) else 3600)  # not the image that warms up
    return [Prediction(torch.zeros(1, 2), torch.zeros(1, 1, *size), size, size)]

settings, classes = InferenceConfig(short_edge=0), Categories.from_names(["cat"])
running.open_predictor = lambda *_, **__: Predictor(network, "cpu", settings=settings, categories=classes)
sys.exit(main())
"""


def test_an_image_that_nobody_waits_for_does_not_delay_the_end(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(draw_scene(3, (48, 96)).image).save(stream, "PNG")
    with served("none", tmp_path, "--timeout", "2", program=("-c", _ENDLESS)) as service:
        reply, _ = service.send("POST", "/v1/predict", stream.getvalue(), Content_Type="image/png")
        assert reply.status == 504
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0


def test_the_application_runs_in_a_server_of_your_own_as_on_the_page() -> None:
    """The code of ``docs/serve.md``: an application alone, and mounted in another one."""
    testing = pytest.importorskip("starlette.testclient")
    page = (Path(__file__).parents[2] / "docs/serve.md").read_text().partition("## In your own server")[2]
    alone, mounted = re.findall(r"```python\n(.*?)```", page.partition("\n## ")[0], re.DOTALL)
    names: dict[str, Any] = {}
    exec(alone, names)
    with testing.TestClient(names["app"]) as client:
        assert client.get("/health/ready").status_code == 200
    exec(mounted, names)
    stream = io.BytesIO()
    Image.fromarray(draw_scene(3, (48, 64)).image).save(stream, "PNG")
    with testing.TestClient(names["outer"]) as client:
        assert client.get("/segmentation/health/ready").status_code == 200
        headers = {"Content-Type": "image/png"}
        assert client.post("/segmentation/v1/predict", content=stream.getvalue(), headers=headers).status_code == 200


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
    assert "'no.such.host.invalid' is not an address" in refused(capsys, "--host", "no.such.host.invalid")
    assert "--queue is 4: a request with that many" in refused(capsys, "--queue", "4")
    assert "--max-megabytes must be above 0 and at most 1,000,000, got 0.0" in refused(capsys, "--max-megabytes", "0")
    assert "--queue must be above 0 and at most 1,000,000, got 1000001" in refused(capsys, "--queue", "1000001")
    short = tmp_path / "token"
    short.write_text("secret\n")
    message = refused(capsys, "--token-file", str(short))
    assert "must contain a token of at least 16 letters" in message
    assert "secret\n" not in message
    assert "there is no token file" in refused(capsys, "--token-file", str(tmp_path / "none"))
    monkeypatch.setenv("MASK2FORMER_TOKEN", "")
    assert "MASK2FORMER_TOKEN must contain" in refused(capsys)
    monkeypatch.delenv("MASK2FORMER_TOKEN")
    assert "--replicas '2:1': expected a number" in refused(capsys, "--ray", "--replicas", "2:1")
    assert "--max-queued applies to replicas on Ray Serve; add --ray" in refused(capsys, "--max-queued", "3")
    assert main(["serve", "no-such-model", "--port", "0"]) == 2


def test_without_its_extra_the_command_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("mask2former.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert (
        "uvicorn is not installed; it is needed to serve models. Install it with: pip install 'mask2former[serve]'"
        in (refused(capsys))
    )


@pytest.mark.slow
def test_whatever_the_description_allows_or_forbids_is_replied_to_in_its_own_words(
    tiny_file: Path, tmp_path: Path
) -> None:
    """Valid and malformed requests that schemathesis makes from the OpenAPI document get replies that conform to it."""
    pytest.importorskip("schemathesis")
    with served(tiny_file, tmp_path, "--device", "cpu", "--max-megabytes", "1") as service:
        url = f"http://127.0.0.1:{service.port}"
        command = [
            "schemathesis", "run", f"{url}/openapi.json", "--header", f"Authorization: Bearer {TOKEN}",
            "--checks", ",".join(("not_a_server_error", *(f"{what}_conformance" for what in CONFORMS))),
            "--max-examples", "100", "--seed", "1", "--no-color",
        ]  # fmt: skip
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=280)
        assert run.returncode == 0, run.stdout[-8000:]
        assert service.send("GET", "/health/live")[0].status == 200
        assert not [line for line in service.lines() if line["level"] in ("error", "critical")]
        statuses = {line["status"] for line in service.lines() if line.get("path") == "/v1/predict"}
        assert {415, 422} <= statuses


@pytest.mark.slow
def test_replicas_on_ray_serve_until_one_is_killed_and_after(tiny_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    scenes = [draw_scene(number, (48, 64)).image for number in range(8)]
    predictor = Predictor.from_pretrained(tiny_file, device="cpu", quiet=True)
    expected = [predictor(image).to_dict(masks="none")["segments"] for image in scenes]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ("--ray", "--replicas", "2", "--device", "cpu", "--port", str(port))
    with served(tiny_file, tmp_path, *options) as service:
        replies: list[tuple[int, int, Any]] = []

        def ask(number: int) -> None:
            stream = io.BytesIO()
            Image.fromarray(scenes[number % 8]).save(stream, "PNG")
            reply, body = service.send("POST", "/v1/predict?masks=none", stream.getvalue(), Content_Type="image/png")
            replies.append((number % 8, reply.status, json.loads(body) if reply.status == 200 else body))

        def ask_many(count: int) -> None:
            for number in range(count):
                ask(number)

        ask_many(8)
        assert [status for _, status, _ in replies] == [200] * 8
        assert service.send("GET", "/v1/models", Authorization="Bearer guess")[0].status == 401
        assert service.send("GET", "/metrics")[0].status == 404  # each replica would report only its own
        clients = [threading.Thread(target=ask_many, args=(40,)) for _ in range(3)]
        for client in clients:
            client.start()
        time.sleep(0.3)
        first, *others = replicas_below(service.process.pid)
        assert len(others) == 1
        os.kill(first, signal.SIGKILL)
        for client in clients:
            client.join()
        assert len(replies) == 8 + 3 * 40  # each request got a reply
        good = [(number, body) for number, status, body in replies if status == 200]
        assert all(body["results"][0]["segments"] == expected[number] for number, body in good)
        assert len(replies) - len(good) <= 3  # those in the killed replica: one for each client
        end = time.monotonic() + 90
        while len(replicas_below(service.process.pid)) < 2:
            assert time.monotonic() < end, "no new replica"
            time.sleep(0.5)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(90) == 0


def replicas_below(pid: int) -> list[int]:
    """Processes of replicas that Ray has started for this process."""
    parents, found = {}, []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"ray::ServeReplica" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))

    def is_below(child: int) -> bool:
        while child and child != pid:
            child = parents.get(child, 0)
        return child == pid

    return sorted(filter(is_below, found))
