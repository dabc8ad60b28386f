"""Shapes of masks equal those of scikit-image."""

from __future__ import annotations

import numpy as np
import pytest

from mask2former.ops import shapes
from mask2former.ops.shapes import shape_of

pytest.importorskip("skimage", reason="needs the extra table")

from skimage import measure


def same_as_scikit_image(mask: np.ndarray) -> None:
    names = {"diameter": "equivalent_diameter_area", "perimeter": "perimeter", "eccentricity": "eccentricity"}
    expected = measure.regionprops_table(mask.astype(np.uint8), properties=list(names.values()))
    found = shape_of(mask)
    for name, theirs in names.items():
        assert found[name] == pytest.approx(float(expected[theirs][0]), rel=1e-12, abs=1e-12), (name, mask.shape)


def test_all_equals_scikit_image() -> None:
    random = np.random.default_rng(3)
    for density in (0.1, 0.5, 0.95, 1.0):
        for _ in range(20):
            mask = random.random(random.integers(1, 30, 2)) < density
            mask[random.integers(mask.shape[0]), random.integers(mask.shape[1])] = True
            same_as_scikit_image(mask)


def test_strips_of_large_masks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(4).random((57, 31)) < 0.4
    whole = shape_of(mask)
    monkeypatch.setattr(shapes, "_STRIP", 100)  # three rows
    assert shape_of(mask) == whole
    same_as_scikit_image(mask)


def test_nothing_but_the_perimeter_is_left_to_scikit_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-image's regionprops, which takes most of a millisecond for each mask, is not called."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(measure, "regionprops_table", refused)
    monkeypatch.setattr(measure, "regionprops", refused)
    assert shape_of(np.ones((3, 3), dtype=bool))["eccentricity"] == 0


def test_sums_of_large_masks_exceed_no_integer() -> None:
    """The sum of the squares of 4 million columns, which exceeds 64 bits, does not overflow."""
    line = np.zeros((2, 4_000_000), dtype=bool)
    line[0] = True
    assert shape_of(line)["eccentricity"] == pytest.approx(1.0)
