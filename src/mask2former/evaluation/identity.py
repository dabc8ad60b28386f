"""How often a tracker changes its mind about who is who: identity switches (Bernardin and Stiefelhagen, 2008).

Counts of one clip, which can be added up. Knows nothing of classes or scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer
from scipy.optimize import linear_sum_assignment

from mask2former.evaluation.video import track_ious

__all__ = ["IdentityCounts", "count_identities"]


class IdentityCounts(NamedTuple):
    """Of one clip or several.

    Attributes:
        switches: how often a true object was found under another id than the time before.
        found: true objects with a predicted mask, over all frames.
        present: true objects with a pixel, over all frames.
    """

    switches: int
    found: int
    present: int


def count_identities(
    frames: Iterable[tuple[Integer[np.ndarray, " N"], Bool[np.ndarray, "N H W"]]], truth: Bool[np.ndarray, "G T H W"]
) -> IdentityCounts:
    """Identity switches of one clip.

    In each frame true and predicted objects are paired, each once, so that the sum of mask IoUs is the largest; pairs
    of an IoU of 0.5 or less do not count.

    Args:
        frames: ids and masks of every frame in the order of time.
        truth: of all frames.
    """
    known: dict[int, int] = {}
    switches = found = present = 0
    for place, (numbers, masks) in enumerate(frames):
        true = truth[:, place]
        present += int(np.count_nonzero(true.any(axis=(1, 2))))
        ious = track_ious(true[:, None], masks[:, None])
        ious[ious <= 0.5] = 0.0
        for row, column in zip(*linear_sum_assignment(ious, maximize=True), strict=True):
            if ious[row, column] > 0:
                number = int(numbers[column])
                switches += known.get(row, number) != number
                known[row] = number
                found += 1
    return IdentityCounts(switches, found, present)
