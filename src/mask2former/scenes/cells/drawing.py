"""From a seed to an image of cells with one number for each nucleus."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from mask2former.errors import UserError
from mask2former.scenes.cells.absorption import paint_absorption
from mask2former.scenes.cells.epithelium import Epithelium
from mask2former.scenes.cells.fluorescence import paint_fluorescence

__all__ = ["CellImage", "draw_cells"]

_SHARES = (("fluorescence", 0.6), ("stained", 0.3), ("bright field", 0.1))
_SMALLEST, _LARGEST = 9.0, 70.0  # median diameter in pixels
_SIDES = 32, 4096  # pixels
_SHEETS = 0.3  # of the images of fluorescence
_LARGEST_IN_SHEETS = 32.0  # so that many are visible


class CellImage(NamedTuple):
    """``image`` is uint8 (H, W, 3); ``ids`` int32 (H, W): nuclei 1..n, each with at least 12 pixels, 0 elsewhere."""

    image: UInt8[np.ndarray, "H W 3"]
    ids: Int32[np.ndarray, "H W"]


def _sheet(seed: int, size_hw: tuple[int, int]) -> Epithelium | None:
    rng = np.random.Generator(np.random.PCG64([seed, 3]))  # of its own, so that all else about an image stays the same
    if rng.random() >= _SHEETS:
        return None
    return Epithelium.random(rng, size_hw, math.exp(rng.uniform(math.log(_SMALLEST), math.log(_LARGEST_IN_SHEETS))))


def draw_cells(seed: int, size_hw: tuple[int, int] = (256, 256)) -> CellImage:
    """An image of cells, as a pure function of seed and size.

    On average, six of ten images show fluorescence, three stained tissue or smears, one a bright field. The median
    diameter of the nuclei is between 9 and 70 pixels, with equal weight for each factor. In three of ten images of
    fluorescence, nuclei of at most 32 pixels stand in rows around a cavity, as in embryos and glands.

    Args:
        seed: at least 0.
        size_hw: height and width in pixels, 32 to 4096 each.

    Raises:
        UserError: the seed is negative or the size is impossible.
    """
    if seed < 0:
        raise UserError(f"the seed of an image of cells must not be negative, got {seed}")
    if len(size_hw) != 2 or not all(_SIDES[0] <= side <= _SIDES[1] for side in size_hw):
        raise UserError(
            f"an image of cells is (height, width) of {_SIDES[0]} to {_SIDES[1]} pixels each, got {tuple(size_hw)}"
        )
    rng = np.random.Generator(np.random.PCG64([seed, 2]))  # scenes have 0, clips 1
    diameter = math.exp(rng.uniform(math.log(_SMALLEST), math.log(_LARGEST)))
    kind = rng.choice([name for name, _ in _SHARES], p=[share for _, share in _SHARES])
    if kind == "fluorescence":
        sheet = _sheet(seed, size_hw)
        diameter = diameter if sheet is None else sheet.diameter
        values, front = paint_fluorescence(rng, size_hw, diameter, sheet)
    else:
        values, front = paint_absorption(rng, size_hw, diameter, is_grey=kind == "bright field")
    image = np.clip(np.round(values), 0, 255).astype(np.uint8)
    return CellImage(np.ascontiguousarray(np.broadcast_to(image, (*size_hw, 3))), front)
