"""What is true about one image, as the metrics expect it: made by data sets, read by evaluators.

Void and ignored pixels are explicit in each form. Of a training target three of them can be made; it has no crowds, and
what no mask covers is void. Knows neither files nor predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64

from mask2former.ops.sparse_masks import AnyMasks, SparseMasks
from mask2former.structures.categories import Categories
from mask2former.structures.samples import Target

__all__ = [
    "CityscapesGroundTruth",
    "ClipGroundTruth",
    "InstanceGroundTruth",
    "PanopticGroundTruth",
    "SemanticGroundTruth",
    "GroundTruth",
    "id_map",
    "instance_ground_truth",
    "panoptic_ground_truth",
    "semantic_ground_truth",
    "with_classes",
]

SemanticGroundTruth = Int[np.ndarray, "H W"]  # class indices; every other value (``Categories.ignore_label``) is ignored


class PanopticGroundTruth(NamedTuple):
    """An id map, 0 being void, and ``(id, class index, is crowd)`` of every segment.

    ``areas`` are what unions are made of, in the order of the segments; without them pixels are counted. ADE20K's own
    file has areas from before other segments were painted on top, and its published numbers were measured so.
    """

    ids: Int[np.ndarray, "H W"]
    segments: Sequence[tuple[int, int, bool]]
    areas: Int64[np.ndarray, " N"] | None = None


class InstanceGroundTruth(NamedTuple):
    """Masks, class indices and crowd flags; data sets give sparse masks, which is what large images need.

    ``areas`` decide about small, medium and large; without them pixels are counted. COCO's own file has areas of
    polygons.
    """

    masks: AnyMasks
    labels: Int64[np.ndarray, " N"]
    iscrowd: Bool[np.ndarray, " N"]
    areas: Float64[np.ndarray, " N"] | None = None


class CityscapesGroundTruth(NamedTuple):
    """What Cityscapes' own metrics of instances and of pixels need, which is its ``*_gtFine_instanceIds.png``.

    Label id * 1000 + number where an object is, else the label id: of stuff, of a group of objects that nobody told
    apart, or of one of the labels that are void in the metrics.
    """

    instance_ids: Int[np.ndarray, "H W"]


class ClipGroundTruth(NamedTuple):
    """Tracks of a clip: a mask per frame, empty where it is out of sight, class indices and crowd flags.

    ``areas`` are mean pixels per frame where it is seen and decide about small, medium and large; without them pixels
    are counted.
    """

    masks: Bool[np.ndarray, "N T H W"]
    labels: Int64[np.ndarray, " N"]
    iscrowd: Bool[np.ndarray, " N"]
    areas: Float64[np.ndarray, " N"] | None = None


GroundTruth = PanopticGroundTruth | InstanceGroundTruth | CityscapesGroundTruth | ClipGroundTruth | np.ndarray


def with_classes(ground_truth: GroundTruth, class_map: Int64[np.ndarray, " K"], ignore_label: int) -> GroundTruth:
    """The same ground truth with other class indices.

    Args:
        ground_truth: of images; that of Cityscapes has label ids, which stay.
        class_map: new class index by old one.
        ignore_label: for pixels of label maps that are no class.
    """
    if isinstance(ground_truth, PanopticGroundTruth):
        return ground_truth._replace(segments=[(n, int(class_map[label]), crowd) for n, label, crowd in ground_truth.segments])
    if isinstance(ground_truth, InstanceGroundTruth | ClipGroundTruth):
        return ground_truth._replace(labels=class_map[ground_truth.labels])
    if isinstance(ground_truth, CityscapesGroundTruth):
        return ground_truth
    known = (ground_truth >= 0) & (ground_truth < len(class_map))
    return np.where(known, class_map[np.where(known, ground_truth, 0)], ignore_label)


def panoptic_ground_truth(target: Target) -> PanopticGroundTruth:
    """The first frame of a target as an id map (1, 2, ...); earlier segments lie on top, those without a pixel fall."""
    ids = id_map(target)
    visible = set(np.unique(ids).tolist())
    return PanopticGroundTruth(ids, [(n, label, False) for n, label in enumerate(target.labels.tolist(), 1) if n in visible])


def semantic_ground_truth(target: Target, ignore_label: int) -> Int64[np.ndarray, "H W"]:
    """The first frame of a target as a label map, ``ignore_label`` where no mask is; earlier segments lie on top."""
    return np.append(ignore_label, target.labels.cpu().numpy())[id_map(target)]


def instance_ground_truth(target: Target, categories: Categories) -> InstanceGroundTruth:
    """The things of the first frame of a target that have pixels there."""
    is_thing = np.array([category.is_thing for category in categories])
    labels, masks = target.labels.cpu().numpy(), target.masks[:, 0].cpu().numpy()
    chosen = is_thing[labels] & masks.any(axis=(1, 2))
    return InstanceGroundTruth(SparseMasks.of(masks[chosen]), labels[chosen], np.zeros(np.count_nonzero(chosen), dtype=bool))


def id_map(target: Target) -> Int32[np.ndarray, "H W"]:
    """Object k of the first frame as the value k + 1; the first of those that overlap."""
    masks = target.masks[:, 0].cpu().numpy()
    ids = np.zeros(masks.shape[1:], dtype=np.int32)
    for number in range(len(masks), 0, -1):
        ids[masks[number - 1]] = number
    return ids
