"""Boundaries of masks (Cheng et al., CVPR 2021), shared by all boundary metrics.

The boundary of a mask is the part within a certain distance of its edge; the border of the image counts as an edge,
too. Masks are first cropped to their pixels, and the square neighbourhood is eroded one axis at a time.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import UInt

from mask2former.ops.masks import Patch, tight

__all__ = ["BOUNDARY_DILATION", "boundary", "boundary_width", "eroded"]

BOUNDARY_DILATION = 0.02  # width of the boundary, in image diagonals


def boundary_width(size_hw: tuple[int, int]) -> int:
    """Width of boundaries in an image of this size, in pixels; at least 1."""
    return max(1, round(BOUNDARY_DILATION * math.hypot(*size_hw)))


def eroded(values: UInt[np.ndarray, "H W"], distance: int) -> UInt[np.ndarray, "H W"]:
    """The minimum within ``distance`` pixels along both axes; values outside the image count as 0.

    Equal to ``distance`` erosions with a 3x3 square. The window doubles in each step, so there are only about
    ``log2(distance)`` steps.
    """
    window = 2 * distance + 1
    for axis in (0, 1):
        padding = [(0, 0), (0, 0)]
        padding[axis] = (distance, distance)
        values = np.pad(values, padding)
        covered = 1
        while covered < window:
            step = min(covered, window - covered)
            length = values.shape[axis] - step
            values = np.minimum(_part(values, axis, 0, length), _part(values, axis, step, length))
            covered += step
    return values


def _part(values: UInt[np.ndarray, "H W"], axis: int, start: int, length: int) -> UInt[np.ndarray, "_H _W"]:
    return values[start : start + length] if axis == 0 else values[:, start : start + length]


def boundary(mask: Patch, distance: int) -> Patch:
    """The pixels of a mask within ``distance`` of its edge or of the image border, cropped to a box."""
    # A mask is empty outside its box, so the cropped mask erodes like the complete one.
    top, left, inner = tight(mask)
    inner = np.ascontiguousarray(inner)
    if min(inner.shape) <= 2 * distance:
        return Patch(top, left, inner)
    return Patch(top, left, inner & (eroded(inner.view(np.uint8), distance) == 0))
