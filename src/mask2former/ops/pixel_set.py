"""Pixels of an image of any size, as a bit for each in the blocks that hold some."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, UInt8

from mask2former.ops.masks import Patch

__all__ = ["PixelSet"]

_ROWS, _BYTES = 256, 32  # of a block, each byte eight pixels: 256 x 256


class PixelSet:
    """Pixels that were added; none at first. Memory is taken where they are, 8 KiB for each block."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, int], UInt8[np.ndarray, "256 32"]] = {}

    def add(self, patch: Patch) -> None:
        """Add the pixels of a part of a mask."""
        top, left, mask = patch
        if not mask.size:
            return
        aligned = np.zeros((mask.shape[0], left % 8 + mask.shape[1]), dtype=bool)
        aligned[:, left % 8 :] = mask
        added = np.packbits(aligned, axis=1)
        for key, of_block, of_part in _blocks(top, left // 8, *added.shape):
            if key not in self._blocks:
                self._blocks[key] = np.zeros((_ROWS, _BYTES), dtype=np.uint8)
            self._blocks[key][of_block] |= added[of_part]

    def within(self, top: int, left: int, height: int, width: int) -> Bool[np.ndarray, "height width"]:
        """Which pixels of a box are in the set; the box lies within the image and has pixels."""
        first = left // 8
        found = np.zeros((height, (left + width - 1) // 8 - first + 1), dtype=np.uint8)
        for key, of_block, of_part in _blocks(top, first, *found.shape):
            if (block := self._blocks.get(key)) is not None:
                found[of_part] = block[of_block]
        start = left - 8 * first
        return np.unpackbits(found, axis=1).view(bool)[:, start : start + width]


_Part = tuple[slice, slice]


def _blocks(top: int, left: int, height: int, width: int) -> Iterator[tuple[tuple[int, int], _Part, _Part]]:
    """The blocks that a part of the image touches, with the rows and bytes of the block and those of the part.

    Columns and widths are bytes.
    """
    for row in range(top // _ROWS, (top + height - 1) // _ROWS + 1):
        of_rows, rows = _common(row * _ROWS, _ROWS, top, height)
        for column in range(left // _BYTES, (left + width - 1) // _BYTES + 1):
            of_columns, columns = _common(column * _BYTES, _BYTES, left, width)
            yield (row, column), (of_rows, of_columns), (rows, columns)


def _common(start: int, length: int, other_start: int, other_length: int) -> tuple[slice, slice]:
    """What two ranges share, as slices of each."""
    first, end = max(start, other_start), min(start + length, other_start + other_length)
    return slice(first - start, end - start), slice(first - other_start, end - other_start)
