"""Identity switches: how often a tracker changes the id of an object (CLEAR MOT, Bernardin and Stiefelhagen, 2008).

Counts of one clip, which can be added up. Knows no scores.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer
from scipy.optimize import linear_sum_assignment

from mask2former.metrics.overlaps import common_runs, count_pairs
from mask2former.ops.sparse_masks import SparseMasks, pairwise_iou
from mask2former.structures import PanopticSegmentation
from mask2former.structures.ground_truth import PanopticGroundTruth

__all__ = ["IdentityCounts", "add_identities", "count_identities", "count_panoptic_identities", "no_identities"]

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
    frames: Iterable[tuple[Integer[np.ndarray, " N"], Bool[np.ndarray, "N H W"]]],
    ground_truth: Bool[np.ndarray, "G T H W"],
) -> IdentityCounts:
    """Identity switches of one clip.

    In each frame, true and predicted objects of the pairs of the frame before are paired again as long as their mask
    IoU is at least 0.5, whatever else overlaps better; so two tracks that lie on one object do not take turns. All
    others are then paired, each once, so that the sum of IoUs is the largest; pairs below 0.5 do not count. A pair
    whose object had another id the last time that it was found, however long ago, is a switch.

    Args:
        frames: ids, each at most once, and masks of every frame in the order of time.
        ground_truth: of all frames.
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
    """Identity switches of the things of one clip, as :func:`count_identities`, whatever their classes.

    Crowd regions are no objects, and void is taken off the union, as in panoptic quality.

    Args:
        predictions: of every frame, with ids that stay the same over time.
        ground_truths: likewise, at the same size.
        things: indices of the classes that are things.
    """

    def overlaps() -> Iterator[_Frame]:
        for prediction, ground_truth in zip(predictions, ground_truths, strict=True):
            true = [number for number, label, crowd in ground_truth.segments if label in things and not crowd]
            found = [segment.id for segment in prediction.segments if segment.label in things]
            runs = common_runs(ground_truth.ids, prediction.ids)
            pixels = count_pairs(
                _codes(runs.first, [0, *true]),
                _codes(runs.second, found),
                runs.lengths,
                (len(true) + 2, len(found) + 1),
            )[:-1]  # void and the true objects, by found objects and the rest
            shared = pixels[1:, :-1]
            everything = np.array([np.count_nonzero(prediction.ids == number) for number in found], dtype=np.int64)
            unions = pixels[1:].sum(axis=1)[:, None] + everything - pixels[0, :-1] - shared
            ious = np.divide(shared, unions, out=np.zeros(shared.shape), where=shared > 0)
            seen = np.flatnonzero(pixels[1:].any(axis=1))
            yield _Frame([true[row] for row in seen], found, ious[seen])

    return _count(overlaps())


class _Frame(NamedTuple):
    """The true objects that have pixels, the predicted ones, and how they overlap."""

    true: list[int]
    found: list[int]
    ious: Float64[np.ndarray, "G N"]


def _codes(values: Integer[np.ndarray, " R"], listed: list[int]) -> Int64[np.ndarray, " R"]:
    """The index of every value in the list, and the length of the list for all others."""
    unique, inverse = np.unique(values, return_inverse=True)
    index_of = {number: index for index, number in enumerate(listed)}
    return np.array([index_of.get(number, len(listed)) for number in unique.tolist()], dtype=np.int64)[inverse]


def _count(frames: Iterable[_Frame]) -> IdentityCounts:
    last_id: dict[int, int] = {}  # of a true object, when it was found last
    previous: dict[int, int] = {}  # the pairs of the frame before
    switches = found = present = 0
    for frame in frames:
        present += len(frame.true)
        ious = np.where(frame.ious < _VALID_IOU, 0.0, frame.ious)
        row_of = {number: row for row, number in enumerate(frame.true)}
        column_of = {number: column for column, number in enumerate(frame.found)}
        assert len(column_of) == len(frame.found), "an id occurs twice in one frame"
        pairs = [
            (row_of[true], column_of[number])
            for true, number in previous.items()
            if true in row_of and number in column_of
        ]
        pairs = [pair for pair in pairs if ious[pair] > 0]
        for row, column in pairs:  # they are taken
            ious[row], ious[:, column] = 0.0, 0.0
        rows, columns = linear_sum_assignment(ious, maximize=True)
        pairs += [pair for pair in zip(rows.tolist(), columns.tolist(), strict=True) if ious[pair] > 0]
        previous = {frame.true[row]: frame.found[column] for row, column in pairs}
        switches += sum(last_id.get(true, number) != number for true, number in previous.items())
        last_id |= previous
        found += len(pairs)
    return IdentityCounts(switches, found, present)
