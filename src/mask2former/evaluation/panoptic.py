"""Panoptic quality (Kirillov et al., CVPR 2019) of id maps, with the published rules for void and crowd regions.

The core counts one image with a single pass over its pixels; the evaluator adds the counts up. Nothing here knows
how predictions are made or where ground truth is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int64

from mask2former.errors import RequestError
from mask2former.structures import Categories, PanopticSegmentation, Target
from mask2former.structures.truths import PanopticTruth

__all__ = ["PanopticCounts", "PanopticEvaluator", "count_matches"]

VOID = 0  # id of pixels that belong to no segment
_MAX_ID = 1 << 24  # what the three bytes of the COCO encoding hold


class PanopticCounts(NamedTuple):
    """What panoptic quality is made of, per class."""

    true_positives: Int64[np.ndarray, " K"]
    false_positives: Int64[np.ndarray, " K"]
    false_negatives: Int64[np.ndarray, " K"]
    iou_sums: Float64[np.ndarray, " K"]  # of the true positives


def count_matches(
    predicted_ids: Int[np.ndarray, "H W"],
    predicted_segments: Sequence[tuple[int, int]],
    truth: PanopticTruth,
    num_classes: int,
) -> PanopticCounts:
    """Matches of one image.

    A predicted and a true segment of one class match when their IoU, with void taken off the union, exceeds 0.5; there
    is at most one such partner. Crowd regions match nothing and are not missed. An unmatched prediction is no error
    when more than half of it lies on void or on the crowd region of its class.

    Args:
        predicted_ids: id map of the prediction, 0 being void.
        predicted_segments: ``(id, class index)`` of every predicted segment; each must have pixels.
        truth: the ground truth, of the same size.
        num_classes: length of the counts.

    Raises:
        RequestError: sizes differ, or the ids of the predicted map and of its segments are not the same.
    """
    true_ids, true_segments = truth
    if predicted_ids.shape != true_ids.shape:
        raise RequestError(
            f"the prediction has {predicted_ids.shape} pixels and the ground truth {true_ids.shape}; "
            "resize the prediction to the size of the annotation"
        )
    listed = [identifier for identifier, _ in predicted_segments]
    height, width = len(true_segments) + 2, len(listed) + 2
    codes = _codes(true_ids, [identifier for identifier, _, _ in true_segments]) * width + _codes(predicted_ids, listed)
    overlaps = np.bincount(codes.ravel(), minlength=height * width).reshape(height, width)
    # Rows are void, ids that are not listed, and the true segments; columns the same for the prediction.
    true_areas, predicted_areas = overlaps.sum(axis=1)[2:], overlaps.sum(axis=0)
    if predicted_areas[1] or not predicted_areas[2:].all():
        raise RequestError(
            "the predicted id map and its list of segments differ: every id but 0 must be in both (got "
            f"{sorted(np.unique(predicted_ids).tolist())[:20]} and {sorted(listed)[:20]})"
        )
    predicted_areas = predicted_areas[2:]
    on_void, overlaps = overlaps[0, 2:], overlaps[2:, 2:]

    true_labels = np.array([label for _, label, _ in true_segments], dtype=np.int64)
    is_crowd = np.array([crowd for _, _, crowd in true_segments], dtype=bool)
    predicted_labels = np.array([label for _, label in predicted_segments], dtype=np.int64)
    unions = true_areas[:, None] + predicted_areas - overlaps - on_void
    comparable = (true_labels[:, None] == predicted_labels) & ~is_crowd[:, None] & (overlaps > 0)
    ious = np.divide(overlaps, unions, out=np.zeros(overlaps.shape), where=comparable)
    matched_true, matched_predicted = np.nonzero(ious > 0.5)

    missed = ~is_crowd
    missed[matched_true] = False
    ignored = on_void.copy()
    # Parity: of several crowd regions of one class only the last one listed counts.
    crowd_of_class = {label: row for row, label in enumerate(true_labels.tolist()) if is_crowd[row]}
    for column, label in enumerate(predicted_labels.tolist()):
        if label in crowd_of_class:
            ignored[column] += overlaps[crowd_of_class[label], column]
    wrong = ignored / predicted_areas <= 0.5
    wrong[matched_predicted] = False

    def per_class(labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(labels, weights=weights, minlength=num_classes)

    return PanopticCounts(
        true_positives=per_class(true_labels[matched_true]),
        false_positives=per_class(predicted_labels[wrong]),
        false_negatives=per_class(true_labels[missed]),
        iou_sums=per_class(true_labels[matched_true], ious[matched_true, matched_predicted]),
    )


def _codes(id_map: Int[np.ndarray, "H W"], ids: Sequence[int]) -> Int64[np.ndarray, "H W"]:
    """Dense codes for the ids of a map: 0 is void, 1 an id that is not listed, then the listed ids in order."""
    if len(set(ids)) != len(ids) or any(not VOID < identifier < _MAX_ID for identifier in ids):
        raise RequestError(f"segment ids must be unique and in 1..{_MAX_ID - 1}; got {list(ids)[:20]}")
    lowest, highest = int(id_map.min(initial=0)), int(id_map.max(initial=0))
    if lowest < 0 or highest >= _MAX_ID:
        raise RequestError(f"ids in an id map must be in 0..{_MAX_ID - 1}; got {lowest}..{highest}")
    table = np.ones(max(highest, *ids, 0) + 1, dtype=np.int64)
    table[VOID] = 0
    table[list(ids)] = np.arange(2, len(ids) + 2)
    return table[id_map]


class PanopticEvaluator:
    """Adds up the counts of images; :meth:`compute` gives percent (Mask2Former, Table 1)."""

    def __init__(self, categories: Categories) -> None:
        self.categories = categories
        zeros = np.zeros(len(categories), dtype=np.int64)
        self.counts = PanopticCounts(zeros, zeros, zeros, zeros.astype(np.float64))

    def truth_of_target(self, target: Target) -> PanopticTruth:
        """The first frame of a target as an id map (1, 2, ...), void where no mask is; earlier segments lie on top."""
        masks = target.masks[:, 0].cpu().numpy()
        ids = np.zeros(masks.shape[1:], dtype=np.int32)
        for identifier in range(len(masks), 0, -1):
            ids[masks[identifier - 1]] = identifier
        visible = set(np.unique(ids).tolist())
        labels = target.labels.tolist()
        return PanopticTruth(ids, [(n, label, False) for n, label in enumerate(labels, 1) if n in visible])

    def update(
        self,
        prediction: PanopticSegmentation,
        truth: PanopticTruth | tuple[Int[np.ndarray, "H W"], Sequence[tuple[int, int, bool]]],
    ) -> None:
        """Add one image.

        Raises:
            RequestError: as :func:`count_matches`.
        """
        segments = [(segment.id, segment.label) for segment in prediction.segments]
        counts = count_matches(prediction.ids, segments, PanopticTruth(*truth), len(self.categories))
        self._add(counts)

    def merge(self, other: PanopticEvaluator) -> None:
        """Add the images of another evaluator, for instance of another process (evaluators can be pickled)."""
        self._add(other.counts)

    def _add(self, counts: PanopticCounts) -> None:
        self.counts = PanopticCounts(*(mine + theirs for mine, theirs in zip(self.counts, counts, strict=True)))

    def compute(self) -> dict[str, float]:
        """``panoptic/PQ``, ``SQ``, ``RQ``, the same with ``_things`` and ``_stuff``; percent, NaN where undefined."""
        values = self._qualities()
        everything = range(len(self.categories))
        groups = {"": everything, "_things": self.categories.thing_indices, "_stuff": self.categories.stuff_indices}
        return {
            f"panoptic/{name}{suffix}": _mean(column[list(group)])
            for suffix, group in groups.items()
            for name, column in values.items()
        }

    def per_class(self) -> dict[str, dict[str, float]]:
        """``PQ``, ``SQ`` and ``RQ`` of every class by name; percent, NaN for classes neither present nor predicted."""
        values = self._qualities()
        return {
            category.name: {name: float(column[index]) for name, column in values.items()}
            for index, category in enumerate(self.categories)
        }

    def _qualities(self) -> dict[str, Float64[np.ndarray, " K"]]:
        matches, wrong, missed, iou_sums = self.counts
        weight = matches + 0.5 * wrong + 0.5 * missed
        seen = np.where(weight > 0, 1.0, np.nan)  # classes without any segment do not enter the mean
        return {
            "PQ": 100.0 * seen * iou_sums / np.where(weight > 0, weight, 1),
            "SQ": 100.0 * seen * iou_sums / np.maximum(matches, 1),
            "RQ": 100.0 * seen * matches / np.where(weight > 0, weight, 1),
        }


def _mean(values: Float64[np.ndarray, " N"]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
