"""Cityscapes' own metrics (Cordts et al., CVPR 2016): average precision of instances, IoU and iIoU of pixels.

The rules differ from COCO's, and so do the numbers. Each image is matched when it is added, and only outcomes are kept.
Classes are identified by their ids, which must be the label ids of the data set. This module does not depend on how
predictions are made or where ground truth is stored.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64
from numpy.typing import ArrayLike

from mask2former.config import Task
from mask2former.errors import UserError
from mask2former.metrics.overlaps import by_class, check_sizes, defined_mean
from mask2former.metrics.semantic import SemanticEvaluator
from mask2former.structures import Categories, Instances, SemanticSegmentation
from mask2former.structures.ground_truth import CityscapesGroundTruth, InstanceGroundTruth, SemanticGroundTruth

__all__ = ["CityscapesInstanceEvaluator", "CityscapesPixelEvaluator", "plain_ground_truth"]

OVERLAPS = np.arange(0.5, 1.0, 0.05)  # Parity: exactly these floating-point numbers
MIN_REGION = 100  # pixels; smaller true objects do not count
FIRST_OBJECT = 1000  # smaller ids are labels

# Label ids by group of classes; the metric calls groups categories.
GROUPS = {
    "flat": (7, 8),
    "construction": (11, 12, 13),
    "object": (17, 19, 20),
    "nature": (21, 22),
    "sky": (23,),
    "human": (24, 25),
    "vehicle": (26, 27, 28, 31, 32, 33),
}
# Mean area in pixels of an object in the training images, by label id, as published with the metric.
MEAN_SIZES = {
    24: 3462.4756337644,
    25: 3930.4788056518,
    26: 12794.0202738185,
    27: 27855.1264367816,
    28: 35732.1511111111,
    31: 67583.7075812274,
    32: 6298.7200839748,
    33: 4672.3249222261,
}


class _Regions(NamedTuple):
    """The regions of one image: objects, groups, stuff and void."""

    codes: Int64[np.ndarray, "H W"]  # index into the other fields
    ids: Int64[np.ndarray, " R"]
    labels: Int64[np.ndarray, " R"]  # label ids
    sizes: Int64[np.ndarray, " R"]  # pixels


def _regions(ground_truth: CityscapesGroundTruth, size_hw: tuple[int, int]) -> _Regions:
    ids = ground_truth.instance_ids
    check_sizes(size_hw, ids.shape)
    if ids.min(initial=0) < 0 or ids.max(initial=0) >= 1 << 16:
        raise UserError(
            f"ids in an instance map of Cityscapes must be in 0..65535; got {ids.min()}..{ids.max()}; "
            "read the files *_gtFine_instanceIds.png as 16-bit integers"
        )
    counts = np.bincount(ids.ravel())
    present = np.flatnonzero(counts)
    table = np.zeros(len(counts), dtype=np.int64)
    table[present] = np.arange(len(present))
    labels = np.where(present < FIRST_OBJECT, present, present // FIRST_OBJECT)
    return _Regions(table[ids], present, labels, counts[present])


def plain_ground_truth(
    ground_truth: CityscapesGroundTruth, task: Task, categories: Categories
) -> InstanceGroundTruth | SemanticGroundTruth:
    """The annotation with the class indices of ``categories``, in the form of other data sets, to draw and to compare.

    Semantic: a label map, with ``categories.ignore_label`` where the label is none of the classes. Instance: the
    objects; groups of objects that were not annotated one by one are crowd regions.
    """
    regions = _regions(ground_truth, ground_truth.instance_ids.shape)
    index_of_id = categories.index_of_id()
    labels = np.array([index_of_id.get(int(label), -1) for label in regions.labels], dtype=np.int64)
    if task == "semantic":
        return np.where(labels < 0, categories.ignore_label, labels)[regions.codes]
    is_thing = np.array([*(item.is_thing for item in categories), False])  # the last element is for -1
    shown = np.flatnonzero(is_thing[labels])
    masks = regions.codes == shown[:, None, None]
    return InstanceGroundTruth(masks, labels[shown], regions.ids[shown] < FIRST_OBJECT)


def _check(categories: Categories) -> None:
    known = set(Categories.load("cityscapes").index_of_id())
    unknown = [item.name for item in categories if item.id not in known]
    if unknown:
        raise UserError(
            "the metrics of Cityscapes apply to its own classes, with label ids as ids; got "
            f"{', '.join(unknown[:5])}; use the metrics in the style of coco"
        )


class _Matched(NamedTuple):
    """What is kept of one image."""

    labels: Int64[np.ndarray, " N"]  # class indices
    scores: Float64[np.ndarray, " N"]
    outcomes: Int8[np.ndarray, "N T"]  # right (1), wrong (0) or neither (-1), by overlap


class CityscapesInstanceEvaluator:
    """Matches instances image by image; :meth:`compute` returns percent (Mask2Former, Table 6).

    A prediction and a true object of the same class match when their IoU is greater than the overlap. If several match
    one object, the best is right and the others are wrong. A prediction without a match is wrong, unless its share on
    void, on groups and on objects below 100 pixels exceeds the overlap. Average precision is the area below the steps
    of the precision-recall curve, without interpolation.

    Args:
        categories: the classes of the model, with label ids as ids; stuff is left out.

    Raises:
        UserError: some classes are not classes of Cityscapes.
    """

    def __init__(self, categories: Categories) -> None:
        _check(categories)
        self.categories = categories
        self._num_true = np.zeros(len(categories), dtype=np.int64)
        self._missed = np.zeros((len(categories), len(OVERLAPS)), dtype=np.int64)
        self._images: list[_Matched] = []

    def update(self, prediction: Instances, ground_truth: CityscapesGroundTruth) -> None:
        """Add one image.

        Raises:
            UserError: masks have different sizes, or ids are out of range.
        """
        regions = _regions(ground_truth, prediction.size_hw)
        label_ids = np.array([item.id for item in self.categories])
        is_thing = np.array([item.is_thing for item in self.categories])
        evaluated = np.array(list(Categories.load("cityscapes").index_of_id()))
        is_void = (regions.ids < FIRST_OBJECT) & ~np.isin(regions.labels, evaluated)
        is_group = regions.ids < FIRST_OBJECT
        is_small = regions.sizes < MIN_REGION

        chosen = is_thing[prediction.labels] & (prediction.sparse.areas > 0)
        labels, scores = prediction.labels[chosen], prediction.scores[chosen]
        common = np.zeros((len(labels), len(regions.ids)), dtype=np.int64)
        for row, (top, left, mask) in enumerate(prediction.sparse.take(chosen)):
            codes = regions.codes[top : top + mask.shape[0], left : left + mask.shape[1]][mask]
            common[row] = np.bincount(codes, minlength=len(regions.ids))
        sizes = common.sum(axis=1)
        same = label_ids[labels][:, None] == regions.labels
        ious = np.where(same, common / (sizes[:, None] + regions.sizes - common), 0.0)
        above = ious[..., None] > OVERLAPS  # (N, R, T)

        # Parity: objects that are both a group and small count twice.
        forgiven = (common * is_void).sum(axis=1) + (common * same * (1 * is_group + is_small)).sum(axis=1)
        wrong = (forgiven / np.maximum(sizes, 1))[:, None] <= OVERLAPS
        outcomes = np.where(~above.any(axis=1) & wrong, 0, -1).astype(np.int8)
        for region in np.flatnonzero(~is_group & ~is_small & np.isin(regions.labels, label_ids[is_thing])):
            label = int(np.flatnonzero(label_ids == regions.labels[region])[0])
            partners = above[:, region]
            outcomes[partners] = 0
            found = partners.any(axis=0)
            best = np.argmax(partners[:, found], axis=0) if found.any() else []  # predictions are sorted by score
            outcomes[best, np.flatnonzero(found)] = 1
            self._num_true[label] += 1
            self._missed[label] += ~found
        self._images.append(_Matched(labels, scores, outcomes))

    def merge(self, other: CityscapesInstanceEvaluator) -> None:
        """Add the images of another evaluator, for instance from another process (evaluators can be pickled)."""
        self._images = self._images + other._images
        self._num_true = self._num_true + other._num_true
        self._missed = self._missed + other._missed

    def compute(self) -> dict[str, float]:
        """``instance/AP`` (mean over overlaps 0.5 to 0.95) and ``instance/AP50``; percent, NaN without true objects."""
        precision = self._precision()
        return {"instance/AP": defined_mean(precision), "instance/AP50": defined_mean(precision[:, 0])}

    def per_class(self) -> dict[str, dict[str, float]]:
        """``AP`` and ``AP50`` of every thing class by name; percent, NaN for classes without true objects."""
        precision = self._precision()
        return by_class(self.categories, {"AP": precision.mean(axis=1), "AP50": precision[:, 0]}, things_only=True)

    def _precision(self) -> Float64[np.ndarray, "K T"]:
        values = np.full(self._missed.shape, np.nan)
        values[self._num_true > 0] = 0.0
        if not self._images:
            return values
        labels = np.concatenate([image.labels for image in self._images])
        scores = np.concatenate([image.scores for image in self._images])
        outcomes = np.concatenate([image.outcomes for image in self._images])
        for label in np.intersect1d(labels, np.flatnonzero(self._num_true)):
            chosen = labels == label
            for column in range(len(OVERLAPS)):
                counted = chosen & (outcomes[:, column] >= 0)
                values[label, column] = 100.0 * _step_area(
                    scores[counted], outcomes[counted, column] == 1, int(self._missed[label, column])
                )
        return values


def _step_area(scores: Float64[np.ndarray, " N"], hits: Bool[np.ndarray, " N"], missed: int) -> float:
    """Area below the steps of the precision-recall curve, from predictions in any order; 0 without predictions."""
    if not len(scores):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores are added in one step
    true_positives = np.cumsum(hits[order])[last]
    precision = np.concatenate([[1.0], true_positives / (last + 1)])
    recall = np.concatenate([[0.0], true_positives / max(int(true_positives[-1]) + missed, 1)])
    # Each point accounts for half of the step before it and half of the step after it.
    ends = np.concatenate([[0.0], recall, recall[-1:]])
    return float(precision @ (ends[2:] - ends[:-2]) / 2)


class CityscapesPixelEvaluator:
    """IoU of classes and of groups of classes, and iIoU, in which every object has the same weight; percent.

    It also measures everything that :class:`SemanticEvaluator` does. In iIoU the weight of a true pixel is the mean
    size of its class divided by the size of its object; wrong pixels have weight 1. Only classes with objects have it.

    Args:
        categories: the classes of the model, with label ids as ids.
        boundary: as in :class:`SemanticEvaluator`.
        segments: as in :class:`SemanticEvaluator`.

    Raises:
        UserError: some classes are not classes of Cityscapes.
    """

    def __init__(self, categories: Categories, *, boundary: bool = False, segments: bool = False) -> None:
        _check(categories)
        self.categories = categories
        self._pixels = SemanticEvaluator(categories, boundary=boundary, segments=segments)
        # Weighted object pixels by class index: all, those with the right class, and those with the right group.
        self._weighted = np.zeros((3, len(categories)))

    @property
    def confusion(self) -> Int64[np.ndarray, "K1 K1"]:
        """See :attr:`SemanticEvaluator.confusion`."""
        return self._pixels.confusion

    def update(self, prediction: SemanticSegmentation, ground_truth: CityscapesGroundTruth) -> None:
        """Add one image.

        Raises:
            UserError: maps have different sizes, or ids are out of range.
        """
        regions = _regions(ground_truth, prediction.size_hw)
        index_of_id, rest = self.categories.index_of_id(), len(self.categories)
        indices = np.array([index_of_id.get(label, rest) for label in regions.labels.tolist()], dtype=np.int64)
        ignored = self.categories.ignore_label
        labels = np.where(indices < rest, indices, ignored)[regions.codes]
        self._pixels.update(prediction, labels)

        predicted = np.minimum(prediction.labels.astype(np.int64), rest)
        shape = (len(regions.ids), rest + 1)
        votes = np.bincount((regions.codes * shape[1] + predicted).ravel(), minlength=shape[0] * shape[1])
        votes = votes.reshape(shape)
        weighted = self._weighted.copy()
        for region in np.flatnonzero((regions.ids > FIRST_OBJECT) & np.isin(regions.labels, list(MEAN_SIZES))):
            if (index := int(indices[region])) < rest:
                size = int(regions.sizes[region])
                right = votes[region, index], votes[region, self._members(self._group_of(index))].sum()
                weighted[:, index] += np.array([size, *right]) * (MEAN_SIZES[int(regions.labels[region])] / size)
        self._weighted = weighted

    def _group_of(self, index: int) -> str:
        return next(name for name, ids in GROUPS.items() if self.categories[index].id in ids)

    def _members(self, group: str) -> list[int]:
        return [index for index, item in enumerate(self.categories) if item.id in GROUPS[group]]

    def merge(self, other: CityscapesPixelEvaluator) -> None:
        """Add the images of another evaluator, for instance from another process (evaluators can be pickled)."""
        self._pixels.merge(other._pixels)
        self._weighted = self._weighted + other._weighted

    def compute(self) -> dict[str, float]:
        """Means in percent, NaN where undefined.

        Returns:
            ``semantic/IoU`` and ``iIoU`` over classes, ``IoU_sup`` and ``iIoU_sup`` over groups, and the metrics of
            :meth:`SemanticEvaluator.compute`. ``IoU`` differs from ``mIoU`` in one respect: a class that is predicted
            but never true counts as 0.
        """
        ious, weighted_ious = self._class_scores()
        groups = np.array([self._group_scores(group) for group in GROUPS if self._members(group)])
        means = {"IoU": ious, "iIoU": weighted_ious, "IoU_sup": groups[:, 0], "iIoU_sup": groups[:, 1]}
        return self._pixels.compute() | {f"semantic/{name}": defined_mean(values) for name, values in means.items()}

    def per_class(self) -> dict[str, dict[str, float]]:
        """As in :meth:`SemanticEvaluator.per_class`, plus ``IoU`` as in :meth:`compute` and ``iIoU``; percent."""
        ious, weighted_ious = self._class_scores()
        return {
            name: row | {"IoU": float(ious[index]), "iIoU": float(weighted_ious[index])}
            for index, (name, row) in enumerate(self._pixels.per_class().items())
        }

    def _class_scores(self) -> tuple[Float64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:
        """IoU and iIoU of every class."""
        labelled = self.confusion[:, :-1]
        hits = np.diagonal(labelled)
        wrong = labelled[:-1].sum(axis=1) - hits
        has_size = np.array([np.nan if item.id not in MEAN_SIZES else 1.0 for item in self.categories])
        everything, right, _ = self._weighted
        return _share(hits, labelled.sum(axis=0) + wrong), has_size * _share(right, everything + wrong)

    def _group_scores(self, group: str) -> tuple[float, float]:
        """IoU and iIoU of a group of classes."""
        members = self._members(group)
        labelled = self.confusion[:, :-1]
        hits = labelled[np.ix_(members, members)].sum()
        wrong = labelled[members].sum() - hits
        everything, _, right = self._weighted[:, members].sum(axis=1)
        has_size = all(label in MEAN_SIZES for label in GROUPS[group])
        iou = _share(hits, labelled[:, members].sum() + wrong)
        return float(iou), float(_share(right, everything + wrong)) if has_size else float("nan")


def _share(parts: ArrayLike, wholes: ArrayLike) -> Float64[np.ndarray, "*shape"]:
    """Percentage; NaN if the total is 0."""
    some, whole = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)
    return np.where(whole > 0, 100.0 * some / np.where(whole > 0, whole, 1), np.nan)
