"""Results of large images, whose maps are compressed; instances are sparse anyway."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mask2former.ops.packed_map import PackedMap
from mask2former.structures.categories import Categories
from mask2former.structures.results import Instances, PanopticSegmentation, Segment, SemanticSegmentation

__all__ = ["PackedPanoptic", "PackedSegmentation", "PackedSemantic"]


@dataclass(frozen=True, slots=True)
class PackedPanoptic:
    """A :class:`PanopticSegmentation` whose id map is compressed.

    Attributes:
        ids: segment id per pixel; 0 is "nothing".
        segments: what each id is.
        categories: the classes that ``Segment.label`` counts.
    """

    ids: PackedMap
    segments: tuple[Segment, ...]
    categories: Categories

    def unpacked(self) -> PanopticSegmentation:
        """The result with its map as an array."""
        return PanopticSegmentation(self.ids.dense(), self.segments, self.categories)


@dataclass(frozen=True, slots=True)
class PackedSemantic:
    """A :class:`SemanticSegmentation` whose label map is compressed.

    Attributes:
        labels: class index per pixel.
        categories: the classes that ``labels`` counts.
    """

    labels: PackedMap
    categories: Categories

    def unpacked(self) -> SemanticSegmentation:
        """The result with its map as an array."""
        return SemanticSegmentation(self.labels.dense().astype(np.int32), self.categories)


PackedSegmentation = PackedPanoptic | Instances | PackedSemantic
