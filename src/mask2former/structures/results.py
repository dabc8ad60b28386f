"""What a user gets: typed results of the three image tasks, which can draw, save and export themselves.

Arrays are numpy on the host; :mod:`mask2former.visualization` does the images and :mod:`mask2former.ops.masks` the RLE.
"""

from __future__ import annotations

import io
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, overload

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64, UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mask2former import visualization
from mask2former.documents import encode_json
from mask2former.errors import MissingExtraError, UserError
from mask2former.files import write_whole
from mask2former.ops.masks import Patch
from mask2former.ops.polygons import Ring, mask_to_polygons
from mask2former.ops.sparse_masks import AnyMasks, SparseMasks
from mask2former.pixels import ArrayRegions, Bands, Regions, ValueRange
from mask2former.structures.categories import Categories, Category
from mask2former.structures.tables import PixelSize, table_columns, table_rows
from mask2former.text import listed, shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Instances",
    "MaskFormat",
    "PanopticSegmentation",
    "ResultItem",
    "Segment",
    "Segmentation",
    "SemanticSegmentation",
    "counted_labels",
    "write_files",
]

MaskFormat = Literal["rle", "polygons", "none"]
"""Masks in JSON: COCO run lengths, polygons with holes (see :mod:`mask2former.ops.polygons`), or none."""
SCHEMA_VERSION = 1  # of the JSON files; raised when a key changes its meaning
SOFTWARE = "mask2former"  # the keyword Software of PNG files of results, by which they are not taken for images


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
class ResultItem:
    """One mask of a result: a segment, an instance, or all pixels of a class.

    Attributes:
        id: its value in the exact map; instances are counted from 1.
        label: class index.
        category: the class.
        score: in 0..1; None of a class.
        patch: top, left and the pixels of its tight box.
        size_hw: of the image.
    """

    id: int
    label: int
    category: Category
    score: float | None
    patch: Patch
    size_hw: tuple[int, int]

    @property
    def name(self) -> str:
        """Of the class."""
        return self.category.name

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.patch.mask))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Tight box (x1, y1, x2, y2) in pixels; x2 and y2 are one past the last pixel; zeros for an empty mask."""
        top, left, mask = self.patch
        return left, top, left + mask.shape[1], top + mask.shape[0]

    @property
    def mask(self) -> Bool[np.ndarray, "H W"]:
        """The mask at the size of the image, made at every access."""
        return SparseMasks([self.patch], self.size_hw).dense()[0]

    @property
    def geometry(self) -> dict[str, Any]:
        """The outlines as a GeoJSON MultiPolygon with holes, in pixels."""
        return _multi_polygon(self.patch)

    @property
    def polygons(self) -> list[list[Ring]]:
        """The outlines: see :func:`mask2former.ops.polygons.mask_to_polygons`."""
        return mask_to_polygons(self.patch)

    def cutout(self, image: visualization.ImageLike) -> Image.Image:
        """The part of the image in the box, as RGBA: transparent outside the mask.

        Raises:
            UserError: the image has another size than the result, or the mask is empty.
        """
        left, top, right, bottom = self.box
        if not self.patch.mask.size:
            raise UserError("an empty mask cannot be cut out; leave it out with filter(min_area=1)")
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[:2] == tuple(self.size_hw):
            # Bytes are the same in any part, so that all of a large image is not copied for each mask.
            pixels = visualization.rgb_of(image[top:bottom, left:right], (bottom - top, right - left))
        else:
            pixels = visualization.rgb_of(image, self.size_hw)[top:bottom, left:right]
        return Image.fromarray(np.dstack([pixels, self.patch.mask.astype(np.uint8) * np.uint8(255)]))

    def __repr__(self) -> str:
        score = "" if self.score is None else f", score {self.score:.2f}"
        return f"ResultItem({shown(self.name, 40)}{score}, {self.area} pixels)"


class _Result:
    """What the three results share: choosing, tables, the JSON around their records, and writing files."""

    __slots__ = ()
    task: ClassVar[str]
    categories: Categories

    @property
    def size_hw(self) -> tuple[int, int]:
        raise NotImplementedError

    def plot(
        self,
        image: visualization.ImageLike,
        *,
        scale: int | None = 1,
        labels: bool = True,
        palette: visualization.Palette = "classes",
        value_range: ValueRange | None = None,
        bands: Bands | None = None,
    ) -> Image.Image:
        """The image with the result drawn on it, as the network saw it: read with its EXIF orientation and values.

        It has the size of the image unless ``scale`` enlarges it first.

        Args:
            image: what was segmented: a path, a Pillow image, an array, or what else
                :func:`mask2former.data.images.read_image` takes.
            scale: a whole number, or None: so that names can be read
                (:func:`mask2former.visualization.readable_scale`).
            labels: whether names, counts and a legend are written.
            palette: colours of the classes, or ``colorblind``: eight that colour-blind people tell apart.
            value_range: the values of black and white, if it was segmented with them; see there.
            bands: likewise; the first three are shown as red, green and blue, one of one or two as grey.

        Raises:
            UserError: the image has another size than the result, or cannot be read.
        """
        regions = visualization.recolored(self._regions(), palette)
        pixels = visualization.rgb_of(image, self.size_hw, value_range, bands)
        return self._drawn(pixels, regions, scale=scale, labels=labels)

    def _regions(self) -> list[visualization.Region]:
        raise NotImplementedError

    def _drawn(self, image: UInt8[np.ndarray, "H W 3"], regions: list[visualization.Region], **how: Any) -> Image.Image:
        raise NotImplementedError

    @property
    def sparse(self) -> SparseMasks:
        raise NotImplementedError

    def _entries(self) -> list[tuple[int, int, float | None]]:
        """Id, class index and score of each mask."""
        raise NotImplementedError

    def _part(self, rows: slice | Int64[np.ndarray, " n"]) -> Self:
        """Some of the masks."""
        raise NotImplementedError

    def _patch(self, index: int) -> Patch:
        """One of the masks."""
        return self.sparse[index]

    @overload
    def __getitem__(self, index: int) -> ResultItem: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> Self: ...
    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> ResultItem | Self:
        """One mask with its class and score; of a slice, of several indices or of a flag for each, that part.

        Raises:
            IndexError: there are not so many.
            UserError: a name or a truth value, which is no index.
        """
        if isinstance(index, str | bool):
            raise UserError(f"a mask is chosen by its index, got {index!r}; filter(classes=...) chooses by class")
        if isinstance(index, slice):
            return self._part(index)
        entries = self._entries()
        if isinstance(index, np.ndarray | Sequence):
            return self._part(
                np.arange(len(entries), dtype=np.int64)[np.asarray(index, dtype=None if len(index) else int)]
            )
        if not -len(entries) <= index < len(entries):
            raise IndexError(f"index {index} of {len(entries)} masks")
        row = range(len(entries))[index]
        return self._item(entries[row], self._patch(row))

    def __iter__(self) -> Iterator[ResultItem]:
        for entry, patch in zip(self._entries(), self.sparse, strict=True):
            yield self._item(entry, patch)

    def __len__(self) -> int:
        return len(self._entries())

    def _item(self, entry: tuple[int, int, float | None], patch: Patch) -> ResultItem:
        number, label, score = entry
        return ResultItem(number, label, self.categories[label], score, patch, self.size_hw)

    def filter(
        self,
        classes: str | int | Iterable[str | int] | None = None,
        *,
        min_score: float | None = None,
        min_area: int = 0,
    ) -> Self:
        """The part of the result that is of some classes, sure enough and large enough; the rest is nothing.

        Ids stay as they are; instances, which have none, are counted anew.

        Args:
            classes: names, or class indices as ``labels`` has them (ids of a data set:
                ``categories.index_of_id()``); None: all.
            min_score: 0 to 1; None: any.
            min_area: pixels.

        Raises:
            UserError: there is no such class, or ``min_score`` is given for semantic segmentation, which has no scores.
        """
        if min_score is not None and self.task == "semantic":
            raise UserError("semantic segmentation has no scores; leave out min_score")
        if min_score is not None and not 0 <= min_score <= 1:
            raise UserError(f"min_score is from 0 to 1, got {min_score!r}")
        entries = self._entries()
        keep = np.ones(len(entries), dtype=bool)
        if classes is not None:
            keep &= np.isin([label for _, label, _ in entries], sorted(self.categories.indices(classes)))
        if min_score is not None:
            keep &= np.array([score or 0.0 for *_, score in entries], dtype=np.float64) >= min_score
        if min_area > 0:
            keep &= self._areas() >= min_area
        return self if keep.all() else self._part(np.flatnonzero(keep))

    def _areas(self) -> Int64[np.ndarray, " N"]:
        return self.sparse.areas

    def rows(self) -> list[dict[str, Any]]:
        """A flat record for each mask, in the order of ``sparse``, for tables.

        The keys are :data:`~mask2former.structures.tables.ROW_COLUMNS`.

        ``id`` is the value in the exact map: of a segment its own, of a class its index; instances, which have none,
        are counted from 1. A box reaches from (x1, y1) to (x2, y2), in pixels, the last one past the mask; box and
        centroid of an empty mask, and the score of a class, are None.
        """
        return table_rows(self._entries(), self.sparse, self.categories)

    def measured_rows(
        self, image: Image.Image | np.ndarray | Regions | None = None, *, pixel_size: str | PixelSize | None = None
    ) -> list[dict[str, Any]]:
        """:meth:`rows` with shapes and, of an image, mean intensities: the columns of tables, see ``docs/outputs.md``.

        Args:
            image: an array (H, W) or (H, W, channels) of any type, whose values are measured as they are; a Pillow
                image, as RGB in 0..255; or one that is read by parts (``size_hw`` and ``read``, see
                :class:`~mask2former.pixels.Regions`).
            pixel_size: the side of a pixel, for instance ``0.65um``, for columns in units, too.

        Raises:
            UserError: the image has another size than the result, or the pixel size is none.
            MissingExtraError: scikit-image is not installed.
        """
        size = None if pixel_size is None else PixelSize.of(pixel_size)
        if isinstance(image, Image.Image):
            image = visualization.rgb_of(image, self.size_hw)
        parts = ArrayRegions(image) if isinstance(image, np.ndarray) else image
        return table_rows(self._entries(), self.sparse, self.categories, measured=True, image=parts, pixel_size=size)

    def to_dataframe(
        self, image: Image.Image | np.ndarray | None = None, *, pixel_size: str | PixelSize | None = None
    ) -> pd.DataFrame:
        """:meth:`measured_rows` as a pandas data frame, with a row for each mask.

        Raises:
            UserError: as :meth:`measured_rows`.
            MissingExtraError: pandas or scikit-image is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("pandas", "table") from error
        size = None if pixel_size is None else PixelSize.of(pixel_size)
        frame = pd.DataFrame(self.measured_rows(image, pixel_size=size), columns=table_columns(size))
        numbers = frame.columns.difference(["category_name", "is_thing"], sort=False)
        frame[numbers] = frame[numbers].apply(pd.to_numeric)  # columns of None alone are of any type
        return frame

    def to_supervision(self) -> Any:
        """The same as ``supervision.Detections``: boxes, masks, scores, class indices, and ``class_name`` in ``data``.

        The masks are one dense array. Empty masks are left out, as supervision has no boxes of nothing.

        Raises:
            MissingExtraError: supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise MissingExtraError("supervision", "supervision") from error
        part = self.filter(min_area=1)
        entries, masks = part._entries(), part.sparse
        if not entries:
            return Detections.empty()
        return Detections(
            xyxy=masks.boxes.astype(np.float32),
            mask=masks.dense(),
            confidence=None if self.task == "semantic" else np.array([score for *_, score in entries], np.float32),
            class_id=np.array([label for _, label, _ in entries], dtype=int),
            data={"class_name": np.array([self.categories[label].name for _, label, _ in entries])},
        )

    def _records(self, masks: MaskFormat) -> dict[str, Any]:
        raise NotImplementedError

    def _labels_found(self) -> Iterable[int]:
        """The class index of each thing that the result lists."""
        raise NotImplementedError

    def __repr__(self) -> str:
        height, width = self.size_hw
        found = counted_labels(self._labels_found(), self.categories, f"{height}x{width} pixels")
        return f"{type(self).__name__}({found})"

    def _label_image(self) -> tuple[str, Image.Image] | None:
        """Suffix of the name and image of the exact label map, where the task has one."""
        return None

    def to_dict(
        self, *, model: str | None = None, settings: Mapping[str, Any] | None = None, masks: MaskFormat = "rle"
    ) -> dict[str, Any]:
        """The result as plain values for JSON; masks are COCO run-length encodings, boxes are (x, y, w, h) in pixels.

        ``model`` and ``settings`` say what made it and are passed through. ``masks="polygons"`` gives their outlines
        instead, under ``polygons``, and ``"none"`` leaves them out.
        """
        height, width = self.size_hw
        head = {"schema_version": SCHEMA_VERSION, "task": self.task, "model": model, "settings": dict(settings or {})}
        return {**head, "size": [height, width], **self._records(masks)}

    def save(
        self,
        path: str | os.PathLike[str],
        image: visualization.ImageLike | None = None,
        *,
        model: str | None = None,
        settings: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the result beside ``path`` and return the JSON file.

        One ``.json`` or ``.png`` at the end of ``path`` is dropped; from ``X`` come ``X.png`` (overlay, only with
        ``image``; of a small image it is enlarged by a whole number), the label map (panoptic ``X_ids.png`` with
        id = R + 256 G + 65536 B, semantic ``X_labels.png`` with class indices, 8 or 16 bit) and, last, ``X.json``.
        It has the keys of ``extra`` too. Missing folders are made; every file appears whole.

        Raises:
            UserError: the image has another size than the result, or the path cannot be written.
        """
        return write_files(path, self.encoded(image, model=model, settings=settings, extra=extra))

    def encoded(
        self,
        image: visualization.ImageLike | None = None,
        *,
        model: str | None = None,
        settings: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        palette: visualization.Palette = "classes",
    ) -> dict[str, bytes]:
        """The files that :meth:`save` writes, by what their names end in, in the order in which they are written.

        Raises:
            UserError: the image has another size than the result.
        """
        files: dict[str, bytes] = {}
        if image is not None:
            files[".png"] = self.overlay_png(image, palette)
        files |= self.label_png()
        document = {**self.to_dict(model=model, settings=settings), **(extra or {})}
        files[".json"] = (encode_json(document) + "\n").encode()  # not formatted, which would hold a copy more
        return files

    def overlay_png(self, image: visualization.ImageLike, palette: visualization.Palette = "classes") -> bytes:
        """The file ``X.png``: to be looked at; what is exact is in the others.

        Raises:
            UserError: the image has another size than the result.
        """
        return _png(self.plot(image, scale=None, palette=palette))

    def label_png(self) -> dict[str, bytes]:
        """The exact label map by what its name ends in, ``_ids.png`` or ``_labels.png``; of instances there is none."""
        found = self._label_image()
        return {} if found is None else {f"{found[0]}.png": _png(found[1])}


def write_files(path: str | os.PathLike[str], files: Mapping[str, bytes]) -> Path:
    """Write what a result was encoded to and return the last file, the JSON file; see :meth:`_Result.save`.

    Raises:
        UserError: the path cannot be written.
    """
    stem = os.fspath(path)
    for suffix in (".json", ".png"):
        if stem.lower().endswith(suffix):
            stem = stem[: -len(suffix)]
            break
    if not Path(stem).name or stem.endswith(("/", os.sep)):
        raise UserError(f"cannot save to '{os.fspath(path)}': expected a file name, with or without .json")
    target = Path(stem)
    for ending, content in files.items():
        target = Path(f"{stem}{ending}")
        write_whole(target, lambda file, content=content: file.write_bytes(content))
    return target


def reach(
    scores: Float64[np.ndarray, " N"],
    labels: Int64[np.ndarray, " N"],
    categories: Categories,
    threshold: float,
    by_class: Mapping[str, float] | None = None,
) -> Bool[np.ndarray, " N"]:
    """Which objects have the score that is wanted of all, or of their class.

    Raises:
        UserError: a class that there is not.
    """
    if not by_class:
        return scores >= threshold
    if unknown := by_class.keys() - set(categories.names):
        raise UserError(
            f"class_thresholds names {listed(sorted(unknown))}, but the classes are {listed(categories.names)}"
        )
    return scores >= np.array([by_class.get(name, threshold) for name in categories.names])[labels]


def _png(image: Image.Image) -> bytes:
    """A PNG file that says whose it is, compressed by runs of equal bytes alone.

    Measured on overlays of 640x480 pixels: 35 ms of one core instead of the 63 ms of level 4, with 6 % less (drawn
    scenes) to 9 % more bytes (a photograph); label maps take a third less time than at level 4 and about the same size.
    """
    mark = PngInfo()
    mark.add_text("Software", SOFTWARE)
    stream = io.BytesIO()
    image.save(stream, format="PNG", pnginfo=mark, compress_type=zlib.Z_RLE)
    return stream.getvalue()


def counted_labels(labels: Iterable[int], categories: Categories, extent: str) -> str:
    """``3 in EXTENT: 2 person, car``: how many labels there are, and of which classes, the most frequent first."""
    counts = Counter(int(label) for label in labels)
    names = [
        shown(categories[label].name, 40) if number == 1 else f"{number} {shown(categories[label].name, 40)}"
        for label, number in counts.most_common()
    ]
    return f"{counts.total()} in {extent}" + (f": {listed(names, show=str)}" if counts else "")


def _encoded(masks: SparseMasks, form: MaskFormat) -> list[dict[str, Any]]:
    """The key of each mask in its record, and the mask."""
    if form == "none":
        return [{} for _ in masks]
    if form == "rle":
        return [{"segmentation": rle} for rle in masks.encode()]
    return [{"polygons": _multi_polygon(patch)} for patch in masks]


def _multi_polygon(patch: Patch) -> dict[str, Any]:
    """The outlines of a mask as GeoJSON: every ring ends where it begins."""
    rings = [[ring.tolist() for ring in polygon] for polygon in mask_to_polygons(patch)]
    closed = [[[*ring, ring[0]] for ring in polygon] for polygon in rings]
    return {"type": "MultiPolygon", "coordinates": closed}


def _box_xywh(box: Float64[np.ndarray, 4]) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PanopticSegmentation(_Result):
    """Every pixel belongs to at most one segment.

    Attributes:
        ids: segment id per pixel; 0 is "nothing".
        segments: what each id is, in order of creation.
        categories: the classes that ``Segment.label`` counts.
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

    def _labels_found(self) -> Iterable[int]:
        return (segment.label for segment in self.segments)

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

    def _areas(self) -> Int64[np.ndarray, " N"]:
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
        return [
            visualization.Region(
                name=self.categories[segment.label].name,
                color=self.categories[segment.label].color,
                score=segment.score,
                group=segment.label,
                is_thing=segment.is_thing,
            )
            for segment in self.segments
        ]

    def _drawn(self, image: UInt8[np.ndarray, "H W 3"], regions: list[visualization.Region], **how: Any) -> Image.Image:
        numbers = [segment.id for segment in self.segments]
        return visualization.overlay_panoptic(image, self.ids, numbers, regions, **how)

    def to_coco(self, image_id: int | str, file_name: str | None = None) -> dict[str, Any]:
        """The record of a COCO panoptic results file; category ids are those of the data set.

        ``file_name`` is that of the PNG with the ids (see :meth:`save`); by default ``<image_id>.png``.
        """
        info = [{"id": segment.id, "category_id": self.categories[segment.label].id} for segment in self.segments]
        return {"image_id": image_id, "file_name": file_name or f"{image_id}.png", "segments_info": info}

    def _records(self, masks: MaskFormat) -> dict[str, Any]:
        found = self.sparse
        rows = zip(self.segments, found.boxes, _encoded(found, masks), strict=True)
        return {
            "segments": [
                {
                    "id": segment.id,
                    "category_id": self.categories[segment.label].id,
                    "category_name": self.categories[segment.label].name,
                    "is_thing": segment.is_thing,
                    "score": float(segment.score),
                    "area": int(segment.area),
                    "bbox": _box_xywh(box),
                    **mask,
                }
                for segment, box, mask in rows
            ]
        }

    def _label_image(self) -> tuple[str, Image.Image] | None:
        channels = [self.ids >> shift & 255 for shift in (0, 8, 16)]
        return "_ids", Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@dataclass(frozen=True, slots=True, eq=False, init=False, repr=False)
class Instances(_Result):
    """Objects that may overlap, best first.

    Attributes:
        sparse: one binary mask per object, as its box and the pixels inside; memory follows the objects, not the image.
        labels: class indices.
        scores: class probability times mask score, in 0..1, descending.
        boxes: tight boxes (x1, y1, x2, y2) of the masks in pixels; zeros for an empty mask.
        categories: the classes that ``labels`` count.
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
        count = len(masks)
        assert (labels.shape, labels.dtype) == ((count,), np.int64), (labels.shape, labels.dtype)
        assert (scores.shape, scores.dtype) == ((count,), np.float64), (scores.shape, scores.dtype)
        assert boxes.shape == (count, 4), boxes.shape
        assert bool((scores[1:] <= scores[:-1]).all()), "instances are sorted by score, descending"
        assert not count or 0 <= labels.min() <= labels.max() < len(categories)
        values = (SparseMasks.of(masks), labels, scores, boxes, categories)
        for name, value in zip(("sparse", "labels", "scores", "boxes", "categories"), values, strict=True):
            object.__setattr__(self, name, value)  # it is frozen

    @property
    def masks(self) -> Bool[np.ndarray, "N H W"]:
        """One binary mask per object: a large array, which is made at every access."""
        return self.sparse.dense()

    def __len__(self) -> int:
        return len(self.sparse)

    def _labels_found(self) -> Iterable[int]:
        return self.labels.tolist()

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.sparse.size_hw

    def above(self, threshold: float) -> Instances:
        """Only the objects whose score is greater than ``threshold``."""
        return self._part(slice(int((self.scores > threshold).sum())))  # they are sorted

    def at_least(self, threshold: float, by_class: Mapping[str, float] | None = None) -> Instances:
        """Only the objects whose score is ``threshold`` or greater; for classes in ``by_class`` that is their own.

        Raises:
            UserError: a class that there is not.
        """
        return self._part(np.flatnonzero(reach(self.scores, self.labels, self.categories, threshold, by_class)))

    def below(self, threshold: float, by_class: Mapping[str, float] | None = None) -> Instances:
        """The others: only the objects whose score is less."""
        return self._part(np.flatnonzero(~reach(self.scores, self.labels, self.categories, threshold, by_class)))

    def _entries(self) -> list[tuple[int, int, float | None]]:
        return list(zip(range(1, len(self) + 1), self.labels.tolist(), self.scores.tolist(), strict=True))

    def _part(self, rows: slice | Int64[np.ndarray, " n"]) -> Instances:
        return Instances(
            self.sparse.take(rows), self.labels[rows], self.scores[rows], self.boxes[rows], self.categories
        )

    def plot(self, image: visualization.ImageLike, *, threshold: float = 0.0, **how: Any) -> Image.Image:
        """The image with the objects drawn on it that have at least ``threshold`` as score; the rest as for segments.

        Raises:
            UserError: the image has another size than the result, or cannot be read.
        """
        shown = self.at_least(threshold) if threshold > 0 else self
        return super(Instances, shown).plot(image, **how)

    def _regions(self) -> list[visualization.Region]:
        return [
            visualization.Region(
                name=self.categories[label].name,
                color=self.categories[label].color,
                score=float(score),
                group=int(label),
            )
            for label, score in zip(self.labels, self.scores, strict=True)
        ]

    def _drawn(self, image: UInt8[np.ndarray, "H W 3"], regions: list[visualization.Region], **how: Any) -> Image.Image:
        return visualization.overlay_instances(image, self.sparse, regions, **how)

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """The records of a COCO instance results file; category ids are those of the data set, boxes (x, y, w, h)."""
        rows = zip(self.labels, self.scores, self.boxes, self.sparse.encode(), strict=True)
        return [
            {
                "image_id": image_id,
                "category_id": self.categories[label].id,
                "bbox": _box_xywh(box),
                "score": float(score),
                "segmentation": rle,
            }
            for label, score, box, rle in rows
        ]

    def _records(self, masks: MaskFormat) -> dict[str, Any]:
        rows = zip(
            self.labels,
            self.scores,
            self.sparse.areas,
            self.boxes,
            _encoded(self.sparse, masks),
            strict=True,
        )
        return {
            "instances": [
                {
                    "category_id": self.categories[label].id,
                    "category_name": self.categories[label].name,
                    "score": float(score),
                    "area": int(area),
                    "bbox": _box_xywh(box),
                    **mask,
                }
                for label, score, area, box, mask in rows
            ]
        }


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SemanticSegmentation(_Result):
    """A class for every pixel.

    Attributes:
        labels: class index per pixel; values outside the classes (``categories.ignore_label``) mean "no class".
        categories: the classes that ``labels`` counts.
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

    def _labels_found(self) -> Iterable[int]:
        return (int(label) for label in np.unique(self.labels) if label < len(self.categories))

    @property
    def sparse(self) -> SparseMasks:
        """The masks of the classes that occur, by rising index."""
        return SparseMasks.of_ids(self.labels, self._labels_found())

    def _part(self, rows: slice | Int64[np.ndarray, " n"]) -> SemanticSegmentation:
        """Some classes of those that occur; the pixels of others are of no class."""
        nothing, present = self.categories.ignore_label, np.array(list(self._labels_found()), dtype=np.int64)
        part = self.labels.astype(np.promote_types(self.labels.dtype, np.min_scalar_type(nothing)))
        part[~np.isin(part, present[rows])] = nothing
        return SemanticSegmentation(part, self.categories)

    def _entries(self) -> list[tuple[int, int, float | None]]:
        return [(label, label, None) for label in self._labels_found()]

    def _present(self) -> tuple[list[int], SparseMasks]:
        """Class indices that occur, ascending, and their masks."""
        return list(self._labels_found()), self.sparse

    def _regions(self) -> list[visualization.Region]:
        return [
            visualization.Region(name=item.name, color=item.color, group=index, is_thing=item.is_thing)
            for index, item in enumerate(self.categories)
        ]

    def _drawn(self, image: UInt8[np.ndarray, "H W 3"], regions: list[visualization.Region], **how: Any) -> Image.Image:
        return visualization.overlay_semantic(image, self.labels, regions, **how)

    def to_coco(self, image_id: int | str, file_name: str | None = None) -> list[dict[str, Any]]:
        """One record per class present, with the class's mask; category ids are those of the data set.

        ``file_name`` is that of the image; published files of semantic results tell images apart by it.
        """
        present, masks = self._present()
        head: dict[str, Any] = {"image_id": image_id}
        if file_name is not None:
            head["file_name"] = file_name
        return [
            {**head, "category_id": self.categories[label].id, "segmentation": rle}
            for label, rle in zip(present, masks.encode(), strict=True)
        ]

    def _records(self, masks: MaskFormat) -> dict[str, Any]:
        present, found = self._present()
        rows = zip(present, found.areas, _encoded(found, masks), strict=True)
        return {
            "classes": [
                {
                    "label": label,
                    "category_id": self.categories[label].id,
                    "category_name": self.categories[label].name,
                    "area": int(area),
                    **mask,
                }
                for label, area, mask in rows
            ]
        }

    def _label_image(self) -> tuple[str, Image.Image] | None:
        # The width follows the class list, not the image, so that all files of one data set are alike.
        wide = max(len(self.categories) - 1, self.categories.ignore_label) > 255
        return "_labels", Image.fromarray(self.labels.astype(np.uint16 if wide else np.uint8))


Segmentation = PanopticSegmentation | Instances | SemanticSegmentation
