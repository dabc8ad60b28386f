"""Cityscapes' maps of label ids and objects, read as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former.data.datasets.cityscapes import Cityscapes
from mask2former.errors import UserError
from mask2former.media.archives import Folder

H, W = 8, 12


def read(root: Path, values: list[int]) -> Cityscapes:
    """A data set of one image, with a column of its map for each value, and label id 7 (road) in the others."""
    for kind in ("images", "maps"):
        (root / kind / "city").mkdir(parents=True)
    Image.new("RGB", (W, H)).save(root / "images" / "city" / "city_0_0_leftImg8bit.png")
    ids = np.full((H, W), 7, np.uint16)
    ids[:, : len(values)] = values
    Image.fromarray(ids).save(root / "maps" / "city" / "city_0_0_gtFine_instanceIds.png")
    return Cityscapes(Folder(root / "images"), Folder(root / "maps"), "panoptic")


def test_label_ids_that_are_not_trained_on_are_void(tmp_path: Path) -> None:
    samples = read(tmp_path, [0, 3, 29, 30, 26001, 26])  # caravan and trailer, a car, and a group of cars
    ids, classes, crowds = samples.segments(0, "training")
    assert ids[0].tolist() == [0, 0, 0, 0, *ids[0, 4:]]
    assert [samples.categories[label].name for label in classes.tolist()] == ["road", "car", "car"]
    assert crowds.tolist() == [False, True, False]


@pytest.mark.parametrize("value", [34, 255, 999, 7001, 34000, 65535])
def test_values_of_no_label_are_refused(tmp_path: Path, value: int) -> None:
    samples = read(tmp_path, [value])
    for get in (samples.annotated, lambda index: samples.ground_truths(index, ["instance"])):
        with pytest.raises(UserError, match=rf"contains the values 1 \({value}\); expected label ids of Cityscapes"):
            get(0)
