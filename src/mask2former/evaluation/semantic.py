"""IoU and accuracy of label maps from one confusion matrix.

The matrix is the whole state. Nothing here knows how predictions are made or where ground truth is stored.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int, Int64

from mask2former.errors import RequestError
from mask2former.structures import Categories, SemanticSegmentation, Target

__all__ = ["SemanticEvaluator", "confusion_matrix"]


def confusion_matrix(
    predicted: Int[np.ndarray, "H W"], truth: Int[np.ndarray, "H W"], num_classes: int
) -> Int64[np.ndarray, "K1 K1"]:
    """Pixels per (predicted, true) class; the last row and column collect every value that is no class.

    Raises:
        RequestError: the sizes differ.
    """
    if predicted.shape != truth.shape:
        raise RequestError(
            f"the prediction has {predicted.shape} pixels and the ground truth {truth.shape}; "
            "resize the prediction to the size of the annotation"
        )
    rows, columns = _with_rest(predicted, num_classes), _with_rest(truth, num_classes)
    side = num_classes + 1
    return np.bincount((rows * side + columns).ravel(), minlength=side * side).reshape(side, side)


def _with_rest(labels: Int[np.ndarray, "H W"], num_classes: int) -> Int64[np.ndarray, "H W"]:
    wide = labels.astype(np.int64)
    wide[(wide < 0) | (wide >= num_classes)] = num_classes
    return wide


class SemanticEvaluator:
    """Adds up a confusion matrix; :meth:`compute` gives percent (Mask2Former, Table 3).

    Pixels whose true label is no class (``categories.ignore_label``) are left out. A class without any true pixel
    does not enter the means, also where it was predicted.
    """

    def __init__(self, categories: Categories) -> None:
        self.categories = categories
        self.confusion = np.zeros((len(categories) + 1, len(categories) + 1), dtype=np.int64)

    def truth_of_target(self, target: Target) -> Int64[np.ndarray, "H W"]:
        """Label map of the first frame of a target, ``ignore_label`` where no mask is; earlier segments lie on top."""
        masks = target.masks[:, 0].cpu().numpy()
        labels = np.full(masks.shape[1:], self.categories.ignore_label, dtype=np.int64)
        for mask, label in zip(masks[::-1], target.labels.tolist()[::-1], strict=True):
            labels[mask] = label
        return labels

    def update(self, prediction: SemanticSegmentation, truth: Int[np.ndarray, "H W"]) -> None:
        """Add one image.

        Raises:
            RequestError: as :func:`confusion_matrix`.
        """
        self.confusion = self.confusion + confusion_matrix(prediction.labels, truth, len(self.categories))

    def merge(self, other: SemanticEvaluator) -> None:
        """Add the images of another evaluator, for instance of another process (evaluators can be pickled)."""
        self.confusion = self.confusion + other.confusion

    def compute(self) -> dict[str, float]:
        """``semantic/mIoU``, ``fwIoU`` (weighted by true pixels), ``mACC`` and ``pACC``; percent, NaN without truth."""
        ious, accuracies, true_pixels = self._per_class()
        present = true_pixels > 0
        if not present.any():
            return dict.fromkeys([f"semantic/{name}" for name in ("mIoU", "fwIoU", "mACC", "pACC")], float("nan"))
        weights = true_pixels[present] / true_pixels.sum()
        return {
            "semantic/mIoU": float(ious[present].mean()),
            "semantic/fwIoU": float((ious[present] * weights).sum()),
            "semantic/mACC": float(accuracies[present].mean()),
            "semantic/pACC": float((accuracies[present] * weights).sum()),
        }

    def per_class(self) -> dict[str, dict[str, float]]:
        """``IoU`` and ``ACC`` of every class by name; percent, NaN for classes without true pixels."""
        ious, accuracies, _ = self._per_class()
        return {
            category.name: {"IoU": float(ious[index]), "ACC": float(accuracies[index])}
            for index, category in enumerate(self.categories)
        }

    def _per_class(self) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
        """IoU and accuracy in percent, and true pixels."""
        labelled = self.confusion[:, :-1]  # without the ignored pixels
        hits = np.diagonal(labelled)
        true_pixels = labelled.sum(axis=0)  # those predicted as no class are missed
        predicted_pixels = labelled[:-1].sum(axis=1)
        present = np.where(true_pixels > 0, 100.0, np.nan)
        unions = true_pixels + predicted_pixels - hits
        return present * hits / np.maximum(unions, 1), present * hits / np.maximum(true_pixels, 1), true_pixels
