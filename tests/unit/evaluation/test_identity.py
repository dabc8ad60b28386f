"""Identity switches: who is paired with whom, and what counts as a change."""

from __future__ import annotations

import numpy as np

from mask2former.evaluation.identity import IdentityCounts, count_identities


def square(left: int, width: int = 8) -> np.ndarray:
    mask = np.zeros((10, 40), dtype=bool)
    if left >= 0:
        mask[:, left : left + width] = True
    return mask


def frames(*rows: dict[int, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (np.array(list(row), dtype=int), np.array(list(row.values()), dtype=bool).reshape(-1, 10, 40)) for row in rows
    ]


LEFT, RIGHT, NOTHING = square(0), square(20), square(-1)
TRUTH = np.stack([[LEFT] * 4, [RIGHT, NOTHING, RIGHT, RIGHT]])


def test_ids_that_stay_are_no_switches() -> None:
    found = count_identities(frames({7: LEFT, 3: RIGHT}, {7: LEFT}, {3: RIGHT, 7: LEFT}, {7: LEFT, 3: RIGHT}), TRUTH)
    assert found == IdentityCounts(switches=0, found=7, present=7)


def test_a_swap_is_two_switches_and_a_gap_is_looked_over() -> None:
    found = count_identities(frames({1: LEFT, 2: RIGHT}, {1: LEFT}, {2: LEFT, 1: RIGHT}, {2: LEFT, 1: RIGHT}), TRUTH)
    assert found == IdentityCounts(switches=2, found=7, present=7)
    found = count_identities(frames({1: LEFT}, {}, {5: LEFT}, {5: LEFT}), TRUTH)
    assert found == IdentityCounts(switches=1, found=3, present=7)


def test_half_of_a_mask_is_not_enough_and_each_counts_once() -> None:
    half = square(0, 4)
    assert count_identities(frames({1: half}, {}, {}, {}), TRUTH).found == 0
    more = square(0, 5)
    rows = frames({1: more, 2: LEFT}, {1: more, 2: LEFT}, {}, {})  # two answers for one object: the better counts
    assert count_identities(rows, TRUTH) == IdentityCounts(switches=0, found=2, present=7)
