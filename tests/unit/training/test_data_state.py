"""A change of annotations is noticed wherever they are: in a file, in a folder, in an archive, or below a root."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mask2former.config import DataConfig, parse
from mask2former.training.data_state import data_state

BEFORE, AFTER = "50", "49"  # a coordinate, so that counts of objects and of bytes stay the same


def written(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.new("RGB", (64, 64)).save(path)
    else:
        path.write_text(text)
    return path


def coco(image: str, category: dict[str, Any], corner: str) -> str:
    shape = {"id": 1, "image_id": 1, "category_id": category["id"], "segmentation": [[1, 1, 40, 1, int(corner), 40]]}
    images = [{"id": 1, "file_name": image, "height": 64, "width": 64}]
    return json.dumps({"images": images, "annotations": [shape], "categories": [category]})


def labelme(folder: Path, corner: str) -> dict[str, Any]:
    shape = {"label": "cell", "shape_type": "polygon", "points": [[1, 1], [40, 1], [int(corner), 40]]}
    values = {"shapes": [shape], "imagePath": "a.png", "imageHeight": 64, "imageWidth": 64, "imageData": None}
    written(folder / "images" / "a.png")
    written(folder / "json" / "a.json", json.dumps(values))
    files = [{"annotations": str(folder / "json"), "images": str(folder / "images")}]
    return {"name": "labelme", "train": files, "validation": []}


def labelme_zip(folder: Path, corner: str) -> dict[str, Any]:
    values = labelme(folder, corner)
    with zipfile.ZipFile(folder / "json.zip", "w") as archive:
        archive.write(folder / "json" / "a.json", "a.json")
    values["train"][0]["annotations"] = str(folder / "json.zip")
    return values


def yolo(folder: Path, corner: str) -> dict[str, Any]:
    written(folder / "images" / "train" / "a.png")
    written(folder / "labels" / "train" / "a.txt", f"0 0.1 0.1 0.4 0.1 0.{corner} 0.4\n")
    data = written(folder / "data.yaml", "train: images/train\nval: images/train\nnames: [cell]\n")
    return {"name": "yolo", "data": str(data)}


def root(folder: Path, corner: str) -> dict[str, Any]:
    for part in ("train2017", "val2017"):
        written(folder / "coco" / part / "a.png")
        text = coco("a.png", {"id": 1, "name": "person"}, corner)
        written(folder / "coco" / "annotations" / f"instances_{part}.json", text)
    return {"name": "coco", "task": "instance", "root": str(folder)}


def mixed(folder: Path, corner: str) -> dict[str, Any]:
    return {"name": "mixed", "parts": [{"dataset": labelme(folder, corner)}]}


@pytest.mark.parametrize("made", [labelme, labelme_zip, yolo, root, mixed])
def test_a_moved_corner_is_noticed(made: Any, tmp_path: Path) -> None:
    def state(corner: str) -> dict[str, str]:
        return data_state(parse(DataConfig, {"dataset": made(tmp_path, corner)}, "test"))

    before = state(BEFORE)
    assert state(BEFORE) == before
    after = state(AFTER)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert "annotation files of train" in changed
    assert changed <= {"annotation files of train", "annotation files of validation"}


def test_parts_of_one_data_set_know_its_annotation_files(tmp_path: Path) -> None:
    for name in ("b", "c", "d", "e"):
        written(tmp_path / "images" / f"{name}.png")
        shape = {"label": "cell", "shape_type": "polygon", "points": [[1, 1], [40, 1], [50, 40]]}
        values = {"shapes": [shape], "imagePath": f"{name}.png", "imageHeight": 64, "imageWidth": 64}
        written(tmp_path / "json" / f"{name}.json", json.dumps({**values, "imageData": None}))
    values = {"dataset": labelme(tmp_path, BEFORE), "validation": {"share": 0.5}}
    state = data_state(parse(DataConfig, values, "test"))
    assert state["annotation files of train"] == state["annotation files of validation"]


def test_an_annotation_file_that_is_named_is_compared_by_content(tmp_path: Path) -> None:
    written(tmp_path / "a.png")
    file = tmp_path / "train.json"
    files = [{"annotations": str(file), "images": str(tmp_path)}]
    config = parse(DataConfig, {"dataset": {"name": "coco-instance", "train": files, "validation": []}}, "test")
    found = []
    for corner in (BEFORE, AFTER):
        written(file, coco("a.png", {"id": 1, "name": "cell"}, corner))
        found.append(data_state(config))
    changed = {name for name, value in found[0].items() if found[1][name] != value}
    assert changed == {str(file), "annotation files of train"}
