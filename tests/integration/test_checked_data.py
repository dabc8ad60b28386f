"""Data that passes check-data is accepted by training and evaluation; data that they reject fails check-data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from runs import run_values

from mask2former.cli import main

H, W = 48, 64
CELLS = [{"id": 4, "name": "cell"}, {"id": 7, "name": "dirt"}]

pytestmark = pytest.mark.usefixtures("unpredicted_memory")


def image(path: Path, *seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (H, W, 3), dtype=np.uint8)).save(path)


def coco(
    root: Path, *, categories: list[dict[str, Any]] = CELLS, objects: bool = True, **of_split: Any
) -> dict[str, Any]:
    """``dataset`` settings with three images in each split; ``train=`` and ``val=`` edit the content of a file."""
    dataset: dict[str, Any] = {"name": "coco-instance"}
    for split, key in (("train", "train"), ("val", "validation")):
        content: dict[str, Any] = {"images": [], "annotations": [], "categories": list(categories)}
        for number in range(3):
            image(root / split / f"{number}.png", number, split == "val")
            content["images"].append({"id": number, "file_name": f"{number}.png", "height": H, "width": W})
            corners = [5, 5, 30, 5, 30, 30 + number, 5, 30]
            entry = {"image_id": number, "category_id": (4, 7)[number % 2], "segmentation": [corners], "iscrowd": 0}
            content["annotations"] += [{"id": number + 1, **entry}] if objects else []
        of_split.get(split, lambda content: None)(content)
        (root / f"{split}.json").write_text(json.dumps(content))
        dataset[key] = [{"annotations": str(root / f"{split}.json"), "images": str(root / split)}]
    return dataset


def labels(root: Path, low: int = 0, high: int = 1, names: str = "background\ncell\n") -> dict[str, Any]:
    for split in ("train", "val"):
        for number in range(2):
            image(root / "images" / split / f"{number}.jpg", number, split == "val")
            values = np.full((H, W), low, dtype=np.uint8)
            values[10:30, 10 : 30 + number] = high
            (root / "labels" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / "labels" / split / f"{number}.png")
    (root / "names.txt").write_text(names)
    pairs = {
        key: [{"images": str(root / "images" / split), "labels": str(root / "labels" / split)}]
        for key, split in (("train", "train"), ("validation", "val"))
    }
    return {"name": "label-folder", **pairs, "names": str(root / "names.txt")}


def yolo(root: Path, validation: str = "val") -> dict[str, Any]:
    for split in ("train", "val"):
        for number in range(2):
            image(root / "images" / split / f"{number}.jpg", number, split == "val")
            file = root / "labels" / split / f"{number}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n")
    (root / "images" / "empty").mkdir()
    (root / "data.yaml").write_text(f"train: images/train\nval: images/{validation}\nnames: [cell]\n")
    return {"name": "yolo", "data": str(root / "data.yaml")}


def same(dataset: dict[str, Any]) -> dict[str, Any]:
    return {**dataset, "validation": dataset["train"]}


def reverse(content: dict[str, Any]) -> None:
    content["categories"].reverse()


def renumber(content: dict[str, Any]) -> None:
    """Give the same classes other ids."""
    content["categories"] = [{"id": 1, "name": "dirt"}, {"id": 2, "name": "cell"}]
    for entry in content["annotations"]:
        entry["category_id"] = 2 if entry["category_id"] == 4 else 1


def lack(content: dict[str, Any]) -> None:
    content["categories"] = CELLS[:1]
    content["annotations"] = [entry for entry in content["annotations"] if entry["category_id"] == 4]


def add(content: dict[str, Any]) -> None:
    content["categories"].append({"id": 9, "name": "stone"})


def empty(content: dict[str, Any]) -> None:
    content["annotations"] = []


def no_images(content: dict[str, Any]) -> None:
    content.update(images=[], annotations=[])


def run_file(tmp_path: Path, dataset: dict[str, Any], **changes: Any) -> Path:
    task = "semantic" if dataset["name"] == "label-folder" else "instance"
    monitor = {"semantic": "semantic/mIoU", "instance": "instance/AP"}[task]
    values = run_values(
        tmp_path / "run",
        data__dataset=dataset,
        data__batch_size=2,
        data__augmentation={"name": "large-scale-jitter", "image_size": [64, 64]},
        model__inference={"tasks": [task], "short_edge": 48, "long_edge": 64, "things_only": False},
        trainer__max_steps=1,
        trainer__checkpoint_interval=1,
        evaluation={"interval": 1, "tasks": [task], "monitor": monitor, "num_images": 0},
    )
    for name, value in changes.items():
        group, _, key = name.partition("__")
        values[group] = {**values[group], key: value}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


PASSED: dict[str, tuple[Callable[[Path], dict[str, Any]], dict[str, Any], str]] = {
    "objects": (coco, {}, ""),
    "validation in another order": (lambda root: coco(root, val=reverse), {}, ""),
    "validation with other ids": (lambda root: coco(root, val=renumber), {}, ""),
    "validation that lacks a class": (
        lambda root: coco(root, val=lack),
        {},
        "classes that the data does not list are not measured (1 of 2): 'dirt'",
    ),
    "validation on the training data": (lambda root: same(coco(root)), {}, "also training data|is used instead"),
    "ignored regions": (coco, {"criterion__void": "ignored"}, ""),
    "label maps": (labels, {}, ""),
    "label maps of 0 and 255": (lambda root: labels(root, 0, 255, "0 background\n255 cell\n"), {}, ""),
    "label maps and a comment": (lambda root: labels(root, 0, 1, "# mine\nbackground\ncell\n"), {}, "comment lines"),
    "polygons": (yolo, {}, ""),
}


# Slow because faster tests cover them: suggestions for objects and polygons are trained in test_check_data.py, another
# order comes with other ids, and plain label maps with a comment.
COVERED = ("objects", "polygons", "validation in another order", "label maps")
LONG = (  # each trains, and differs in what is left out or noted
    "ignored regions",
    "validation on the training data",
    "label maps of 0 and 255",
)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] * (case in COVERED) + [pytest.mark.long] * (case in LONG))
        for case in PASSED
    ],
)
def test_what_check_data_passes_trains_and_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    make, changes, note = PASSED[case]
    path = run_file(tmp_path, make(tmp_path), **changes)
    monkeypatch.chdir(tmp_path)
    said = []
    for args in (
        ["check-data", str(path), "--workers", "0"],
        ["train", str(path)],
        ["evaluate", str(tmp_path / "run" / "model.safetensors"), "--data", str(path), "--device", "cpu"],
    ):
        code = main(args)
        shown = capsys.readouterr()
        assert code == 0, shown.err
        said.append(" ".join(shown.out.split()))
    assert "nothing is broken" in said[0]
    for out in said[:2]:
        assert not note or any(part in out for part in note.split("|")), out


REFUSED: dict[str, tuple[Callable[[Path], dict[str, Any]], dict[str, Any], str]] = {
    "a class that is not learned": (lambda root: coco(root, val=add), {}, "only the data has 'stone'"),
    "two classes of one name": (
        lambda root: coco(root, categories=[{"id": 4, "name": "cell"}, {"id": 7, "name": "cell"}]),
        {},
        "the same name",
    ),
    "nothing to learn": (lambda root: coco(root, train=empty), {}, "nothing is annotated"),
    "nothing to learn, empty images left out": (
        lambda root: coco(root, train=empty),
        {"data__filter_empty": True},
        "no images with objects",
    ),
    "nothing to measure": (lambda root: coco(root, val=empty), {}, "nothing is annotated"),
    "an empty split": (lambda root: coco(root, val=no_images), {}, "has no images"),
    "an empty folder": (lambda root: yolo(root, "empty"), {}, "has no images"),
    "0 and 255": (lambda root: labels(root, 0, 255), {}, "if 255 means 'cell'"),
    "a task without ground truth": (
        coco,
        {
            "model__inference": {"tasks": ["instance", "semantic"], "short_edge": 48, "long_edge": 64},
            "evaluation__tasks": ["semantic"],
            "evaluation__monitor": "semantic/mIoU",
        },
        "ground truth only for instance",
    ),
    "a metric that is not measured": (coco, {"evaluation__monitor": "instance/A"}, "'instance/A' is not measured"),
    "a metric of another task": (coco, {"evaluation__monitor": "semantic/mIoU"}, "belongs to none of evaluation.tasks"),
    "a batch that cannot be divided": (coco, {"data__batch_size_per_device": 3}, "data.batch_size_per_device 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_training_refuses_check_data_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    make, changes, words = REFUSED[case]
    path = run_file(tmp_path, make(tmp_path), **changes)
    monkeypatch.chdir(tmp_path)
    assert main(["check-data", str(path), "--workers", "0"]) == 1
    assert words in capsys.readouterr().err
    assert main(["train", str(path)]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_evaluation_refuses_label_maps_that_lose_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_file(tmp_path, labels(tmp_path, 0, 255))
    assert main(["evaluate", "scenes-tiny", "--data", str(path), "--task", "semantic", "--device", "cpu"]) == 2
    assert "validation: 'background' is the only class with pixels" in capsys.readouterr().err


@pytest.mark.long
def test_several_files_that_number_their_images_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ids that several files share are noted by check-data, and are in the way only of result files of evaluate."""
    known = [{"id": 4, "name": "ball"}, {"id": 7, "name": "car"}]  # by the model
    dataset = coco(tmp_path, categories=known)
    coco(tmp_path / "more", categories=known)
    dataset["validation"] += [{"annotations": str(tmp_path / "more/val.json"), "images": str(tmp_path / "more/val")}]
    path, results = run_file(tmp_path, dataset), tmp_path / "results.json"
    assert main(["check-data", str(path), "--workers", "0", "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "several images have the same id, for instance" in " ".join(capsys.readouterr().out.split())
    command = ["evaluate", "scenes-tiny", "--data", str(path), "--device", "cpu"]
    assert main([*command, "--results", str(results)]) == 2
    said = capsys.readouterr().err
    assert (
        "3 ids occur more than once (such as '0'), for instance because several annotation files count from 1" in said
    )
    assert not results.exists()
    assert main([*command, "--limit", "4", "--json", str(tmp_path / "facts.json")]) == 0  # one image of the second file
    assert json.loads((tmp_path / "facts.json").read_text())["num_images"] == 4


def test_classes_of_one_name_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = coco(tmp_path, categories=[{"id": 4, "name": "cell"}, {"id": 7, "name": "cell"}])
    assert main(["check-data", str(run_file(tmp_path, dataset)), "--workers", "0", "--json", "facts.json"]) == 1
    findings = json.loads((tmp_path / "facts.json").read_text())["findings"]
    assert [finding["split"] for finding in findings if finding["broken"]] == ["train"]
    assert [finding["split"] for finding in findings if "the same name" in finding["message"]] == ["train"]


def test_all_faults_are_read_and_counted_and_the_last_line_names_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(content: dict[str, Any]) -> None:
        one, two, three = content["annotations"]
        one["segmentation"], two["segmentation"], three["category_id"] = [[1, 2, 3]], [[1, 2, 3, 4, 5]], 99
        content["images"].append({"id": 9, "file_name": "gone.png", "height": H, "width": W})

    dataset = coco(tmp_path, train=change)
    (tmp_path / "val" / "0.png").write_bytes(b"")
    (tmp_path / "val" / "1.png").write_bytes(b"")
    Image.new("RGB", (W, H + 1)).save(tmp_path / "val" / "2.png")
    path = run_file(tmp_path, dataset, data__batch_size_per_device=3)
    monkeypatch.chdir(tmp_path)
    assert main(["check-data", str(path), "--workers", "0", "--json", "facts.json"]) == 1
    shown = capsys.readouterr()
    broken = [finding for finding in json.loads(Path("facts.json").read_text())["findings"] if finding["broken"]]
    said = [f"{finding['split']}: {finding['message']} {finding['offenders']}" for finding in broken]
    for words in ("segmentation of annotation 1", "categories of annotations 1 (3)"):
        assert any(words in text for text in said), said
    for words in ("lacks images", "an empty file", "says 48x64", "run: data.batch_size"):
        assert any(words in text for text in said), said
    assert [finding["count"] for finding in broken if finding["message"] == "images that cannot be used"] == [2, 1]
    last = shown.err.strip().splitlines()
    assert len(last) == 1
    assert last[0].startswith("error: ")
    assert "faults in '" in last[0]
    assert f"of {len(broken)} kinds" in last[0]
    assert "run this again" in last[0]
