from __future__ import annotations

import numpy as np
import pytest

from mask2former.metrics.overlaps import common_runs, count_pairs, looked_up


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
def test_pairs_are_counted_as_pixel_by_pixel(seed: int, kind: type) -> None:
    generator = np.random.default_rng(seed)
    first, second = (np.repeat(generator.integers(0, 5, (6, 7)), 1 + seed, axis=1).astype(kind) for _ in range(2))
    runs = common_runs(first, np.roll(second, 1))
    expected = np.zeros((5, 6), dtype=np.int64)
    np.add.at(expected, (first, np.roll(second, 1)), 1)
    np.testing.assert_array_equal(count_pairs(runs.first, runs.second, runs.lengths, (5, 6)), expected)


def test_one_value_everywhere_is_one_run_over_all_rows() -> None:
    runs = common_runs(np.ones((4, 5), dtype=np.int32), np.zeros((4, 5), dtype=np.uint8))
    assert [part.tolist() for part in runs] == [[20], [1], [0]]


def test_no_pixels_have_no_runs() -> None:
    runs = common_runs(np.zeros((0, 5), dtype=np.int32), np.zeros((0, 5), dtype=np.int32))
    assert not any(len(part) for part in runs)
    assert not count_pairs(runs.first, runs.second, runs.lengths, (2, 3)).any()


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64])
def test_ids_are_looked_up_one_by_one(kind: type) -> None:
    ids = np.array([[0, 7, 3], [200, 7, 9]], dtype=kind)
    value_of = {7: 1, 0: 5, 200: 2, 1: 8}
    found = looked_up(ids, value_of, missing=-1)
    np.testing.assert_array_equal(found, [[value_of.get(int(number), -1) for number in row] for row in ids])
    assert (looked_up(ids, {}, missing=4) == 4).all()


def test_large_ids_need_no_large_table() -> None:
    assert looked_up(np.array([1 << 40, 2]), {1 << 40: 3}, missing=0).tolist() == [3, 0]
