"""Models of one or two channels in the service, the web page and bulk prediction: results and errors."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from runs import save_random

from mask2former import Predictor
from mask2former.config import ModelConfig, parse

pytestmark = pytest.mark.usefixtures("small_overlays")
H, W = 48, 64


@pytest.fixture(scope="module", params=[1, 2], ids=["one", "two"])
def weights(request: pytest.FixtureRequest, tiny_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights for bands 3 and 1, or band 3 alone, of 12 bits."""
    count = request.param
    values = tiny_config.model_dump() | {"pixel_mean": [110] * count, "pixel_std": [55] * count}
    values["inference"] |= {"bands": [3, 1][:count], "value_range": (0, 4095)}
    return save_random(parse(ModelConfig, values, "test"), tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def predictor(weights: Path) -> Predictor:
    return Predictor.from_pretrained(weights, device="cpu", quiet=True)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TIFF file with three bands of 12 bits."""
    path = tmp_path_factory.mktemp("images") / "a.tif"
    values = np.random.default_rng(0).integers(0, 4096, (H, W, 3)).astype(np.uint16)
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig")
    return path


@pytest.fixture(scope="module")
def grey(image: Path) -> Path:
    """A PNG file with one band, which does not fit the models."""
    path = image.with_name("grey.png")
    Image.fromarray(tifffile.imread(image)[..., 0]).save(path)
    return path


def sent(predictor: Predictor, test: Callable[[Any], Awaitable[None]]) -> None:
    pytest.importorskip("fastapi")
    httpx = pytest.importorskip("httpx")
    from mask2former.serve import create_app

    async def run() -> None:
        app = create_app(predictor, "tiny", with_metrics=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client,
        ):
            await test(client)

    asyncio.run(run())


def test_the_service_reads_bands_as_the_predictor_does(predictor: Predictor, image: Path, grey: Path) -> None:
    expected = predictor(image, "panoptic").to_dict()["segments"]

    async def test(client: Any) -> None:
        [described] = (await client.get("/v1/models")).json()["models"]
        assert described["settings"]["bands"] == [3, 1][: predictor.settings.channels]
        content = image.read_bytes()
        reply = await client.post("/v1/predict?task=panoptic", content=content, headers={"content-type": "image/tiff"})
        [result] = reply.json()["results"]
        assert (result["segments"], result["notes"]) == (expected, [])
        assert result["settings"]["value_range"] == [0, 4095]
        files = [("images", (f"{number}.tif", content)) for number in range(2)]
        both = (await client.post("/v1/predict?task=panoptic", files=files)).json()["results"]
        assert [one["segments"] for one in both] == [expected] * 2
        for output in ("overlay", "ids"):
            reply = await client.post(
                f"/v1/predict?task=panoptic&output={output}", content=content, headers={"content-type": "image/tiff"}
            )
            assert Image.open(io.BytesIO(reply.content)).size == (W, H)
        refused = await client.post("/v1/predict", content=grey.read_bytes(), headers={"content-type": "image/png"})
        assert refused.status_code == 422
        assert "has 1 band, but band 3 is requested" in refused.json()["error"]["message"]

    sent(predictor, test)


def test_the_page_shows_bands_as_the_predictor_does(predictor: Predictor, image: Path, grey: Path) -> None:
    from mask2former.errors import UserError
    from mask2former.web.views import view
    from mask2former.web.visits import Visits

    visits = Visits({"tiny": predictor})
    visit = visits.open("a", image, "tiny", "instance")
    seen = view(visit)
    assert (seen["kind"], seen["size"], seen["notes"]) == ("image", [W, H], [])
    found = predictor(image, "instance").rows()
    assert visit.every_class().rows() == found
    assert len(seen["rows"]) == len(found) > 0
    for kind in ("json", "png", "csv"):
        assert visit.download(kind)[1]
    with pytest.raises(UserError, match=r"^'grey.png' has 1 band, but band 3 is requested"):
        visits.open("a", grey, "tiny")


@pytest.mark.long  # gradio takes seconds to import, and no other test that is not long does
def test_the_page_offers_no_examples_in_colours_that_no_model_takes(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio")
    from mask2former.web.server import open_app

    drawn: list[Path] = []
    monkeypatch.setattr("mask2former.web.server.draw_examples", lambda folder: drawn.append(folder) or [])
    with open_app({"tiny": predictor}):
        assert not drawn
    colors = Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True)
    with open_app({"tiny": predictor, "colors": colors}):
        assert len(drawn) == 1


def test_shards_read_bands_as_the_predictor_does(predictor: Predictor, image: Path, grey: Path, tmp_path: Path) -> None:
    from mask2former.bulk.plan import PLAN
    from mask2former.bulk.results import id_map, read_records
    from mask2former.bulk.shards import ShardWriter
    from mask2former.bulk.stores import open_store

    store = open_store(tmp_path)
    store.write(PLAN, b'{"kind": "mask2former bulk results", "shard_size": 3}')
    again = tmp_path / "again.tif"
    again.write_bytes(image.read_bytes())
    names = [str(image), str(grey), str(again)]
    report = ShardWriter(predictor, "panoptic", store, {"task": "panoptic"}, batch_size=2)(0, names)
    [(name, reason)] = report.failed
    assert (name, report.notes) == (str(grey), [])
    assert "has 1 band, but band 3 is requested" in reason
    found = predictor(image, "panoptic")
    first, _, last = read_records(tmp_path)
    for record in (first, last):
        assert record["segments"] == found.to_dict()["segments"]
        np.testing.assert_array_equal(id_map(record), found.ids)


@pytest.mark.slow
def test_ray_reads_bands_as_the_predictor_does(
    weights: Path, predictor: Predictor, image: Path, tmp_path: Path
) -> None:
    from mask2former.bulk.results import read_records

    words = [
        "predict",
        str(image),
        "--model",
        str(weights),
        "--ray",
        "--actors",
        "1",
        "--output",
        str(tmp_path / "out"),
    ]
    run = subprocess.run([sys.executable, "-m", "mask2former", *words], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    [record] = read_records(tmp_path / "out")
    assert record["segments"] == predictor(image, "panoptic").to_dict()["segments"]
