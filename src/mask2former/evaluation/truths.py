"""Ground truth of one image as the instance metrics expect it. Knows neither files nor predictions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

__all__ = ["InstanceTruth"]


class InstanceTruth(NamedTuple):
    """Masks, class indices and crowd flags.

    ``areas`` decide about small, medium and large; without them pixels are counted. COCO's own file has areas of
    polygons.
    """

    masks: Bool[np.ndarray, "N H W"]
    labels: Int64[np.ndarray, " N"]
    iscrowd: Bool[np.ndarray, " N"]
    areas: Float64[np.ndarray, " N"] | None = None
