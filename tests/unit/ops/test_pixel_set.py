"""Pixels of an image as bits in blocks."""

from __future__ import annotations

import numpy as np
import pytest

from mask2former.ops.masks import Patch
from mask2former.ops.pixel_set import PixelSet


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (520, 9), (600, 700)])
def test_it_holds_the_pixels_that_a_whole_map_would(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    taken, whole = PixelSet(), np.zeros(size, dtype=bool)
    for _ in range(20):
        (top, bottom), (left, right) = (sorted(rng.integers(0, side + 1, 2).tolist()) for side in size)
        mask = rng.random((bottom - top, right - left)) < 0.3
        taken.add(Patch(top, left, mask))
        whole[top:bottom, left:right] |= mask
        (top, bottom), (left, right) = (np.add(sorted(rng.integers(0, side, 2)), (0, 1)).tolist() for side in size)
        found = taken.within(top, left, bottom - top, right - left)
        np.testing.assert_array_equal(found, whole[top:bottom, left:right])
    np.testing.assert_array_equal(taken.within(0, 0, *size), whole)
