"""What is true about one image, as the metrics expect it: made by data sets, read by evaluators.

Void and ignored pixels are explicit in each form. Knows neither files nor predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

__all__ = ["InstanceTruth", "PanopticTruth", "SemanticTruth", "Truth"]

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


Truth = PanopticTruth | InstanceTruth | np.ndarray
