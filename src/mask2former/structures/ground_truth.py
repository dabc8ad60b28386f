"""The ground truth of one image or clip, as the metrics expect it: made by data sets, read by evaluators.

Void and ignored pixels are explicit in each form. Knows neither files nor predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64

from mask2former.config import Task
from mask2former.errors import UserError
from mask2former.ops.sparse_masks import AnyMasks, SparseMasks
from mask2former.structures.categories import Categories
from mask2former.structures.samples import Target

__all__ = [
    "CityscapesGroundTruth",
    "ClipGroundTruth",
    "GroundTruth",
    "InstanceGroundTruth",
    "PanopticGroundTruth",
    "SemanticGroundTruth",
    "check_labels",
    "ground_truths_of_target",
    "with_classes",
]

# Class indices; every other value (``Categories.ignore_label``) is ignored.
SemanticGroundTruth = Int[np.ndarray, "H W"]


class PanopticGroundTruth(NamedTuple):
    """An id map, 0 being void, and ``(id, class index, is crowd)`` of every segment.

    ``areas`` are used for unions, in the order of the segments; without them pixels are counted. ADE20K's own file has
    areas from before other segments were painted on top, and its published numbers were measured with them.
    """

    ids: Int[np.ndarray, "H W"]
    segments: Sequence[tuple[int, int, bool]]
    areas: Int64[np.ndarray, " N"] | None = None


class InstanceGroundTruth(NamedTuple):
    """Masks, class indices and crowd flags; data sets return sparse masks, which large images need.

    ``areas`` determine small, medium and large; without them pixels are counted. COCO's own file has areas of polygons.
    """

    masks: AnyMasks
    labels: Int64[np.ndarray, " N"]
    iscrowd: Bool[np.ndarray, " N"]
    areas: Float64[np.ndarray, " N"] | None = None


class CityscapesGroundTruth(NamedTuple):
    """What Cityscapes' own metrics of instances and of pixels need: its ``*_gtFine_instanceIds.png``.

    Label id * 1000 + number where an object is, else the label id: of stuff, of a group of objects that was not
    separated, or of one of the labels that are void in the metrics.
    """

    instance_ids: Int[np.ndarray, "H W"]


class ClipGroundTruth(NamedTuple):
    """Tracks of a clip: a mask per frame, empty where the object is out of view, class indices and crowd flags.

    ``areas`` are mean pixels per frame in which the object is visible, and determine small, medium and large; without
    them pixels are counted.
    """

    masks: Bool[np.ndarray, "N T H W"]
    labels: Int64[np.ndarray, " N"]
    iscrowd: Bool[np.ndarray, " N"]
    areas: Float64[np.ndarray, " N"] | None = None


# For an image, the last being a SemanticGroundTruth; or for a clip, whose panoptic ground truth is a list over frames.
GroundTruth = (
    PanopticGroundTruth
    | InstanceGroundTruth
    | CityscapesGroundTruth
    | np.ndarray
    | ClipGroundTruth
    | list[PanopticGroundTruth]
)


def with_classes(ground_truth: GroundTruth, class_map: Int64[np.ndarray, " K"], ignore_label: int) -> GroundTruth:
    """The same ground truth with different class indices.

    Args:
        ground_truth: that of Cityscapes has label ids, which stay unchanged.
        class_map: new class index by old one.
        ignore_label: for pixels of label maps that are not of a class.

    Raises:
        UserError: the class of an object or a segment is no class.
    """
    if isinstance(ground_truth, list):
        return [frame._replace(segments=_with_classes(frame.segments, class_map)) for frame in ground_truth]
    if isinstance(ground_truth, PanopticGroundTruth):
        return ground_truth._replace(segments=_with_classes(ground_truth.segments, class_map))
    if isinstance(ground_truth, InstanceGroundTruth | ClipGroundTruth):
        return ground_truth._replace(labels=_mapped(ground_truth.labels, class_map))
    if isinstance(ground_truth, CityscapesGroundTruth):
        return ground_truth
    known = (ground_truth >= 0) & (ground_truth < len(class_map))
    return np.where(known, class_map[np.where(known, ground_truth, 0)], ignore_label)


def _with_classes(
    segments: Sequence[tuple[int, int, bool]], class_map: Int64[np.ndarray, " K"]
) -> list[tuple[int, int, bool]]:
    labels = _mapped(np.array([label for _, label, _ in segments], dtype=np.int64), class_map)
    return [(number, int(label), crowd) for (number, _, crowd), label in zip(segments, labels, strict=True)]


def _mapped(labels: Int64[np.ndarray, " N"], class_map: Int64[np.ndarray, " K"]) -> Int64[np.ndarray, " N"]:
    check_labels(labels, len(class_map))
    return class_map[labels]


def check_labels(labels: Int64[np.ndarray, " N"], num_classes: int) -> None:
    """Check the class indices of ground truth.

    Raises:
        UserError: one is no class; as an index, -1 would be the last.
    """
    if len(wrong := labels[(labels < 0) | (labels >= num_classes)]):
        raise UserError(f"ground truth has the label {wrong[0]}; expected class indices, 0 to {num_classes - 1}")


def ground_truths_of_target(
    target: Target, tasks: Sequence[Task], categories: Categories, *, is_clip: bool = False
) -> dict[Task, GroundTruth]:
    """The ground truth in the target of an image or a clip, by task; without crowds; pixels outside masks are void.

    Where masks overlap, the earlier one is on top in maps. Instances are the things that have pixels.

    Args:
        target: an image has one frame.
        tasks: of a clip ``instance`` and ``panoptic``.
        categories: the classes that its labels count.
        is_clip: return tracks, and id maps of all frames, even if there is only one.
    """
    assert is_clip or target.masks.shape[1] == 1, target.masks.shape
    ground_truths: dict[Task, GroundTruth] = {}
    for task in tasks:
        if task == "panoptic":
            frames = [_panoptic(target, frame) for frame in range(target.masks.shape[1])]
            ground_truths[task] = frames if is_clip else frames[0]
        elif task == "instance":
            tracks = _tracks(target, categories)
            masks = SparseMasks.of(tracks.masks[:, 0])
            ground_truths[task] = tracks if is_clip else InstanceGroundTruth(masks, tracks.labels, tracks.iscrowd)
        else:
            assert not is_clip, "clips have no label maps"
            ground_truths[task] = np.append(categories.ignore_label, target.labels.cpu().numpy())[_id_map(target, 0)]
    return ground_truths


def _panoptic(target: Target, frame: int) -> PanopticGroundTruth:
    """An id map (1, 2, ...) and the segments that have pixels on it."""
    ids = _id_map(target, frame)
    visible = set(np.unique(ids).tolist())
    return PanopticGroundTruth(
        ids, [(n, label, False) for n, label in enumerate(target.labels.tolist(), 1) if n in visible]
    )


def _tracks(target: Target, categories: Categories) -> ClipGroundTruth:
    """The things that have pixels in some frame."""
    is_thing = np.array([category.is_thing for category in categories])
    labels, masks = target.labels.cpu().numpy(), target.masks.cpu().numpy()
    chosen = is_thing[labels] & masks.any(axis=(1, 2, 3))
    return ClipGroundTruth(masks[chosen], labels[chosen], np.zeros(np.count_nonzero(chosen), dtype=bool))


def _id_map(target: Target, frame: int) -> Int32[np.ndarray, "H W"]:
    """Object k as the value k + 1; the first of those that overlap."""
    masks = target.masks[:, frame].cpu().numpy()
    ids = np.zeros(masks.shape[1:], dtype=np.int32)
    for number in range(len(masks), 0, -1):
        ids[masks[number - 1]] = number
    return ids
