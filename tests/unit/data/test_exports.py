"""COCO files exported by annotation tools: names of images, ids from 0, missing keys, painted masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.config import DataConfig, parse
from mask2former.data.build import build_images
from mask2former.data.datasets import CocoInstances
from mask2former.data.datasets.file_names import find_name
from mask2former.dataset_tools.check import open_split
from mask2former.errors import UserError
from mask2former.media.archives import open_folder
from mask2former.structures.ground_truth import InstanceGroundTruth

SQUARE = [2, 1, 8, 1, 8, 7, 2, 7]


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10)).save(path)


def write(root: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Path:
    content = {"images": images, "annotations": annotations, "categories": [{"id": 0, "name": "cell"}]}
    file = root / "result.json"
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(
    ("declared", "there"),
    [
        ("a.png", "a.png"),
        ("images/a.png", "a.png"),
        ("images\\1\\a.png", "1/a.png"),
        ("C:\\Users\\me\\photos\\a.png", "photos/a.png"),
        ("/data/upload/3/a.png", "a.png"),
        ("../../label-studio/data/media/upload/3/0123abcd-a.png", "a.png"),
        ("images/0123abcd__a.png", "a.png"),  # Label Studio's COCO and YOLO with images
        ("?d=a.png", "a.png"),  # COCO export of brushes
        ("images/0123abcd-a.png", "0123abcd-a.png"),  # the file as it was exported
        ("/data/local-files/?d=photos/a%20b.png", "photos/a b.png"),
        ("https://host/files/a%20b.png", "a b.png"),
        ("100%25.png", "100%25.png"),
        ("./x/../a.png", "a.png"),
    ],
)
def test_names_of_other_machines(tmp_path: Path, declared: str, there: str) -> None:
    image(tmp_path / there)
    found = find_name(declared, open_folder(tmp_path))
    assert found is not None
    assert (tmp_path / found).samefile(tmp_path / there)


@pytest.mark.parametrize("declared", ["../secret.png", "b.png", "\\", "/", "0123abcd-", "?d="])
def test_a_name_that_is_not_there_is_not_found(tmp_path: Path, declared: str) -> None:
    image(tmp_path / "folder" / "a.png")
    assert find_name(declared, open_folder(tmp_path / "folder")) is None


def test_label_studio(tmp_path: Path) -> None:
    """COCO exports of Label Studio are read: ids from 0, names of uploads, no area, boxes without segmentation."""
    image(tmp_path / "photos" / "a b.png")
    box = {"id": 1, "image_id": 0, "category_id": 0, "segmentation": [], "bbox": [1, 1, 3, 3], "iscrowd": 0}
    square = {"id": 0, "image_id": 0, "category_id": 0, "segmentation": [SQUARE], "bbox": [2, 1, 6, 6], "ignore": 0}
    images = [{"id": 0, "width": 12, "height": 10, "file_name": "\\data\\upload\\1\\0a1b2c3d-a%20b.png"}]
    with pytest.raises(UserError, match="have no segmentation"):
        CocoInstances([(write(tmp_path, images, [square, box]), tmp_path / "photos")])
    samples = CocoInstances([(write(tmp_path, images, [square, box]), tmp_path / "photos")], missing_masks="skip")
    ground_truth = samples.ground_truths(0, ["instance"])["instance"]
    assert isinstance(ground_truth, InstanceGroundTruth)
    assert (ground_truth.labels.tolist(), ground_truth.iscrowd.tolist()) == ([0], [False])
    assert ground_truth.areas is not None
    assert ground_truth.areas.tolist() == [36]
    assert samples.categories[0].id == 0


def cvat(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A COCO file with a painted mask as CVAT writes it, uncompressed and marked as a crowd, and the mask."""
    image(tmp_path / "photos" / "a.png")
    mask = np.zeros((10, 12), dtype=bool)
    mask[3:5, 4:9] = True
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges.tolist(), flat.size]).tolist()
    painted = {
        "id": 1,
        "image_id": 1,
        "category_id": 0,
        "segmentation": {"counts": counts, "size": [10, 12]},
        "area": 10.0,
        "iscrowd": 1,
        "attributes": {"occluded": False},
    }
    images = [{"id": 1, "width": 12, "height": 10, "file_name": "a.png", "license": 0, "date_captured": 0}]
    return write(tmp_path, images, [painted]), mask


def test_cvat_painted_masks_are_regions_unless_told_otherwise(tmp_path: Path) -> None:
    file, mask = cvat(tmp_path)
    regions = CocoInstances([(file, tmp_path / "photos")])
    assert regions.num_objects.tolist() == [0]
    assert "all 1 annotations are marked as crowd regions" in regions.notes[0]
    content = json.loads(file.read_text())
    polygon = {"id": 2, "image_id": 1, "category_id": content["categories"][0]["id"], "segmentation": [SQUARE]}
    both = tmp_path / "both.json"
    both.write_text(json.dumps({**content, "annotations": [*content["annotations"], polygon]}))
    values = [{"annotations": str(both), "images": str(tmp_path / "photos")}]
    config = parse(DataConfig, {"dataset": {"name": "coco-instance", "train": values, "validation": values}}, "test")
    mixed, findings = open_split(config.dataset, "train")  # a polygon beside it, which is learned
    assert isinstance(mixed, CocoInstances)
    assert mixed.num_objects.tolist() == [1]
    assert (
        "1 of 2 annotations are marked as crowd regions, which are not learned and in no metric" in findings[0].message
    )
    assert not findings[0].broken
    assert findings[0].message in build_images(config.dataset, "train").notes  # training notes it, too
    values = [{"annotations": str(file), "images": str(tmp_path / "photos")}]
    dataset = {"name": "coco-instance", "train": values, "validation": values, "crowds": "objects"}
    objects = build_images(parse(DataConfig, {"dataset": dataset}, "test").dataset, "train")
    target = objects[0].target
    assert target is not None
    assert (target.masks[0, 0].numpy() == mask).all()


def test_two_images_that_only_their_lost_folders_tell_apart_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "photos" / "a.png")
    images = [{"id": number, "width": 12, "height": 10, "file_name": f"upload/{number}/a.png"} for number in (1, 2)]
    with pytest.raises(UserError, match=r"'upload/1/a\.png' and 'upload/2/a\.png', but .* contains only 'a\.png'"):
        CocoInstances([(write(tmp_path, images, []), tmp_path / "photos")])
