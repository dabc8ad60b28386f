"""Boundaries of masks (Cheng et al., CVPR 2021), which all boundary metrics share.

The boundary of a mask is what lies within a distance of its edge, the frame of the image being an edge too. Masks are
cut to their pixels first, and the square neighbourhood is eroded one axis after the other. Nothing here knows classes.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import UInt

from mask2former.ops.masks import Patch, tight

__all__ = ["BOUNDARY_DILATION", "boundary", "boundary_width", "eroded"]

BOUNDARY_DILATION = 0.02  # width of the boundary, in image diagonals


def boundary_width(size_hw: tuple[int, int]) -> int:
    """Width of boundaries in an image of this size; pixels, at least one."""
    return max(1, round(BOUNDARY_DILATION * math.hypot(*size_hw)))


def eroded(values: UInt[np.ndarray, "H W"], distance: int) -> UInt[np.ndarray, "H W"]:
    """The least value within ``distance`` pixels along both axes; it is 0 beyond the frame.

    The same as ``distance`` erosions with a 3x3 square. The window doubles, so the work grows with its logarithm.
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
    """The pixels of a mask within ``distance`` of its edge or of the frame, cut to a box."""
    # Outside of its box a mask is empty, so the cut mask erodes as the whole one does.
    top, left, inner = tight(mask)
    inner = np.ascontiguousarray(inner)
    if min(inner.shape) <= 2 * distance:
        return Patch(top, left, inner)
    return Patch(top, left, inner & (eroded(inner.view(np.uint8), distance) == 0))
