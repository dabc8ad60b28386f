from __future__ import annotations

import numpy as np
import pytest

from mask2former import limits
from mask2former.errors import UserError
from mask2former.ops.masks import Patch, polygons_to_patch
from mask2former.ops.polygons import Ring, mask_to_polygons


def _random(seed: int) -> np.ndarray:
    """A random mask of noise or blocks of any density; it may have only one pixel."""
    generator = np.random.default_rng(seed)
    height, width = generator.integers(1, 14, 2)
    coarse = generator.random((height, width)) < generator.choice([0.1, 0.5, 0.9])
    return np.kron(coarse, np.ones(generator.integers(1, 4, 2))).astype(bool)


def _rasterised(polygons: list[list[Ring]], size_hw: tuple[int, int]) -> np.ndarray:
    """How often each pixel lies inside a polygon: an odd number of edges is to the left of its centre."""
    count = np.zeros(size_hw, dtype=int)
    for polygon in polygons:
        crossed = np.zeros((size_hw[0], size_hw[1] + 1), dtype=int)
        for ring in polygon:
            for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                assert (x1 == x2) != (y1 == y2)  # edges are horizontal or vertical, and not empty
                if x1 == x2:
                    crossed[min(y1, y2) : max(y1, y2), x1] += 1
        count += np.cumsum(crossed, axis=1)[:, :-1] % 2
    return count


def _area(ring: Ring) -> float:
    x, y = ring.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


@pytest.mark.parametrize("seed", range(100))
def test_rasterising_gives_the_mask_back(seed: int) -> None:
    mask = _random(seed)
    polygons = mask_to_polygons(Patch(0, 0, mask))
    np.testing.assert_array_equal(_rasterised(polygons, mask.shape), mask)  # each pixel is in one polygon
    assert sum(_area(ring) for polygon in polygons for ring in polygon) == mask.sum()
    for exterior, *holes in polygons:
        assert _area(exterior) > 0
        assert all(_area(hole) < 0 for hole in holes)
        for ring in (exterior, *holes):
            assert len(ring) >= 4
            assert len({tuple(corner) for corner in ring.tolist()}) == len(ring)  # it does not touch itself
            steps = np.roll(ring, -1, axis=0) - ring
            assert ((steps[:, 0] == 0) != (np.roll(steps[:, 0], 1) == 0)).all()  # it turns at every corner


@pytest.mark.parametrize("seed", range(40))
def test_holes_aside_the_rasteriser_of_coco_gives_it_back_too(seed: int) -> None:
    mask = _random(seed)
    exteriors = [exterior for exterior, *holes in mask_to_polygons(Patch(0, 0, mask)) if not holes]
    top, left, found = polygons_to_patch(exteriors, mask.shape)
    filled = np.zeros_like(mask)
    filled[top : top + found.shape[0], left : left + found.shape[1]] = found
    np.testing.assert_array_equal(filled, _rasterised([[ring] for ring in exteriors], mask.shape) > 0)


def test_a_hole_belongs_to_the_part_around_it() -> None:
    mask = np.zeros((8, 12), dtype=bool)
    mask[0:7, 0:7] = True
    mask[1:6, 1:6] = False
    mask[2:5, 2:5] = True  # an island in the hole
    mask[3, 3] = False
    polygons = mask_to_polygons(Patch(10, 20, mask))
    assert [[ring.tolist() for ring in polygon] for polygon in polygons] == [
        [[[20, 10], [27, 10], [27, 17], [20, 17]], [[21, 11], [21, 16], [26, 16], [26, 11]]],
        [[[22, 12], [25, 12], [25, 15], [22, 15]], [[23, 13], [23, 14], [24, 14], [24, 13]]],
    ]


def test_what_meets_in_a_corner_only_is_cut_there() -> None:
    diagonal = mask_to_polygons(Patch(0, 0, np.eye(2, dtype=bool)))
    assert [[ring.tolist() for ring in polygon] for polygon in diagonal] == [
        [[[0, 0], [1, 0], [1, 1], [0, 1]]],
        [[[1, 1], [2, 1], [2, 2], [1, 2]]],
    ]
    closed = np.ones((3, 3), dtype=bool)  # around a hole that touches the outside in a corner
    closed[1, 1] = closed[0, 0] = False
    [polygon] = mask_to_polygons(Patch(0, 0, closed))
    assert [_area(ring) for ring in polygon] == [8, -1]


def test_nothing_has_no_outline() -> None:
    assert mask_to_polygons(Patch(0, 0, np.zeros((0, 0), dtype=bool))) == []
    assert mask_to_polygons(Patch(3, 4, np.zeros((2, 2), dtype=bool))) == []


def test_outlines_that_take_long_to_draw_are_refused() -> None:
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    assert polygons_to_patch([4 * square], (8, 8)).mask.sum() == 16
    side = 60_000
    assert polygons_to_patch([np.array([[side, 0], [side, 1], [side + 1, 1]])] * 99, (8, 8)).mask.sum() == 0  # far away
    with pytest.raises(UserError, match=rf"{limits.OUTLINE:,}"):
        polygons_to_patch([side * square] * (limits.OUTLINE // (4 * side) + 1), (8, 8))
    for broken in (square[:2], square + np.nan, square * 2 * limits.CORNER):
        with pytest.raises(UserError, match="three corners"):
            polygons_to_patch([square, broken], (8, 8))
