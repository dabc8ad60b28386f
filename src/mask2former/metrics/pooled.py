"""Average precision pooled over images, as the Data Science Bowl 2018 counts nuclei: TP / (TP + FP + FN).

The core counts one image in a single pass over two label maps, and the evaluator adds up the counts. This module does
not depend on how predictions are made or where ground truth is stored.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int64

from mask2former.errors import UserError
from mask2former.metrics.overlaps import added, by_class, common_runs, count_pairs
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures import Categories, Instances
from mask2former.structures.ground_truth import InstanceGroundTruth

__all__ = ["POOLED_THRESHOLDS", "PooledCounts", "PooledEvaluator", "count_pooled"]

POOLED_THRESHOLDS = tuple(percent / 100 for percent in range(50, 95, 5))  # 0.5, 0.55, ... 0.9


class PooledCounts(NamedTuple):
    """The counts behind the metric, per threshold and class."""

    true_positives: Int64[np.ndarray, "T K"]
    false_positives: Int64[np.ndarray, "T K"]
    false_negatives: Int64[np.ndarray, "T K"]


def count_pooled(
    masks: SparseMasks, labels: Int[np.ndarray, " N"], ground_truth: InstanceGroundTruth, num_classes: int
) -> PooledCounts:
    """Matches of one image.

    Both sides become label maps without overlaps: predictions in falling order of score; true objects in the given
    order, but before crowd regions. Each pixel belongs to the first mask that covers it, and masks without a pixel are
    left out. At each threshold t, a prediction and a true object of the same class match when their IoU exceeds t. As
    nothing overlaps and t is at least 0.5, each has at most one such partner, so the order of matching does not matter.
    A crowd region matches nothing and is not counted as missed. A prediction without a match is no error when more than
    half of it lies on crowd regions of its class.

    Args:
        masks: predicted masks, best first.
        labels: their class indices.
        ground_truth: of the same size.
        num_classes: length of the counts.
    """
    order = np.argsort(ground_truth.iscrowd, kind="stable")
    true_labels, is_crowd = ground_truth.labels[order], ground_truth.iscrowd[order]
    true = SparseMasks.of(ground_truth.masks).take(order)
    runs = common_runs(true.numbered(), masks.numbered())
    overlaps = count_pairs(runs.first, runs.second, runs.lengths, (len(order) + 1, len(masks) + 1))
    true_areas, predicted_areas = (overlaps.sum(axis=axis)[1:] for axis in (1, 0))
    # Only pairs that touch are kept, because dense scenes have hundreds of objects on both sides.
    overlaps = overlaps[1:, 1:]
    left, right = np.nonzero(overlaps)
    chosen = true_labels[left] == labels[right]
    left, right = left[chosen], right[chosen]
    common = overlaps[left, right]

    on_crowd = np.bincount(right, weights=common * is_crowd[left], minlength=len(masks))
    excused = 2 * on_crowd > predicted_areas
    matched = ~is_crowd[left]
    common, left, right = common[matched], left[matched], right[matched]
    ious = common / (true_areas[left] + predicted_areas[right] - common)

    counted_true = ~is_crowd & (true_areas > 0)
    true_positives, false_positives, false_negatives = [], [], []
    for threshold in POOLED_THRESHOLDS:
        above = ious > threshold
        hit, missed = np.zeros(len(masks), dtype=bool), counted_true.copy()
        hit[right[above]] = True
        missed[left[above]] = False
        true_positives.append(np.bincount(labels[hit], minlength=num_classes))
        wrong = (predicted_areas > 0) & ~hit & ~excused
        false_positives.append(np.bincount(labels[wrong], minlength=num_classes))
        false_negatives.append(np.bincount(true_labels[missed], minlength=num_classes))
    return PooledCounts(np.stack(true_positives), np.stack(false_positives), np.stack(false_negatives))


class PooledEvaluator:
    """Adds up TP, FP and FN over all images; the metric is TP / (TP + FP + FN) at nine thresholds, and its mean.

    Unlike COCO's average precision it measures one operating point: only instances whose score exceeds
    ``score_threshold`` count, without overlaps (see :func:`count_pooled`). Images are pooled, so an image with
    many objects has more weight. Each figure is the mean over classes with true objects.

    Args:
        categories: the classes of the model.
        score_threshold: instances with this score or a lower one do not count, 0..1.

    Raises:
        UserError: the threshold is out of range.
    """

    def __init__(self, categories: Categories, score_threshold: float = 0.5) -> None:
        if not 0 <= score_threshold <= 1:
            raise UserError(f"the score threshold must be between 0 and 1, got {score_threshold}")
        self.categories = categories
        self.score_threshold = score_threshold
        shape = (len(POOLED_THRESHOLDS), len(categories))
        self.counts = PooledCounts(*(np.zeros(shape, dtype=np.int64) for _ in PooledCounts._fields))

    def update(self, prediction: Instances, ground_truth: InstanceGroundTruth) -> None:
        """Add one image. Prediction and ground truth have the same size."""
        found = prediction.above(self.score_threshold)
        counts = count_pooled(found.sparse, found.labels, ground_truth, len(self.categories))
        self.counts = added(self.counts, counts)

    def merge(self, other: PooledEvaluator) -> None:
        """Add the images of another evaluator."""
        self.counts = added(self.counts, other.counts)

    def compute(self) -> dict[str, float]:
        """``instance/pooled_AP``, and ``instance/pooled_AP50`` to ``pooled_AP90`` in steps of 5; percent."""
        values = self._precision()
        defined = ~np.isnan(values).all(axis=0)
        means = values[:, defined].mean(axis=1) if defined.any() else np.full(len(values), np.nan)
        at = {f"instance/pooled_AP{round(100 * t)}": float(v) for t, v in zip(POOLED_THRESHOLDS, means, strict=True)}
        return {"instance/pooled_AP": float(means.mean()), **at}

    def per_class(self) -> dict[str, dict[str, float]]:
        """``pooled_AP`` of every thing class by name; percent, NaN for classes without true objects."""
        return by_class(self.categories, {"pooled_AP": self._precision().mean(axis=0)}, things_only=True)

    def _precision(self) -> Float64[np.ndarray, "T K"]:
        """Percent by threshold and class; NaN for classes without true objects."""
        hits, wrong, missed = self.counts
        present = np.where(hits + missed > 0, 100.0, np.nan)
        return present * hits / np.maximum(hits + wrong + missed, 1)
