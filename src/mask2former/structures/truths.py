"""What is true about one image, as the metrics expect it: made by data sets, read by evaluators.

Void and ignored pixels are explicit in each form. Knows neither files nor predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

__all__ = ["CityscapesTruth", "ClipTruth", "InstanceTruth", "PanopticTruth", "SemanticTruth", "Truth", "with_classes"]

SemanticTruth = Int[np.ndarray, "H W"]  # class indices; every other value (``Categories.ignore_label``) is ignored


class PanopticTruth(NamedTuple):
    """An id map, 0 being void, and ``(id, class index, is crowd)`` of every segment."""

    ids: Int[np.ndarray, "H W"]
    segments: Sequence[tuple[int, int, bool]]


class InstanceTruth(NamedTuple):
    """Masks, class indices and crowd flags.

    ``areas`` decide about small, medium and large; without them pixels are counted. COCO's own file has areas of
    polygons.
    """

    masks: Bool[np.ndarray, "N H W"]
    labels: Int64[np.ndarray, " N"]
    iscrowd: Bool[np.ndarray, " N"]
    areas: Float64[np.ndarray, " N"] | None = None


class CityscapesTruth(NamedTuple):
    """What Cityscapes' own metrics of instances and of pixels need, which is its ``*_gtFine_instanceIds.png``.

    Label id * 1000 + number where an object is, else the label id: of stuff, of a group of objects that nobody told
    apart, or of one of the labels that are void in the metrics.
    """

    instance_ids: Int[np.ndarray, "H W"]


class ClipTruth(NamedTuple):
    """Tracks of a clip: a mask per frame, empty where it is out of sight, class indices and crowd flags.

    ``areas`` are mean pixels per frame where it is seen and decide about small, medium and large; without them pixels
    are counted.
    """

    masks: Bool[np.ndarray, "N T H W"]
    labels: Int64[np.ndarray, " N"]
    iscrowd: Bool[np.ndarray, " N"]
    areas: Float64[np.ndarray, " N"] | None = None


Truth = PanopticTruth | InstanceTruth | CityscapesTruth | ClipTruth | np.ndarray


def with_classes(truth: Truth, class_map: Int64[np.ndarray, " K"], ignore_label: int) -> Truth:
    """The same truth with other class indices.

    Args:
        truth: of images; that of Cityscapes has label ids, which stay.
        class_map: new class index by old one.
        ignore_label: for pixels of label maps that are no class.
    """
    if isinstance(truth, PanopticTruth):
        return truth._replace(segments=[(n, int(class_map[label]), crowd) for n, label, crowd in truth.segments])
    if isinstance(truth, InstanceTruth | ClipTruth):
        return truth._replace(labels=class_map[truth.labels])
    if isinstance(truth, CityscapesTruth):
        return truth
    known = (truth >= 0) & (truth < len(class_map))
    return np.where(known, class_map[np.where(known, truth, 0)], ignore_label)
