"""The code on the page "predict, correct, train again" runs unchanged; the test makes a person's corrections."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from test_cells_page import SHORTER, draw_cells

from mask2former.cli import main
from mask2former.data.build import build_images
from mask2former.dataset_tools.check_data import check_data
from mask2former.dataset_tools.data_paths import DataPaths

PAGE = Path(__file__).parents[2] / "docs" / "correct.md"

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("small_overlays", "unpredicted_memory")]


def correct_in_label_studio(split: str) -> list[int]:
    """Submit each prediction with a new region instead of its first; return the number of regions of each task."""
    tasks = json.loads(Path(f"labels/{split}/label-studio-polygons/tasks.json").read_text())
    regions = []
    for number, task in enumerate(tasks):
        first, *kept = task.pop("predictions")[0]["result"]
        new = {**first, "id": "drawn", "value": {**first["value"], "points": [[1, 1], [9, 1], [9, 9], [1, 9]]}}
        task["id"] = number
        task["annotations"] = [{"id": number, "was_cancelled": False, "result": [*kept, new]}]
        regions.append(1 + len(kept))
    Path("corrected").mkdir(exist_ok=True)
    Path(f"corrected/{split}.json").write_text(json.dumps(tasks))
    return regions


def correct_in_cvat(split: str) -> list[int]:
    """Do the same in CVAT's export."""
    root = ElementTree.parse(f"labels/{split}/cvat/annotations.xml").getroot()
    shapes = []
    for image in root.iter("image"):
        first = next(element for element in image if element.tag in ("polygon", "mask"))
        label = first.attrib["label"]
        image.remove(first)
        points = "1,1;9,1;9,9;1,9"
        ElementTree.SubElement(image, "polygon", {"label": label, "points": points, "occluded": "0", "z_order": "0"})
        shapes.append(sum(element.tag in ("polygon", "mask") for element in image))
    path = Path(f"corrected/{split}/annotations.xml")
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    return shapes


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


def draw(*splits: str) -> None:
    """Write images without annotations."""
    for number, split in enumerate(splits):
        draw_cells(Path("cells"), split, 2 - number, seed=number)
        Path(f"cells/{split}.json").unlink()


def test_what_was_corrected_is_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw("train")
    first, *_ = commands()
    assert main([*first, "--also", "coco-dataset"]) == 0
    regions, shapes = correct_in_label_studio("train"), correct_in_cvat("train")
    assert regions == shapes
    assert min(regions) > 4
    for path in (
        "corrected/train.json",
        "corrected/train/annotations.xml",
        "labels/train/coco-dataset/annotations.json",
    ):
        checked = check_data(path, DataPaths(images=Path("cells/train")), num_workers=0)
        assert not checked.report.is_broken, checked.report.findings
        samples = build_images(checked.dataset, "train")
        assert [len(samples.annotated(index).labels) for index in range(len(samples))] == regions
        assert samples.categories.names == ("nucleus",)


@pytest.mark.slow
def test_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    draw("train", "val")
    steps = ["predict", "predict", "check-data", "train", "predict", "train", "predict", "check-data"]
    assert [command[0] for command in commands()] == steps
    for command in commands():
        if command[:2] == ["check-data", "corrected/train.json"]:
            for split in ("train", "val"):
                correct_in_label_studio(split)
        shorter = {"train": SHORTER, "check-data": ["--workers", "0"]}.get(command[0], [])
        assert main([*command, *shorter]) == 0, capsys.readouterr().err
    dataset = yaml.safe_load(Path("corrected.yaml").read_text())["data"]["dataset"]
    assert dataset["name"] == "label-studio"
    assert dataset["validation"] == [{"annotations": "corrected/val.json", "images": "cells/val"}]
    with Path("runs/round-1/metrics.csv").open() as stream:
        first = next(csv.DictReader(stream))
    assert float(first["instance/AP"]) > 50  # all but one object of each image are its own predictions
    assert Path("runs/round-2/model.safetensors").is_file()
    assert yaml.safe_load(Path("auto.yaml").read_text())["data"]["dataset"]["name"] == "coco-instance"


def test_predictions_that_nobody_submitted_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [{"data": {"image": "a.png"}, "predictions": [{"result": []}]}]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    assert main(["check-data", str(tmp_path / "tasks.json")]) == 2
    assert "predictions that were never submitted" in capsys.readouterr().err
