"""Faulty clips: check-data and a run report the same, and nothing is lost silently."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

from mask2former.cli import main
from mask2former.config import RunConfig, parse
from mask2former.data.build import build_samples
from mask2former.dataset_tools.check import check_dataset
from mask2former.dataset_tools.figures import DataReport
from mask2former.errors import UserError
from mask2former.training.datamodule import DataModule

H, W, FRAMES = 48, 64, 3
Json = dict[str, Any]


def image(path: Path, *seed: int, size: tuple[int, int] = (H, W)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def box(left: int, top: int, right: int, bottom: int) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def content_of(folder: Path, number: int) -> Json:
    """Write the frames of two clips, three each, with a cell and a speck of dirt; return the content of their file."""
    content: Json = {
        "videos": [],
        "annotations": [],
        "categories": [{"id": 4, "name": "cell"}, {"id": 7, "name": "dirt"}],
    }
    for clip in range(2):
        names = [f"{clip}/{frame}.png" for frame in range(FRAMES)]
        for frame, name in enumerate(names):
            image(folder / name, number, clip, frame)
        content["videos"].append({"id": clip + 1, "file_names": names, "height": H, "width": W, "length": FRAMES})
        for label, (left, top, right, bottom) in enumerate(((5, 5, 25, 20), (35, 22, 58, 40))):
            masks = [[box(left + frame, top, right + frame, bottom)] for frame in range(FRAMES)]
            entry = {"video_id": clip + 1, "category_id": (4, 7)[label], "iscrowd": 0, "segmentations": masks}
            content["annotations"].append({"id": 2 * clip + label + 1, **entry})
    return content


def run_of(root: Path, change: Callable[[Json, Path], object], *splits: str, queries: int = 20) -> RunConfig:
    """A run on clips whose files are changed in these splits, by default in both."""
    dataset: Json = {"name": "clips"}
    for number, split in enumerate(("train", "validation")):
        content = content_of(root / split, number)
        if split in (splits or ("train", "validation")):
            change(content, root / split)
        file = root / f"{split}.json"
        file.write_text(json.dumps(content))
        dataset[split] = [{"annotations": str(file), "frames": str(root / split)}]
    return run_on(root, dataset, queries)


def run_on(root: Path, dataset: Json, queries: int = 20) -> RunConfig:
    values = {
        "model": {
            "transformer_decoder": {"num_queries": queries},
            "inference": {"tasks": ["instance"], "short_edge": 0},
        },
        "data": {"dataset": dataset, "batch_size": 2, "num_workers": 0, "augmentation": {"name": "none"}},
        "evaluation": {"tasks": ["instance"], "monitor": "instance/AP"},
        "output": str(root / "run"),
    }
    return parse(RunConfig, values, "test")


def started(run: RunConfig) -> str:
    """The remarks on its data that a run prints before the first step."""
    data = DataModule(run)
    data.check()
    return "\n".join(data.remarks())


def checked(run: RunConfig) -> tuple[DataReport, str]:
    report = check_dataset(run.data.dataset, run=run, num_queries=run.model.transformer_decoder.queries or 100)
    return report, "\n".join(finding.sentence() for finding in report.findings)


def each(change: Callable[[Json], object]) -> Callable[[Json, Path], object]:
    return lambda content, folder: [change(entry) for entry in content["annotations"]]


def shares(entry: Json) -> None:
    sides = (W, H)
    entry["segmentations"] = [
        [[value / sides[index % 2] for index, value in enumerate(frame[0])]] for frame in entry["segmentations"]
    ]


def moved(entry: Json, by: float = 500) -> None:
    entry["segmentations"] = [[[value + by for value in frame[0]]] for frame in entry["segmentations"]]


def first_mask(value: Any, *numbers: int) -> Callable[[Json, Path], object]:
    """A change of the mask in the second frame of these annotations, by default of the first."""

    def change(content: Json, folder: Path) -> None:
        for number in numbers or (0,):
            content["annotations"][number]["segmentations"][1] = value

    return change


class Row(NamedTuple):
    change: Callable[[Json, Path], object]
    splits: tuple[str, ...]
    said: tuple[str, ...]


def crowds(entry: Json) -> None:
    entry["iscrowd"] = 1


REFUSED = {
    "crowds alone": Row(each(crowds), (), ("nothing is annotated", "all 4 annotations are marked as crowd regions")),
    "crowds in validation": Row(each(crowds), ("validation",), ("validation: nothing is annotated",)),
    "no annotation": Row(lambda c, f: c.update(annotations=[]), ("train",), ("train: nothing is annotated",)),
    "no validation": Row(lambda c, f: c.update(annotations=[]), ("validation",), ("validation: nothing is annotated",)),
    "all out of sight": Row(
        each(lambda entry: entry.update(segmentations=[None] * FRAMES)), ("train",), ("tracks without any mask",)
    ),
    "no pixel": Row(
        each(lambda entry: entry.update(segmentations=[{"size": [H, W], "counts": [H * W]}] * FRAMES)),
        ("train",),
        ("nothing is annotated", "masks without pixels"),
    ),
    "no annotations to train on": Row(lambda c, f: c.pop("annotations"), ("train",), ("have no 'annotations'",)),
    "shares of the sides": Row(each(shares), ("train",), ("polygons have coordinates from 0 to 1",)),
    "shares in validation": Row(each(shares), ("validation",), ("polygons have coordinates from 0 to 1",)),
    "far outside": Row(each(moved), ("train",), ("polygons lie outside their image; expected pixels",)),
    "class given twice": Row(
        lambda c, f: c["categories"].append({"id": 9, "name": "cell"}), ("train",), ("several classes", "the same name")
    ),
    "class of validation alone": Row(
        lambda c, f: c["categories"].append({"id": 9, "name": "dust"}), ("validation",), ("only the data has 'dust'",)
    ),
    "NaN": Row(first_mask([[float("nan"), 1, 5, 5, 9, 1]], 0, 2), (), ("got nan among them; 1 more annotations",)),
    "far away": Row(first_mask([[1e30, 1, 5, 5, 9, 1]]), (), ("annotation 1 is broken: expected pixels", "got 1e+30")),
    "no number": Row(first_mask([["1", 1, 5, 5, 9, 1]]), (), ("annotation 1 is broken: expected pixels", "got '1'")),
    "unknown video": Row(
        each(lambda entry: entry.update(video_id=entry["video_id"] + 1)), (), ("videos of annotations 2 (3, 4)",)
    ),
    "missing frames": Row(
        lambda c, f: [(f / "0/1.png").unlink(), (f / "1/2.png").unlink()], (),
        ("lacks frames of", "2 (0/1.png, 1/2.png)"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_run_refuses_is_broken_for_check_data(tmp_path: Path, name: str) -> None:
    row = REFUSED[name]
    run = run_of(tmp_path, row.change, *row.splits)
    with pytest.raises(UserError) as refused:
        started(run)
    report, found = checked(run)
    assert report.is_broken
    broken = "\n".join(finding.sentence() for finding in report.findings if finding.broken)
    for words in row.said:
        assert words in str(refused.value)
        assert words in found
    assert row.said[0] in broken or "nothing is annotated" in broken


NOTED = {
    "stuff": Row(
        lambda c, f: c["categories"][1].update(isthing=0),
        (),
        ("train.json': categories 1 (dirt) have 'isthing' 0", "validation.json': categories 1 (dirt) have 'isthing' 0"),
    ),
    "order of frames": Row(
        lambda c, f: c["videos"][1]["file_names"].reverse(),
        ("train",),
        ("frames of videos 1 (2) are not listed in the order",),
    ),
    "two corners": Row(
        first_mask([[1, 1, 5, 5]]), ("train",), ("left out masks without any area: annotations 1 (1 in frame 1)",)
    ),
    "corners on a line": Row(first_mask([[1, 1, 5, 5, 9, 9]]), ("train",), ("left out masks without any area",)),
    "an empty polygon": Row(first_mask([[]]), ("train",), ("left out masks without any area",)),
    "a part on a line": Row(
        first_mask([box(5, 5, 25, 20), [1, 1, 5, 5]]), ("train",), ("left out parts of masks that have no area",)
    ),
    "some shares": Row(
        lambda c, f: shares(c["annotations"][0]), ("train",), ("polygons in 0..1, which may be fractions",)
    ),
    "some outside": Row(
        lambda c, f: moved(c["annotations"][0]), ("train",), ("so that nothing of them is visible: annotations 3",)
    ),
    "mostly outside": Row(
        lambda c, f: moved(c["annotations"][1], 15), ("train",), ("polygons lie mostly outside their image",)
    ),
    "some crowds": Row(lambda c, f: crowds(c["annotations"][0]), (), ()),
    "validation alone": Row(
        first_mask([[1, 1, 5, 5]]), ("validation",), ("validation: ", "left out masks without any area")
    ),
    "validation without annotations": Row(
        lambda c, f: c.pop("annotations"), ("validation",), ("has no 'annotations'",)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTED)
def test_what_a_run_notes_check_data_notes(tmp_path: Path, name: str) -> None:
    row = NOTED[name]
    run = run_of(tmp_path, row.change, *row.splits)
    remarks = started(run)
    report, found = checked(run)
    assert not report.is_broken
    for words in row.said:
        assert words in found
        assert remarks.count(words) == 1
    if not row.said:
        assert (remarks, found) == ("", "")


def test_masks_without_area_leave_the_others(tmp_path: Path) -> None:
    run = run_of(tmp_path, first_mask([box(5, 5, 25, 20), [1, 1, 5, 5]]), "train")
    clips: Any = build_samples(run.data.dataset, "train")
    masks = clips.ground_truths(0, clips.tasks)["instance"].masks
    assert masks.sum(axis=(2, 3)).tolist() == [[300, 300, 300], [414, 414, 414]]


def test_a_frame_of_both_splits_is_told(tmp_path: Path) -> None:
    run = run_of(tmp_path, lambda c, f: None)
    entry, other = (
        {"annotations": str(tmp_path / f"{split}.json"), "frames": str(tmp_path / split)}
        for split in ("train", "validation")
    )
    shared = json.loads((tmp_path / "validation.json").read_text())
    shared["videos"][0]["file_names"][0] = "../train/0/0.png"
    (tmp_path / "validation.json").write_text(json.dumps(shared))
    assert "names files that are not in its folder" in checked(run)[1]
    run = run_on(tmp_path, {"name": "clips", "train": [entry], "validation": [other], "allow_outside": True})
    assert "validation: frames that are also training data (1): clip 1, frame 0 = clip 1, frame 0" in checked(run)[1]
    same = run_on(tmp_path, {"name": "clips", "train": [entry], "validation": [entry]})
    assert "validation: frames that are also training data (6)" in started(same)
    assert "the training data is used instead" in checked(same)[1]


def test_more_tracks_than_queries_are_told(tmp_path: Path) -> None:
    run = run_of(tmp_path, lambda c, f: None, queries=1)
    assert "2 of 2 training clips contain more tracks than the model has queries (1; up to 2 tracks)" in started(run)
    assert "train: clips with more tracks than the model has queries (1) (2): 1: 2; 2: 2" in checked(run)[1]


def test_check_data_reads_every_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(content: Json, folder: Path) -> None:
        (folder / "0/1.png").write_bytes(b"no image")
        image(folder / "0/2.png", 9, size=(40, W))
        image(folder / "1/0.png", 9, size=(40, W))

    run = run_of(tmp_path, change, "validation")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run.model_dump(mode="json")))
    command = ["check-data", str(tmp_path / "run.yaml"), "--sheet", str(tmp_path / "sheet.png"), "--workers", "0"]
    assert main(command) == 1
    captured = capsys.readouterr()
    text = " ".join((captured.out + captured.err).split())
    assert "3 faults in" in text
    assert "(9 frames could be read)" in text
    assert "0/1.png" in text
    assert "1/0.png' is 40x64 (height x width), but the annotation file of video 2 says 48x64" in text
    assert main([*command, "--suggest", str(tmp_path / "new.yaml")]) == 2
    assert "for clips start from" in capsys.readouterr().err
    assert (tmp_path / "sheet.png").exists()


def test_check_data_reads_folders_of_id_maps(tmp_path: Path) -> None:
    for clip in "ab":
        for frame in range(FRAMES):
            image(tmp_path / "images" / clip / f"{frame}.png", frame, ord(clip))
            ids = np.zeros((H, W), np.uint8)
            ids[5:20, 5 + frame : 20], ids[30:40, 5:25] = 1, 2
            (tmp_path / "masks" / clip).mkdir(parents=True, exist_ok=True)
            Image.fromarray(ids).save(tmp_path / "masks" / clip / f"{frame}.png")
    names = {clip: tmp_path / f"{clip}.txt" for clip in "ab"}
    for clip, file in names.items():
        file.write_text(clip)
    folders = {"images": str(tmp_path / "images"), "masks": str(tmp_path / "masks")}
    splits = {split: {**folders, "clips": str(names[clip])} for split, clip in (("train", "a"), ("validation", "b"))}
    run = run_on(tmp_path, {"name": "mask-folders", **splits})
    report, found = checked(run)
    assert (report.is_broken, found, started(run)) == (False, "", "")
    assert report.splits["train"].objects.tolist() == [2, 2, 2]
    image(tmp_path / "images" / "b" / "1.png", 1, size=(H, W - 8))
    Image.fromarray(np.ones((H, W - 8), np.uint8)).save(tmp_path / "masks" / "b" / "1.png")
    assert "frames that cannot be used (1)" in checked(run)[1]
    assert "all frames must have the same size" in checked(run)[1]
