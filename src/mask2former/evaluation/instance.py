"""COCO mask average precision and recall (Lin et al., ECCV 2014), computed by faster-coco-eval.

Masks are kept as run-length encodings, so that the state of a whole data set stays small. Nothing here knows how
predictions are made or where ground truth is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval.core.coco import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from jaxtyping import Bool, Float64, Int, Int64

from mask2former.errors import RequestError
from mask2former.ops import masks as mask_ops
from mask2former.structures import Categories, Instances, Target

__all__ = ["InstanceEvaluator", "InstanceTruth"]

_RANGES = {"": "all", "s": "small", "m": "medium", "l": "large"}  # by area: below 32^2, below 96^2, above


class InstanceTruth(NamedTuple):
    """Ground truth of one image: masks, class indices and crowd flags.

    ``areas`` decide about small, medium and large; without them pixels are counted. COCO's own file has areas of
    polygons.
    """

    masks: Bool[np.ndarray, "N H W"]
    labels: Int64[np.ndarray, " N"]
    iscrowd: Bool[np.ndarray, " N"]
    areas: Float64[np.ndarray, " N"] | None = None


class _Image(NamedTuple):
    """One image with compressed masks: (encoding, label, is crowd, area) and (encoding, label, score, area)."""

    truths: list[tuple[dict[str, Any], int, bool, float]]
    predictions: list[tuple[dict[str, Any], int, float, int]]


class InstanceEvaluator:
    """Collects images as run-length encodings; :meth:`compute` gives percent (Mask2Former, Table 2).

    Args:
        categories: the classes of the model. Without true objects a class does not enter the means.
        max_detections: how many instances per image and class count, the most certain first.
    """

    def __init__(self, categories: Categories, *, max_detections: int = 100) -> None:
        if max_detections < 1:
            raise RequestError(f"max_detections must be at least 1, got {max_detections}")
        self.categories = categories
        self.max_detections = max_detections
        self._images: list[_Image] = []

    def truth_of_target(self, target: Target) -> InstanceTruth:
        """The things of the first frame of a target that have pixels there; none of them is a crowd."""
        is_thing = np.array([category.is_thing for category in self.categories])
        labels, masks = target.labels.cpu().numpy(), target.masks[:, 0].cpu().numpy()
        chosen = is_thing[labels] & masks.any(axis=(1, 2))
        return InstanceTruth(masks[chosen], labels[chosen], np.zeros(np.count_nonzero(chosen), dtype=bool))

    def update(
        self,
        prediction: Instances,
        truth: InstanceTruth | tuple[Bool[np.ndarray, "N H W"], Int[np.ndarray, " N"], Bool[np.ndarray, " N"]],
    ) -> None:
        """Add one image.

        Raises:
            RequestError: masks of different sizes, or lengths that do not fit.
        """
        if not isinstance(truth, InstanceTruth):
            truth = InstanceTruth(*truth)
        count = len(truth.masks)
        if prediction.masks.shape[1:] != truth.masks.shape[1:]:
            raise RequestError(
                f"the prediction has {prediction.masks.shape[1:]} pixels and the ground truth {truth.masks.shape[1:]}; "
                "resize the prediction to the size of the annotation"
            )
        areas = mask_ops.areas(truth.masks) if truth.areas is None else truth.areas
        if not len(truth.labels) == len(truth.iscrowd) == len(areas) == count:
            raise RequestError(
                f"ground truth has {count} masks, but {len(truth.labels)} labels, {len(truth.iscrowd)} crowd flags "
                f"and {len(areas)} areas; give one of each per mask"
            )
        truths = [
            (rle, int(label), bool(crowd), float(area))
            for rle, label, crowd, area in zip(
                mask_ops.encode(truth.masks), truth.labels, truth.iscrowd, areas, strict=True
            )
        ]
        predictions = [
            (rle, int(label), float(score), int(area))
            for rle, label, score, area in zip(
                mask_ops.encode(prediction.masks),
                prediction.labels,
                prediction.scores,
                mask_ops.areas(prediction.masks),
                strict=True,
            )
        ]
        self._images.append(_Image(truths, predictions))

    def merge(self, other: InstanceEvaluator) -> None:
        """Add the images of another evaluator, for instance of another process (evaluators can be pickled)."""
        self._images = self._images + other._images

    def compute(self) -> dict[str, float]:
        """Average precision and recall; percent, NaN where there is no object.

        Returns:
            ``instance/AP`` (mean over IoU 0.5 to 0.95), ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``; ``AR`` with the
            number of detections (1, 10, ``max_detections``, as far as that reaches), ``ARs``, ``ARm``, ``ARl``.
        """
        precision, recall, parameters = self._accumulate()
        ranges = {suffix: parameters.areaRngLbl.index(name) for suffix, name in _RANGES.items()}
        thresholds = {
            name: int(np.argmin(np.abs(parameters.iouThrs - iou))) for name, iou in (("50", 0.5), ("75", 0.75))
        }
        values = {"AP": precision[:, :, :, 0, -1]}
        values |= {f"AP{name}": precision[index, :, :, 0, -1] for name, index in thresholds.items()}
        values |= {f"AP{suffix}": precision[:, :, :, index, -1] for suffix, index in ranges.items() if suffix}
        values |= {f"AR{limit}": recall[:, :, 0, index] for index, limit in enumerate(parameters.maxDets)}
        values |= {f"AR{suffix}": recall[:, :, index, -1] for suffix, index in ranges.items() if suffix}
        return {f"instance/{name}": _percent(entries) for name, entries in values.items()}

    def per_class(self) -> dict[str, dict[str, float]]:
        """``AP`` and ``AP50`` of every thing class by name; percent, NaN for classes without true objects."""
        precision, _, _ = self._accumulate()
        return {
            category.name: {
                "AP": _percent(precision[:, :, index, 0, -1]),
                "AP50": _percent(precision[0, :, index, 0, -1]),
            }
            for index, category in enumerate(self.categories)
            if category.is_thing
        }

    def _accumulate(self) -> tuple[Float64[np.ndarray, "T R K A M"], Float64[np.ndarray, "T K A M"], Any]:
        """Precision and recall by threshold, recall level, class, area range and limit; -1 where undefined."""
        # Fresh dictionaries every time: the library writes its own keys into them.
        truths, predictions = [], []
        for image, (image_truths, image_predictions) in enumerate(self._images, start=1):
            truths += [
                {"image_id": image, "category_id": label, "segmentation": rle, "iscrowd": int(crowd), "area": area}
                for rle, label, crowd, area in image_truths
            ]
            predictions += [
                {
                    "image_id": image,
                    "category_id": label,
                    "segmentation": rle,
                    "iscrowd": 0,
                    "area": area,
                    "score": score,
                }
                for rle, label, score, area in image_predictions
            ]
        evaluation = COCOeval_faster(self._coco(truths), self._coco(predictions), iouType="segm")
        limits = {1, 10, self.max_detections}
        evaluation.params.maxDets = sorted(limit for limit in limits if limit <= self.max_detections)
        evaluation.evaluate()
        evaluation.accumulate()
        shape = evaluation.eval["counts"]  # T, R, K, A, M
        precision = np.asarray(evaluation.eval["precision"]).reshape(shape)
        recall = np.asarray(evaluation.eval["recall"]).reshape([shape[0], *shape[2:]])
        return precision, recall, evaluation.params

    def _coco(self, annotations: Sequence[dict[str, Any]]) -> COCO:
        images = []
        for number, entries in enumerate(self._images, start=1):
            rles = [entry[0] for group in entries for entry in group]
            height, width = rles[0]["size"] if rles else (1, 1)
            images.append({"id": number, "height": height, "width": width})
        data = {
            "images": images,
            "categories": [{"id": index, "name": category.name} for index, category in enumerate(self.categories)],
            # Ids start at 1, because 0 means "unmatched" to the library.
            "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, start=1)],
        }
        return COCO(data)


def _percent(values: np.ndarray) -> float:
    defined = values[values > -1]
    return 100.0 * float(defined.mean()) if defined.size else float("nan")
