"""COCO mask and boundary average precision and recall (Lin et al., ECCV 2014), computed by faster-coco-eval.

Masks are kept as run-length encodings, so that the state of a whole data set stays small. Nothing here knows how
predictions are made or where ground truth is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from faster_coco_eval.core.coco import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from jaxtyping import Bool, Float64, Int

from mask2former.errors import RequestError
from mask2former.evaluation.pooled import PooledEvaluator
from mask2former.ops import masks as mask_ops
from mask2former.structures import Categories, Instances, Target
from mask2former.structures.truths import InstanceTruth

__all__ = ["BOUNDARY_DILATION", "InstanceEvaluator", "InstanceTruth"]

BOUNDARY_DILATION = 0.02  # width of the boundary, in image diagonals (Cheng et al., CVPR 2021)

_RANGES = {"": "all", "s": "small", "m": "medium", "l": "large"}
_LARGEST = 1e5**2  # pixels; COCO's own bound

_Kind = Literal["segm", "boundary"]
_Accumulated = tuple[Float64[np.ndarray, "T R K A M"], Float64[np.ndarray, "T K A M"], Any]


class _Image(NamedTuple):
    """One image with compressed masks: (encoding, label, is crowd, area) and (encoding, label, score, area)."""

    truths: list[tuple[dict[str, Any], int, bool, float]]
    predictions: list[tuple[dict[str, Any], int, float, int]]


class InstanceEvaluator:
    """Collects images as run-length encodings; :meth:`compute` gives percent (Mask2Former, Table 2).

    Args:
        categories: the classes of the model. Without true objects a class does not enter the means.
        max_detections: how many instances per image and class count, the most certain first.
        area_limits: pixels where medium and large objects begin.
        boundary: also boundary average precision (Cheng et al., CVPR 2021): the IoU of two masks is the lesser of
            that of the masks and that of their boundaries, which are 0.02 image diagonals wide.
        pooled_threshold: also the pooled average precision of :class:`PooledEvaluator`, for objects above this score.

    Raises:
        RequestError: a limit that makes no sense.
    """

    def __init__(
        self,
        categories: Categories,
        *,
        max_detections: int = 100,
        area_limits: tuple[float, float] = (32**2, 96**2),
        boundary: bool = False,
        pooled_threshold: float | None = None,
    ) -> None:
        if max_detections < 1:
            raise RequestError(f"max_detections must be at least 1, got {max_detections}")
        if not 0 < area_limits[0] < area_limits[1] < _LARGEST:
            raise RequestError(f"area_limits must be two rising numbers of pixels, got {area_limits}")
        self.categories = categories
        self.max_detections = max_detections
        self.area_limits = area_limits
        self.boundary = boundary
        self.pooled = None if pooled_threshold is None else PooledEvaluator(categories, pooled_threshold)
        self._images: list[_Image] = []
        self._accumulated: dict[_Kind, _Accumulated] = {}  # until the next image

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
        self._accumulated.clear()
        if self.pooled is not None:
            self.pooled.update(prediction, truth)

    def merge(self, other: InstanceEvaluator) -> None:
        """Add the images of another evaluator, for instance of another process (evaluators can be pickled)."""
        self._images = self._images + other._images
        self._accumulated.clear()
        if self.pooled is not None:
            assert other.pooled is not None
            self.pooled.merge(other.pooled)

    def compute(self) -> dict[str, float]:
        """Average precision and recall; percent, NaN where there is no object.

        Returns:
            ``instance/AP`` (mean over IoU 0.5 to 0.95), ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``; ``AR`` with the
            number of detections (1, 10, ``max_detections``, as far as that reaches), ``ARs``, ``ARm``, ``ARl``. With
            ``boundary`` the same once more as ``instance/boundary_AP`` and so on, and with ``pooled_threshold`` what
            :meth:`PooledEvaluator.compute` gives.
        """
        values = {f"instance/{name}": value for name, value in self._summary("segm").items()}
        if self.boundary:
            values |= {f"instance/boundary_{name}": value for name, value in self._summary("boundary").items()}
        return values | (self.pooled.compute() if self.pooled else {})

    def _summary(self, kind: _Kind) -> dict[str, float]:
        precision, recall, parameters = self._accumulate(kind)
        ranges = {suffix: parameters.areaRngLbl.index(name) for suffix, name in _RANGES.items()}
        thresholds = {
            name: int(np.argmin(np.abs(parameters.iouThrs - iou))) for name, iou in (("50", 0.5), ("75", 0.75))
        }
        values = {"AP": precision[:, :, :, 0, -1]}
        values |= {f"AP{name}": precision[index, :, :, 0, -1] for name, index in thresholds.items()}
        values |= {f"AP{suffix}": precision[:, :, :, index, -1] for suffix, index in ranges.items() if suffix}
        values |= {f"AR{limit}": recall[:, :, 0, index] for index, limit in enumerate(parameters.maxDets)}
        values |= {f"AR{suffix}": recall[:, :, index, -1] for suffix, index in ranges.items() if suffix}
        return {name: _percent(entries) for name, entries in values.items()}

    def per_class(self) -> dict[str, dict[str, float]]:
        """``AP`` and ``AP50`` of every thing class by name; percent, NaN for classes without true objects.

        ``boundary_AP`` and ``pooled_AP`` are there when they were asked for.
        """
        precision, _, _ = self._accumulate("segm")
        rows = {
            category.name: {
                "AP": _percent(precision[:, :, index, 0, -1]),
                "AP50": _percent(precision[0, :, index, 0, -1]),
            }
            for index, category in enumerate(self.categories)
            if category.is_thing
        }
        if self.boundary:
            precision, _, _ = self._accumulate("boundary")
            for index, category in enumerate(self.categories):
                if category.is_thing:
                    rows[category.name]["boundary_AP"] = _percent(precision[:, :, index, 0, -1])
        if self.pooled:
            for name, values in self.pooled.per_class().items():
                rows[name] |= values
        return rows

    def _accumulate(self, kind: _Kind) -> _Accumulated:
        """Precision and recall by threshold, recall level, class, area range and limit; -1 where undefined."""
        if kind not in self._accumulated:
            self._accumulated[kind] = self._accumulate_anew(kind)
        return self._accumulated[kind]

    def _accumulate_anew(self, kind: _Kind) -> _Accumulated:
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
        medium, large = self.area_limits
        evaluation = COCOeval_faster(
            self._coco(truths),
            self._coco(predictions),
            iouType=kind,
            ranges={"small": [0, medium], "medium": [medium, large], "large": [large, _LARGEST]},
            boundary_dilation_ratio=BOUNDARY_DILATION,
        )
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
