"""Comparing only neighbours finds the same objects as comparing all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from mask2former.dataset_tools.reading import num_annotated_twice
from mask2former.ops.masks import Patch


def _iou(one: Patch, other: Patch) -> float:
    planes = np.zeros((2, 40, 40), bool)
    for plane, (top, left, mask) in zip(planes, (one, other), strict=True):
        plane[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return float((planes[0] & planes[1]).sum() / (planes[0] | planes[1]).sum())


@pytest.mark.parametrize("seed", range(20))
def test_neighbours_are_enough(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patches = {}
    for index in range(30):
        top, left, height, width = rng.integers((0, 0, 1, 1), (6, 6, 25, 25)).tolist()
        mask = rng.random((height, width)) > rng.choice([0.0, 0.02])
        mask[0, 0] = mask[-1, -1] = True
        patches[index] = Patch(top, left, mask)
    labels = rng.integers(0, 2, 30)
    twice = {
        second
        for second in patches
        for first in range(second)
        if labels[first] == labels[second] and _iou(patches[first], patches[second]) >= 0.9
    }
    assert num_annotated_twice(labels, patches) == len(twice)
