"""A service in this process, from the moment it can be reached to the signal that ends it; Ray is a stand-in."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from mask2former.config import InferenceConfig
from mask2former.errors import FailedError, UserError
from mask2former.inference.predictor import Predictor
from mask2former.inference.ray_cluster import joined_cluster
from mask2former.progress import silent
from mask2former.serve import RayOptions, ServiceLimits, serve
from mask2former.serve.logs import JsonLines, request_id
from mask2former.structures import Categories, Prediction

pytestmark = pytest.mark.usefixtures("default_signals")
TOKEN = "t" * 20


def no_objects(images: Sequence[torch.Tensor], /) -> list[Prediction]:
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    return [Prediction(torch.zeros(1, 2), torch.zeros(1, 1, *size), size, size) for size in sizes]


def make_predictor() -> Predictor:
    return Predictor(no_objects, "cpu", settings=InferenceConfig(), categories=Categories.from_names(["cat"]))


def asked_and_ended(replies: list[tuple[str, int]], number: signal.Signals = signal.SIGTERM) -> Callable[[str], None]:
    """A callback for a started service, which sends a request and then the signal from another thread."""

    def ask(url: str) -> None:
        host, port = url.removeprefix("http://").rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        try:
            connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {TOKEN}"})
            replies.append((url, connection.getresponse().status))
        finally:
            connection.close()
            os.kill(os.getpid(), number)

    return lambda url: threading.Thread(target=ask, args=(url,), daemon=True).start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_replies_until_a_signal_ends_it(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    replies: list[tuple[str, int]] = []
    serve(make_predictor(), port=0, token=TOKEN, started=asked_and_ended(replies, number))
    [(url, status)] = replies
    assert status == 200
    assert url.startswith("http://127.0.0.1:")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {"message": "ready", "url": url} in [{name: line.get(name) for name in ("message", "url")} for line in lines]


@pytest.mark.parametrize(("megapixels", "expected"), [(50, 89), (200, 200)])
def test_pillow_accepts_images_as_large_as_the_service_does(megapixels: float, expected: int) -> None:
    before, found = Image.MAX_IMAGE_PIXELS, []

    def started(url: str) -> None:
        found.append((Image.MAX_IMAGE_PIXELS or 0) // 10**6)
        asked_and_ended([])(url)

    serve(make_predictor(), port=0, token=TOKEN, limits=ServiceLimits(megapixels=megapixels), started=started)
    assert (found, Image.MAX_IMAGE_PIXELS) == ([expected], before)


def test_an_application_that_does_not_start_is_no_silent_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.failed", "message": "no"})

    monkeypatch.setattr("mask2former.serve.running.create_app", lambda *_: broken)
    with pytest.raises(FailedError, match="could not start"):
        serve(make_predictor(), port=0)


def test_a_line_of_the_log_says_which_request_and_what_went_wrong() -> None:
    reset = request_id.set("a1")
    try:
        raise ValueError("a fault")
    except ValueError:
        record = logging.LogRecord("mask2former", logging.ERROR, "x.py", 1, "failed", None, sys.exc_info())
        values = json.loads(JsonLines().format(record))
    finally:
        request_id.reset(reset)
    assert (values["request_id"], values["level"], values["message"]) == ("a1", "error", "failed")
    assert "ValueError: a fault" in values["exception"]


# --- Ray --------------------------------------------------------------------------------------------------------------


class Ray(ModuleType):
    """A stand-in for Ray that only records its calls."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.log: list[Any] = []
        self.gpus = 0
        self.refusal: Exception | None = None
        self.serve = SimpleNamespace(
            start=lambda **options: self.log.append(("start", options["proxy_location"])),
            deployment=self.deployment,
            ingress=lambda build: lambda replica: (build, replica),
            run=self.run,
            delete=lambda name: self.log.append("delete"),
            shutdown=lambda: self.log.append("serve.shutdown"),
            config=SimpleNamespace(HTTPOptions=dict),
        )

    def is_initialized(self) -> bool:
        return False

    def init(self, address: str, **options: Any) -> None:
        self.log.append(("init", address, options.get("num_cpus")))
        if self.refusal is not None and address != "local":
            raise self.refusal

    def shutdown(self) -> None:
        self.log.append("shutdown")

    def cluster_resources(self) -> dict[str, float]:
        return {"GPU": self.gpus}

    def deployment(self, **options: Any) -> Any:
        self.log.append(options)
        return lambda replica: SimpleNamespace(bind=lambda: replica)

    def run(self, target: Any, name: str) -> None:
        self.target = target
        if self.refusal is not None:
            raise self.refusal


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    module = Ray()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setitem(sys.modules, "ray.serve", module.serve)
    return module


def ended(url: str) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_every_replica_loads_the_model_itself_at_a_port_that_is_known(ray: Ray) -> None:
    with pytest.raises(UserError, match="every replica loads the model"):
        serve(make_predictor(), ray=RayOptions())
    with pytest.raises(UserError, match="needs a fixed port"):
        serve("scenes-tiny", port=0, ray=RayOptions())
    assert not ray.log


@pytest.mark.parametrize(
    ("gpus", "device", "expected"), [(0, "auto", 0), (2, "auto", 1), (2, "cpu", 0), (0, "cuda", 1)]
)
def test_replicas_are_deployed_and_taken_down_by_a_signal(
    gpus: int, device: str, expected: int, ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr("mask2former.serve.on_ray.open_predictor", lambda model, **loading: opened.append(loading))
    ray.gpus = gpus
    urls: list[str] = []
    serve(
        "tiny", port=8123, token=TOKEN, ray=RayOptions.of("1:4", 2.0, 9), device=device,
        started=lambda url: (urls.append(url), ended(url))[0],
    )  # fmt: skip
    assert urls == ["http://127.0.0.1:8123"]
    assert opened[0]["device"] == "cpu"  # errors of the model are reported first, without a GPU
    (kind, address, cores), start, options, *rest = ray.log
    assert (kind, address, start) == ("init", "local", ("start", "HeadOnly"))
    assert cores >= 8
    assert options["ray_actor_options"]["num_gpus"] == expected
    assert options["max_queued_requests"] == 9
    assert rest == ["delete", "serve.shutdown", "shutdown"]


def test_a_replica_is_an_application_that_tells_when_its_model_does_not_work(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    def open_predictor(model: str, **loading: Any) -> Predictor:
        opened.append((model, loading))
        return make_predictor()

    monkeypatch.setattr("mask2former.serve.on_ray.open_predictor", open_predictor)
    serve("tiny", token=TOKEN, ray=RayOptions(), device="cuda", short_edge=64, started=ended)
    build, kind = ray.target
    replica = kind()
    replica.app = build()
    try:
        assert opened[1] == ("tiny", {"quiet": True, "device": "cuda", "short_edge": 64})
        replica.check_health()
        replica.app.state.service.is_broken = True
        with pytest.raises(RuntimeError, match="no longer works"):
            replica.check_health()
    finally:
        replica.app.state.told.close()


def test_a_deployment_that_fails_says_so_and_leaves_nothing(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mask2former.serve.on_ray.open_predictor", lambda model, **loading: None)
    ray.refusal = RuntimeError("replica did not\nstart")
    with pytest.raises(FailedError, match="could not deploy the model: replica did not"):
        serve("tiny", token=TOKEN, ray=RayOptions(), started=ended)
    assert ray.log[-2:] == ["serve.shutdown", "shutdown"]


def test_a_cluster_of_others_goes_on(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mask2former.serve.on_ray.open_predictor", lambda model, **loading: None)
    with socket.create_server(("127.0.0.1", 0)) as cluster:
        address = f"127.0.0.1:{cluster.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        serve("tiny", token=TOKEN, ray=RayOptions(), started=ended)
        assert ray.log[:2] == [("init", address, None), ("start", "EveryNode")]
        assert ray.log[-2:] == ["delete", "shutdown"]
        ray.refusal = ConnectionError("version mismatch")
        with pytest.raises(UserError, match=rf"no Ray cluster at '{address}': version mismatch"):
            serve("tiny", token=TOKEN, ray=RayOptions(), started=ended)


def test_ray_keeps_the_handler_of_signals_and_stays_where_it_was_there_before(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ray, "init", lambda address, **options: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    with joined_cluster(None, 1, silent):
        assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    ray.log.clear()
    with joined_cluster(None, 1, silent):
        pass
    assert ray.log == []
