"""The positions of the tiles of an image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

__all__ = ["Grid", "Tile"]

Size = tuple[int, int]


class Tile(NamedTuple):
    """A part of an image, in pixels; bottom and right are excluded."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """The part of an array that the tile shows; its first axes are height and width."""
        return image[self.top : self.bottom, self.left : self.right]

    def seen_from(self, area: Tile) -> Tile:
        """The same part in the coordinates of an area that contains it."""
        return Tile(self.top - area.top, self.left - area.left, self.bottom - area.top, self.right - area.left)

    def common(self, other: Tile) -> Tile | None:
        """The common part of two tiles; None if there is none."""
        top, left = max(self.top, other.top), max(self.left, other.left)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Tile(top, left, bottom, right) if top < bottom and left < right else None


@dataclass(frozen=True, slots=True)
class Grid:
    """The tiles of an image, and which pixels each is the last to show.

    Attributes:
        size_hw: height and width of the image.
        tops: top edges of the rows of tiles, ascending.
        lefts: left edges of the columns of tiles, ascending.
        tile_hw: height and width of every tile.
        overlap: least number of pixels that neighbours share.
    """

    size_hw: Size
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    tile_hw: Size
    overlap: int

    @classmethod
    def over(cls, size_hw: Size, side: int, overlap: int) -> Grid:
        """Squares of ``side`` pixels that cover an image.

        They are evenly spaced and overlap their neighbours by at least ``overlap`` pixels. If the image is smaller than
        ``side``, they are only as high or wide as the image.
        """
        tops, lefts = (tuple(_starts(length, side, overlap)) for length in size_hw)
        return cls(size_hw, tops, lefts, (min(side, size_hw[0]), min(side, size_hw[1])), overlap)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def __iter__(self) -> Iterator[Tile]:
        """The tiles, row by row."""
        height, width = self.tile_hw
        return (Tile(top, left, top + height, left + width) for top in self.tops for left in self.lefts)

    def done(self, tile: Tile) -> Size:
        """The first row and the first column that later tiles also show."""
        rows, columns = dict(pairwise(self.tops)), dict(pairwise(self.lefts))
        return rows.get(tile.top, tile.bottom), columns.get(tile.left, tile.right)

    def distances(self) -> tuple[Float32[np.ndarray, " h"], Float32[np.ndarray, " w"]]:
        """Distance of each row and each column of a tile from its border, in pixels; 1 at the border itself."""
        rows, columns = (np.minimum(range(1, side + 1), range(side, 0, -1)) for side in self.tile_hw)
        return rows.astype(np.float32), columns.astype(np.float32)


def _starts(length: int, side: int, overlap: int) -> list[int]:
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    return [round(index * (length - side) / (count - 1)) for index in range(count)]
