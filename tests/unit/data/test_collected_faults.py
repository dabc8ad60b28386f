"""Where faults are collected, every broken entry is told and all the others are read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former import limits
from mask2former.data.datasets import CocoInstances
from mask2former.data.datasets.coco_panoptic import CocoPanoptic, PanopticFiles
from mask2former.data.datasets.youtube_vis import YouTubeVIS
from mask2former.data.faults import Fault, collected_faults
from mask2former.errors import UserError
from mask2former.structures import Categories

H, W = 8, 10
SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]
CATEGORIES = [{"id": 1, "name": "a", "isthing": 1}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        Image.fromarray(np.zeros((H, W, 3), np.uint8)).save(tmp_path / f"{name}.jpg")
        Image.fromarray(np.full((H, W, 3), [5, 0, 0], np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def written(folder: Path, name: str = "all.json", **content: Any) -> Path:
    (folder / name).write_text(json.dumps({"categories": CATEGORIES, **content}))
    return folder / name


def image(number: Any, name: str, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": H, "width": W, **more}


def assert_told(faults: Sequence[Fault], *words: str) -> None:
    """Check that there is one fault for each pattern, in this order."""
    assert len(faults) == len(words)
    for fault, word in zip(faults, words, strict=True):
        assert re.search(word, fault.message), fault.message


def test_coco(folder: Path) -> None:
    def mask(number: int, segmentation: Any = SQUARE, image_id: Any = 1, category: Any = 1) -> dict[str, Any]:
        return {"id": number, "image_id": image_id, "category_id": category, "segmentation": segmentation}

    side = 60_000
    long = [[0, 0, side, 0, side, side, 0, side]] * (limits.OUTLINE // (4 * side) + 1)
    file = written(
        folder,
        images=[image(1, "a.jpg"), image(2, "b.jpg", height="x"), {"id": 3}, image(4, "none.jpg")],
        annotations=[
            mask(1),
            mask(2, image_id=None),
            mask(3, image_id=9),
            mask(4, category=9),
            mask(5, [[1, 1, 2]]),
            {**mask(6), "iscrowd": 7},
            mask(7, None),
            mask(8, image_id=2),  # of an image that is already reported
            mask(9, long),
            mask(10, long),
        ],
    )
    with collected_faults() as faults:
        samples = CocoInstances([(file, folder)])
    assert_told(
        faults, "height.*'b.jpg'", "'file_name'", "none.jpg", "annotation 2 needs", r"1 \(3\)", r"1 \(4\)",
        r"1 \(6\).*'iscrowd'", "annotation 5 is broken", r"1 \(7\)", r"2 \(9, 10\).*longer",
    )  # fmt: skip
    assert faults[-1].entries == 2
    assert samples.num_objects.tolist() == [1]
    assert samples.annotated(0).labels.tolist() == [0]


def test_coco_panoptic(folder: Path) -> None:
    def entry(number: Any, name: Any, *segments: Any) -> dict[str, Any]:
        return {"image_id": number, "file_name": name, "segments_info": list(segments)}

    good = {"id": 5, "category_id": 1}
    file = written(
        folder,
        images=[image(1, "a.jpg"), image(2, "b.jpg", height=None), image(3, "c.jpg"), image(4, "none.jpg")],
        annotations=[
            entry(1, "a.png", good),
            entry(None, "a.png"),
            entry(9, "x.png"),
            entry(2, "b.png", good),
            entry(3, "c.png", {"id": 0}, good, good, {"id": 6, "category_id": 9}, {**good, "id": 7, "iscrowd": 4}),
            entry(4, "none.png", good),
        ],
    )
    with collected_faults() as faults:
        samples = CocoPanoptic([PanopticFiles(file, folder, folder)])
    assert_told(
        faults, "'segments_info'", "image 9", "height.*'b.jpg'", "'id' from 1", "two segments with the id 5",
        "segment 6.*9", "segment 7.*'iscrowd'", "none.jpg",
    )  # fmt: skip
    assert len(samples) == 1
    assert samples.image_id(0) == 1
    file = written(
        folder, images=[image(1, "a.jpg"), image(3, "c.jpg")], annotations=[entry(1, "a.png", good), entry(3, "a.png")]
    )
    with collected_faults() as faults:
        assert len(CocoPanoptic([PanopticFiles(file, folder, folder)])) == 1
    assert_told(faults, "'a.png' is the PNG of two")


def test_youtube_vis(folder: Path) -> None:
    def video(number: Any, *names: str, **more: Any) -> dict[str, Any]:
        return {"id": number, "file_names": list(names), "length": len(names), "height": H, "width": W, **more}

    def track(number: int, video_id: Any) -> dict[str, Any]:
        return {"id": number, "video_id": video_id, "category_id": 1, "segmentations": [SQUARE]}

    large = limits.SIDE * 1000
    file = written(
        folder,
        videos=[video(1, "a.jpg"), video(None, "b.jpg"), video(3, "b.jpg", height=0), video(4, "c.jpg", height=large)],
        annotations=[track(1, 1), track(2, None), track(3, 3), track(4, 9)],
    )
    with collected_faults() as faults:
        clips = YouTubeVIS([(file, folder)])
    assert_told(
        faults, "'id' and the list", "video 3 .*'height'", f"video 4 .*{large}", "annotation 2 needs", r"1 \(4\)",
    )  # fmt: skip
    assert len(clips) == 1


def test_categories_that_a_data_set_does_not_have_are_named(folder: Path) -> None:
    other = Categories.from_names(["x"])  # with the id 0
    annotation = {"image_id": 1, "file_name": "a.png", "segments_info": []}
    file = written(folder, images=[image(1, "a.jpg")], annotations=[annotation])
    for read in (
        lambda: CocoInstances([(file, folder)], categories=other),
        lambda: CocoPanoptic([PanopticFiles(file, folder, folder)], categories=other),
        lambda: YouTubeVIS([(written(folder, "clips.json", videos=[]), folder)], other),
    ):
        with pytest.raises(UserError, match=r"categor.*data set.*: 1 \((a|1)\)$"):
            read()
    with pytest.raises(UserError, match="no annotation files given"):
        CocoPanoptic([])


def test_a_mask_of_another_size_than_its_image_is_refused(folder: Path) -> None:
    segmentation = {"size": [H, W + 1], "counts": [H, H, (W - 1) * H]}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": segmentation}
    file = written(folder, images=[{"id": 1, "file_name": "a.jpg"}], annotations=[annotation])
    samples = CocoInstances([(file, folder)])
    with pytest.raises(UserError, match=rf"a\.jpg' is {H}x{W} .*{H}x{W + 1}"):
        samples.annotated(0)
