"""Drawn cells: reproducible, and ground truth that agrees with the pixels."""

import numpy as np
import pytest
from scipy import ndimage

from mask2former.errors import UserError
from mask2former.scenes.cells import CellImage, draw_cells


def test_an_image_depends_only_on_its_seed_and_size() -> None:
    first, again, other = (draw_cells(seed, (64, 64)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.ids, again.ids)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("size_hw", [(128, 128), (32, 32), (64, 200)])
def test_every_nucleus_has_a_number_and_enough_pixels(size_hw: tuple[int, int]) -> None:
    for seed in range(10):
        image, ids = draw_cells(seed, size_hw)
        assert image.shape == (*size_hw, 3)
        assert image.dtype == np.uint8
        assert ids.shape == size_hw
        assert ids.dtype == np.int32
        counts = np.bincount(ids.ravel())[1:]
        assert (counts >= 12).all(), "numbers without a gap, none of a sliver"


@pytest.fixture(scope="module")
def drawn() -> list[CellImage]:
    return [draw_cells(seed, (160, 160)) for seed in range(40)]


def test_nuclei_differ_from_what_surrounds_them(drawn: list[CellImage]) -> None:
    """The median nucleus of nearly every image is brighter, or darker, than the pixels around all nuclei."""
    visible = []
    for image, ids in drawn:
        near, far = (ndimage.binary_dilation(ids > 0, iterations=iterations) for iterations in (2, 6))
        around = np.logical_xor(near, far)
        if around.any():
            grey = image.mean(axis=2)
            means = ndimage.mean(grey, ids, range(1, int(ids.max()) + 1))
            difference = abs(float(np.median(means)) - float(grey[around].mean()))
            visible.append(difference > max(1.5, 0.5 * float(grey[around].std())))
    assert len(visible) >= 35
    assert np.mean(visible) > 0.9


def test_images_have_many_sizes_and_numbers_of_nuclei(drawn: list[CellImage]) -> None:
    counts = [int(ids.max()) for _, ids in drawn]
    assert min(counts) <= 5
    assert max(counts) >= 80
    diameters = [np.sqrt(np.median(np.bincount(ids.ravel())[1:]) * 4 / np.pi) for _, ids in drawn if ids.any()]
    assert min(diameters) < 12
    assert max(diameters) > 50


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="must not be negative, got -1"):
        draw_cells(-1)


@pytest.mark.parametrize("size_hw", [(16, 256), (256, 5000)])
def test_an_impossible_size_is_refused(size_hw: tuple[int, int]) -> None:
    with pytest.raises(UserError, match="32 to 4096 pixels"):
        draw_cells(0, size_hw)
