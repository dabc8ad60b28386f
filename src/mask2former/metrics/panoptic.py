"""Panoptic quality (Kirillov et al., CVPR 2019) of id maps, with the published rules for void and crowd regions.

Boundary panoptic quality (Cheng et al., CVPR 2021) is included. The core counts one image in a single pass over its
pixels, and the evaluator adds up the counts. This module does not depend on how predictions are made or where ground
truth is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer

from mask2former.errors import UserError
from mask2former.metrics.boundary import boundary, boundary_width
from mask2former.metrics.overlaps import added, by_class, check_sizes, common_runs, count_pairs, defined_mean, looked_up
from mask2former.ops.masks import Patch, iou
from mask2former.structures import Categories, PanopticSegmentation
from mask2former.structures.ground_truth import PanopticGroundTruth

__all__ = [
    "PanopticCounts",
    "PanopticEvaluator",
    "count_boundary_matches",
    "count_matches",
    "no_counts",
    "qualities",
]

VOID = 0  # id of pixels that belong to no segment
_MAX_ID = 1 << 24  # ids must fit into the three bytes of the COCO encoding


class PanopticCounts(NamedTuple):
    """The counts behind panoptic quality, per class."""

    true_positives: Int64[np.ndarray, " K"]
    false_positives: Int64[np.ndarray, " K"]
    false_negatives: Int64[np.ndarray, " K"]
    iou_sums: Float64[np.ndarray, " K"]  # of the true positives


class _Overlaps(NamedTuple):
    """Overlap of the true (G) and the predicted (D) segments of one image, in pixels."""

    pixels: Int64[np.ndarray, "G D"]
    on_void: Int64[np.ndarray, " D"]
    predicted_areas: Int64[np.ndarray, " D"]
    ious: Float64[np.ndarray, "G D"]  # void excluded from the union; 0 for pairs that cannot match
    true_labels: Int64[np.ndarray, " G"]
    is_crowd: Bool[np.ndarray, " G"]
    predicted_labels: Int64[np.ndarray, " D"]


def count_matches(
    predicted_ids: Integer[np.ndarray, "H W"],
    predicted_segments: Sequence[tuple[int, int]],
    ground_truth: PanopticGroundTruth,
    num_classes: int,
) -> PanopticCounts:
    """Matches of one image.

    A predicted and a true segment of the same class match when their IoU, with void excluded from the union, exceeds
    0.5; there is at most one such partner. Crowd regions match nothing and are not counted as missed. A prediction
    without a match is no error when more than half of it lies on void or on the crowd region of its class.

    Args:
        predicted_ids: id map of the prediction, in which 0 is void.
        predicted_segments: ``(id, class index)`` of every predicted segment; each must have pixels.
        ground_truth: the ground truth, of the same size.
        num_classes: length of the counts.

    Raises:
        UserError: sizes differ, or the id map and the list of predicted segments have different ids.
    """
    found = _overlaps(predicted_ids, predicted_segments, ground_truth)
    return _count(found, found.ious, num_classes)


def count_boundary_matches(
    predicted_ids: Integer[np.ndarray, "H W"],
    predicted_segments: Sequence[tuple[int, int]],
    ground_truth: PanopticGroundTruth,
    num_classes: int,
) -> tuple[PanopticCounts, PanopticCounts]:
    """Matches of one image by the IoU of segments, and by the lesser of that and the IoU of their boundaries.

    As void does not count in the union of segments, pixels of the predicted boundary on void do not count in the union
    of boundaries. Boundaries are those of complete segments, so an edge towards void is a boundary, too. In both
    counts, whether a prediction without a match is excused depends on the complete segments.

    Args:
        predicted_ids: see :func:`count_matches`.
        predicted_segments: see :func:`count_matches`.
        ground_truth: see :func:`count_matches`.
        num_classes: see :func:`count_matches`.

    Raises:
        UserError: see :func:`count_matches`.
    """
    found = _overlaps(predicted_ids, predicted_segments, ground_truth)
    lesser = found.ious.copy()
    is_void = ground_truth.ids == VOID
    width = boundary_width((predicted_ids.shape[0], predicted_ids.shape[1]))
    for row, column in np.argwhere(found.ious > 0.5).tolist():  # other pairs match in neither way
        mine = boundary(Patch(0, 0, predicted_ids == predicted_segments[column][0]), width)
        theirs = boundary(Patch(0, 0, ground_truth.ids == ground_truth.segments[row][0]), width)
        around = is_void[mine.top : mine.top + mine.mask.shape[0], mine.left : mine.left + mine.mask.shape[1]]
        off = int(np.count_nonzero(mine.mask & around))
        lesser[row, column] = min(lesser[row, column], iou(mine, theirs, off))
    return _count(found, found.ious, num_classes), _count(found, lesser, num_classes)


def _overlaps(
    predicted_ids: Integer[np.ndarray, "H W"],
    predicted_segments: Sequence[tuple[int, int]],
    ground_truth: PanopticGroundTruth,
) -> _Overlaps:
    true_ids, true_segments, true_areas = ground_truth
    check_sizes(predicted_ids.shape, true_ids.shape)
    listed = [identifier for identifier, _ in predicted_segments]
    runs = common_runs(true_ids, predicted_ids)
    true_codes = _codes(runs.first, [identifier for identifier, _, _ in true_segments])
    shape = len(true_segments) + 2, len(listed) + 2
    pixels = count_pairs(true_codes, _codes(runs.second, listed), runs.lengths, shape)
    # Rows are void, ids that are not listed, and the true segments. Columns are the same for the prediction.
    predicted_areas = pixels.sum(axis=0)
    if true_areas is None:
        true_areas = pixels.sum(axis=1)[2:]
    if predicted_areas[1] or not predicted_areas[2:].all():
        raise UserError(
            "the predicted id map and its list of segments differ: every id but 0 must be in both (got "
            f"{sorted(np.unique(predicted_ids).tolist())[:20]} and {sorted(listed)[:20]})"
        )
    predicted_areas = predicted_areas[2:]
    on_void, pixels = pixels[0, 2:], pixels[2:, 2:]
    true_labels = np.array([label for _, label, _ in true_segments], dtype=np.int64)
    is_crowd = np.array([crowd for _, _, crowd in true_segments], dtype=bool)
    predicted_labels = np.array([label for _, label in predicted_segments], dtype=np.int64)
    unions = true_areas[:, None] + predicted_areas - pixels - on_void
    comparable = (true_labels[:, None] == predicted_labels) & ~is_crowd[:, None] & (pixels > 0)
    ious = np.divide(pixels, unions, out=np.zeros(pixels.shape), where=comparable)
    return _Overlaps(pixels, on_void, predicted_areas, ious, true_labels, is_crowd, predicted_labels)


def _count(found: _Overlaps, ious: Float64[np.ndarray, "G D"], num_classes: int) -> PanopticCounts:
    matched_true, matched_predicted = np.nonzero(ious > 0.5)
    true_labels, predicted_labels = found.true_labels, found.predicted_labels
    missed = ~found.is_crowd
    missed[matched_true] = False
    ignored = found.on_void.copy()
    # Parity: if a class has several crowd regions, only the last one listed counts.
    crowd_of_class = {label: row for row, label in enumerate(true_labels.tolist()) if found.is_crowd[row]}
    for column, label in enumerate(predicted_labels.tolist()):
        if label in crowd_of_class:
            ignored[column] += found.pixels[crowd_of_class[label], column]
    wrong = ignored / found.predicted_areas <= 0.5
    wrong[matched_predicted] = False

    def per_class(labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(labels, weights=weights, minlength=num_classes)

    return PanopticCounts(
        true_positives=per_class(true_labels[matched_true]),
        false_positives=per_class(predicted_labels[wrong]),
        false_negatives=per_class(true_labels[missed]),
        iou_sums=per_class(true_labels[matched_true], ious[matched_true, matched_predicted]),
    )


def _codes(values: Integer[np.ndarray, " R"], ids: Sequence[int]) -> Int64[np.ndarray, " R"]:
    """Dense codes for the values of an id map: 0 is void, 1 an id that is not listed, then the listed ids in order."""
    if len(set(ids)) != len(ids) or any(not VOID < identifier < _MAX_ID for identifier in ids):
        raise UserError(f"segment ids must be unique and in 1..{_MAX_ID - 1}; got {list(ids)[:20]}")
    lowest, highest = int(values.min(initial=0)), int(values.max(initial=0))
    if lowest < 0 or highest >= _MAX_ID:
        raise UserError(f"ids in an id map must be in 0..{_MAX_ID - 1}; got {lowest}..{highest}")
    return looked_up(values, {VOID: 0, **{identifier: code for code, identifier in enumerate(ids, 2)}}, missing=1)


class PanopticEvaluator:
    """Adds up the counts of images; :meth:`compute` returns percent (Mask2Former, Table 1).

    Args:
        categories: the classes of the model.
        boundary: also measure boundary panoptic quality, see :func:`count_boundary_matches`.
    """

    def __init__(self, categories: Categories, *, boundary: bool = False) -> None:
        self.categories = categories
        self.counts = no_counts(len(categories))
        self.boundary_counts = no_counts(len(categories)) if boundary else None

    def update(
        self,
        prediction: PanopticSegmentation,
        ground_truth: PanopticGroundTruth | tuple[Integer[np.ndarray, "H W"], Sequence[tuple[int, int, bool]]],
    ) -> None:
        """Add one image.

        Raises:
            UserError: see :func:`count_matches`.
        """
        segments = [(segment.id, segment.label) for segment in prediction.segments]
        if not isinstance(ground_truth, PanopticGroundTruth):
            ground_truth = PanopticGroundTruth(*ground_truth)
        arguments = prediction.ids, segments, ground_truth, len(self.categories)
        if self.boundary_counts is None:
            self.counts = added(self.counts, count_matches(*arguments))
        else:
            counts, boundary_counts = count_boundary_matches(*arguments)
            self.counts = added(self.counts, counts)
            self.boundary_counts = added(self.boundary_counts, boundary_counts)

    def merge(self, other: PanopticEvaluator) -> None:
        """Add the images of another evaluator, for instance from another process (evaluators can be pickled)."""
        self.counts = added(self.counts, other.counts)
        if self.boundary_counts is not None:
            assert other.boundary_counts is not None
            self.boundary_counts = added(self.boundary_counts, other.boundary_counts)

    def compute(self) -> dict[str, float]:
        """``panoptic/PQ``, ``SQ``, ``RQ``, also with ``_things`` and ``_stuff``; percent, NaN where undefined.

        With ``boundary``, there are also ``panoptic/boundary_PQ`` and so on.
        """
        everything = range(len(self.categories))
        groups = {"": everything, "_things": self.categories.thing_indices, "_stuff": self.categories.stuff_indices}
        return {
            f"panoptic/{name}{suffix}": defined_mean(column[list(group)])
            for suffix, group in groups.items()
            for name, column in self._qualities().items()
        }

    def per_class(self) -> dict[str, dict[str, float]]:
        """``PQ``, ``SQ`` and ``RQ`` of every class by name; percent, NaN for classes neither present nor predicted.

        ``boundary_PQ`` and so on are included if they were requested.
        """
        return by_class(self.categories, self._qualities())

    def _qualities(self) -> dict[str, Float64[np.ndarray, " K"]]:
        values = qualities(self.counts)
        if self.boundary_counts is not None:
            values |= {f"boundary_{name}": column for name, column in qualities(self.boundary_counts).items()}
        return values


def no_counts(num_classes: int) -> PanopticCounts:
    """Counts of zero, to start a sum."""
    zeros = np.zeros(num_classes, dtype=np.int64)
    return PanopticCounts(zeros, zeros, zeros, zeros.astype(np.float64))


def qualities(counts: PanopticCounts) -> dict[str, Float64[np.ndarray, " K"]]:
    """``PQ``, ``SQ`` and ``RQ`` of every class in percent; NaN for classes without any segment on either side."""
    matches, wrong, missed, iou_sums = counts
    weight = matches + 0.5 * wrong + 0.5 * missed
    seen = np.where(weight > 0, 1.0, np.nan)  # other classes are not part of means
    return {
        "PQ": 100.0 * seen * iou_sums / np.where(weight > 0, weight, 1),
        "SQ": 100.0 * seen * iou_sums / np.maximum(matches, 1),
        "RQ": 100.0 * seen * matches / np.where(weight > 0, weight, 1),
    }
