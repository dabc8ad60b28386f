"""COCO mask and boundary average precision and recall (Lin et al., ECCV 2014).

Each image is matched when it is added, by the published rules; only scores and the outcome of the matching are kept, so
that the state of a whole data set stays small. Nothing here knows how predictions are made or where ground truth is
stored.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from mask2former.errors import UserError
from mask2former.metrics.boundary import BOUNDARY_DILATION, boundary, boundary_iou, boundary_width
from mask2former.metrics.pooled import PooledEvaluator
from mask2former.ops.sparse_masks import SparseMasks, common_pixels
from mask2former.structures import Categories, Instances, Target
from mask2former.structures.ground_truth import InstanceGroundTruth, instance_ground_truth

__all__ = ["BOUNDARY_DILATION", "InstanceEvaluator", "InstanceGroundTruth", "OperatingPoints", "PrecisionRecall", "match"]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)  # where precision is read
SCORES = np.arange(1, 20) / 20  # thresholds that a user may choose from
_LARGEST = 1e5**2  # pixels; COCO's own bound
_RANGES = ("", "s", "m", "l")  # suffixes of the metrics by range of areas
_SHAPE = (len(_RANGES), len(IOU_THRESHOLDS))
_AT_50, _AT_75 = 0, 5  # places among the thresholds

_Kind = Literal["segm", "boundary"]


class PrecisionRecall(NamedTuple):
    """Precision over recall of one class, as COCO reads it: the best precision at this recall or a higher one; 0..1."""

    recall: Float64[np.ndarray, " R"]
    at_50: Float64[np.ndarray, " R"]  # precision at IoU 0.5
    at_75: Float64[np.ndarray, " R"]
    mean: Float64[np.ndarray, " R"]  # over IoU 0.5, 0.55, ... 0.95; its own mean is AP


class OperatingPoints(NamedTuple):
    """What answers above a score are worth, objects of all classes and sizes together, at an IoU of 0.5; 0..1.

    Precision is NaN where there is no answer above the score.
    """

    scores: Float64[np.ndarray, " S"]  # thresholds, rising
    precision: Float64[np.ndarray, " S"]
    recall: Float64[np.ndarray, " S"]
    f1: Float64[np.ndarray, " S"]  # hits / (hits + half of what is false or missed)

    @property
    def best(self) -> int:
        """Where F1 is highest; of equal ones the highest score."""
        return len(self.f1) - 1 - int(np.argmax(self.f1[::-1]))


class _Image(NamedTuple):
    """What is left of the predictions of one image, best first within each class."""

    position: int  # among the images of the evaluator that saw it
    labels: Int64[np.ndarray, " N"]
    scores: Float64[np.ndarray, " N"]
    ranks: Int64[np.ndarray, " N"]  # place within the class, from 0
    outcomes: dict[_Kind, tuple[Bool[np.ndarray, "N A T"], Bool[np.ndarray, "N A T"]]]  # is right, does not count


class _Accumulated(NamedTuple):
    """NaN for classes without a true object in the range of areas."""

    precision: Float64[np.ndarray, "K A T R"]
    recall: Float64[np.ndarray, "K A T"]
    limited_recall: dict[int, Float64[np.ndarray, "K T"]]  # by number of detections, all areas


def match(
    ious: Float64[np.ndarray, "D G"], is_crowd: Bool[np.ndarray, " G"], ignored: Bool[np.ndarray, "A G"]
) -> tuple[Bool[np.ndarray, "D A T"], Bool[np.ndarray, "D A T"]]:
    """COCO's greedy matching of one class in one image, for all ranges of areas and IoU thresholds at once.

    From the best to the worst, each prediction takes the true object of the highest IoU that is free; a crowd is always
    free. Objects that are ignored (crowds and those outside the range of areas) are taken only where no other fits.

    Args:
        ious: predictions in falling order of score, by true objects.
        is_crowd: these may be taken many times.
        ignored: by range of areas; includes the crowds.

    Returns:
        By prediction, range and threshold: has a partner, and that partner is an ignored one.
    """
    shape = (len(ignored), len(IOU_THRESHOLDS))
    matched = np.zeros((len(ious), *shape), dtype=bool)
    excused = np.zeros((len(ious), *shape), dtype=bool)
    free = np.ones((*shape, ious.shape[1]), dtype=bool)
    ranges, thresholds = np.indices(shape)
    # Parity: of equal candidates the last one is taken.
    preferred = 2.0 * ~ignored[:, None, ::-1]
    for row in np.flatnonzero(ious.max(axis=1, initial=0.0) >= IOU_THRESHOLDS[0]):
        backwards = ious[row, ::-1]
        candidate = free[..., ::-1] & (backwards >= IOU_THRESHOLDS[:, None])
        value = np.where(candidate, backwards + preferred, -1.0)
        partner = ious.shape[1] - 1 - value.argmax(axis=-1)
        matched[row] = candidate.any(axis=-1)
        excused[row] = matched[row] & ignored[ranges, partner]
        taken = matched[row] & ~is_crowd[partner]
        free[ranges[taken], thresholds[taken], partner[taken]] = False
    return matched, excused


class InstanceEvaluator:
    """Matches images one by one; :meth:`compute` gives percent (Mask2Former, Table 2).

    Of a panoptic model's instances this is AP^Th_pan of the paper: only classes with true objects count, which are
    the things of the annotation.

    Args:
        categories: the classes of the model. Without true objects a class does not enter the means.
        max_detections: how many instances per image and class count, the most certain first.
        area_limits: pixels where medium and large objects begin.
        boundary: also boundary average precision (Cheng et al., CVPR 2021): the IoU of two masks is the lesser of
            that of the masks and that of their boundaries, which are 0.02 image diagonals wide.
        pooled_threshold: also the pooled average precision of :class:`PooledEvaluator`, for objects above this score.

    Raises:
        UserError: a limit that makes no sense.
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
            raise UserError(f"max_detections must be at least 1, got {max_detections}")
        if not 0 < area_limits[0] < area_limits[1] < _LARGEST:
            raise UserError(f"area_limits must be two rising numbers of pixels, got {area_limits}")
        self.categories = categories
        self.max_detections = max_detections
        self.area_limits = area_limits
        self.boundary = boundary
        self.pooled = None if pooled_threshold is None else PooledEvaluator(categories, pooled_threshold)
        self._kinds: tuple[_Kind, ...] = ("segm", "boundary") if boundary else ("segm",)
        # Areas are compared with both ends included, and the first range holds everything.
        medium, large = area_limits
        self._area_ranges = np.array([[0, _LARGEST], [0, medium], [medium, large], [large, _LARGEST]])
        self._num_true = np.zeros((len(categories), len(self._area_ranges)), dtype=np.int64)  # that are to be found
        self.most_true = 0  # objects in one image, for remarks
        self._images: list[_Image] = []
        self._accumulated: dict[_Kind, _Accumulated] = {}  # until the next image

    def ground_truth_of_target(self, target: Target) -> InstanceGroundTruth:
        """The things of the first frame of a target that have pixels there; none of them is a crowd."""
        return instance_ground_truth(target, self.categories)

    def update(
        self,
        prediction: Instances,
        ground_truth: InstanceGroundTruth | tuple[Bool[np.ndarray, "N H W"], Int[np.ndarray, " N"], Bool[np.ndarray, " N"]],
    ) -> None:
        """Add one image.

        Raises:
            UserError: masks of different sizes, or lengths that do not fit.
        """
        if not isinstance(ground_truth, InstanceGroundTruth):
            ground_truth = InstanceGroundTruth(*ground_truth)
        count = len(ground_truth.masks)
        if prediction.size_hw != ground_truth.masks.shape[1:]:
            raise UserError(
                f"the prediction has {prediction.size_hw} pixels and the ground truth {ground_truth.masks.shape[1:]}; "
                "resize the prediction to the size of the annotation"
            )
        masks = SparseMasks.of(ground_truth.masks)
        ground_truth = ground_truth._replace(masks=masks)
        areas = masks.areas if ground_truth.areas is None else ground_truth.areas
        if not len(ground_truth.labels) == len(ground_truth.iscrowd) == len(areas) == count:
            raise UserError(
                f"ground truth has {count} masks, but {len(ground_truth.labels)} labels, {len(ground_truth.iscrowd)} crowd flags "
                f"and {len(areas)} areas; give one of each per mask"
            )
        if len(wrong := areas[~((areas >= 0) & (areas <= _LARGEST))]):  # NaN too
            raise UserError(
                f"ground truth has an area of {wrong[0]:g} pixels, which is in no range of areas; expected 0 to "
                f"{_LARGEST:g}"
            )
        self.most_true = max(self.most_true, int(np.count_nonzero(~np.asarray(ground_truth.iscrowd, dtype=bool))))
        self._images.append(self._matched(prediction, ground_truth, areas.astype(np.float64)))
        self._accumulated.clear()
        if self.pooled is not None:
            self.pooled.update(prediction, ground_truth)

    def _matched(self, prediction: Instances, ground_truth: InstanceGroundTruth, areas: Float64[np.ndarray, " G"]) -> _Image:
        """The predictions that count, matched class by class; also counts the true objects."""
        lower, upper = self._area_ranges[:, :1], self._area_ranges[:, 1:]
        ignored = ground_truth.iscrowd | (areas < lower) | (areas > upper)  # (A, G)
        np.add.at(self._num_true, ground_truth.labels, ~ignored.T)

        by_class = np.argsort(prediction.labels, kind="stable")  # best first within a class
        _, starts, counts = np.unique(prediction.labels[by_class], return_index=True, return_counts=True)
        ranks = np.arange(len(by_class)) - np.repeat(starts, counts)
        kept = ranks < self.max_detections
        chosen, ranks = by_class[kept], ranks[kept]
        labels = prediction.labels[chosen]
        sizes = prediction.sparse.areas[chosen]
        outside = (sizes[:, None] < self._area_ranges[:, 0]) | (sizes[:, None] > self._area_ranges[:, 1])  # (N, A)

        right = {kind: np.zeros((len(chosen), *_SHAPE), dtype=bool) for kind in self._kinds}
        # Without a partner, predictions outside the range of areas do not count.
        uncounted = {kind: np.broadcast_to(outside[..., None], right[kind].shape).copy() for kind in self._kinds}
        true = SparseMasks.of(ground_truth.masks)
        true_sizes = true.areas
        for label in np.intersect1d(labels, ground_truth.labels):
            rows, columns = np.flatnonzero(labels == label), np.flatnonzero(ground_truth.labels == label)
            pairs = _Pairs(
                prediction.sparse.take(chosen[rows]),
                sizes[rows],
                true.take(columns),
                true_sizes[columns],
                ground_truth.iscrowd[columns],
            )
            for kind in self._kinds:
                ious = pairs.ious if kind == "segm" else pairs.lesser_ious()
                matched, excused = match(ious, ground_truth.iscrowd[columns], ignored[:, columns])
                right[kind][rows] = matched & ~excused
                uncounted[kind][rows] = np.where(matched, excused, uncounted[kind][rows])
        outcomes: dict[_Kind, Any] = {kind: (right[kind], uncounted[kind]) for kind in self._kinds}
        return _Image(len(self._images), labels, prediction.scores[chosen], ranks, outcomes)

    def merge(self, other: InstanceEvaluator) -> None:
        """Add the images of another evaluator, for instance of another process (evaluators can be pickled).

        Of equal scores that of the earlier image comes first, as published. Processes that took every n-th image give
        the numbers of a single one when they are merged in their order.
        """
        self._images = self._images + other._images
        self._num_true = self._num_true + other._num_true
        self.most_true = max(self.most_true, other.most_true)
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
        precision, recall, limited_recall = self._accumulate(kind)
        values = {"AP": precision[:, 0], "AP50": precision[:, 0, _AT_50], "AP75": precision[:, 0, _AT_75]}
        values |= {f"AP{suffix}": precision[:, index] for index, suffix in enumerate(_RANGES) if suffix}
        values |= {f"AR{limit}": entries for limit, entries in limited_recall.items()}
        values |= {f"AR{suffix}": recall[:, index] for index, suffix in enumerate(_RANGES) if suffix}
        return {name: _percent(entries) for name, entries in values.items()}

    def per_class(self) -> dict[str, dict[str, float]]:
        """``AP`` and ``AP50`` of every thing class by name; percent, NaN for classes without true objects.

        ``boundary_AP`` and ``pooled_AP`` are there when they were asked for.
        """
        precision = self._accumulate("segm").precision
        rows = {
            category.name: {
                "AP": _percent(precision[index, 0]),
                "AP50": _percent(precision[index, 0, _AT_50]),
            }
            for index, category in enumerate(self.categories)
            if category.is_thing
        }
        if self.boundary:
            precision = self._accumulate("boundary").precision
            for index, category in enumerate(self.categories):
                if category.is_thing:
                    rows[category.name]["boundary_AP"] = _percent(precision[index, 0])
        if self.pooled:
            for name, values in self.pooled.per_class().items():
                rows[name] |= values
        return rows

    def curves(self) -> dict[str, PrecisionRecall]:
        """Precision over recall by name of class, of objects of all sizes; only classes with true objects are there."""
        precision = self._accumulate("segm").precision[:, 0]
        return {
            self.categories[index].name: PrecisionRecall(
                RECALLS, precision[index, _AT_50], precision[index, _AT_75], precision[index].mean(axis=0)
            )
            for index in np.flatnonzero(self._num_true[:, 0]).tolist()
        }

    def operating_points(self) -> OperatingPoints | None:
        """Precision, recall and F1 by score threshold, from 0.05 to 0.95; None without true objects.

        Of each image and class ``max_detections`` answers count, crowds excuse what they cover, and classes without
        true objects do not count.
        """
        num_true = int(self._num_true[:, 0].sum())
        if not num_true:
            return None
        labels, scores = (
            np.concatenate([getattr(image, name) for image in self._images]) for name in ("labels", "scores")
        )
        right, uncounted = (
            np.concatenate([image.outcomes["segm"][part][:, 0, _AT_50] for image in self._images]) for part in (0, 1)
        )
        wrong = ~(right | uncounted) & (self._num_true[labels, 0] > 0)
        hits, errors = (
            np.array([np.count_nonzero(kind & (scores >= least)) for least in SCORES]) for kind in (right, wrong)
        )
        predictions = np.where(hits + errors > 0, hits + errors, np.nan)
        return OperatingPoints(SCORES, hits / predictions, hits / num_true, 2 * hits / (hits + errors + num_true))

    def _accumulate(self, kind: _Kind) -> _Accumulated:
        if kind not in self._accumulated:
            self._accumulated[kind] = self._accumulate_anew(kind)
        return self._accumulated[kind]

    def _accumulate_anew(self, kind: _Kind) -> _Accumulated:
        shape = (len(self.categories), *_SHAPE)
        limits = sorted(limit for limit in {1, 10, self.max_detections} if limit <= self.max_detections)
        found = _Accumulated(
            np.full((*shape, len(RECALLS)), np.nan),
            np.full(shape, np.nan),
            {limit: np.full((shape[0], shape[2]), np.nan) for limit in limits},
        )
        found.precision[self._num_true > 0] = 0.0
        found.recall[self._num_true > 0] = 0.0
        for entries in found.limited_recall.values():
            entries[self._num_true[:, 0] > 0] = 0.0
        images = sorted(self._images, key=lambda image: image.position)
        if not any(len(image.labels) for image in images):
            return found
        labels, scores, ranks = (
            np.concatenate([getattr(image, name) for image in images]) for name in ("labels", "scores", "ranks")
        )
        right, uncounted = (np.concatenate([image.outcomes[kind][part] for image in images]) for part in (0, 1))
        # By class, best first; equal scores stay in the order of the images.
        order = np.lexsort((-scores, labels))
        borders = np.searchsorted(labels[order], np.arange(shape[0] + 1))
        for label in np.flatnonzero(np.diff(borders) * self._num_true[:, 0]):
            chosen = order[borders[label] : borders[label + 1]]
            hits, errors = right[chosen], ~(right[chosen] | uncounted[chosen])
            num_true = self._num_true[label]
            for area in np.flatnonzero(num_true):
                precision, recall = _curve(hits[:, area], errors[:, area], int(num_true[area]))
                found.precision[label, area], found.recall[label, area] = precision, recall
            for limit, entries in found.limited_recall.items():
                entries[label] = hits[ranks[chosen] < limit, 0].sum(axis=0) / num_true[0]
        return found


class _Pairs:
    """IoU of predictions and true objects of one class in one image; of a crowd, its share in the prediction."""

    def __init__(
        self,
        masks: SparseMasks,
        sizes: Int64[np.ndarray, " D"],
        true: SparseMasks,
        true_sizes: Int64[np.ndarray, " G"],
        is_crowd: Bool[np.ndarray, " G"],
    ) -> None:
        self.masks, self.true, self.is_crowd = masks, true, is_crowd
        common = common_pixels(masks, true)
        unions = np.where(is_crowd, sizes[:, None], sizes[:, None] + true_sizes - common)
        self.ious = common / np.maximum(unions, 1)

    def lesser_ious(self) -> Float64[np.ndarray, "D G"]:
        """The lesser of the IoU of the masks and that of their boundaries; crowds keep that of the masks.

        Pairs that match at no threshold anyway keep that of the masks too.
        """
        width = boundary_width(self.true.size_hw)
        rows, columns = np.nonzero((self.ious >= IOU_THRESHOLDS[0]) & ~self.is_crowd)
        predicted = {row: boundary(self.masks[row], width) for row in set(rows.tolist())}
        true = {column: boundary(self.true[column], width) for column in set(columns.tolist())}
        lesser = self.ious.copy()
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            lesser[row, column] = min(lesser[row, column], boundary_iou(predicted[row], true[column]))
        return lesser


def _curve(
    hits: Bool[np.ndarray, "N T"], errors: Bool[np.ndarray, "N T"], num_true: int
) -> tuple[Float64[np.ndarray, "T R"], Float64[np.ndarray, " T"]]:
    """Precision at each of the recalls, and the recall of all, by threshold; predictions are best first."""
    true_positives, false_positives = np.cumsum(hits, axis=0).T, np.cumsum(errors, axis=0).T
    recall = true_positives / num_true
    precision = true_positives / (true_positives + false_positives + np.spacing(1))  # Parity: the published epsilon
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.pad(precision, ((0, 0), (0, 1)))  # what is never reached
    indices = [np.searchsorted(row, RECALLS, side="left") for row in recall]
    return np.stack([row[position] for row, position in zip(precision, indices, strict=True)]), recall[:, -1]


def _percent(values: Float64[np.ndarray, "*shape"]) -> float:
    defined = values[~np.isnan(values)]
    return 100.0 * float(defined.mean()) if defined.size else float("nan")
