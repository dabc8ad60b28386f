"""Objects in COCO's instance format (Lin et al., ECCV 2014), official or anybody's own.

The files are read once into flat arrays; polygons and run-length encodings stay as they are until a picture is asked
for. Everything that is wrong with a file ends in one :class:`RequestError` that names the file. Knows no augmentation
but the forms that survive it.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from mask2former.data.annotated import Annotated, place_patches
from mask2former.data.images import read_image
from mask2former.data.transforms import Geometry, Plan
from mask2former.errors import RequestError
from mask2former.ops import masks as mask_ops
from mask2former.structures.categories import Categories
from mask2former.structures.samples import Sample

__all__ = ["CocoInstances", "read_categories"]

Source = tuple[str | os.PathLike[str], str | os.PathLike[str]]

_NAMED = 5  # how many culprits a message lists
_HUNDREDTHS = 100  # official coordinates have two decimals


# --- the file --------------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RequestError(f"there is no annotation file '{path}'; check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"the annotation file '{path}' cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise RequestError(f"'{path}' is not JSON, or is cut short: {error}") from error
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or any(not isinstance(content.get(key), list) for key in keys):
        raise RequestError(f"'{path}' is not in COCO's instance format: expected an object with the lists {keys}")
    for key in keys:
        for place, entry in enumerate(content[key]):
            if not isinstance(entry, dict):
                raise RequestError(f"'{path}': {key}[{place}] is {entry!r:.60}; expected an object")
    return content


def _categories(content: dict[str, Any], path: Path) -> Categories:
    try:
        for entry in content["categories"]:
            if isinstance(entry.get("id"), bool) or not isinstance(entry.get("id"), int):
                raise RequestError(f"category {entry!r:.80} has no whole number as id")
        return Categories.from_dict({"categories": content["categories"]})
    except RequestError as error:
        raise RequestError(f"'{path}': {error}") from error


def read_categories(path: str | os.PathLike[str]) -> Categories:
    """The class list of a file, in its order; ids may have gaps and be of any size.

    Classes are things unless ``isthing`` says otherwise; colours are made up where the file has none.

    Raises:
        RequestError: no such file, another format, no categories, or ids that are no numbers or are given twice.
    """
    file = Path(path)
    return _categories(_read(file), file)


def _some(culprits: Sequence[Any]) -> str:
    """``3 (a, b, c)``: how many and the first of them."""
    shown = ", ".join(str(culprit) for culprit in culprits[:_NAMED])
    return f"{len(culprits)} ({shown}{', ...' if len(culprits) > _NAMED else ''})"


# --- the index -------------------------------------------------------------------------------------------------------

_POLYGONS, _RLE = 0, 1


class _Growing:
    """Flat numbers of one split while its files are read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.paths: list[str] = []
        self.image_ids: list[Hashable] = []
        self.heights, self.widths = array("q"), array("q")  # 0: the file does not say
        self.rows = array("q")  # image of each annotation
        self.labels = array("i")
        self.crowds = array("b")
        self.areas = array("d")  # NaN: the file does not say
        self.kinds = array("b")
        self.first = array("q")  # first polygon, or number of the encoding
        self.parts = array("q")  # polygons
        self.polygon_ends = array("q", [0])  # in corners
        self.corners = array("d")  # x, y, x, y, ...
        self.rle_ends = array("q", [0])  # in bytes
        self.rle_bytes = bytearray()
        self.rle_sizes = array("q")  # height, width, height, width, ...


@dataclass(frozen=True, slots=True)
class _Index:
    """The annotations of a split, sorted by picture; see :class:`_Growing`."""

    starts: Int64[np.ndarray, " I+1"]  # annotations of picture i: starts[i] to starts[i + 1]
    labels: Int32[np.ndarray, " A"]
    crowds: Bool[np.ndarray, " A"]
    areas: Float64[np.ndarray, " A"]
    kinds: np.ndarray
    first: Int64[np.ndarray, " A"]
    parts: Int64[np.ndarray, " A"]
    polygon_ends: Int64[np.ndarray, " P+1"]
    corners: np.ndarray  # (C, 2): int32 hundredths of pixels if that is exact, else float64 pixels
    rle_ends: Int64[np.ndarray, " R+1"]
    rle_bytes: bytes
    rle_sizes: Int64[np.ndarray, "R 2"]

    def polygons(self, annotation: int) -> list[Float64[np.ndarray, "P 2"]]:
        first = int(self.first[annotation])
        ends = self.polygon_ends[first : first + int(self.parts[annotation]) + 1]
        corners = self.corners[ends[0] : ends[-1]]
        pixels = corners / _HUNDREDTHS if corners.dtype == np.int32 else corners
        return np.split(pixels, (ends[1:-1] - ends[0]).tolist())

    def patch(self, annotation: int) -> mask_ops.Patch:
        number = int(self.first[annotation])
        counts = self.rle_bytes[self.rle_ends[number] : self.rle_ends[number + 1]]
        return mask_ops.decode_patch({"size": self.rle_sizes[number].tolist(), "counts": counts})


def _is_flat(corners: Float64[np.ndarray, "P 2"]) -> bool:
    """Whether a polygon has no inside: less than three corners, or all on one line."""
    if len(corners) < 3:
        return True
    arms = corners[1:] - corners[0]
    longest = arms[np.argmax((arms * arms).sum(axis=1))]
    return not (arms[:, 0] * longest[1] - arms[:, 1] * longest[0]).any()


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


class _Reader:
    """Reads the files of one split; what is to be told about them gathers in ``notes``."""

    def __init__(
        self,
        categories: Categories,
        missing_images: Literal["error", "skip"],
        missing_masks: Literal["error", "skip"],
    ) -> None:
        self.class_of_id = categories.index_of_id()
        self.missing_images = missing_images
        self.missing_masks = missing_masks
        self.notes: list[str] = []
        self.out = _Growing()

    def add(self, content: dict[str, Any], path: Path, folder: Path) -> None:
        row_of_id = self._images(content["images"], path, folder)
        _unique((entry["id"] for entry in content["annotations"] if "id" in entry), "annotation", path)
        unknown_images, unknown_classes, without_mask, without_area = [], [], [], []
        for place, entry in enumerate(content["annotations"]):
            name = entry.get("id", f"number {place + 1}")
            try:
                row = row_of_id.get(entry["image_id"], -1)
                label = self.class_of_id.get(entry["category_id"], -1)
            except (KeyError, TypeError) as error:
                raise RequestError(f"'{path}': annotation {name} needs an 'image_id' and a 'category_id'") from error
            if row == -1:
                unknown_images.append(name)
            elif label == -1:
                unknown_classes.append(name)
            elif row is not None:  # None: its picture is skipped
                segmentation = entry.get("segmentation")
                if not segmentation:
                    without_mask.append(name)
                    continue
                try:
                    found = self._segmentation(segmentation, row)
                except (RequestError, TypeError, ValueError, OverflowError) as error:
                    reason = str(error) if isinstance(error, RequestError) else f"{segmentation!r:.60}"
                    raise RequestError(
                        f"'{path}': the segmentation of annotation {name} is broken: {reason}"
                    ) from error
                if not found:
                    without_area.append(name)
                    continue
                area = _number(entry.get("area"))
                self.out.rows.append(row)
                self.out.labels.append(label)
                self.out.crowds.append(bool(entry.get("iscrowd", 0)))
                self.out.areas.append(area if area is not None and math.isfinite(area) else math.nan)
        if unknown_images:
            raise RequestError(
                f"'{path}': the pictures of annotations {_some(unknown_images)} are not listed in 'images'"
            )
        if unknown_classes:
            raise RequestError(
                f"'{path}': the categories of annotations {_some(unknown_classes)} are not listed in 'categories'"
            )
        if without_mask and self.missing_masks == "error":
            raise RequestError(
                f"'{path}': annotations {_some(without_mask)} have no segmentation, and a box is not enough to learn "
                "masks; add polygons or run-length encodings, or leave these objects out with missing_masks=skip"
            )
        if without_mask:
            self.notes.append(f"'{path}': left out objects without segmentation: annotations {_some(without_mask)}")
        if without_area:
            self.notes.append(f"'{path}': left out objects without any area: annotations {_some(without_area)}")

    def _images(self, entries: list[dict[str, Any]], path: Path, folder: Path) -> dict[Hashable, int | None]:
        """Row of each picture by id; None for those that are skipped."""
        _unique((entry.get("id") for entry in entries), "picture", path)
        exists = _existence(folder)
        rows: dict[Hashable, int | None] = {}
        missing = []
        for entry in entries:
            name = entry.get("file_name")
            if "id" not in entry or not isinstance(name, str) or not name:
                raise RequestError(f"'{path}': the picture {entry!r:.80} needs an 'id' and a 'file_name'")
            sides = [_number(entry.get(key, 0)) for key in ("height", "width")]
            if any(side is None or side != side // 1 or side < 0 for side in sides):
                raise RequestError(f"'{path}': the picture '{name}' has no whole numbers as 'height' and 'width'")
            if not exists(name):
                missing.append(name)
                rows[entry["id"]] = None
                continue
            rows[entry["id"]] = len(self.out.names)
            self.out.names.append(name)
            self.out.paths.append(os.path.join(folder, name))
            self.out.image_ids.append(entry["id"])
            self.out.heights.append(int(sides[0] or 0))
            self.out.widths.append(int(sides[1] or 0))
        if missing and self.missing_images == "error":
            raise RequestError(
                f"'{folder}' lacks pictures of '{path}': {_some(missing)}; check the folder, or leave them out with "
                "missing_images=skip"
            )
        if missing:
            self.notes.append(f"'{path}': left out pictures that '{folder}' lacks: {_some(missing)}")
        return rows

    def _segmentation(self, segmentation: Any, row: int) -> bool:
        """Add one segmentation; False where it has no area."""
        out = self.out
        if isinstance(segmentation, dict):
            counts, size = mask_ops.compress(segmentation)
            declared = (out.heights[row], out.widths[row])
            if all(declared) and size != declared:
                raise RequestError(f"its size is {list(size)} (height, width), that of its picture {list(declared)}")
            if not mask_ops.encoded_area({"size": size, "counts": counts}):
                return False
            out.kinds.append(_RLE)
            out.first.append(len(out.rle_ends) - 1)
            out.parts.append(0)
            out.rle_bytes += counts
            out.rle_ends.append(len(out.rle_bytes))
            out.rle_sizes.extend(size)
            return True
        polygons = [segmentation] if _number(segmentation[0]) is not None else segmentation
        first = len(out.polygon_ends) - 1
        for polygon in polygons:
            values = np.array(polygon, dtype=np.float64)
            if values.ndim != 1 or values.size % 2 or not np.isfinite(values).all():
                raise RequestError(f"expected x, y, x, y, ... for each polygon, got {polygon!r:.60}")
            if not _is_flat(values.reshape(-1, 2)):
                out.corners.frombytes(values.tobytes())
                out.polygon_ends.append(len(out.corners) // 2)
        if len(out.polygon_ends) - 1 == first:
            return False
        out.kinds.append(_POLYGONS)
        out.first.append(first)
        out.parts.append(len(out.polygon_ends) - 1 - first)
        return True

    def index(self) -> _Index:
        out = self.out
        rows = np.frombuffer(out.rows, dtype=np.int64) if out.rows else np.zeros(0, np.int64)
        order = np.argsort(rows, kind="stable")  # the order of the file within a picture
        corners = np.array(out.corners, dtype=np.float64).reshape(-1, 2)
        if corners.size and np.abs(corners).max() < 2**31 / _HUNDREDTHS - 1:
            hundredths = np.rint(corners * _HUNDREDTHS).astype(np.int32)
            if (hundredths / _HUNDREDTHS == corners).all():
                corners = hundredths  # half the memory, the same numbers
        return _Index(
            starts=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(out.names)))]).astype(np.int64),
            labels=np.array(out.labels, dtype=np.int32)[order],
            crowds=np.array(out.crowds, dtype=bool)[order],
            areas=np.array(out.areas, dtype=np.float64)[order],
            kinds=np.array(out.kinds, dtype=np.int8)[order],
            first=np.array(out.first, dtype=np.int64)[order],
            parts=np.array(out.parts, dtype=np.int64)[order],
            polygon_ends=np.array(out.polygon_ends, dtype=np.int64),
            corners=corners,
            rle_ends=np.array(out.rle_ends, dtype=np.int64),
            rle_bytes=bytes(out.rle_bytes),
            rle_sizes=np.array(out.rle_sizes, dtype=np.int64).reshape(-1, 2),
        )


def _unique(ids: Iterable[Any], kind: str, path: Path) -> None:
    """Refuse ids that are given twice, or that are neither numbers nor text."""
    try:
        twice = [number for number, count in Counter(ids).items() if count > 1]
    except TypeError as error:
        raise RequestError(f"'{path}': a {kind} has an id that is neither a number nor text") from error
    if twice:
        raise RequestError(f"'{path}': {kind} ids must be unique; given more than once: {_some(twice)}")


def _existence(folder: Path) -> Callable[[str], bool]:
    """A test whether a file is there that lists each folder once, which is much faster than asking file by file."""
    listed: dict[str, set[str]] = {}

    def exists(name: str) -> bool:
        parent, leaf = os.path.split(os.path.join(folder, name))
        if parent not in listed:
            try:
                listed[parent] = set(os.listdir(parent))
            except OSError:
                listed[parent] = set()
        # Some file systems take names in another spelling (case, accents), so only "yes" is final.
        return leaf in listed[parent] or os.path.isfile(os.path.join(parent, leaf))

    return exists


# --- the data set ----------------------------------------------------------------------------------------------------


class CocoInstances(Sequence[Sample]):
    """Pictures with their objects, in the order of the files, by index at their own size.

    ``Sample.info`` has ``image_id``, ``path``, ``areas`` (float64 per object, as the file says or else pixels), and for
    evaluation the crowd regions, which are no targets: ``crowd_masks`` bool (M, H, W), ``crowd_labels`` int64 and
    ``crowd_areas`` float64.

    Args:
        sources: pairs of annotation file and picture folder, all with the same categories.
        keep_empty: False leaves out pictures without objects other than crowd regions.
        missing_images: what to do about pictures that are listed but not there.
        missing_masks: what to do about objects that have a box only.

    Attributes:
        categories: of the first file.
        notes: sentences about what was left out.

    Raises:
        RequestError: a file that is missing or broken, files with different categories, or no picture left.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        keep_empty: bool = True,
        missing_images: Literal["error", "skip"] = "error",
        missing_masks: Literal["error", "skip"] = "error",
    ) -> None:
        if not sources:
            raise RequestError("no annotation files given; name at least one with its picture folder")
        reader: _Reader | None = None
        for file, images in sources:
            path, folder = Path(file), Path(images)
            content = _read(path)
            categories = _categories(content, path)
            if reader is None:
                self.categories = categories
                reader = _Reader(categories, missing_images, missing_masks)
            else:
                _same_categories(self.categories, categories, Path(sources[0][0]), path)
            if not folder.is_dir():
                raise RequestError(f"there is no picture folder '{folder}'; check the path")
            reader.add(content, path, folder)
            del content  # the objects of the file take many times the memory of the index
        assert reader is not None
        self._index = reader.index()
        out = reader.out
        self._names, self._paths, self._image_ids = out.names, out.paths, out.image_ids
        self._sizes = np.stack([np.array(out.heights, np.int64), np.array(out.widths, np.int64)], axis=1)
        starts = self._index.starts
        objects = np.concatenate([[0], np.cumsum(~self._index.crowds)])
        counts = objects[starts[1:]] - objects[starts[:-1]]
        self._rows = np.arange(len(out.names)) if keep_empty else np.flatnonzero(counts > 0)
        self._counts = counts[self._rows]
        self.notes = tuple(reader.notes)
        if not len(self._rows):
            raise RequestError(
                f"'{Path(sources[0][0])}' has no pictures" + ("" if keep_empty else " with objects; set keep_empty")
            )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_objects(self) -> Int64[np.ndarray, " I"]:
        """Objects of every picture, crowd regions not counted."""
        return self._counts

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        annotated = self.annotated(index)
        sample = Plan(Geometry(annotated.size_hw))(annotated)
        assert sample.target is not None
        row = self._row(index)
        areas = self._index.areas[self._annotations(row, crowd=False)].copy()
        unknown = np.isnan(areas)
        areas[unknown] = mask_ops.areas(sample.target.masks[:, 0].numpy()[unknown])
        sample.info["areas"] = areas
        sample.info.update(self._crowds(row, annotated.size_hw))
        return sample

    def annotated(self, index: int) -> Annotated:
        """The picture and its objects before anything is rasterised; crowd regions are left out.

        Raises:
            RequestError: the picture cannot be read or has another size than the file says, or an encoding is broken.
        """
        row = self._row(index)
        image = read_image(self._paths[row])
        size = (image.shape[0], image.shape[1])
        self._check_size(row, size)
        annotations = self._annotations(row, crowd=False)
        polygons = {
            place: self._index.polygons(annotation)
            for place, annotation in enumerate(annotations)
            if self._index.kinds[annotation] == _POLYGONS
        }
        patches = {
            place: self._patch(row, annotation, size)
            for place, annotation in enumerate(annotations)
            if self._index.kinds[annotation] == _RLE
        }
        ids, masks = place_patches(patches, size)
        info = {"image_id": self._image_ids[row], "path": self._paths[row]}
        labels = self._index.labels[annotations].astype(np.int64)
        return Annotated(image, labels, polygons, ids, masks, self._names[row], info)

    def _row(self, index: int) -> int:
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        return int(self._rows[place])

    def _annotations(self, row: int, *, crowd: bool) -> Int64[np.ndarray, " N"]:
        start, stop = self._index.starts[row : row + 2]
        return start + np.flatnonzero(self._index.crowds[start:stop] == crowd)

    def _patch(self, row: int, annotation: int, size_hw: tuple[int, int]) -> mask_ops.Patch:
        size = tuple(self._index.rle_sizes[self._index.first[annotation]].tolist())
        if size != size_hw:
            raise RequestError(
                f"'{self._paths[row]}' is {size_hw[0]}x{size_hw[1]} (height x width), but a mask of it is "
                f"{size[0]}x{size[1]}"
            )
        try:
            return self._index.patch(annotation)
        except RequestError as error:
            raise RequestError(f"a mask of '{self._paths[row]}' is broken: {error}") from error

    def _check_size(self, row: int, size_hw: tuple[int, int]) -> None:
        declared = tuple(self._sizes[row].tolist())
        if all(declared) and declared != size_hw:
            hint = (
                "; the picture is shown turned by its EXIF orientation, its objects must be annotated that way "
                "(or store it turned, without orientation)"
                if declared == size_hw[::-1]
                else "; correct the annotation file, or use the pictures that were annotated"
            )
            raise RequestError(
                f"'{self._paths[row]}' is {size_hw[0]}x{size_hw[1]} (height x width), but its annotation file says "
                f"{declared[0]}x{declared[1]}{hint}"
            )

    def _crowds(self, row: int, size_hw: tuple[int, int]) -> dict[str, Any]:
        annotations = self._annotations(row, crowd=True)
        masks = np.zeros((len(annotations), *size_hw), dtype=bool)
        for plane, annotation in zip(masks, annotations, strict=True):
            if self._index.kinds[annotation] == _POLYGONS:
                patch = mask_ops.polygons_to_patch(self._index.polygons(annotation), size_hw)
            else:
                patch = self._patch(row, annotation, size_hw)
            plane[patch.top : patch.top + patch.mask.shape[0], patch.left : patch.left + patch.mask.shape[1]] = (
                patch.mask
            )
        areas = self._index.areas[annotations].copy()
        areas[np.isnan(areas)] = mask_ops.areas(masks[np.isnan(areas)])
        labels = self._index.labels[annotations].astype(np.int64)
        return {"crowd_masks": masks, "crowd_labels": labels, "crowd_areas": areas}


def _same_categories(expected: Categories, got: Categories, first: Path, path: Path) -> None:
    wanted, given = ({item.id: item.name for item in categories} for categories in (expected, got))
    differing = [number for number in wanted.keys() | given.keys() if wanted.get(number) != given.get(number)]
    if differing:
        number = min(differing)
        raise RequestError(
            f"'{first}' and '{path}' have different categories: id {number} is '{wanted.get(number, 'absent')}' in the "
            f"first and '{given.get(number, 'absent')}' in the second; files of one data set must agree"
        )
