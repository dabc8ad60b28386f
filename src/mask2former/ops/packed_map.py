"""Label maps and id maps of large images, compressed in memory strip by strip."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, Int64

__all__ = ["PackedMap"]


_STRIP_PIXELS = 1 << 20


class PackedMap:
    """An integer map that is written and read from top to bottom. It takes about a hundredth of the memory of an array.

    Args:
        size_hw: height and width in pixels.
        dtype: of the values.
    """

    __slots__ = ("_strips", "dtype", "size_hw")

    def __init__(self, size_hw: tuple[int, int], dtype: np.dtype | type[np.integer]) -> None:
        self.size_hw = size_hw
        self.dtype = np.dtype(dtype)
        self._strips: list[bytes] = []

    @classmethod
    def of(cls, values: Int[np.ndarray, "H W"]) -> PackedMap:
        """An array, compressed."""
        packed = cls((values.shape[0], values.shape[1]), values.dtype)
        packed.append(values)
        return packed

    def append(self, rows: Int[np.ndarray, "rows W"]) -> None:
        """The next rows."""
        assert rows.shape[1] == self.size_hw[1], (rows.shape, self.size_hw)
        step = max(1, _STRIP_PIXELS // self.size_hw[1])
        for top in range(0, len(rows), step):
            self._strips.append(zlib.compress(rows[top : top + step].astype(self.dtype).tobytes(), level=1))

    def strips(self) -> Iterator[tuple[int, Int[np.ndarray, "rows W"]]]:
        """The first row and the values of each strip, of about a million pixels; read-only."""
        top = 0
        for strip in self._strips:
            values = np.frombuffer(zlib.decompress(strip), dtype=self.dtype).reshape(-1, self.size_hw[1])
            yield top, values
            top += len(values)

    def mapped(self, table: Int[np.ndarray, " values"]) -> PackedMap:
        """The map whose values are ``table[value]``."""
        packed = PackedMap(self.size_hw, table.dtype)
        for _, values in self.strips():
            packed.append(table[values])
        return packed

    def counts(self, length: int) -> Int64[np.ndarray, " length"]:
        """The number of pixels by value; all values must be below ``length``."""
        total = np.zeros(length, dtype=np.int64)
        for _, values in self.strips():
            total += np.bincount(values.ravel(), minlength=length)
        return total

    def dense(self) -> Int[np.ndarray, "H W"]:
        """The map as one array, which is large."""
        values = np.empty(self.size_hw, dtype=self.dtype)
        for top, strip in self.strips():
            values[top : top + len(strip)] = strip
        return values

    def thinned(self, step: int) -> Int[np.ndarray, "h w"]:
        """Every ``step``-th pixel along both axes."""
        parts = [strip[-top % step :: step, ::step] for top, strip in self.strips()]
        return np.concatenate(parts) if parts else np.empty((0, -(-self.size_hw[1] // step)), dtype=self.dtype)
