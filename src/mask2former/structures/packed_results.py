"""Results of large images, whose maps are compressed; instances are sparse anyway."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from mask2former.ops.packed_map import PackedMap
from mask2former.structures.categories import Categories
from mask2former.structures.results import Instances, PanopticSegmentation, Segment, SemanticSegmentation

Classes = str | int | Iterable[str | int] | None

__all__ = ["PackedPanoptic", "PackedSegmentation", "PackedSemantic"]


@dataclass(frozen=True, slots=True)
class PackedPanoptic:
    """A :class:`PanopticSegmentation` whose id map is compressed.

    Attributes:
        ids: segment id per pixel; 0 is "nothing".
        segments: what each id is.
        categories: the classes that ``Segment.label`` indexes.
    """

    ids: PackedMap
    segments: tuple[Segment, ...]
    categories: Categories

    def __len__(self) -> int:
        return len(self.segments)

    def filter(self, classes: Classes = None, *, min_area: int = 0) -> PackedPanoptic:
        """See :meth:`PanopticSegmentation.filter`."""
        labels = np.array([segment.label for segment in self.segments], dtype=np.int64)
        areas = np.array([segment.area for segment in self.segments], dtype=np.int64)
        keep = _kept(labels, areas, self.categories, classes, min_area)
        if keep.all():
            return self
        kept = tuple(segment for segment, is_kept in zip(self.segments, keep, strict=True) if is_kept)
        table = np.zeros(max(segment.id for segment in self.segments) + 1, dtype=np.int32)
        ids = [segment.id for segment in kept]
        table[ids] = ids
        return PackedPanoptic(self.ids.mapped(table), kept, self.categories)

    def unpacked(self) -> PanopticSegmentation:
        """The result with its map as an array."""
        return PanopticSegmentation(self.ids.dense(), self.segments, self.categories)


@dataclass(frozen=True, slots=True)
class PackedSemantic:
    """A :class:`SemanticSegmentation` whose label map is compressed.

    Attributes:
        labels: class index per pixel.
        categories: the classes that ``labels`` indexes.
    """

    labels: PackedMap
    categories: Categories

    def __len__(self) -> int:
        """The number of classes that occur."""
        return int(np.count_nonzero(self._areas()[: len(self.categories)]))

    def _areas(self) -> Int64[np.ndarray, " labels"]:
        """Pixels of each class index, and of "no class"."""
        return self.labels.counts(max(len(self.categories), self.categories.ignore_label + 1))

    def filter(self, classes: Classes = None, *, min_area: int = 0) -> PackedSemantic:
        """See :meth:`SemanticSegmentation.filter`."""
        nothing, areas = self.categories.ignore_label, self._areas()
        areas[nothing] = min_area  # what is of no class stays so
        present = np.flatnonzero(areas)
        keep = _kept(present, areas[present], self.categories, classes, min_area) | (present == nothing)
        if keep.all():
            return self
        table = np.arange(len(areas), dtype=np.min_scalar_type(len(areas) - 1))
        table[present[~keep]] = nothing
        return PackedSemantic(self.labels.mapped(table), self.categories)

    def unpacked(self) -> SemanticSegmentation:
        """The result with its map as an array."""
        return SemanticSegmentation(self.labels.dense().astype(np.int32), self.categories)


PackedSegmentation = PackedPanoptic | Instances | PackedSemantic


def _kept(
    labels: Int64[np.ndarray, " n"],
    areas: Int64[np.ndarray, " n"],
    categories: Categories,
    classes: Classes,
    min_area: int,
) -> Bool[np.ndarray, " n"]:
    """Which masks are of some classes and large enough."""
    keep = areas >= min_area
    return keep if classes is None else keep & np.isin(labels, sorted(categories.indices(classes)))
