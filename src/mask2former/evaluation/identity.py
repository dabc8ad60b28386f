"""Identity switches: how often a tracker changes the id of an object (CLEAR MOT, Bernardin and Stiefelhagen, 2008).

Counts of one clip, which can be added up. Knows no scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer
from scipy.optimize import linear_sum_assignment

from mask2former.evaluation.video import track_ious

__all__ = ["IdentityCounts", "add_identities", "count_identities", "no_identities"]

_VALID_IOU = 0.5  # least mask IoU of a pair


class IdentityCounts(NamedTuple):
    """Of one clip or several.

    Attributes:
        switches: how often a true object was found under another id than the last time that it was found.
        found: true objects with a predicted mask, over all frames.
        present: true objects with a pixel, over all frames.
    """

    switches: int
    found: int
    present: int


def no_identities() -> IdentityCounts:
    """Where adding up starts."""
    return IdentityCounts(0, 0, 0)


def add_identities(one: IdentityCounts, other: IdentityCounts) -> IdentityCounts:
    """The counts of both."""
    return IdentityCounts(*(a + b for a, b in zip(one, other, strict=True)))


def count_identities(
    frames: Iterable[tuple[Integer[np.ndarray, " N"], Bool[np.ndarray, "N H W"]]], truth: Bool[np.ndarray, "G T H W"]
) -> IdentityCounts:
    """Identity switches of one clip.

    In each frame, true and predicted objects of the pairs of the frame before are paired again as long as their mask
    IoU is at least 0.5, whatever else overlaps better; so two tracks that lie on one object do not take turns. All
    others are then paired, each once, so that the sum of IoUs is the largest; pairs below 0.5 do not count. A pair
    whose object had another id the last time that it was found, however long ago, is a switch.

    Args:
        frames: ids, each at most once, and masks of every frame in the order of time.
        truth: of all frames.
    """
    last_id: dict[int, int] = {}  # of a true object, when it was found last
    previous: dict[int, int] = {}  # the pairs of the frame before
    switches = found = present = 0
    for place, (numbers, masks) in enumerate(frames):
        true = truth[:, place]
        present += int(np.count_nonzero(true.any(axis=(1, 2))))
        ious = track_ious(true[:, None], masks[:, None])
        ious[ious < _VALID_IOU] = 0.0
        column_of = {number: column for column, number in enumerate(numbers.tolist())}
        assert len(column_of) == len(numbers), "an id is given twice in one frame"
        pairs = [(row, column_of[number]) for row, number in previous.items() if number in column_of]
        pairs = [(row, column) for row, column in pairs if ious[row, column] > 0]
        for row, column in pairs:  # they are taken
            ious[row], ious[:, column] = 0.0, 0.0
        rows, columns = linear_sum_assignment(ious, maximize=True)
        pairs += [pair for pair in zip(rows.tolist(), columns.tolist(), strict=True) if ious[pair] > 0]
        previous = {row: int(numbers[column]) for row, column in pairs}
        switches += sum(last_id.get(row, number) != number for row, number in previous.items())
        last_id |= previous
        found += len(pairs)
    return IdentityCounts(switches, found, present)
