"""IoU and accuracy of label maps from one confusion matrix, with boundary IoU and panoptic quality of label maps.

The state consists of counts. This module does not depend on how predictions are made or where ground truth is stored.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64, Integer

from mask2former import limits
from mask2former.metrics.boundary import boundary_width, eroded
from mask2former.metrics.overlaps import added, by_class, check_sizes, common_runs, count_pairs, defined_mean
from mask2former.metrics.panoptic import PanopticCounts, no_counts, qualities
from mask2former.structures import Categories, SemanticSegmentation

__all__ = ["SemanticEvaluator", "boundary_confusion", "confusion_matrix", "segment_counts"]


def confusion_matrix(
    predicted: Integer[np.ndarray, "H W"], ground_truth: Integer[np.ndarray, "H W"], num_classes: int
) -> Int64[np.ndarray, "K1 K1"]:
    """Pixels by (predicted, true) class; the last row and column are for all values that are no class.

    Raises:
        UserError: the sizes differ.
    """
    check_sizes(predicted.shape, ground_truth.shape)
    runs = common_runs(predicted, ground_truth)
    rows, columns = _with_rest(runs.first, num_classes), _with_rest(runs.second, num_classes)
    return count_pairs(rows, columns, runs.lengths, (num_classes + 1, num_classes + 1))


def _with_rest(labels: Integer[np.ndarray, "*shape"], num_classes: int) -> Int64[np.ndarray, "*shape"]:
    wide = labels.astype(np.int64)
    wide[(wide < 0) | (wide >= num_classes)] = num_classes
    return wide


def boundary_confusion(
    predicted: Integer[np.ndarray, "H W"], ground_truth: Integer[np.ndarray, "H W"], num_classes: int
) -> Int64[np.ndarray, "K1 K1"]:
    """The confusion matrix from which detectron2 computes boundary IoU.

    These are not the boundaries of class masks: the map of class indices is eroded as if it were a grey image, and the
    differences to the original map are compared. Hence the numbers depend on the order of the classes, index 0 also
    includes all interior pixels, and the numbers can only be compared with others of the same kind.

    Up to 15 classes, the numbers are those that detectron2 prints. From 16 classes on, they follow its formula without
    its overflow: it encodes a pair of indices in 8 bits, which counts pixels for wrong pairs.
    """
    kind = np.uint8 if num_classes < 256 else np.uint16
    width = boundary_width((ground_truth.shape[0], ground_truth.shape[1]))
    mine, true = (_with_rest(labels, num_classes).astype(kind) for labels in (predicted, ground_truth))
    # Parity: indices, not masks.
    return confusion_matrix(mine - eroded(mine, width), true - eroded(true, width), num_classes)


def segment_counts(confusion: Int64[np.ndarray, "K1 K1"]) -> PanopticCounts:
    """Matches of one image in which all pixels of a class are one segment, computed from its confusion matrix.

    The rules are those of :func:`~mask2former.metrics.panoptic.count_matches`; pixels that are no class are void.
    """
    common = np.diagonal(confusion)[:-1]
    predicted, true, on_void = confusion[:-1].sum(axis=1), confusion[:, :-1].sum(axis=0), confusion[:-1, -1]
    ious = common / np.maximum(predicted + true - common - on_void, 1)
    matched = ious > 0.5
    wrong = (predicted > 0) & ~matched & (on_void <= 0.5 * predicted)
    missed = (true > 0) & ~matched
    hits, errors, misses = (counted.astype(np.int64) for counted in (matched, wrong, missed))
    return PanopticCounts(hits, errors, misses, np.where(matched, ious, 0.0))


class SemanticEvaluator:
    """Adds up a confusion matrix; :meth:`compute` returns percent (Mask2Former, Table 3).

    Pixels whose true label is no class (``categories.ignore_label``) are left out. A class without true pixels is not
    part of the means, even if it was predicted. For the label maps of a panoptic model this is mIoU_pan of the paper.

    Args:
        categories: the classes of the model.
        boundary: also measure boundary IoU, see :func:`boundary_confusion`.
        segments: also measure panoptic quality, with all pixels of a class in an image as one segment of stuff.

    Raises:
        UserError: there are more classes than ``limits.MEASURED_CLASSES``.

    Attributes:
        confusion: pixels by predicted class (rows) and true class (columns); the last row and column are no class.
    """

    def __init__(self, categories: Categories, *, boundary: bool = False, segments: bool = False) -> None:
        self.categories = categories
        advice = "a table of all pairs of classes is counted; measure another task"
        limits.check_limit(
            "the number of measured classes of label maps is", len(categories), limits.MEASURED_CLASSES, advice
        )
        side = len(categories) + 1
        self.confusion: Int64[np.ndarray, "K1 K1"] = np.zeros((side, side), dtype=np.int64)
        self.boundary_confusion = np.zeros((side, side), dtype=np.int64) if boundary else None
        self.segment_counts = no_counts(len(categories)) if segments else None

    def update(self, prediction: SemanticSegmentation, ground_truth: Integer[np.ndarray, "H W"]) -> None:
        """Add one image.

        Raises:
            UserError: see :func:`confusion_matrix`.
        """
        confusion = confusion_matrix(prediction.labels, ground_truth, len(self.categories))
        self.confusion = self.confusion + confusion
        if self.boundary_confusion is not None:
            found = boundary_confusion(prediction.labels, ground_truth, len(self.categories))
            self.boundary_confusion = self.boundary_confusion + found
        if self.segment_counts is not None:
            self.segment_counts = added(self.segment_counts, segment_counts(confusion))

    def merge(self, other: SemanticEvaluator) -> None:
        """Add the images of another evaluator, for instance from another process (evaluators can be pickled)."""
        self.confusion = self.confusion + other.confusion
        if self.boundary_confusion is not None:
            assert other.boundary_confusion is not None
            self.boundary_confusion = self.boundary_confusion + other.boundary_confusion
        if self.segment_counts is not None:
            assert other.segment_counts is not None
            self.segment_counts = added(self.segment_counts, other.segment_counts)

    def compute(self) -> dict[str, float]:
        """Means in percent, NaN without ground truth.

        Returns:
            ``semantic/mIoU``, ``fwIoU`` (weighted by true pixels), ``mACC`` and ``pACC``. With ``boundary`` also
            ``boundary_mIoU``. With ``segments`` also ``PQ``, ``SQ``, ``RQ`` and ``mIoU_seen``, the mean over all
            classes that are true or predicted, in which classes that are never true count as 0.
        """
        ious, accuracies, true_pixels = self._per_class()
        present = true_pixels > 0
        weights = true_pixels / max(int(true_pixels.sum()), 1)
        values = {"mIoU": defined_mean(ious), "fwIoU": _sum(ious * weights)}
        values |= {"mACC": defined_mean(accuracies), "pACC": _sum(accuracies * weights)}
        if self.boundary_confusion is not None:
            values["boundary_mIoU"] = defined_mean(_boundary_ious(self.boundary_confusion)[present])
        if self.segment_counts is not None:
            values |= {name: defined_mean(column) for name, column in qualities(self.segment_counts).items()}
            seen = present | (self.confusion[:-1, :-1].sum(axis=1) > 0)
            values["mIoU_seen"] = _sum(ious) / max(int(seen.sum()), 1)
        return {f"semantic/{name}": value for name, value in values.items()}

    def per_class(self) -> dict[str, dict[str, float]]:
        """``IoU`` and ``ACC`` of every class by name; percent, NaN for classes without true pixels.

        With ``boundary`` also ``boundary_IoU`` and ``lesser_IoU`` (the lesser of ``IoU`` and ``boundary_IoU``), with
        ``segments`` also ``PQ``, ``SQ`` and ``RQ``.
        """
        ious, accuracies, _ = self._per_class()
        columns = {"IoU": ious, "ACC": accuracies}
        if self.boundary_confusion is not None:
            boundary_ious = _boundary_ious(self.boundary_confusion)
            columns |= {"boundary_IoU": boundary_ious, "lesser_IoU": np.minimum(ious, boundary_ious)}
        if self.segment_counts is not None:
            columns |= qualities(self.segment_counts)
        return by_class(self.categories, columns)

    def _per_class(self) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
        """IoU and accuracy in percent, and the number of true pixels."""
        labelled = self.confusion[:, :-1]  # without the ignored pixels
        hits = np.diagonal(labelled)
        true_pixels = labelled.sum(axis=0)  # includes pixels predicted as no class, which are missed
        predicted_pixels = labelled[:-1].sum(axis=1)
        present = np.where(true_pixels > 0, 100.0, np.nan)
        unions = true_pixels + predicted_pixels - hits
        return present * hits / np.maximum(unions, 1), present * hits / np.maximum(true_pixels, 1), true_pixels


def _boundary_ious(confusion: Int64[np.ndarray, "K1 K1"]) -> Float64[np.ndarray, " K"]:
    """Boundary IoU in percent; NaN for classes that are neither true nor predicted."""
    hits = np.diagonal(confusion)[:-1]
    unions = confusion[:-1, :-1].sum(axis=0) + confusion[:-1, :-1].sum(axis=1) - hits
    return np.where(unions > 0, 100.0 * hits / np.maximum(unions, 1), np.nan)


def _sum(values: Float64[np.ndarray, " N"]) -> float:
    """The sum of the values that are not NaN; NaN if all are."""
    defined = values[~np.isnan(values)]
    return float(defined.sum()) if defined.size else float("nan")
