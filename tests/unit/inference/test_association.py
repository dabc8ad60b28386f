"""Linking objects between windows: by masks, states of queries and classes, with bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from mask2former.config import TrackingConfig, parse
from mask2former.errors import UserError
from mask2former.inference.association import Candidates, TrackLinker

CAT, DOG = 0, 1


def square(top: int, left: int, side: int = 6, size: int = 32) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    if top >= 0:
        mask[top : top + side, left : left + side] = True
    return mask


def found(first_frame: int, *rows: tuple[list[np.ndarray], int, int], certainty: float = 0.9) -> Candidates:
    """Candidates from (masks of the frames, index of the feature, class); different features are orthogonal."""
    probabilities = np.full((len(rows), 3), 0.02, dtype=np.float32)
    for row, (_, _, label) in enumerate(rows):
        probabilities[row, label] = certainty - 0.01 * row
    length = len(rows[0][0]) if rows else 1
    masks = np.array([masks for masks, _, _ in rows], dtype=bool).reshape(len(rows), length, 32, 32)
    features = np.eye(8, dtype=np.float32)[[state for _, state, _ in rows]]
    return Candidates(first_frame, masks, features.reshape(len(rows), 8), probabilities)


def numbers(linker: TrackLinker, candidates: Candidates) -> list[int]:
    return linker.update(candidates).tolist()


def test_an_object_keeps_its_number_whatever_the_order() -> None:
    linker = TrackLinker(TrackingConfig())
    assert numbers(linker, found(0, ([square(2, 2)], 0, CAT), ([square(20, 20)], 1, DOG))) == [1, 2]
    assert numbers(linker, found(1, ([square(21, 20)], 1, DOG), ([square(2, 3)], 0, CAT))) == [2, 1]
    assert numbers(linker, found(2, ([square(10, 10)], 2, CAT), ([square(2, 4)], 0, CAT))) == [3, 1]


def test_a_fast_object_is_followed_by_its_state_where_masks_do_not_meet() -> None:
    linker = TrackLinker(TrackingConfig())
    numbers(linker, found(0, ([square(2, 2)], 0, CAT)))
    assert numbers(linker, found(1, ([square(2, 22)], 0, CAT))) == [1]


def test_twins_that_move_steadily_are_told_apart_by_where_they_go() -> None:
    """Two objects with equal features and classes that pass each other keep their tracks because of their motion."""
    linker = TrackLinker(TrackingConfig())
    numbers(linker, found(0, ([square(2, 0)], 0, CAT), ([square(2, 26)], 0, CAT)))
    for step in range(1, 9):
        right, left = [square(2, 3 * step)], [square(2, 26 - 3 * step)]
        if step in (4, 5):  # one hides the other
            assert numbers(linker, found(step, (right, 0, CAT))) == [1]
        else:
            assert numbers(linker, found(step, (right, 0, CAT), (left, 0, CAT))) == [1, 2]


def test_a_lost_object_is_found_again_by_state_and_class() -> None:
    linker = TrackLinker(TrackingConfig(max_lost=10))
    numbers(linker, found(0, ([square(2, 2)], 0, CAT), ([square(20, 20)], 1, DOG)))
    for index in range(1, 10):
        assert numbers(linker, found(index, ([square(20, 20)], 1, DOG))) == [2]
    returned = found(10, ([square(20, 20)], 1, DOG), ([square(2, 25)], 0, CAT))
    assert numbers(linker, returned) == [2, 1]


def test_after_the_limit_it_is_forgotten() -> None:
    linker = TrackLinker(TrackingConfig(max_lost=5))
    numbers(linker, found(0, ([square(2, 2)], 0, CAT)))
    for index in range(1, 7):
        numbers(linker, found(index))
    assert len(linker) == 0
    assert numbers(linker, found(7, ([square(2, 2)], 0, CAT))) == [2]


def test_another_class_or_state_is_not_a_lost_object() -> None:
    for state, label in ((3, CAT), (0, DOG)):
        linker = TrackLinker(TrackingConfig())
        numbers(linker, found(0, ([square(2, 2)], 0, CAT)))
        numbers(linker, found(1))
        assert numbers(linker, found(2, ([square(2, 2)], state, label))) == [2]


def test_memory_is_bounded_however_many_objects_come() -> None:
    linker = TrackLinker(TrackingConfig(max_lost=4))
    for index in range(60):
        objects = [([square(8 * row, 8 * (index % 4))], (row + index) % 8, index % 3) for row in range(3)]
        numbers(linker, found(index, *objects, certainty=0.9))
        assert len(linker) <= 3 * 5


def test_a_second_prediction_for_one_object_is_left_out() -> None:
    linker = TrackLinker(TrackingConfig())
    assert numbers(linker, found(0, ([square(2, 2)], 0, CAT), ([square(2, 3)], 1, DOG))) == [1, 0]
    double = found(1, ([square(2, 3)], 1, DOG), ([square(2, 2)], 0, CAT))
    assert TrackLinker(TrackingConfig()).update(double, non_overlapping=True).tolist() == [1, 2]


def test_windows_that_share_frames_are_compared_there() -> None:
    """Things that exchange positions within a window are matched by their masks in the frames that windows share."""
    linker = TrackLinker(TrackingConfig())
    down, up = [square(row, 4) for row in (0, 4, 8, 12)], [square(row, 20) for row in (12, 8, 4, 0)]
    assert numbers(linker, found(0, (down, 0, CAT), (up, 0, CAT))) == [1, 2]
    further_down, further_up = [square(row, 4) for row in (8, 12, 16, 20)], [square(row, 20) for row in (4, 0, 0, 0)]
    assert numbers(linker, found(2, (further_up, 0, CAT), (further_down, 0, CAT))) == [2, 1]


def test_classes_are_means_over_windows() -> None:
    linker = TrackLinker(TrackingConfig())
    numbers(linker, found(0, ([square(2, 2)], 0, CAT), certainty=0.9))
    numbers(linker, found(1, ([square(2, 2)], 0, CAT), certainty=0.6))
    assert linker.probabilities(1).tolist() == pytest.approx([0.75, 0.02, 0.02])


def test_a_stride_above_the_window_is_refused() -> None:
    with pytest.raises(UserError, match="stride 4 must not be above window 3"):
        parse(TrackingConfig, {"window": 3, "stride": 4}, "tracking settings")
