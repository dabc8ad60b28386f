"""Everything that an evaluation leaves out, truncates or counts differently is reported in the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.cli import main
from mask2former.data.datasets.coco_panoptic import CocoPanoptic, PanopticFiles
from mask2former.data.label_maps import colors_of_ids

SCENES = ["evaluate", "scenes-tiny", "--size", "64", "--device", "cpu"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--limit", "2", "--tasks", "panoptic,instance", "--max-detections", "1"],
            "there are up to {} objects in one",
        ),
        (["--data", "scene-clips", "--limit", "1", "--max-detections", "1"], "there are up to {} objects in one"),
    ],
)
def test_objects_beyond_the_limit_are_told(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SCENES, *options]) == 0
    out = capsys.readouterr().out
    before, after = words.split("{}")
    assert f"note: {before}" in out
    assert after in out
    assert "but AP counts at most 1 detection per image and class" in out


def panoptic_set(folder: Path, areas: list[Any]) -> CocoPanoptic:
    """Images with two segments each, of 12 and 4 pixels; ``areas`` has the stated area of each image's first one."""
    ids = np.full((4, 4), 7)
    ids[3] = 9
    images, annotations = [], []
    for index, area in enumerate(areas):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / f"{index}.jpg")
        Image.fromarray(colors_of_ids(ids)).save(folder / f"{index}.png")
        infos = [{"id": 7, "category_id": 1, "area": area}, {"id": 9, "category_id": 2, "area": 4}]
        images.append({"id": index, "file_name": f"{index}.jpg", "height": 4, "width": 4})
        annotations.append({"image_id": index, "file_name": f"{index}.png", "segments_info": infos})
    categories = [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]
    file = folder / "panoptic.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return CocoPanoptic([PanopticFiles(file, folder, folder)])


@pytest.mark.parametrize(
    ("areas", "words"),
    [
        ([12, 12.0, None], None),
        (
            [12, 13, None],
            "1 segments in 1 images have an 'area' in the file that differs",
        ),
        ([1, 1e6, 12], "2 segments in 2 images have an 'area' in the file that differs"),
    ],
)
def test_areas_that_are_not_the_pixels_are_told(areas: list[Any], words: str | None, tmp_path: Path) -> None:
    data = panoptic_set(tmp_path, areas)
    for _ in range(2):
        for index in range(3):
            assert data.ground_truths(index, ["panoptic"])["panoptic"].areas is None  # pyright: ignore
    told = [note for note in data.notes if "'area'" in note]
    assert len(told) == (words is not None)
    assert words is None or words in told[0]
    assert words is None or "the official tool for panoptic quality uses the areas in the file" in told[0]
