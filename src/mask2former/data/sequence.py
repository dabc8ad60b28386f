"""Samples by index: what data sets of images, of scenes and your own have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, overload

import numpy as np

from mask2former.structures.samples import Sample

__all__ = ["SampleSequence", "spread_indices"]


def spread_indices(length: int, most: int) -> list[int]:
    """Up to ``most`` indices at even distances, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(most, length)).round().astype(int)).tolist()


class SampleSequence(Sequence[Sample]):
    """Samples by index or slice, also negative; a subclass implements ``__len__`` and ``sample``."""

    counted: ClassVar[str] = "sample"  # what an item is called in the error for an index out of range

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self.sample(position) for position in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"{self.counted} {index} of {len(self)}")
        return self.sample(position)

    @abstractmethod
    def sample(self, position: int) -> Sample:
        """The sample at ``position``, from 0 to the length, exclusive."""
