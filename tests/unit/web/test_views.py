"""Data for the browser: plain values, and a map that agrees with the rows."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former import Predictor
from mask2former.structures import Categories, Category
from mask2former.web.views import failure, view
from mask2former.web.visits import Visits


def pixels(url: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image).astype(int)


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_the_map_has_the_row_of_each_pixel(visits: Visits, scene: Path, task: Any) -> None:
    visit = visits.open("a", scene, "tiny", task)
    seen = view(visit)
    json.dumps(seen, allow_nan=False)
    numbers = pixels(seen["map"])[..., 0]
    result = visit.every_class()
    assert len(seen["rows"]) == len(result.rows()) > 2
    assert seen["size"] == [160, 120]
    masks = sorted(result.sparse.dense(), key=lambda mask: -mask.sum())  # the largest first
    for number, (row, mask) in enumerate(zip(seen["rows"], masks, strict=True)):
        assert row["area"] == mask.sum()
        assert mask[numbers == number + 1].all()
        if task != "instance":  # which may overlap
            assert (numbers == number + 1).sum() == row["area"]
    overlay = pixels(seen["overlay"])
    assert overlay.shape[1] / overlay.shape[0] == pytest.approx(160 / 120, abs=0.01)
    assert sum(item["count"] for item in seen["classes"]) == len(seen["rows"])


def test_classes_that_are_switched_off_can_be_switched_on_again(visits: Visits, scene: Path) -> None:
    visit = visits.open("a", scene, "tiny")
    before = view(visit)
    gone = before["classes"][0]
    visit.hide([gone["label"]])
    after = view(visit)
    assert gone["name"] not in {row["name"] for row in after["rows"]}
    assert [item for item in after["classes"] if item["hidden"]] == [gone | {"hidden": True}]
    assert f"{gone['count']} hidden" in after["summary"]
    visit.threshold = 1.0  # nothing is found, and the class can still be switched on
    assert [item["label"] for item in view(visit)["classes"]] == [gone["label"]]
    assert "nothing found" in view(visit)["summary"]


def test_large_images_are_shown_smaller_with_a_map_that_still_agrees(
    visits: Visits, tmp_path: Path, scene: Path
) -> None:
    with Image.open(scene) as image:
        image.resize((1680, 1260)).save(tmp_path / "large.png")
    visit = visits.open("a", tmp_path / "large.png", "tiny")
    seen = view(visit)
    assert pixels(seen["overlay"]).shape == (1200, 1600, 3)
    numbers = pixels(seen["map"])[..., 0]
    assert max(numbers.shape) <= 1024
    share = np.bincount(numbers.ravel(), minlength=len(seen["rows"]) + 1)[1:] / numbers.size
    np.testing.assert_allclose(share, [row["share"] for row in seen["rows"]], atol=0.003)


def test_a_clip_has_a_video_and_tracks(visits: Visits, clip: Path) -> None:
    seen = view(visits.open("a", clip, "tiny"))
    json.dumps(seen, allow_nan=False)
    assert base64.b64decode(seen["video"].partition(",")[2])[4:8] == b"ftyp"
    assert seen["summary"].startswith(f"{len(seen['rows'])} track")
    assert "6 frames in 0.6 s" in seen["summary"]
    assert all(0 <= row["first"] < row["last"] <= 0.6 for row in seen["rows"])


def test_names_of_strangers_are_short_and_of_one_line(predictor: Predictor, scene: Path) -> None:
    items = [
        Category(item.id, f"<b>\x1b[31m\n{item.name}{number}</b>" + 300 * "x", item.is_thing, item.color)
        for number, item in enumerate(predictor.categories)
    ]
    hostile = Predictor(predictor.model, categories=Categories(tuple(items)), settings=predictor.settings, device="cpu")
    seen = view(Visits({"m": hostile}).open("a", scene, "m"))
    for item in (*seen["rows"], *seen["classes"]):
        assert len(item["name"]) <= 60
        assert item["name"].isprintable()


def test_a_failure_is_one_line() -> None:
    seen = failure("no\n\x1b[31m" + 10_000 * "x")
    assert seen["kind"] == "failure"
    assert len(seen["message"]) <= 600
    assert seen["message"].isprintable()


@pytest.fixture
def visits(predictor: Predictor) -> Visits:
    return Visits({"tiny": predictor})
