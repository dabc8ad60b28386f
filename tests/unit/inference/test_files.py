from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.errors import RequestError
from mask2former.inference.files import Outcome, coco_results, plan, segment_files, write_json
from mask2former.inference.predictor import Predictor
from mask2former.models.mask2former import Mask2Former
from mask2former.ops import masks as mask_ops

TASKS = ("panoptic", "instance", "semantic")


@pytest.fixture
def predictor(tiny_model: Mask2Former) -> Predictor:
    return Predictor(tiny_model, device="cpu")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures: 000001.jpg, deep/000002.png, and one that is none."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "000001.jpg")
    Image.fromarray(pixels).save(folder / "deep" / "000002.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _run(predictor: Predictor, pictures: Path, output: Path, **arguments: Any) -> dict[str, Outcome]:
    outcomes = segment_files(predictor, plan([pictures], output), **arguments)
    return {outcome.job.stem.as_posix(): outcome for outcome in outcomes}


@pytest.mark.parametrize(("task", "map_ending"), [("panoptic", "_ids"), ("instance", None), ("semantic", "_labels")])
def test_the_folder_structure_is_kept_and_a_broken_picture_stops_nothing(
    predictor: Predictor, pictures: Path, tmp_path: Path, task: Any, map_ending: str | None
) -> None:
    outcomes = _run(predictor, pictures, tmp_path / "out", task=task, model="tiny")
    assert {stem: outcome.status for stem, outcome in outcomes.items()} == {
        "000001": "done",
        "broken": "refused",
        "deep/000002": "done",
    }
    assert "broken.png" in outcomes["broken"].reason
    endings = [".png", ".json"] + ([f"{map_ending}.png"] if map_ending else [])
    assert _files(tmp_path / "out") == {stem + ending for stem in ("000001", "deep/000002") for ending in endings}
    document = json.loads((tmp_path / "out/000001.json").read_text())
    assert (document["task"], document["model"], document["size"]) == (task, "tiny", [40, 60])
    assert document["schema_version"] == 1
    assert document["settings"] == {
        **predictor.settings.model_dump(mode="json", exclude={"tasks"}),
        "dtype": "float32",
    }


@pytest.mark.parametrize(
    ("task", "threshold", "limit", "crowded"),
    [
        ("instance", 0.0, 3, True),  # each of the three would be shown, and so might a fourth
        ("instance", 0.99, 3, False),  # the last is too poor to be shown: nothing was lost
        ("instance", 0.0, 1000, False),  # the model has fewer answers
        ("semantic", 0.0, 3, False),
    ],
)
def test_more_instances_than_are_let_through_are_told(
    predictor: Predictor, pictures: Path, tmp_path: Path, task: Any, threshold: float, limit: int, crowded: bool
) -> None:
    predictor.settings = predictor.settings.model_copy(
        update={"score_threshold": threshold, "max_instances": limit, "things_only": False}
    )
    outcomes = _run(predictor, pictures, tmp_path / "out", task=task)
    assert {stem: outcome.crowded for stem, outcome in outcomes.items()} == {
        "000001": crowded,
        "broken": False,
        "deep/000002": crowded,
    }


def test_what_is_there_is_skipped_unless_overwritten(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    _run(predictor, pictures, output, task="semantic", model="tiny", overlay=False)
    assert not (output / "000001.png").exists()
    (output / "000001_labels.png").unlink()
    again = _run(predictor, pictures, output, task="semantic", model="tiny")
    assert (again["000001"].status, again["000001"].differs) == ("skipped", False)
    assert not (output / "000001_labels.png").exists()
    assert _run(predictor, pictures, output, task="semantic", model="other")["000001"].differs
    assert _run(predictor, pictures, output, task="panoptic", model="tiny")["000001"].differs
    forced = _run(predictor, pictures, output, task="semantic", model="tiny", overwrite=True)
    assert forced["000001"].status == "done"
    assert (output / "000001_labels.png").exists()


def test_a_json_of_something_else_is_not_taken_for_results(
    predictor: Predictor, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/000001.json").write_text('{"half": ')
    assert _run(predictor, pictures, tmp_path / "out")["000001"].status == "done"


@pytest.mark.parametrize("task", TASKS)
def test_the_coco_file_says_what_the_results_say(
    predictor: Predictor, pictures: Path, tmp_path: Path, task: Any
) -> None:
    output = tmp_path / "out"
    _run(predictor, pictures, output, task=task, model="tiny")
    values: Any = coco_results(plan([pictures], output), task, predictor.categories)
    result: Any = predictor(pictures / "000001.jpg", task)
    if task == "panoptic":
        expected = result.to_coco(1, "000001_ids.png")
        found = values["annotations"][0]
        assert found["file_name"] == expected["file_name"]
        for one, other in zip(found["segments_info"], expected["segments_info"], strict=True):
            assert other.items() <= one.items()
        assert [image["id"] for image in values["images"]] == [1, 2]
        assert (output / values["annotations"][1]["file_name"]).is_file()
    else:
        assert [record for record in values if record["image_id"] == 1] == json.loads(json.dumps(result.to_coco(1)))
        assert mask_ops.decode([values[0]["segmentation"]]).shape[-2:] == (40, 60)
    other: Any = "semantic" if task == "panoptic" else "panoptic"
    with pytest.raises(RequestError, match="overwrite"):
        coco_results(plan([pictures], output), other, predictor.categories)


def test_image_ids_are_names_unless_all_are_numbers(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    (pictures / "000001.jpg").rename(pictures / "first.jpg")
    _run(predictor, pictures, tmp_path / "out", task="semantic")
    values = coco_results(plan([pictures], tmp_path / "out"), "semantic", predictor.categories)
    assert {record["image_id"] for record in values} == {"first", "deep/000002"}


def test_equal_stems_keep_their_suffix(predictor: Predictor, pictures: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(pictures / "000001.png")
    _run(predictor, pictures, tmp_path / "out", task="instance")
    assert {"000001.jpg.json", "000001.png.json", "000001.png.png"} <= _files(tmp_path / "out")


def test_an_output_inside_the_sources_is_not_read_again(predictor: Predictor, pictures: Path) -> None:
    output = pictures / "results"
    first = _run(predictor, pictures, output, task="panoptic")
    assert _run(predictor, pictures, output, task="panoptic").keys() == first.keys()


def test_pictures_and_results_are_never_overwritten_by_others(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="one of the sources"):
        plan([pictures], pictures)
    with pytest.raises(RequestError, match="overwrite a picture"):
        plan([pictures / "deep" / "000002.png"], pictures / "deep")
    Image.new("RGB", (9, 9)).save(pictures / "000001_ids.png")
    with pytest.raises(RequestError, match=r"share the name '000001_ids\.png'"):
        plan([pictures], tmp_path / "out")


def test_an_output_that_is_a_file_is_refused_and_nothing_is_made(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RequestError, match="is a file"):
            plan([pictures], output)
        with pytest.raises(RequestError, match=r"is a file|expected the name"):
            write_json(output / "x.json", {})
    plan([pictures], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_json_files_appear_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "b.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a" / "c.json", {"x": float("nan")})
    assert _files(tmp_path) == {"a/b.json"}
