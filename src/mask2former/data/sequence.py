"""Samples by index: what data sets of images, of scenes and of your own have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, overload

from mask2former.structures.samples import Sample

__all__ = ["SampleSequence"]


class SampleSequence(Sequence[Sample]):
    """Samples by index or slice, negative ones counted from the end; a subclass has ``__len__`` and ``sample``."""

    counted: ClassVar[str] = "sample"  # what an index out of range is called

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
        """The sample at ``position``, from 0 to the length excluded."""
