from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from mask2former.metrics.boundary import boundary, boundary_width, eroded
from mask2former.ops.masks import Patch, iou, overlap


def _dense(patch: Patch, size_hw: tuple[int, int]) -> np.ndarray:
    whole = np.zeros(size_hw, dtype=bool)
    whole[patch.top : patch.top + patch.mask.shape[0], patch.left : patch.left + patch.mask.shape[1]] = patch.mask
    return whole


def _slow(mask: np.ndarray, distance: int) -> np.ndarray:
    """The boundary by its definition: the mask minus its 3x3 erosions within a frame of zeros."""
    inner = ndimage.binary_erosion(np.pad(mask, 1), np.ones((3, 3)), iterations=distance, border_value=1)
    return mask & np.logical_not(inner)[1:-1, 1:-1]


@pytest.mark.parametrize("distance", [1, 2, 3, 7, 30])
def test_erosion_is_the_least_value_around_with_zeros_outside(distance: int) -> None:
    generator = np.random.default_rng(distance)
    values = generator.integers(1, 200, (23, 31)).astype(np.uint8)
    expected = ndimage.minimum_filter(values, size=2 * distance + 1, mode="constant", cval=0)
    np.testing.assert_array_equal(eroded(values, distance), expected)


@pytest.mark.parametrize("seed", range(12))
def test_the_boundary_is_what_erosion_takes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(generator.normal(size=(40, 57)), 1 + seed % 4) > 0.02 * (seed % 3)
    distance = 1 + seed % 5
    np.testing.assert_array_equal(_dense(boundary(Patch(0, 0, mask), distance), mask.shape), _slow(mask, distance))


def test_the_frame_of_the_image_is_a_boundary_and_a_thin_mask_is_all_boundary() -> None:
    whole = np.ones((9, 12), dtype=bool)
    assert boundary(Patch(0, 0, whole), 1).mask.sum() == 9 * 12 - 7 * 10
    thin = np.zeros((30, 30), dtype=bool)
    thin[10:14] = True
    assert boundary(Patch(0, 0, thin), 2).mask.sum() == thin.sum()
    assert boundary(Patch(0, 0, np.zeros((5, 5), dtype=bool)), 1).mask.size == 0


def test_the_width_follows_the_diagonal_and_is_at_least_one() -> None:
    assert boundary_width((480, 640)) == 16
    assert boundary_width((3, 4)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_shared_pixels_are_those_of_whole_masks(seed: int) -> None:
    generator = np.random.default_rng(seed)
    indices = generator.integers(0, 12, (2, 2)).tolist()
    patches = [Patch(top, left, generator.random((9, 11)) < 0.6) for top, left in indices]
    first, second = (_dense(patch, (30, 30)) for patch in patches)
    assert overlap(patches[0], patches[1]) == (first & second).sum()
    assert iou(patches[0], patches[1], off=3) == pytest.approx((first & second).sum() / ((first | second).sum() - 3))


def test_nothing_shares_nothing() -> None:
    empty, some = Patch(0, 0, np.zeros((0, 0), dtype=bool)), Patch(2, 2, np.ones((2, 2), dtype=bool))
    assert overlap(empty, some) == 0
    assert iou(empty, empty) == 0.0
    assert overlap(some, Patch(4, 4, np.ones((2, 2), dtype=bool))) == 0
