"""Identity switches: how objects are paired, and what counts as a change.

``reference`` follows the definition literally: it finds the best pairing by trying all of them.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from mask2former.metrics.identity import IdentityCounts, count_identities, no_identities
from mask2former.metrics.overlaps import added

Frames = list[tuple[np.ndarray, np.ndarray]]


def square(left: int, width: int = 8) -> np.ndarray:
    mask = np.zeros((10, 40), dtype=bool)
    if left >= 0:
        mask[:, left : left + width] = True
    return mask


def frames(*rows: dict[int, np.ndarray]) -> Frames:
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


def test_half_of_a_mask_is_enough_less_is_not_and_each_counts_once() -> None:
    assert count_identities(frames({1: square(0, 3)}, {}, {}, {}), TRUTH).found == 0
    assert count_identities(frames({1: square(0, 4)}, {}, {}, {}), TRUTH).found == 1  # an IoU of exactly 0.5
    more = square(0, 5)
    rows = frames({1: more, 2: LEFT}, {1: more, 2: LEFT}, {}, {})  # two predictions for one object: the better counts
    assert count_identities(rows, TRUTH) == IdentityCounts(switches=0, found=2, present=7)


def alternating(*, with_second: bool) -> tuple[Frames, np.ndarray]:
    """One object that tracks 1 and 2 take turns to cover better, both always by more than half."""
    exact, less = square(0, 8), square(0, 5)
    rows = [{1: exact, 2: less} if index % 2 == 0 else {1: less, 2: exact} for index in range(6)]
    return frames(*(row if with_second else {1: row[1]} for row in rows)), np.stack([exact] * 6)[None]


def test_of_two_tracks_that_cover_an_object_alternately_the_first_is_kept() -> None:
    found, ground_truth = alternating(with_second=True)
    assert count_identities(found, ground_truth) == IdentityCounts(switches=0, found=6, present=6)
    assert count_identities(found, ground_truth) == count_identities(*alternating(with_second=False))


def test_a_pair_is_kept_only_as_long_as_it_is_valid() -> None:
    ground_truth = np.stack([[LEFT] * 4])
    worse, invalid = square(0, 5), square(0, 3)
    found = count_identities(
        frames({1: LEFT}, {1: worse, 2: LEFT}, {1: invalid, 2: LEFT}, {1: LEFT, 2: worse}), ground_truth
    )
    assert found == IdentityCounts(switches=1, found=4, present=4)  # to 2, which is then kept


def test_a_pair_that_was_lost_for_a_frame_has_no_priority_but_is_remembered() -> None:
    ground_truth = np.stack([[LEFT] * 3])
    found = count_identities(frames({1: LEFT}, {}, {1: square(0, 5), 2: LEFT}), ground_truth)
    assert found == IdentityCounts(switches=1, found=2, present=3)
    found = count_identities(frames({1: LEFT}, {}, {1: LEFT, 2: square(0, 5)}), ground_truth)
    assert found == IdentityCounts(switches=0, found=2, present=3)


def test_a_kept_pair_goes_before_the_sum_of_all_overlaps() -> None:
    """Track 1 keeps the left object, although both objects would have a track if it took the right one."""
    left, right = square(0, 8), square(4, 8)
    ground_truth = np.stack([[left, left], [right, right]])
    found = count_identities(frames({1: left}, {1: square(2, 8), 2: square(0, 8)}), ground_truth)
    assert found == IdentityCounts(switches=0, found=2, present=4)  # by the sum of overlaps it would be 3 found


def test_counts_add_up() -> None:
    found, ground_truth = alternating(with_second=True)
    counts = count_identities(found, ground_truth)
    assert added(added(no_identities(), counts), counts) == IdentityCounts(0, 12, 12)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0


def reference(found: Frames, ground_truth: np.ndarray) -> IdentityCounts:
    """Counts by Bernardin and Stiefelhagen, 2008, section 2.1.2, steps 1 to 4."""
    history: dict[int, int] = {}
    before: dict[int, int] = {}
    mismatches = matches = objects = 0
    for index, (numbers, masks) in enumerate(found):
        hypotheses = dict(zip(numbers.tolist(), masks, strict=True))
        visible = {row: mask for row, mask in enumerate(ground_truth[:, index]) if mask.any()}
        objects += len(visible)
        now = {
            row: number
            for row, number in before.items()
            if row in visible and number in hypotheses and iou(visible[row], hypotheses[number]) >= 0.5
        }
        rows = [row for row in visible if row not in now]
        free = [number for number in hypotheses if number not in now.values()]
        best, most = {}, 0.0
        for chosen in permutations([*free, *[None] * len(rows)], len(rows)):
            pairs = {row: number for row, number in zip(rows, chosen, strict=True) if number is not None}
            values = [iou(visible[row], hypotheses[number]) for row, number in pairs.items()]
            if all(value >= 0.5 for value in values) and sum(values) > most:
                best, most = pairs, sum(values)
        now |= best
        mismatches += sum(row in history and history[row] != number for row, number in now.items())
        history |= now
        before = now
        matches += len(now)
    return IdentityCounts(mismatches, matches, objects)


@pytest.mark.parametrize("seed", range(20))
def test_random_clips_are_counted_as_the_definition_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ground_truth = np.stack([[square(int(rng.integers(-1, 24))) for _ in range(8)] for _ in range(3)])
    rows: list[dict[int, np.ndarray]] = []
    for index in range(8):
        row = {}
        for number in rng.permutation(5)[: rng.integers(0, 5)].tolist():
            left = int(ground_truth[rng.integers(3), index].any(axis=0).argmax() + rng.integers(-2, 3))
            noise = rng.random((10, 40)) < 0.05  # so that no two pairings are equally good
            row[number + 1] = square(max(0, left), int(rng.integers(6, 11))) ^ noise
        rows.append(row)
    found = frames(*rows)
    assert count_identities(found, ground_truth) == reference(found, ground_truth)
    assert reference(found, ground_truth).found > 0
