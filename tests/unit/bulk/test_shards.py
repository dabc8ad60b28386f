from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import fsspec
import numpy as np
import pytest
import tifffile
from PIL import Image

from mask2former import Predictor
from mask2former.bulk.plan import PLAN, RESULTS
from mask2former.bulk.results import id_map, open_results, read_records
from mask2former.bulk.shards import ShardReport, ShardWriter
from mask2former.bulk.sources import fetch
from mask2former.bulk.stores import open_store
from mask2former.config import Task
from mask2former.errors import FailedError, UserError
from mask2former.media import regions
from mask2former.scenes import draw_scene
from mask2former.structures.result_base import RECORDS


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True, short_edge=64)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    for number, size in enumerate([(64, 80), (64, 90), (70, 64)]):
        Image.fromarray(draw_scene(number, size).image).save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(3)]


def write(
    predictor: Predictor,
    output: str | Path,
    images: Sequence[str],
    task: Task = "panoptic",
    batch_size: int = 1,
    **head: Any,
) -> ShardReport:
    store = open_store(output)
    if store.read(PLAN) is None:
        store.write(PLAN, b'{"kind": "mask2former bulk results", "shard_size": 3}')
    return ShardWriter(predictor, task, store, {"task": task, **head}, batch_size=batch_size)(0, images)


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_rows_are_what_the_predictor_says(predictor: Predictor, tmp_path: Path, images: list[str], task: Task) -> None:
    report = write(predictor, tmp_path, images, task, json_lines=True, model="scenes-tiny")
    records = list(read_records(tmp_path))
    assert [record["image"] for record in records] == images
    lines = [json.loads(line) for line in (tmp_path / "json" / "shard-00000.jsonl").read_text().splitlines()]
    num_found = 0
    for record, line in zip(records, lines, strict=True):
        result = predictor(record["image"], task)
        expected = result.to_dict(model="scenes-tiny", settings=predictor.recorded_settings)
        assert {name: value for name, value in line.items() if not name.startswith("image")} == expected
        assert record | {name: expected[name] for name in ("task", "size", RECORDS[task])} == record
        num_found += len(expected[RECORDS[task]])
        if task == "instance":
            with pytest.raises(UserError, match="instances have only run lengths"):
                id_map(record)
        else:
            np.testing.assert_array_equal(id_map(record), result.ids if task == "panoptic" else result.labels)
    assert (report.num_images, report.num_found, report.failed) == (3, num_found, [])
    frame = open_results(tmp_path).to_table(columns=["image", "height", "segments"]).to_pandas()
    assert frame["height"].tolist() == [64, 64, 70]
    assert sum(map(len, frame["segments"])) == num_found
    metadata = open_results(tmp_path).schema.metadata
    assert json.loads(metadata[b"mask2former"]) == {"task": task, "json_lines": True, "model": "scenes-tiny"}


def test_what_fails_is_a_row_with_its_reason(predictor: Predictor, tmp_path: Path, images: list[str]) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    predictor(images[0]).save(tmp_path / "overlay", Image.open(images[0]))
    (tmp_path / "thin.png").write_bytes(Path(images[0]).read_bytes()[:-100])
    others = [str(tmp_path / name) for name in ("broken.jpg", "gone.jpg", "overlay.png", "thin.png")]
    fsspec.filesystem("memory").pipe("/a.png", Path(images[1]).read_bytes())
    named = [others[0], images[0], *others[1:], "memory://a.png", "memory://b.png"]
    report = write(predictor, tmp_path / "out", named)
    assert [name for name, _ in report.failed] == [*others, "memory://b.png"]
    for (name, reason), expected in zip(
        report.failed,
        (
            "is not an image that can be read",
            "there is no image",
            "is an overlay or map of earlier",
            "cut short",
            "no im",
        ),
        strict=True,
    ):
        assert name in reason
        assert expected in reason
    records = list(read_records(tmp_path / "out"))
    assert [record["image"] for record in records] == named
    assert [record["error"] for record in records if record["error"]] == [reason for _, reason in report.failed]
    assert records[5]["segments"] == predictor(images[1]).to_dict()["segments"]


def test_a_batch_gives_the_same(predictor: Predictor, tmp_path: Path, images: list[str]) -> None:
    """Batched images, two of them padded to one size, get the same class maps and checksums as single images."""
    write(predictor, tmp_path / "one", images, "semantic")
    write(predictor, "memory://batched", images, "semantic", batch_size=2)
    for one, batched in zip(read_records(tmp_path / "one"), read_records("memory://batched"), strict=True):
        np.testing.assert_array_equal(id_map(one), id_map(batched))
        assert one["classes"] == batched["classes"]
        assert one["image_sha256"] == batched["image_sha256"]


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_large_files_are_read_by_parts_and_have_the_results_that_they_have_as_a_whole(
    predictor: Predictor, tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiled = Predictor(predictor.network, "cpu", settings=predictor.settings, categories=predictor.categories)
    tiled.settings = predictor.settings.model_copy(update={"tile": 64, "tile_overlap": 16, "short_edge": 64})
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, draw_scene(3, (96, 112)).image, tile=(32, 32), photometric="rgb")
    content = path.read_bytes()
    fsspec.filesystem("memory").pipe("/a.tif", content)
    fsspec.filesystem("memory").pipe("/a.svs", content)
    named = [str(path), "memory://a.tif", "memory://a.svs"]
    write(tiled, tmp_path / "whole", named[:2], task)
    [whole, _] = read_records(tmp_path / "whole")
    assert whole[RECORDS[task]]
    monkeypatch.setattr(regions, "LARGE_PIXELS", 10_000)
    monkeypatch.setattr("mask2former.bulk.shards.fetch", watched := Mock(side_effect=fetch))
    report = write(tiled, tmp_path / "parts", named, task, json_lines=True)
    assert [call.args for call in watched.call_args_list] == [("memory://a.tif",), ("memory://a.svs",)]
    [parts, remote, slide] = read_records(tmp_path / "parts")
    for record in (parts, remote):
        assert record | {"image": "", "map_png": None} == whole | {"image": "", "map_png": None}
        if task == "panoptic":
            np.testing.assert_array_equal(id_map(record), id_map(whole))
    assert "read in parts only from a disk; copy it there" in slide["error"]
    assert [message for message, _ in report.notes] == [
        "slides, and images of more than 67 megapixels, read in parts"
    ] * 2


class DyingError(BaseException):
    """Stands for the death of the process."""


def test_an_image_that_kills_its_process_is_given_up(
    predictor: Predictor, tmp_path: Path, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly = (70, 64)
    real = predictor.run

    def run(shown: Any, *arguments: Any) -> Any:
        if shown[0].size_hw == deadly:
            raise DyingError
        return real(shown, *arguments)

    monkeypatch.setattr(predictor, "run", run)
    for _ in range(4):  # twice all at once, then twice image by image
        with pytest.raises(DyingError):
            write(predictor, tmp_path, images)
        assert not (tmp_path / RESULTS).exists()
    (tmp_path / "working" / "shard-00001.json").write_text('{"begun": 1, "dea')  # truncated by a power cut
    report = write(predictor, tmp_path, images)
    assert report.failed == [
        (images[2], f"'{images[2]}': the process that segmented it died 2 times; is there enough memory?")
    ]
    assert [record["error"] is None for record in read_records(tmp_path)] == [True, True, False]
    monkeypatch.undo()
    assert ShardWriter(predictor, "panoptic", open_store(tmp_path), {})(1, images).failed == []
    assert list((tmp_path / "working").iterdir()) == []


def test_what_would_stop_all_images_stops_the_shard(
    predictor: Predictor, tmp_path: Path, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(predictor, "run", run)
    for _ in range(5):
        with pytest.raises(FailedError, match="No space left on device"):
            write(predictor, tmp_path, images)
        assert not (tmp_path / RESULTS).exists()
    monkeypatch.undo()
    marker = tmp_path / "working" / "shard-00000.json"
    assert json.loads(marker.read_text()) == {"begun": 0, "deaths": {}, "image": None}
    assert write(predictor, tmp_path, images).failed == []  # none is taken for one that kills its process


def test_a_full_disk_does_not_forget_which_image_killed_a_process(
    predictor: Predictor, tmp_path: Path, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "working").mkdir()
    marker = tmp_path / "working" / "shard-00000.json"
    marker.write_text(json.dumps({"begun": 3, "deaths": {images[0]: 1}, "image": images[0]}))
    monkeypatch.setattr(predictor, "run", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(FailedError, match="No space left on device"):
        write(predictor, tmp_path, images)
    assert json.loads(marker.read_text()) == {"begun": 3, "deaths": {images[0]: 2}, "image": None}


def test_results_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"contains no results of a bulk run \(there is no plan.json\)"):
        open_results(tmp_path)
    (tmp_path / PLAN).write_text('{"kind": "mask2former bulk results", "shard_size": 3}')
    with pytest.raises(UserError, match=r"no shard .* is finished yet"):
        open_results(tmp_path)
