"""Identity switches: how often a tracker changes the id of an object (CLEAR MOT, Bernardin and Stiefelhagen, 2008).

The counts of clips can be added up. Scores are not used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Integer
from scipy.optimize import linear_sum_assignment

from mask2former.metrics.overlaps import common_runs, count_pairs, looked_up
from mask2former.ops.sparse_masks import SparseMasks, pairwise_iou
from mask2former.structures import PanopticSegmentation
from mask2former.structures.ground_truth import PanopticGroundTruth

__all__ = ["IdentityCounts", "count_identities", "count_panoptic_identities", "no_identities"]

_VALID_IOU = 0.5  # least mask IoU of a pair


class IdentityCounts(NamedTuple):
    """Counts of one clip or several.

    Attributes:
        switches: how often a true object was found under a different id than the last time it was found.
        found: number of true objects with a predicted mask, over all frames.
        present: number of true objects with at least one pixel, over all frames.
    """

    switches: int
    found: int
    present: int


def no_identities() -> IdentityCounts:
    """Counts of zero, to start a sum."""
    return IdentityCounts(0, 0, 0)


def count_identities(
    frames: Iterable[tuple[Integer[np.ndarray, " N"], Bool[np.ndarray, "N H W"]]],
    ground_truth: Bool[np.ndarray, "G T H W"],
) -> IdentityCounts:
    """Identity switches of one clip.

    Pairs of true and predicted objects from the previous frame are kept as long as their mask IoU is at least 0.5, even
    if other pairs overlap more, so two tracks on one object do not take turns. All other objects are then paired one to
    one so that the sum of IoUs is the largest; pairs below 0.5 do not count. A pair is a switch if its true object had
    another id the last time it was found, however long ago.

    Args:
        frames: unique ids, and masks, of every frame in temporal order.
        ground_truth: masks of the true objects in all frames.
    """

    def overlaps() -> Iterator[_Frame]:
        for index, (numbers, masks) in enumerate(frames):
            true = ground_truth[:, index]
            seen = np.flatnonzero(true.any(axis=(1, 2)))
            ious = pairwise_iou([SparseMasks.of(true[seen])], [SparseMasks.of(masks)])
            yield _Frame(seen.tolist(), numbers.tolist(), ious)

    return _count(overlaps())


def count_panoptic_identities(
    predictions: Iterable[PanopticSegmentation], ground_truths: Iterable[PanopticGroundTruth], things: Collection[int]
) -> IdentityCounts:
    """Identity switches of the things of one clip, as in :func:`count_identities`, regardless of class.

    Crowd regions do not count as objects, and void is excluded from the union, as in panoptic quality.

    Args:
        predictions: of every frame, with ids that stay the same over time.
        ground_truths: of every frame, at the same size.
        things: indices of the classes that are things.
    """

    def overlaps() -> Iterator[_Frame]:
        for prediction, ground_truth in zip(predictions, ground_truths, strict=True):
            true = [number for number, label, crowd in ground_truth.segments if label in things and not crowd]
            found = [segment.id for segment in prediction.segments if segment.label in things]
            runs = common_runs(ground_truth.ids, prediction.ids)
            pixels = count_pairs(  # void, the true objects and the rest (rows), by found objects and the rest (columns)
                looked_up(runs.first, _indices([0, *true]), missing=len(true) + 1),
                looked_up(runs.second, _indices(found), missing=len(found)),
                runs.lengths,
                (len(true) + 2, len(found) + 1),
            )
            of_true, shared = pixels[1:-1], pixels[1:-1, :-1]
            unions = of_true.sum(axis=1)[:, None] + pixels.sum(axis=0)[:-1] - pixels[0, :-1] - shared
            ious = np.divide(shared, unions, out=np.zeros(shared.shape), where=shared > 0)
            seen = np.flatnonzero(of_true.any(axis=1))
            yield _Frame([true[row] for row in seen], found, ious[seen])

    return _count(overlaps())


def _indices(numbers: list[int]) -> dict[int, int]:
    return {number: index for index, number in enumerate(numbers)}


class _Frame(NamedTuple):
    """The true objects that have pixels, the predicted objects, and their IoUs."""

    true: list[int]
    found: list[int]
    ious: Float64[np.ndarray, "G N"]


def _count(frames: Iterable[_Frame]) -> IdentityCounts:
    last_id: dict[int, int] = {}  # by true object: its id when it was last found
    previous: dict[int, int] = {}  # the pairs of the previous frame
    switches = found = present = 0
    for frame in frames:
        present += len(frame.true)
        ious = np.where(frame.ious < _VALID_IOU, 0.0, frame.ious)
        row_of, column_of = _indices(frame.true), _indices(frame.found)
        assert len(column_of) == len(frame.found), "an id occurs twice in one frame"
        pairs = [
            (row_of[true], column_of[number])
            for true, number in previous.items()
            if true in row_of and number in column_of
        ]
        pairs = [pair for pair in pairs if ious[pair] > 0]
        for row, column in pairs:  # these are no longer free
            ious[row], ious[:, column] = 0.0, 0.0
        rows, columns = linear_sum_assignment(ious, maximize=True)
        pairs += [pair for pair in zip(rows.tolist(), columns.tolist(), strict=True) if ious[pair] > 0]
        previous = {frame.true[row]: frame.found[column] for row, column in pairs}
        switches += sum(last_id.get(true, number) != number for true, number in previous.items())
        last_id |= previous
        found += len(pairs)
    return IdentityCounts(switches, found, present)
