from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from mask2former.config import InferenceConfig
from mask2former.inference.plan_files import plan
from mask2former.inference.predict_files import predict_files
from mask2former.inference.predictor import Predictor
from mask2former.inference.result_files import Outcome
from mask2former.inference.segment_files import segment_files
from mask2former.media import regions
from mask2former.models.mask2former import Mask2Former
from mask2former.notes import collect_notes
from mask2former.scenes import draw_scene
from mask2former.structures import tables

pytestmark = pytest.mark.usefixtures("small_overlays")


@pytest.fixture
def predictor(tiny_model: Mask2Former) -> Predictor:
    settings = InferenceConfig(
        tile=48, tile_overlap=16, short_edge=48, score_threshold=0.06, instance_threshold=0.1, overlap_threshold=0.2
    )
    return Predictor(tiny_model, device="cpu", settings=settings)


def run(predictor: Predictor, path: Path, output: Path, task: str) -> Outcome:
    [outcome] = segment_files(predictor, plan([path], output), task)  # pyright: ignore[reportArgumentType]
    return outcome


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_a_large_file_that_is_read_by_parts_has_the_results_that_it_has_as_a_whole(
    predictor: Predictor, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 140, 3), dtype=np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, tile=(32, 32), compression="zlib", photometric="rgb")
    whole = run(predictor, path, tmp_path / "whole", task)
    monkeypatch.setattr(regions, "LARGE_PIXELS", 10_000)
    with collect_notes() as notes:
        parts = run(predictor, path, tmp_path / "parts", task)
    assert ["read in parts" in note.message for note in notes] == [True]
    assert (whole.status, parts.status, parts.reason) == ("done", "done", "")
    assert (whole.found, whole.candidates) == (parts.found, parts.candidates)
    assert parts.found > 0
    assert {file.name for file in (tmp_path / "whole").iterdir()} == {
        file.name for file in (tmp_path / "parts").iterdir()
    }
    documents = [json.loads((tmp_path / name / "a.json").read_text()) for name in ("whole", "parts")]
    assert documents[0] == documents[1]
    if task != "instance":
        ending = {"panoptic": "_ids", "semantic": "_labels"}[task]
        maps = [np.asarray(Image.open(tmp_path / name / f"a{ending}.png")) for name in ("whole", "parts")]
        assert np.array_equal(maps[0], maps[1])
    # Existing results are recognised even if Pillow refuses to open so large a map.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert run(predictor, path, tmp_path / "parts", task).status == "skipped"


def test_all_pages_of_a_large_file_are_predicted_in_parts(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = np.random.default_rng(0).integers(0, 256, (3, 100, 140, 3), dtype=np.uint8)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for page in pages:
            writer.write(page, tile=(32, 32), photometric="rgb", metadata=None, contiguous=False)
    whole = predict_files(predictor, path, tmp_path / "whole", "semantic", page="all")
    monkeypatch.setattr(regions, "LARGE_PIXELS", 10_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    parts = predict_files(predictor, path, tmp_path / "parts", "semantic", page="all", overlays=False)
    assert (whole.outcomes["done"], parts.outcomes["done"]) == (3, 3)
    assert [f"'{path} (page {number})'" in parts.notes[0] for number in (1, 2, 3)] == [True] * 3
    for number in (1, 2, 3):
        documents = [(tmp_path / name / f"a_page{number}.json").read_text() for name in ("whole", "parts")]
        assert documents[0] == documents[1]


def test_pixels_without_a_class_do_not_count_as_one(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((100, 140, 3), np.uint8), tile=(32, 32), photometric="rgb")
    monkeypatch.setattr(regions, "LARGE_PIXELS", 10_000)
    predictor.settings = predictor.settings.model_copy(update={"min_area": 100 * 140 + 1})
    outcome = run(predictor, path, tmp_path / "out", "semantic")
    assert (outcome.status, outcome.found) == ("done", 0)
    assert json.loads((tmp_path / "out" / "a.json").read_text())["classes"] == []


def test_a_large_file_that_changes_while_its_tiles_are_read_is_refused(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, predict_tiles = tmp_path / "a.tif", predictor.predict_tiles
    tifffile.imwrite(path, np.zeros((100, 140, 3), np.uint8), tile=(32, 32), photometric="rgb")
    monkeypatch.setattr(regions, "LARGE_PIXELS", 10_000)

    def meanwhile(*arguments: Any) -> Any:
        os.utime(path, ns=(0, 0))
        return predict_tiles(*arguments)

    monkeypatch.setattr(predictor, "predict_tiles", meanwhile)
    outcome = run(predictor, path, tmp_path / "out", "semantic")
    assert (outcome.status, outcome.reason) == (
        "refused",
        f"'{path}' changed while it was being read; run the same command again",
    )


def test_a_copy_to_draw_on_is_read_only_where_it_is_drawn(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "LARGE_PIXELS", 10_000)
    monkeypatch.setattr("mask2former.inference.large_files.OVERVIEW", 70)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((100, 140, 3), np.uint8), tile=(32, 32), photometric="rgb")
    assert run(predictor, path, tmp_path / "drawn", "semantic").status == "done"
    with Image.open(tmp_path / "drawn" / "a.png") as overlay:
        assert overlay.width % 70 == 0

    def nobody(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("mask2former.inference.large_files.reduced", nobody)
    jobs = plan([path], tmp_path / "plain")
    [outcome] = segment_files(predictor, jobs, "semantic", overlay=False)
    assert (outcome.status, outcome.reason) == ("done", "")

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(predictor, "predict_tiles", full)  # the message states its own size
    outcome = run(predictor, path, tmp_path / "full", "semantic")
    assert "an image of 100x140 pixels" in outcome.reason


def test_what_is_not_read_by_parts_is_refused_with_what_to_do(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((100, 140), np.float32))
    monkeypatch.setattr(regions, "LARGE_PIXELS", 10_000)
    outcome = run(predictor, tmp_path / "a.tif", tmp_path / "out", "panoptic")
    assert outcome.status == "refused"
    assert (
        "read in parts, which is not possible because it contains values of type float32; save it with"
        in outcome.reason
    )


def test_tables_and_cutouts_of_a_large_file_are_those_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is too large to be read whole has the same table and cutouts as if it were not."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, draw_scene(1, (100, 140)).image, tile=(32, 32), photometric="rgb")
    settings: dict[str, Any] = {"tile": 80, "device": "cpu", "also": ["cutouts"], "overlays": False}
    predict_files("scenes-tiny", path, tmp_path / "whole", table=tmp_path / "whole.csv", **settings)
    monkeypatch.setattr(regions, "LARGE_PIXELS", 10_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    monkeypatch.setattr(tables, "_PIXELS_AT_ONCE", 1000)
    predict_files("scenes-tiny", path, tmp_path / "parts", table=tmp_path / "parts.csv", **settings)
    assert (tmp_path / "parts.csv").read_text() == (tmp_path / "whole.csv").read_text()
    folders = [sorted((tmp_path / name / "cutouts" / "a").iterdir()) for name in ("whole", "parts")]
    assert len(folders[0]) > 2
    assert [file.name for file in folders[0]] == [file.name for file in folders[1]]
    for whole, parts in zip(*folders, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(parts)), np.asarray(Image.open(whole)))
