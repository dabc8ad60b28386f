"""Images that are read in parts: in memory, or too large for it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import UInt8

__all__ = ["ArrayRegions", "Regions"]


class Regions(Protocol):
    """An image of which any part can be read: an array, a file with access to parts, or an object of yours.

    Attributes:
        size_hw: height and width in pixels.
    """

    @property
    def size_hw(self) -> tuple[int, int]: ...

    def read(self, top: int, left: int, bottom: int, right: int) -> UInt8[np.ndarray, "_h _w C"]:
        """The part from (top, left) to (bottom, right), exclusive, as RGB; it lies within the image."""
        ...


class ArrayRegions(NamedTuple):
    """An image in memory."""

    image: UInt8[np.ndarray, "H W C"]

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    def read(self, top: int, left: int, bottom: int, right: int) -> UInt8[np.ndarray, "_h _w C"]:
        return self.image[top:bottom, left:right]
