"""The web application, called like by a server: replies, errors, batches, limits, and clients that disconnect."""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import json
import struct
import threading
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urljoin

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

import mask2former
from mask2former.config import InferenceConfig
from mask2former.inference.predictor import Predictor
from mask2former.serve import ServiceLimits, create_app
from mask2former.structures import Categories, Prediction

CLASSES = Categories.from_names(["cat", "dog", "sky"], ["cat", "dog"])
TOKEN = "a token of at least 16".replace(" ", "-")


class Network:
    """Predicts a dog where an image is bright and sky elsewhere; it can be made to wait or to fail."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self.fails: Callable[[torch.Tensor], Exception | None] = lambda image: None

    def __call__(self, images: Sequence[torch.Tensor], /) -> list[Prediction]:
        self.calls.append(len(images))
        assert self.free.wait(10)
        for image in images:
            if (error := self.fails(image)) is not None:
                raise error
        return [self.predicted(image) for image in images]

    def weights_sha256(self) -> str:
        return "5ha"

    def predicted(self, image: torch.Tensor) -> Prediction:
        height, width = image.shape[-2:]
        bright = torch.where(image.float().mean(0) > 127, 20.0, -20.0)
        logits = torch.tensor([[0.0, 9.0, 0.0, 0.0], [0.0, 0.0, 9.0, 0.0]])
        return Prediction(logits, torch.stack([bright, -bright])[:, None], (height, width), (height, width))


def make_predictor(network: Network | None = None) -> Predictor:
    settings = InferenceConfig(short_edge=0, score_threshold=0.5)
    return Predictor(network or Network(), "cpu", settings=settings, categories=CLASSES)


def image_of(seed: int, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def form(*files: tuple[str, bytes], end: bytes = b"--\r\n") -> tuple[str, bytes]:
    """Content type and body of a form with files, as curl sends it."""
    head = '--xyz\r\nContent-Disposition: form-data; name="images"; filename="{}"\r\n\r\n'
    parts = [head.format(name).encode() + content + b"\r\n" for name, content in files]
    return "multipart/form-data; boundary=xyz", b"".join(parts) + b"--xyz" + end


@dataclass
class Reply:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        assert self.json["error"]["request_id"] == self.headers["x-request-id"]
        return self.json["error"]["message"]


class Client:
    """Calls an application as an ASGI server does."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.send("GET", path, headers)

    async def predict(
        self,
        query: str = "",
        body: bytes = b"",
        kind: str = "image/png",
        leaves: asyncio.Event | None = None,
        **headers: str,
    ) -> Reply:
        given = {"content-type": kind, "content-length": str(len(body))} | headers
        return await self.send("POST", f"/v1/predict?{query}", given, body, leaves)

    async def send(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes | list[bytes] = b"",
        leaves: asyncio.Event | None = None,
    ) -> Reply:
        """Send one request, and disconnect when ``leaves`` is set. A body given as a list of chunks never ends."""
        path, _, query = path.partition("?")
        chunks = [body] if isinstance(body, bytes) else list(body)
        is_whole = isinstance(body, bytes)
        reply, gone = Reply(), leaves or asyncio.Event()

        async def receive() -> dict[str, Any]:
            if chunks:
                chunk = chunks.pop(0)
                return {"type": "http.request", "body": chunk, "more_body": bool(chunks) or not is_whole}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                reply.body += message.get("body", b"")

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000), "app": self.app,
        }  # fmt: skip
        await self.app(scope, receive, send)
        return reply


def with_client(
    test: Callable[[Client], Awaitable[Any]],
    network: Network | None = None,
    limits: ServiceLimits | None = None,
    token: str | None = None,
) -> None:
    async def run() -> None:
        app = create_app(make_predictor(network), "bright", limits, token)
        async with app.router.lifespan_context(app):
            try:
                await test(Client(app))
            finally:
                if network is not None:
                    network.free.set()

    asyncio.run(run())


async def settled() -> None:
    """Wait until every task that can continue has done so."""
    for _ in range(20):
        await asyncio.sleep(0.005)


def without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def test_an_image_gives_what_the_predictor_gives() -> None:
    image = image_of(0)
    expected = make_predictor()(image).to_dict(model="bright")

    async def test(client: Client) -> None:
        reply = await client.predict(body=png(image), x_request_id="mine-1")
        assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
        assert reply.headers["x-request-id"] == "mine-1"
        [result] = reply.json["results"]
        assert without(result, "settings", "image", "notes") == without(expected, "settings")
        assert result["image"] == "image"
        assert result["settings"] == make_predictor().recorded_settings
        assert (await client.predict(body=png(image), kind="application/octet-stream")).body == reply.body
        other = await client.predict(body=png(image), x_request_id="no\x1bid")
        assert other.headers["x-request-id"].isalnum()

    with_client(test)


def test_several_images_come_back_in_their_order() -> None:
    images = [image_of(seed, (12, 16 + seed % 2)) for seed in range(6)]
    expected = [make_predictor()(image).to_dict()["segments"] for image in images]

    async def test(client: Client) -> None:
        kind, body = form(*((f"{number}.png", png(image)) for number, image in enumerate(images)))
        results = (await client.predict(body=body, kind=kind)).json["results"]
        assert [result["image"] for result in results] == [f"{number}.png" for number in range(6)]
        assert [result["segments"] for result in results] == expected

    with_client(test)


def test_tasks_thresholds_and_classes_of_a_request() -> None:
    image, predictor = image_of(1), make_predictor()

    async def test(client: Client) -> None:
        async def first(query: str) -> dict[str, Any]:
            return (await client.predict(query, png(image))).json["results"][0]

        for task in ("panoptic", "instance", "semantic"):
            assert without(await first(f"task={task}"), "settings", "image", "notes", "model") == without(
                predictor(image, task).to_dict(), "settings", "model"
            )
        assert (await first("task=instance&score_threshold=1"))["instances"] == []
        assert (await first("score_threshold=1"))["settings"]["score_threshold"] == 1
        assert len((await first("task=instance&max_instances=1"))["instances"]) == 1
        assert [found["category_name"] for found in (await first("classes=sky"))["segments"]] == ["sky"]
        chosen = await first("classes=sky&min_area=1000000")
        assert (chosen["segments"], chosen["settings"]["classes"]) == ([], ["sky"])
        both = await first("task=semantic&classes=sky&classes=dog")
        assert [found["category_name"] for found in both["classes"]] == ["dog", "sky"]

    with_client(test)


@pytest.mark.usefixtures("small_overlays")
def test_every_form_of_masks() -> None:
    image, predictor = image_of(2), make_predictor()
    result = predictor(image)

    async def test(client: Client) -> None:
        overlay = await client.predict("output=overlay", png(image))
        assert (overlay.headers["content-type"], overlay.body) == ("image/png", result.overlay_png(image))
        ids = await client.predict("output=ids", png(image))
        assert ids.body == result.label_png()["_ids.png"]
        for form in ("rle", "polygons", "none"):
            [found] = (await client.predict(f"masks={form}", png(image))).json["results"]
            assert found["segments"] == result.to_dict(masks=form)["segments"]
        [found] = (await client.predict("masks=png", png(image))).json["results"]
        assert base64.b64decode(found["label_map"]) == ids.body
        assert "segmentation" not in found["segments"][0]

    with_client(test)


SMALL = png(image_of(0))
FORM = "multipart/form-data; boundary=xyz"
HEADER = b"IHDR" + struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
HUGE = SMALL[:12] + HEADER + struct.pack(">I", zlib.crc32(HEADER)) + SMALL[33:]  # Pillow refuses it, before our limit
REFUSED = {
    "nothing": ("", "image/png", b"", 422, "the body is empty"),
    "text": ("", "image/png", b"hello", 422, "'image' is not an image that can be read"),
    "cut short": ("", "image/png", SMALL[:200], 422, "is damaged or cut short"),
    "no type": ("", "", SMALL, 415, "Content-Type ''; expected multipart/form-data"),
    "json": ("", "application/json", b"{}", 415, "expected multipart/form-data"),
    "no boundary": ("", "multipart/form-data", b"abc", 422, "malformed: 'Missing boundary"),
    "no form": ("", FORM, b"hello", 422, "the multipart body is malformed"),
    "empty form": ("", *form(), 422, "has no image"),
    "form without end": ("", *form(("a.png", SMALL), end=b""), 422, "cut short"),
    "form cut in its image": ("", FORM, form(("a.png", SMALL))[1][:150], 422, "cut short"),
    "form without names": ("", FORM, b"--xyz\r\n\r\nabc\r\n--xyz--\r\n", 422, "malformed"),
    "field": ("", FORM, form(("", b"x"))[1].replace(b'; filename=""', b""), 422, "a field that is not a file"),
    "other name": ("", FORM, form(("a.png", SMALL))[1].replace(b"images", b"image"), 422, "a file named 'image'"),
    "one bad": ("", *form(("a.png", SMALL), ("b.png", b"x")), 422, "'b.png' is not an image"),
    "hostile name": ("", *form(("../\x1b[1m\u202ea", b"x")), 422, "'../\ufffd[1m\ufffda' is not an image"),
    "too many": ("", *form(*[("a.png", SMALL)] * 4), 413, "at most 3 images"),
    "too large": ("", "image/png", b"x" * 20_001, 413, "the body has 20,001 bytes; at most 0.02 MB"),
    "too many pixels": ("", "image/png", png(np.zeros((101, 100, 3), np.uint8)), 413, "has 101x100 pixels"),
    "far too many pixels": ("", "image/png", HUGE, 413, "the safety limit; make it smaller"),
    "too thin": ("", "image/png", png(np.zeros((1, 3000, 3), np.uint8)), 422, "ratio"),
    "task": ("task=sketch", "image/png", SMALL, 422, "'task' is 'sketch'; expected panoptic, instance or semantic"),
    "threshold": ("score_threshold=2", "image/png", SMALL, 422, "threshold' is '2'; expected a number from 0 to 1"),
    "nan": ("score_threshold=nan", "image/png", SMALL, 422, "'score_threshold' is 'nan'"),
    "number": ("max_instances=0", "image/png", SMALL, 422, "'max_instances' is '0'; expected a whole number from 1"),
    "misspelled": ("treshold=0.5", "image/png", SMALL, 422, "no parameter 'treshold'; there are: classes"),
    "twice": ("task=semantic&task=panoptic", "image/png", SMALL, 422, "'task' is given 2 times"),
    "class": ("classes=" + quote("b\x1bird"), "image/png", SMALL, 422, "no class 'b\\x1bird'; it has: cat, dog, sky"),
    "ids of instances": ("task=instance&output=ids", "image/png", SMALL, 422, "instances may overlap"),
    "map of instances": ("task=instance&masks=png", "image/png", SMALL, 422, "instances may overlap"),
    "masks of a PNG": ("output=overlay&masks=rle", "image/png", SMALL, 422, "leave one of them out"),
    "PNG of two": ("output=overlay", *form(("a", SMALL), ("b", SMALL)), 422, "send them one by one"),
}  # fmt: skip


def test_what_is_refused_and_why() -> None:
    limits = ServiceLimits(images=3, megabytes=0.02, megapixels=0.01)
    network = Network()

    async def test(client: Client) -> None:
        network.calls.clear()
        for what, (query, kind, body, status, message) in REFUSED.items():
            reply = await client.predict(query, body, kind)
            assert (reply.status, message in reply.error) == (status, True), (what, reply.status, reply.body)
        bodies = [b"x" * 15_000, b"x" * 15_000]
        reply = await client.send("POST", "/v1/predict", {"content-type": "image/png"}, bodies)
        assert (reply.status, "more than 20,000 bytes" in reply.error) == (413, True)
        packed = await client.predict(body=SMALL, content_encoding="gzip")
        assert (packed.status, "Content-Encoding 'gzip'" in packed.error) == (415, True)
        assert (await client.predict(body=SMALL, content_encoding="Identity")).status == 200
        assert (await client.get("/v1/predict")).status == 405
        for path in ("/v1/predict/", "/v1/models/"):  # no redirection, which would leave the path of a proxy
            assert (await client.get(path)).error.startswith(f"there is no path '{path}'")
        assert (await client.get("/v2/predict")).error.startswith("there is no path '/v2/predict'")
        assert (await client.get("/v1/models?x=1")).status == 422
        assert all(count == 1 for count in network.calls)  # the good ones of "one bad" may have been predicted
        assert (await client.predict(body=SMALL)).status == 200  # all slots are free again

    with_client(test, network, limits)


def test_the_token_is_asked_for_everywhere_but_in_health() -> None:
    async def test(client: Client) -> None:
        for path in ("/v1/models", "/metrics", "/openapi.json"):
            for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
                reply = await client.get(path, **given)
                assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer"), path
            assert (await client.get(path, authorization=f"Bearer {TOKEN}")).status == 200
        assert (await client.predict(body=SMALL)).status == 401
        assert (await client.predict(body=SMALL, authorization=f"Bearer {TOKEN}")).status == 200
        assert [(await client.get(f"/health/{name}")).status for name in ("live", "ready")] == [200, 200]

    with_client(test, token=TOKEN)


def test_waiting_images_share_a_batch_and_the_queue_has_an_end() -> None:
    network = Network()

    async def test(client: Client) -> None:
        network.calls.clear()
        network.free.clear()
        images = [image_of(seed, (12, 16)) for seed in range(5)] + [image_of(9, (20, 20))]
        requests = []
        for image in images:  # the first goes alone, the others wait behind it
            requests.append(asyncio.create_task(client.predict(body=png(image))))
            await settled()
        refused = await client.predict(body=SMALL)
        assert (refused.status, refused.error.startswith("the service is busy")) == (429, True)
        assert int(refused.headers["retry-after"]) >= 1
        assert (await client.get("/health/ready")).status == 200
        network.free.set()
        replies = await asyncio.gather(*requests)
        for image, reply in zip(images, replies, strict=True):
            assert reply.json["results"][0]["segments"] == make_predictor()(image).to_dict()["segments"]
        assert network.calls == [1, 3, 1, 1]
        kind, body = form(*[("a.png", SMALL)] * 6)
        assert (await client.predict(body=body, kind=kind)).status == 200
        figures = (await client.get("/metrics")).body.decode()
        assert 'mask2former_requests_total{path="/v1/predict",status="429"} 1.0' in figures
        assert "mask2former_images_total 12.0" in figures
        assert "mask2former_pending_images 0.0" in figures

    with_client(test, network, ServiceLimits(batch_size=3, queue=6, images=6))


def test_a_request_of_several_images_needs_as_many_places() -> None:
    network = Network()

    async def test(client: Client) -> None:
        network.free.clear()
        first = asyncio.create_task(client.predict(body=SMALL))
        await settled()
        kind, body = form(*[("a.png", SMALL)] * 3)
        assert (await client.predict(body=body, kind=kind)).status == 429
        network.free.set()
        assert (await first).status == 200
        assert (await client.predict(body=body, kind=kind)).status == 200

    with_client(test, network, ServiceLimits(queue=3, images=3))


def test_whoever_leaves_gives_up_the_place() -> None:
    network = Network()

    async def test(client: Client) -> None:
        network.calls.clear()
        network.free.clear()
        leaves = asyncio.Event()
        first = asyncio.create_task(client.predict(body=SMALL))
        await settled()
        second = asyncio.create_task(client.predict(body=SMALL, leaves=leaves))
        await settled()
        leaves.set()
        assert (await second).status == 499
        third = asyncio.create_task(client.predict(body=SMALL))
        await settled()
        network.free.set()
        assert [(await task).status for task in (first, third)] == [200, 200]
        assert network.calls == [1, 1]  # not that of the second
        gone = asyncio.Event()
        upload = asyncio.create_task(
            client.send("POST", "/v1/predict", {"content-type": "image/png"}, [SMALL[:99]], gone)
        )
        await settled()
        gone.set()
        assert (await upload).status == 0  # it left in the middle of the upload
        assert (await client.predict(body=SMALL)).status == 200

    with_client(test, network, ServiceLimits(queue=2, images=2))


def test_what_takes_too_long_ends() -> None:
    network = Network()

    async def test(client: Client) -> None:
        network.free.clear()
        late = await client.predict(body=SMALL)
        assert (late.status, "within 0.3 s" in late.error) == (504, True)
        slow = await client.send("POST", "/v1/predict", {"content-type": "image/png"}, [SMALL[:9]])
        assert (slow.status, slow.error) == (408, "the body did not arrive within 0.3 s")
        network.free.set()
        assert (await client.predict(body=SMALL)).status == 200

    with_client(test, network, ServiceLimits(timeout=0.3, queue=1, images=1))


def test_a_model_that_fails_is_no_fault_of_the_request(caplog: pytest.LogCaptureFixture) -> None:
    network = Network()

    async def test(client: Client) -> None:
        network.fails = lambda image: RuntimeError("secret of the driver") if image[0, 0, 0] == 0 else None
        network.free.clear()
        requests = []
        for value in (9, 9, 0, 9):
            image = np.full((12, 16, 3), value, dtype=np.uint8)
            requests.append(asyncio.create_task(client.predict(body=png(image))))
            await settled()
        network.free.set()
        replies = await asyncio.gather(*requests)
        assert [reply.status for reply in replies] == [200, 200, 500, 200]  # only the third, although it shared a batch
        assert "secret" not in replies[2].body.decode()
        assert "secret of the driver" in caplog.text
        assert (await client.get("/health/live")).status == 200
        network.fails = lambda image: MemoryError()
        full = await client.predict(body=SMALL)
        assert (full.status, full.headers["retry-after"]) == (503, "5")
        network.fails = lambda image: OSError(errno.ENOSPC, "no space")
        assert (await client.predict(body=SMALL)).status == 500
        for name in ("live", "ready"):  # so that a supervisor restarts the process
            assert (await client.get(f"/health/{name}")).status == 503

    with_client(test, network)


def test_a_service_can_be_started_again_and_refuses_images_in_between() -> None:
    """As in the tests of an application; a server that does not run the lifespan must not let requests wait."""

    async def run() -> None:
        client = Client(app)
        for _ in range(2):
            for path in ("/health/ready", "/v1/models"):
                assert (await client.get(path)).status == 503
            refused = await client.predict(body=SMALL)
            assert (refused.status, refused.headers["retry-after"]) == (503, "5")
            assert "does not run the lifespan" in refused.error
            async with app.router.lifespan_context(app):
                assert (await client.predict(body=SMALL)).status == 200

    app = create_app(make_predictor(), "bright", ServiceLimits(timeout=1))
    for _ in range(2):  # in another event loop, too
        asyncio.run(run())


def test_a_failed_start_leaves_nothing_behind() -> None:
    async def run() -> None:
        tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
        with pytest.raises(RuntimeError, match="no kernel"):
            async with app.router.lifespan_context(app):
                pass
        assert asyncio.all_tasks() == tasks
        for thread in set(threading.enumerate()) - threads:
            thread.join(10)
            assert not thread.is_alive()

    network = Network()
    network.fails = lambda image: RuntimeError("no kernel")
    app = create_app(make_predictor(network), "bright")
    asyncio.run(run())


def test_pillow_accepts_images_as_large_as_the_application_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)

    async def test(client: Client) -> None:
        assert (await client.predict(body=SMALL)).status == 200  # 192 pixels

    with_client(test, limits=ServiceLimits(megapixels=0.0002))
    assert Image.MAX_IMAGE_PIXELS == 50


def test_load_balancers_may_ask_with_head() -> None:
    async def test(client: Client) -> None:
        reply = await client.send("HEAD", "/health/ready", {})
        assert (reply.status, reply.body) == (200, b"")
        assert (await client.send("HEAD", "/v1/predict", {})).status == 405

    with_client(test)


def test_the_log_says_why_a_request_was_refused(caplog: pytest.LogCaptureFixture) -> None:
    async def test(client: Client) -> None:
        with caplog.at_level("INFO", "mask2former"):
            refused = await client.predict(body=b"hello")
            assert (await client.predict(body=SMALL)).status == 200
        facts = [record.facts for record in caplog.records if record.message == "request"]  # pyright: ignore[reportAttributeAccessIssue]
        assert [line.get("error") for line in facts] == [refused.error, None]

    with_client(test)


def test_what_the_model_is() -> None:
    async def test(client: Client) -> None:
        [model] = (await client.get("/v1/models")).json["models"]
        assert (model["version"], model["weights_sha256"]) == (mask2former.__version__, "5ha")
        assert (model["name"], model["default_task"], model["device"]) == ("bright", "panoptic", "cpu")
        assert [(item["name"], item["is_thing"]) for item in model["classes"]][1:] == [("dog", True), ("sky", False)]
        document = (await client.get("/openapi.json")).json
        assert set(document["paths"]) == {"/v1/predict", "/v1/models", "/health/live", "/health/ready", "/metrics"}
        [server] = document["servers"]  # also where a proxy or another application puts a path before it
        assert urljoin("https://x/moved/openapi.json", server["url"]) == "https://x/moved/"
        assert "example" in document["paths"]["/v1/predict"]["post"]["responses"]["200"]["content"]["application/json"]

    with_client(test)


def test_an_address_is_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL in a body, a file name or a parameter never makes the service connect to it."""

    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr("socket.create_connection", fetch)
    url = "http://127.0.0.1:9/a.png"

    async def test(client: Client) -> None:
        assert "not an image" in (await client.predict(body=url.encode())).error
        kind, body = form((url, url.encode()))
        assert "not an image" in (await client.predict(body=body, kind=kind)).error
        kind, body = form((url, png(image_of(1))))
        assert (await client.predict(body=body, kind=kind)).status == 200
        assert (await client.predict(f"url={url}&image={url}", b"")).status >= 400

    with_client(test)
