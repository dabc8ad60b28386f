"""What a user gets: typed results of the three image tasks, which can draw, save and export themselves.

Arrays are numpy on the host; :mod:`mask2former.visualization` does the images and :mod:`mask2former.ops.masks` the RLE.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64, UInt8
from PIL import Image

from mask2former import visualization
from mask2former.ops.masks import Patch
from mask2former.ops.sparse_masks import AnyMasks, SparseMasks
from mask2former.structures.categories import Categories
from mask2former.structures.result_base import MaskFormat, Ranked, Result, png_bytes

__all__ = [
    "Instances",
    "PanopticSegmentation",
    "Segment",
    "Segmentation",
    "SemanticSegmentation",
]


@dataclass(frozen=True, slots=True)
class Segment:
    """One panoptic segment: ``id`` is its value in the id map (from 1), ``label`` its class index.

    ``score`` is the class probability of the query in 0..1, ``area`` counts pixels.
    """

    id: int
    label: int
    is_thing: bool
    score: float
    area: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PanopticSegmentation(Result):
    """Every pixel belongs to at most one segment.

    Attributes:
        ids: segment id per pixel; 0 is "nothing".
        segments: the segment of each id, in order of creation.
        categories: the classes that ``Segment.label`` indexes.
    """

    ids: Int32[np.ndarray, "H W"]
    segments: tuple[Segment, ...]
    categories: Categories

    task: ClassVar[str] = "panoptic"

    def __post_init__(self) -> None:
        assert (self.ids.ndim, self.ids.dtype) == (2, np.int32), (self.ids.shape, self.ids.dtype)
        numbers = [segment.id for segment in self.segments]
        assert len(set(numbers)) == len(numbers), numbers
        assert all(0 < number < 1 << 24 for number in numbers), numbers  # three bytes in files
        assert all(0 <= segment.label < len(self.categories) for segment in self.segments)

    def __len__(self) -> int:
        return len(self.segments)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.ids.shape[0], self.ids.shape[1]

    def _part(self, rows: slice | Int64[np.ndarray, " n"]) -> PanopticSegmentation:
        """Some segments, with the ids they have; the pixels of others are 0."""
        chosen = np.arange(len(self))[rows].tolist()
        kept = tuple(self.segments[row] for row in chosen)
        ids = np.where(np.isin(self.ids, [segment.id for segment in kept]), self.ids, np.int32(0))
        return PanopticSegmentation(ids, kept, self.categories)

    def _entries(self) -> list[tuple[int, int, float | None]]:
        return [(segment.id, segment.label, float(segment.score)) for segment in self.segments]

    def _patch(self, index: int) -> Patch:
        return SparseMasks.of_ids(self.ids, [self.segments[index].id])[0]

    def _areas(self, masks: SparseMasks | None = None) -> Int64[np.ndarray, " N"]:
        return np.array([segment.area for segment in self.segments], dtype=np.int64)

    @property
    def masks(self) -> Bool[np.ndarray, "N H W"]:
        """One mask per segment, in the order of ``segments``."""
        return self.sparse.dense()

    @property
    def sparse(self) -> SparseMasks:
        """The same, as boxes and the pixels inside."""
        return SparseMasks.of_ids(self.ids, (segment.id for segment in self.segments))

    @property
    def labels(self) -> Int64[np.ndarray, " N"]:
        """Class index of each segment."""
        return np.asarray([segment.label for segment in self.segments], dtype=np.int64)

    @property
    def scores(self) -> Float64[np.ndarray, " N"]:
        """Class probability of each segment."""
        return np.asarray([segment.score for segment in self.segments], dtype=np.float64)

    @property
    def boxes(self) -> Float64[np.ndarray, "N 4"]:
        """Tight boxes (x1, y1, x2, y2) in pixels; x2 and y2 are one past the last pixel."""
        return self.sparse.boxes

    def _regions(self) -> list[visualization.Region]:
        rows = zip(Result._regions(self), self.segments, strict=True)
        return [replace(region, is_thing=segment.is_thing) for region, segment in rows]

    def _drawn(self, image: UInt8[np.ndarray, "H W 3"], regions: list[visualization.Region], **how: Any) -> Image.Image:
        numbers = [segment.id for segment in self.segments]
        return visualization.overlay_panoptic(image, self.ids, numbers, regions, **how)

    def to_coco(self, image_id: int | str, file_name: str | None = None) -> dict[str, Any]:
        """The record of a COCO panoptic results file; category ids are those of the data set.

        ``file_name`` is that of the PNG with the ids (see :meth:`save`); by default ``<image_id>.png``.
        """
        info = [{"id": segment.id, "category_id": self.categories[segment.label].id} for segment in self.segments]
        return {"image_id": image_id, "file_name": file_name or f"{image_id}.png", "segments_info": info}

    def _records(self, form: MaskFormat) -> list[dict[str, Any]]:
        rows = zip(Result._records(self, form), self.segments, strict=True)
        return [{**record, "is_thing": segment.is_thing} for record, segment in rows]

    def label_png(self) -> dict[str, bytes]:
        channels = [self.ids >> shift & 255 for shift in (0, 8, 16)]
        return {"_ids.png": png_bytes(Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)))}


@dataclass(frozen=True, slots=True, eq=False, init=False, repr=False)
class Instances(Ranked, Result):
    """Objects that may overlap, best first.

    Attributes:
        sparse: one binary mask per object, as its box and the pixels inside; memory grows with the objects, not the
            image.
        labels: class indices.
        scores: class probability times mask score, in 0..1, descending.
        boxes: tight boxes (x1, y1, x2, y2) of the masks in pixels; zeros for an empty mask.
        categories: the classes that ``labels`` indexes.
    """

    sparse: SparseMasks  # pyright: ignore[reportIncompatibleMethodOverride]  (a property of the others)
    labels: Int64[np.ndarray, " N"]
    scores: Float64[np.ndarray, " N"]
    boxes: Float64[np.ndarray, "N 4"]
    categories: Categories

    task: ClassVar[str] = "instance"

    def __init__(
        self,
        masks: AnyMasks,
        labels: Int64[np.ndarray, " N"],
        scores: Float64[np.ndarray, " N"],
        boxes: Float64[np.ndarray, "N 4"],
        categories: Categories,
    ) -> None:
        values = (SparseMasks.of(masks), labels, scores, boxes, categories)
        for item, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, item.name, value)  # it is frozen
        assert boxes.shape == (len(masks), 4), boxes.shape
        self._check(len(masks))

    @property
    def masks(self) -> Bool[np.ndarray, "N H W"]:
        """One binary mask per object: a large array, computed at every access."""
        return self.sparse.dense()

    def __len__(self) -> int:
        return len(self.sparse)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.sparse.size_hw

    def _entries(self) -> list[tuple[int, int, float | None]]:
        return list(zip(range(1, len(self) + 1), self.labels.tolist(), self.scores.tolist(), strict=True))

    def _boxes(self, masks: SparseMasks) -> Float64[np.ndarray, "N 4"]:
        return self.boxes

    def _part(self, rows: slice | Int64[np.ndarray, " n"]) -> Instances:
        return Instances(
            self.sparse.take(rows), self.labels[rows], self.scores[rows], self.boxes[rows], self.categories
        )

    def plot(self, image: visualization.ImageLike, *, threshold: float = 0.0, **how: Any) -> Image.Image:
        """The image with the objects drawn on it whose score is at least ``threshold``; otherwise as for segments.

        Raises:
            UserError: the image has another size than the result, or cannot be read.
        """
        shown = self.at_least(threshold) if threshold > 0 else self
        return super(Instances, shown).plot(image, **how)

    def _drawn(self, image: UInt8[np.ndarray, "H W 3"], regions: list[visualization.Region], **how: Any) -> Image.Image:
        return visualization.overlay_instances(image, self.sparse, regions, **how)

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """The records of a COCO instance results file; category ids are those of the data set, boxes (x, y, w, h)."""
        return self._coco_records(image_id=image_id)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SemanticSegmentation(Result):
    """A class for every pixel.

    Attributes:
        labels: class index per pixel; values outside the classes (``categories.ignore_label``) mean "no class".
        categories: the classes that ``labels`` indexes.
    """

    labels: Int[np.ndarray, "H W"]
    categories: Categories

    task: ClassVar[str] = "semantic"

    def __post_init__(self) -> None:
        assert self.labels.ndim == 2, self.labels.shape
        assert np.issubdtype(self.labels.dtype, np.integer), self.labels.dtype
        assert not self.labels.size or self.labels.min() >= 0

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.labels.shape[0], self.labels.shape[1]

    def _present(self) -> list[int]:
        """Class indices that occur, ascending."""
        return [int(label) for label in np.unique(self.labels) if label < len(self.categories)]

    @property
    def sparse(self) -> SparseMasks:
        """The masks of the classes that occur, by ascending index."""
        return SparseMasks.of_ids(self.labels, self._present())

    def _part(self, rows: slice | Int64[np.ndarray, " n"]) -> SemanticSegmentation:
        """Some of the classes that occur; the pixels of others have no class."""
        nothing, present = self.categories.ignore_label, np.array(self._present(), dtype=np.int64)
        part = self.labels.astype(np.promote_types(self.labels.dtype, np.min_scalar_type(nothing)))
        part[~np.isin(part, present[rows])] = nothing
        return SemanticSegmentation(part, self.categories)

    def _entries(self) -> list[tuple[int, int, float | None]]:
        return [(label, label, None) for label in self._present()]

    def _regions(self) -> list[visualization.Region]:
        return [
            visualization.Region(name=item.name, color=item.color, group=index, is_thing=item.is_thing)
            for index, item in enumerate(self.categories)
        ]

    def _drawn(self, image: UInt8[np.ndarray, "H W 3"], regions: list[visualization.Region], **how: Any) -> Image.Image:
        return visualization.overlay_semantic(image, self.labels, regions, **how)

    def to_coco(self, image_id: int | str, file_name: str | None = None) -> list[dict[str, Any]]:
        """One record per class present, with the class's mask; category ids are those of the data set.

        ``file_name`` is that of the image; published files of semantic results identify images by it.
        """
        named = {} if file_name is None else {"file_name": file_name}
        return self._coco_records(image_id=image_id, **named)

    def label_png(self) -> dict[str, bytes]:
        # The width depends on the class list, not the image, so that all files of one data set are alike.
        nothing = self.categories.ignore_label
        wide = max(len(self.categories) - 1, nothing) > 255
        labels = np.where(self.labels < len(self.categories), self.labels, nothing)  # others could become a class
        return {"_labels.png": png_bytes(Image.fromarray(labels.astype(np.uint16 if wide else np.uint8)))}


Segmentation = PanopticSegmentation | Instances | SemanticSegmentation
