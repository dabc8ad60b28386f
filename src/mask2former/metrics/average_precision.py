"""Average precision and recall of masks by COCO's rules (Lin et al., ECCV 2014), for images and clips.

An image is a clip of one frame. Each clip is matched when it is added, and only scores and the outcome of the matching
are kept, so the state stays small even for a complete data set. This module does not depend on how predictions are made
or where ground truth is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from mask2former.errors import UserError
from mask2former.metrics.boundary import boundary, boundary_width
from mask2former.metrics.overlaps import by_class, check_sizes, defined_mean
from mask2former.metrics.pooled import PooledEvaluator
from mask2former.ops.masks import iou
from mask2former.ops.sparse_masks import SparseMasks, frames_of, pairwise_iou
from mask2former.structures import Categories, Instances
from mask2former.structures.clips import VideoInstances
from mask2former.structures.ground_truth import ClipGroundTruth, InstanceGroundTruth, check_labels

__all__ = [
    "InstanceEvaluator",
    "OperatingPoints",
    "PrecisionRecall",
    "VideoInstanceEvaluator",
    "match",
    "track_areas",
]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)  # where precision is sampled
SCORES = np.arange(1, 20) / 20  # thresholds that a user can choose from
_LARGEST = 1e5**2  # pixels; COCO's bound
_RANGES = ("", "s", "m", "l")  # suffixes of the metrics by range of areas
_SHAPE = (len(_RANGES), len(IOU_THRESHOLDS))
_AT_50, _AT_75 = 0, 5  # indices of the thresholds

_Kind = Literal["", "boundary_"]  # which IoU counts, as a prefix of the metrics


class PrecisionRecall(NamedTuple):
    """Precision over recall of one class as in COCO: the best precision at this recall or a higher one; 0..1."""

    recall: Float64[np.ndarray, " R"]
    at_50: Float64[np.ndarray, " R"]  # precision at IoU 0.5
    at_75: Float64[np.ndarray, " R"]
    mean: Float64[np.ndarray, " R"]  # over IoU 0.5, 0.55, ... 0.95; its own mean is AP


class OperatingPoints(NamedTuple):
    """Quality of the predictions above each score, over objects of all classes and sizes, at an IoU of 0.5; 0..1.

    Precision is NaN where no prediction has a higher score.
    """

    scores: Float64[np.ndarray, " S"]  # thresholds, rising
    precision: Float64[np.ndarray, " S"]
    recall: Float64[np.ndarray, " S"]
    f1: Float64[np.ndarray, " S"]  # hits / (hits + half of the false and missed ones)

    @property
    def best(self) -> int:
        """Index of the highest F1; if several are equal, that of the highest score."""
        return len(self.f1) - 1 - int(np.argmax(self.f1[::-1]))


class _Case(NamedTuple):
    """What is kept of the predictions of one image or clip, best first within each class."""

    position: int  # among the cases of the evaluator that added it
    labels: Int64[np.ndarray, " N"]
    scores: Float64[np.ndarray, " N"]
    ranks: Int64[np.ndarray, " N"]  # within the class, from 0
    outcomes: Mapping[_Kind, tuple[Bool[np.ndarray, "N A T"], Bool[np.ndarray, "N A T"]]]  # is right, is excused


class _Accumulated(NamedTuple):
    """Precision and recall; NaN for classes without a true object in the range of areas."""

    precision: Float64[np.ndarray, "K A T R"]
    recall: Float64[np.ndarray, "K A T"]
    limited_recall: dict[int, Float64[np.ndarray, "K T"]]  # by number of detections, over all areas


class _Objects(NamedTuple):
    """The predictions or the true objects of an image or clip; predictions are in falling order of score."""

    frames: Sequence[SparseMasks]
    labels: Int64[np.ndarray, " N"]
    areas: Float64[np.ndarray, " N"]  # which decide between small, medium and large


def match(
    ious: Float64[np.ndarray, "D G"], is_crowd: Bool[np.ndarray, " G"], ignored: Bool[np.ndarray, "A G"]
) -> tuple[Bool[np.ndarray, "D A T"], Bool[np.ndarray, "D A T"]]:
    """COCO's greedy matching of one class in one image, for all ranges of areas and IoU thresholds at once.

    From best to worst, each prediction takes the free true object with the highest IoU; a crowd is always free.
    Ignored objects (crowds, and objects outside the range of areas) are taken only where no other object fits.

    Args:
        ious: predictions (rows, in falling order of score) by true objects (columns).
        is_crowd: objects that may be taken many times.
        ignored: by range of areas; includes the crowds.

    Returns:
        By prediction, range and threshold: whether it has a partner, and whether that partner is an ignored one.
    """
    shape = (len(ignored), len(IOU_THRESHOLDS))
    matched = np.zeros((len(ious), *shape), dtype=bool)
    excused = np.zeros((len(ious), *shape), dtype=bool)
    free = np.ones((*shape, ious.shape[1]), dtype=bool)
    ranges, thresholds = np.indices(shape)
    # Parity: among equal candidates the last one is taken.
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


class _AveragePrecision:
    """Matches images or clips one by one; :meth:`compute` returns percent.

    Args:
        categories: the classes of the model. Classes without true objects are not part of the means.
        max_detections: how many predictions count per image or clip and class, the most certain first.
        area_limits: areas in pixels from which objects are medium and large.
        kinds: which kinds of IoU are measured.
        crowd_share: whether the IoU with a crowd is the share of the prediction that lies on it.

    Raises:
        UserError: a limit is invalid.
    """

    def __init__(
        self,
        categories: Categories,
        max_detections: int,
        area_limits: tuple[float, float],
        kinds: tuple[_Kind, ...] = ("",),
        *,
        crowd_share: bool,
    ) -> None:
        if max_detections < 1:
            raise UserError(f"max_detections must be at least 1, got {max_detections}")
        if not 0 < area_limits[0] < area_limits[1] < _LARGEST:
            raise UserError(f"area_limits must be two ascending numbers of pixels, got {area_limits}")
        self.categories = categories
        self.max_detections = max_detections
        self._kinds = kinds
        self._crowd_share = crowd_share
        # Areas are compared with both ends included, and the first range includes everything.
        medium, large = area_limits
        self._area_ranges = np.array([[0, _LARGEST], [0, medium], [medium, large], [large, _LARGEST]])
        self._num_true = np.zeros((len(categories), len(self._area_ranges)), dtype=np.int64)  # without ignored objects
        self.most_true = 0  # objects in one image or clip, for remarks
        self._cases: list[_Case] = []
        self._accumulated: dict[_Kind, _Accumulated] = {}  # valid until the next case is added

    def _add(
        self, found: _Objects, scores: Float64[np.ndarray, " N"], true: _Objects, is_crowd: Bool[np.ndarray, " G"]
    ) -> None:
        """Match the predictions that count, class by class, and count the true objects.

        Raises:
            UserError: an area is outside all ranges, or a label is no class.
        """
        check_labels(true.labels, len(self.categories))
        if len(wrong := true.areas[~((true.areas >= 0) & (true.areas <= _LARGEST))]):  # NaN too
            raise UserError(
                f"ground truth has an area of {wrong[0]:g} pixels, which is in no range of areas; expected 0 to "
                f"{_LARGEST:g}"
            )
        lower, upper = self._area_ranges[:, :1], self._area_ranges[:, 1:]
        ignored = is_crowd | (true.areas < lower) | (true.areas > upper)  # (A, G)
        np.add.at(self._num_true, true.labels, ~ignored.T)
        self.most_true = max(self.most_true, int(np.count_nonzero(~is_crowd)))

        by_class = np.argsort(found.labels, kind="stable")  # best first within a class
        _, starts, counts = np.unique(found.labels[by_class], return_index=True, return_counts=True)
        ranks = np.arange(len(by_class)) - np.repeat(starts, counts)
        kept = ranks < self.max_detections
        chosen, ranks = by_class[kept], ranks[kept]
        labels, areas = found.labels[chosen], found.areas[chosen]
        outside = (areas[:, None] < self._area_ranges[:, 0]) | (areas[:, None] > self._area_ranges[:, 1])  # (N, A)

        right = {kind: np.zeros((len(chosen), *_SHAPE), dtype=bool) for kind in self._kinds}
        # Predictions without a partner do not count if they are outside the range of areas.
        uncounted = {kind: np.broadcast_to(outside[..., None], right[kind].shape).copy() for kind in self._kinds}
        for label in np.intersect1d(labels, true.labels):
            rows, columns = np.flatnonzero(labels == label), np.flatnonzero(true.labels == label)
            crowds = is_crowd[columns]
            mine = [frame.take(chosen[rows]) for frame in found.frames]
            theirs = [frame.take(columns) for frame in true.frames]
            whole = pairwise_iou(mine, theirs, shares=crowds if self._crowd_share else None)
            for kind in self._kinds:
                ious = _lesser_ious(whole, mine[0], theirs[0], crowds) if kind == "boundary_" else whole
                matched, excused = match(ious, crowds, ignored[:, columns])
                right[kind][rows] = matched & ~excused
                uncounted[kind][rows] = np.where(matched, excused, uncounted[kind][rows])
        outcomes: dict[_Kind, Any] = {kind: (right[kind], uncounted[kind]) for kind in self._kinds}
        self._cases.append(_Case(len(self._cases), labels, scores[chosen], ranks, outcomes))
        self._accumulated.clear()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_accumulated": {}}  # larger than what it is computed from

    def merge(self, other: _AveragePrecision) -> None:
        """Add the cases of another evaluator, for instance from another process (evaluators can be pickled).

        Of equal scores, the one of the earlier image comes first, as published. If each of several processes took every
        n-th image, merging them in their order gives the same numbers as a single process.
        """
        self._cases = self._cases + other._cases
        self._num_true = self._num_true + other._num_true
        self.most_true = max(self.most_true, other.most_true)
        self._accumulated.clear()

    def compute(self) -> dict[str, float]:
        """Average precision and recall; percent, NaN where there is no object.

        Returns:
            ``instance/AP`` (mean over IoU 0.5 to 0.95), ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``; ``AR`` with the
            number of detections (``max_detections``, and 1 and 10 where they are below it), ``ARs``, ``ARm``, ``ARl``.
        """
        values = {}
        for kind in self._kinds:
            precision, recall, limited_recall = self._accumulate(kind)
            columns = {"AP": precision[:, 0], "AP50": precision[:, 0, _AT_50], "AP75": precision[:, 0, _AT_75]}
            columns |= {f"AP{suffix}": precision[:, index] for index, suffix in enumerate(_RANGES) if suffix}
            columns |= {f"AR{limit}": entries for limit, entries in limited_recall.items()}
            columns |= {f"AR{suffix}": recall[:, index] for index, suffix in enumerate(_RANGES) if suffix}
            values |= {f"instance/{kind}{name}": 100.0 * defined_mean(entries) for name, entries in columns.items()}
        return values

    def per_class(self) -> dict[str, dict[str, float]]:
        """``AP`` and ``AP50`` of every thing class by name; percent, NaN for classes without true objects."""
        columns = {}
        for kind in self._kinds:
            precision = self._accumulate(kind).precision[:, 0]
            columns[f"{kind}AP"] = [100.0 * defined_mean(of_class) for of_class in precision]
            if not kind:
                columns["AP50"] = [100.0 * defined_mean(of_class[_AT_50]) for of_class in precision]
        return by_class(self.categories, columns, things_only=True)

    def curves(self) -> dict[str, PrecisionRecall]:
        """Precision over recall by class name, over objects of all sizes, for classes with true objects."""
        precision = self._accumulate("").precision[:, 0]
        return {
            self.categories[index].name: PrecisionRecall(
                RECALLS, precision[index, _AT_50], precision[index, _AT_75], precision[index].mean(axis=0)
            )
            for index in np.flatnonzero(self._num_true[:, 0]).tolist()
        }

    def operating_points(self, label: int | None = None) -> OperatingPoints | None:
        """Precision, recall and F1 by score threshold, from 0.05 to 0.95; None without true objects.

        Args:
            label: index of the only class to include; None: all classes.

        The first ``max_detections`` predictions of each image or clip and class count, predictions covered by a crowd
        are excused, and classes without true objects do not count.
        """
        num_true = int(self._num_true[:, 0].sum() if label is None else self._num_true[label, 0])
        if not num_true:
            return None
        labels, scores = (
            np.concatenate([getattr(case, name) for case in self._cases]) for name in ("labels", "scores")
        )
        right, uncounted = (
            np.concatenate([case.outcomes[""][part][:, 0, _AT_50] for case in self._cases]) for part in (0, 1)
        )
        wrong = ~(right | uncounted) & (self._num_true[labels, 0] > 0)
        if label is not None:
            right, wrong = right & (labels == label), wrong & (labels == label)
        hits, errors = (
            np.array([np.count_nonzero(kind & (scores >= least)) for least in SCORES]) for kind in (right, wrong)
        )
        predictions = np.where(hits + errors > 0, hits + errors, np.nan)
        return OperatingPoints(SCORES, hits / predictions, hits / num_true, 2 * hits / (hits + errors + num_true))

    def num_true(self, label: int) -> int:
        """Number of true objects of a class, without crowds."""
        return int(self._num_true[label, 0])

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
        cases = sorted(self._cases, key=lambda case: case.position)
        if not any(len(case.labels) for case in cases):
            return found
        labels, scores, ranks = (
            np.concatenate([getattr(case, name) for case in cases]) for name in ("labels", "scores", "ranks")
        )
        right, uncounted = (np.concatenate([case.outcomes[kind][part] for case in cases]) for part in (0, 1))
        # By class, best first; equal scores keep the order of the images.
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


class InstanceEvaluator(_AveragePrecision):
    """Mask and boundary average precision of images, as COCO counts them (Mask2Former, Table 2).

    For the instances of a panoptic model this is AP^Th_pan of the paper, since only classes with true objects count,
    and those are the things of the annotation.

    Args:
        categories: the classes of the model. Classes without true objects are not part of the means.
        max_detections: how many instances count per image and class, the most certain first.
        area_limits: areas in pixels from which objects are medium and large.
        boundary: also measure boundary average precision (Cheng et al., CVPR 2021), as ``instance/boundary_AP`` etc.:
            the IoU of two masks is then the lesser of the IoU of the masks and the IoU of their boundaries, which are
            0.02 image diagonals wide.
        pooled_threshold: also measure pooled average precision, see :class:`PooledEvaluator`, for objects above this
            score.

    Raises:
        UserError: a limit is invalid.
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
        kinds: tuple[_Kind, ...] = ("", "boundary_") if boundary else ("",)
        super().__init__(categories, max_detections, area_limits, kinds, crowd_share=True)
        self.pooled = None if pooled_threshold is None else PooledEvaluator(categories, pooled_threshold)

    def update(
        self,
        prediction: Instances,
        ground_truth: InstanceGroundTruth
        | tuple[Bool[np.ndarray, "N H W"], Int[np.ndarray, " N"], Bool[np.ndarray, " N"]],
    ) -> None:
        """Add one image.

        Raises:
            UserError: masks have different sizes, or the numbers of masks, labels and crowd flags differ.
        """
        if not isinstance(ground_truth, InstanceGroundTruth):
            ground_truth = InstanceGroundTruth(*ground_truth)
        check_sizes(prediction.size_hw, ground_truth.masks.shape[1:])
        masks = SparseMasks.of(ground_truth.masks)
        ground_truth = ground_truth._replace(masks=masks)
        true, is_crowd = _true_objects(
            [masks], ground_truth, masks.areas if ground_truth.areas is None else ground_truth.areas, "mask"
        )
        found = _Objects([prediction.sparse], prediction.labels, prediction.sparse.areas)
        self._add(found, prediction.scores, true, is_crowd)
        if self.pooled is not None:
            self.pooled.update(prediction, ground_truth)

    def merge(self, other: _AveragePrecision) -> None:
        super().merge(other)
        if self.pooled is not None:
            assert isinstance(other, InstanceEvaluator)
            assert other.pooled is not None
            self.pooled.merge(other.pooled)

    def compute(self) -> dict[str, float]:
        return super().compute() | (self.pooled.compute() if self.pooled else {})

    def per_class(self) -> dict[str, dict[str, float]]:
        """As for clips, plus ``boundary_AP`` and ``pooled_AP`` where they were requested."""
        rows = super().per_class()
        if self.pooled:
            for name, values in self.pooled.per_class().items():
                rows[name] |= values
        return rows


class VideoInstanceEvaluator(_AveragePrecision):
    """Average precision of tracks, as YouTube-VIS counts them (Yang et al., ICCV 2019); OVIS uses the same rules.

    The IoU of two tracks is the sum over frames of their intersections, divided by the sum of their unions, even for a
    crowd (Mask2Former for Video Instance Segmentation, Tables 1 and 2).

    Args:
        categories: the classes of the model. Classes without true tracks are not part of the means.
        max_detections: how many tracks count per clip and class, the most certain first.
        area_limits: mean areas in pixels per frame from which tracks are medium and large.

    Raises:
        UserError: a limit is invalid.
    """

    def __init__(
        self,
        categories: Categories,
        *,
        max_detections: int = 100,
        area_limits: tuple[float, float] = (128**2, 256**2),
    ) -> None:
        super().__init__(categories, max_detections, area_limits, crowd_share=False)

    def update(self, prediction: VideoInstances, ground_truth: ClipGroundTruth) -> None:
        """Add one clip.

        Raises:
            UserError: masks have different sizes or numbers of frames, or numbers of tracks, labels and crowd flags
                differ.
        """
        shape = (prediction.num_frames, *prediction.size_hw)
        if shape != ground_truth.masks.shape[1:]:
            raise UserError(
                f"the prediction has {shape} (frames, height, width) and the ground truth "
                f"{ground_truth.masks.shape[1:]}; predict all frames of the clip at the size of the annotation"
            )
        found, true = prediction.sparse, frames_of(ground_truth.masks)
        areas = track_areas(true) if ground_truth.areas is None else ground_truth.areas
        objects, is_crowd = _true_objects(true, ground_truth, areas, "track")
        self._add(_Objects(found, prediction.labels, track_areas(found)), prediction.scores, objects, is_crowd)


def track_areas(frames: Sequence[SparseMasks]) -> Float64[np.ndarray, " N"]:
    """Mean area of each track in pixels, over the frames in which it appears; 0 for a track that never appears."""
    pixels = np.stack([masks.areas for masks in frames], axis=1)
    return pixels.sum(axis=1) / np.maximum(np.count_nonzero(pixels, axis=1), 1)


def _true_objects(
    frames: Sequence[SparseMasks], ground_truth: InstanceGroundTruth | ClipGroundTruth, areas: np.ndarray, what: str
) -> tuple[_Objects, Bool[np.ndarray, " G"]]:
    """The true objects and their crowd flags, checked for equal lengths; ``what`` is "mask" or "track"."""
    if not len(ground_truth.labels) == len(ground_truth.iscrowd) == len(areas) == len(ground_truth.masks):
        raise UserError(
            f"ground truth has {len(ground_truth.masks)} {what}s, but {len(ground_truth.labels)} labels, "
            f"{len(ground_truth.iscrowd)} crowd flags and {len(areas)} areas; give one of each per {what}"
        )
    labels, areas = np.asarray(ground_truth.labels, dtype=np.int64), np.asarray(areas, dtype=np.float64)
    return _Objects(frames, labels, areas), np.asarray(ground_truth.iscrowd, dtype=bool)


def _lesser_ious(
    ious: Float64[np.ndarray, "D G"], found: SparseMasks, true: SparseMasks, is_crowd: Bool[np.ndarray, " G"]
) -> Float64[np.ndarray, "D G"]:
    """The lesser of the IoU of the masks and the IoU of their boundaries; crowds keep the IoU of the masks.

    Pairs that match at no threshold anyway also keep the IoU of the masks.
    """
    width = boundary_width(true.size_hw)
    rows, columns = np.nonzero((ious >= IOU_THRESHOLDS[0]) & ~is_crowd)
    mine = {row: boundary(found[row], width) for row in set(rows.tolist())}
    theirs = {column: boundary(true[column], width) for column in set(columns.tolist())}
    lesser = ious.copy()
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        lesser[row, column] = min(lesser[row, column], iou(mine[row], theirs[column]))
    return lesser


def _curve(
    hits: Bool[np.ndarray, "N T"], errors: Bool[np.ndarray, "N T"], num_true: int
) -> tuple[Float64[np.ndarray, "T R"], Float64[np.ndarray, " T"]]:
    """Precision at each of the recalls, and the final recall, by threshold; predictions are best first."""
    true_positives, false_positives = np.cumsum(hits, axis=0).T, np.cumsum(errors, axis=0).T
    recall = true_positives / num_true
    precision = true_positives / (true_positives + false_positives + np.spacing(1))  # Parity: the published epsilon
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.pad(precision, ((0, 0), (0, 1)))  # recalls that are never reached
    indices = [np.searchsorted(row, RECALLS, side="left") for row in recall]
    return np.stack([row[index] for row, index in zip(precision, indices, strict=True)]), recall[:, -1]
