"""Objects in COCO's instance format (Lin et al., ECCV 2014), official or anybody's own.

The files are read once into flat arrays; polygons and run-length encodings stay as they are until a picture is asked
for. Everything that is wrong with a file ends in one :class:`RequestError` that names the file. Knows no augmentation
but the forms that survive it.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from mask2former.config import Task
from mask2former.data.annotated import Annotated, cover, place_patches
from mask2former.data.archives import File, Folder, find_file, open_folder
from mask2former.data.datasets.annotation_files import (
    categories_in,
    check_unique,
    entry_id,
    number,
    read_annotations,
    same_categories,
    sides,
    some,
)
from mask2former.data.datasets.file_names import find_name
from mask2former.data.datasets.reader import Reader
from mask2former.data.faults import fault
from mask2former.data.images import picture_size, read_image
from mask2former.errors import RequestError
from mask2former.ops import masks as mask_ops
from mask2former.structures.categories import Categories
from mask2former.structures.truths import InstanceTruth, Truth

__all__ = ["CocoInstances", "read_categories"]

Source = tuple[str | os.PathLike[str] | File, str | os.PathLike[str] | Folder]

_HUNDREDTHS = 100  # official coordinates have two decimals
_KEYS = ("images", "annotations", "categories")
_FORM = "COCO's instance"


# --- the file --------------------------------------------------------------------------------------------------------


def _found(path: str | os.PathLike[str] | File) -> File:
    """A path as a file, which may lie in an archive; one that is not there is reported when it is read."""
    if isinstance(path, (str, os.PathLike)):
        return find_file(path) or Path(path)
    return path


def read_categories(path: str | os.PathLike[str] | File) -> Categories:
    """The class list of a file, in its order; ids may have gaps and be of any size.

    Classes are things unless ``isthing`` says otherwise; colours are made up where the file has none.

    Raises:
        RequestError: no such file, another format, no categories, or ids that are no numbers or are given twice.
    """
    file = _found(path)
    return categories_in(read_annotations(file, _KEYS, _FORM), file)


# --- the index -------------------------------------------------------------------------------------------------------

_POLYGONS, _RLE = 0, 1


class _Growing:
    """Flat numbers of one split while its files are read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.folders: list[Folder] = []
        self.image_ids: list[int | str] = []
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


class _Reader:
    """Reads the files of one split; what is to be told about them gathers in ``notes``."""

    def __init__(
        self,
        categories: Categories,
        missing_images: Literal["error", "skip"],
        missing_masks: Literal["error", "skip"],
        *,
        heed_crowds: bool,
    ) -> None:
        self.class_of_id = categories.index_of_id()
        self.missing_images = missing_images
        self.missing_masks = missing_masks
        self.heed_crowds = heed_crowds
        self.notes: list[str] = []
        self.out = _Growing()

    def add(self, content: dict[str, Any], file: File, folder: Folder) -> None:
        row_of_id = self._images(content["images"], file, folder)
        check_unique((entry["id"] for entry in content["annotations"] if "id" in entry), "annotation", file)
        unknown_images, unknown_classes, without_mask, without_area = [], [], [], []
        for place, entry in enumerate(content["annotations"]):
            name = entry.get("id", f"number {place + 1}")
            try:
                row = row_of_id.get(entry["image_id"], -1)
                label = self.class_of_id.get(entry["category_id"], -1)
            except (KeyError, TypeError):
                fault(f"'{file}': annotation {name} needs an 'image_id' and a 'category_id'")
                continue
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
                    fault(f"'{file}': the segmentation of annotation {name} is broken: {reason}")
                    continue
                if not found:
                    without_area.append(name)
                    continue
                area = number(entry.get("area"))
                self.out.rows.append(row)
                self.out.labels.append(label)
                self.out.crowds.append(self.heed_crowds and bool(entry.get("iscrowd", 0)))
                self.out.areas.append(area if area is not None and math.isfinite(area) else math.nan)
        if unknown_images:
            fault(
                f"'{file}': the pictures of annotations {some(unknown_images)} are not listed in 'images'",
                len(unknown_images),
            )
        if unknown_classes:
            fault(
                f"'{file}': the categories of annotations {some(unknown_classes)} are not listed in 'categories'",
                len(unknown_classes),
            )
        if without_mask and self.missing_masks == "error":
            fault(
                f"'{file}': annotations {some(without_mask)} have no segmentation, and a box is not enough to learn "
                "masks; add polygons or run-length encodings, or leave these objects out with missing_masks=skip",
                len(without_mask),
            )
        elif without_mask:
            self.notes.append(f"'{file}': left out objects without segmentation: annotations {some(without_mask)}")
        if without_area:
            self.notes.append(f"'{file}': left out objects without any area: annotations {some(without_area)}")

    def _images(self, entries: list[dict[str, Any]], file: File, folder: Folder) -> dict[Hashable, int | None]:
        """Row of each picture by id; None for those that are skipped."""
        check_unique((entry.get("id") for entry in entries), "picture", file)
        rows: dict[Hashable, int | None] = {}
        missing = []
        taken: dict[str, str] = {}  # declared names by the names that were found
        for entry in entries:
            name = entry.get("file_name")
            image_id = entry_id(entry.get("id"))
            if image_id is None or not isinstance(name, str) or not name:
                fault(f"'{file}': the picture {entry!r:.80} needs an 'id' and a 'file_name'")
                continue
            size = sides(entry)
            if size is None:
                fault(f"'{file}': the picture '{name}' has no whole numbers as 'height' and 'width'")
                rows[image_id] = None
                continue
            found = find_name(name, folder)
            if found is None:
                missing.append(name)
                rows[image_id] = None
                continue
            if found != name and found in taken:
                raise RequestError(
                    f"'{file}' names '{taken[found]}' and '{name}', but '{folder}' has only '{found}'; keep the "
                    "folders that tell them apart"
                )
            taken[found] = name
            rows[image_id] = len(self.out.names)
            self.out.names.append(found)
            self.out.folders.append(folder)
            self.out.image_ids.append(image_id)
            self.out.heights.append(size[0])
            self.out.widths.append(size[1])
        if missing and self.missing_images == "error":
            fault(
                f"'{folder}' lacks pictures of '{file}': {some(missing)}; check the folder, or leave them out with "
                "missing_images=skip",
                len(missing),
            )
        elif missing:
            self.notes.append(f"'{file}': left out pictures that '{folder}' lacks: {some(missing)}")
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
        polygons = [segmentation] if number(segmentation[0]) is not None else segmentation
        first = len(out.polygon_ends) - 1
        for polygon in polygons:
            values = np.array(polygon, dtype=np.float64)
            # Written so that NaN is refused too.
            if values.ndim != 1 or values.size % 2 or not (np.abs(values) <= mask_ops.FARTHEST_CORNER).all():
                raise RequestError(f"expected pixels x, y, x, y, ... for each polygon, got {polygon!r:.60}")
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


# --- the data set ----------------------------------------------------------------------------------------------------


class CocoInstances(Reader):
    """Pictures with their objects, in the order of the files, by index at their own size.

    Targets of training are the objects that are no crowd regions; true instances are both, objects first, with the
    areas that the file gives.

    Args:
        sources: pairs of annotation file and picture folder, all with the same categories.
        categories: the class list, if it is known; the files may have no other ids. None: that of the first file.
        keep_empty: False leaves out pictures without objects other than crowd regions.
        missing_images: what to do about pictures that are listed but not there.
        missing_masks: what to do about objects that have a box only.
        crowds: what an annotation with ``iscrowd`` 1 is: a region of many objects, neither learned nor missed, or an
            object like any other (CVAT sets the flag on masks that were painted).

    Attributes:
        notes: sentences about what was left out.

    Raises:
        RequestError: a file that is missing or broken, files with different categories, or no picture left.
    """

    tasks = ("instance",)

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        categories: Categories | None = None,
        keep_empty: bool = True,
        missing_images: Literal["error", "skip"] = "error",
        missing_masks: Literal["error", "skip"] = "error",
        crowds: Literal["regions", "objects"] = "regions",
    ) -> None:
        if not sources:
            raise RequestError("no annotation files given; name at least one with its picture folder")
        reader: _Reader | None = None
        first: Categories | None = None
        for path, images in sources:
            file = _found(path)
            content = read_annotations(file, _KEYS, _FORM)
            found = categories_in(content, file)
            if first is not None:
                same_categories(first, found, sources[0][0], file)
            first = first or found
            if categories is not None and (unknown := {item.id for item in found} - set(categories.index_of_id())):
                raise RequestError(
                    f"'{file}' has category ids that its data set does not have: {some(sorted(unknown))}"
                )
            reader = reader or _Reader(
                categories or first, missing_images, missing_masks, heed_crowds=crowds == "regions"
            )
            reader.add(content, file, open_folder(images))
            del content  # the objects of the file take many times the memory of the index
        assert reader is not None
        assert first is not None
        self.categories = categories or first
        self._index = reader.index()
        out = reader.out
        self._names, self._folders, self._image_ids = out.names, out.folders, out.image_ids
        self._sizes = np.stack([np.array(out.heights, np.int64), np.array(out.widths, np.int64)], axis=1)
        starts = self._index.starts
        objects = np.concatenate([[0], np.cumsum(~self._index.crowds)])
        counts = objects[starts[1:]] - objects[starts[:-1]]
        self._rows = np.arange(len(out.names)) if keep_empty else np.flatnonzero(counts > 0)
        self._counts = counts[self._rows]
        if not objects[-1] and self._index.crowds.any():
            reader.notes.append(
                f"'{sources[0][0]}': all {len(self._index.crowds)} annotations are marked as crowd regions, so there "
                "is no object to learn; if they are single objects (CVAT marks painted masks), set crowds=objects"
            )
        self.notes = reader.notes
        if not len(self._rows):
            raise RequestError(
                f"'{sources[0][0]}' has no pictures" + ("" if keep_empty else " with objects; set keep_empty")
            )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_objects(self) -> Int64[np.ndarray, " I"]:
        """Objects of every picture, crowd regions not counted."""
        return self._counts

    @cached_property
    def _wide(self) -> Bool[np.ndarray, " I"]:
        sizes = self._sizes[self._rows]
        return sizes[:, 1] > sizes[:, 0] if sizes.all() else super()._wide

    def file(self, index: int) -> File:
        return self._file(int(self._rows[index]))

    def image_id(self, index: int) -> int | str:
        return self._image_ids[int(self._rows[index])]

    def annotated(self, index: int, *, with_ignored: bool = False) -> Annotated:
        """The picture and its objects before anything is rasterised; crowd regions are left out, or ignored.

        Raises:
            RequestError: the picture cannot be read or has another size than the file says, or an encoding is broken.
        """
        row = int(self._rows[index])
        image = read_image(self._file(row))
        size = (image.shape[0], image.shape[1])
        self._check_declared(row, size)
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
        info = {"image_id": self._image_ids[row], "path": str(self._file(row))}
        labels = self._index.labels[annotations].astype(np.int64)
        ignored = None
        if with_ignored:
            crowds = self._annotations(row, crowd=True).tolist()
            ignored = cover((self._patch(row, annotation, size) for annotation in crowds), size)
        return Annotated(image, labels, polygons, ids, masks, self._names[row], info, ignored=ignored)

    def truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, Truth]:
        row = int(self._rows[index])
        size = picture_size(self._file(row))
        self._check_declared(row, size)
        kinds = [self._annotations(row, crowd=crowd) for crowd in (False, True)]
        annotations = np.concatenate(kinds)
        masks = np.zeros((len(annotations), *size), dtype=bool)
        for plane, annotation in zip(masks, annotations.tolist(), strict=True):
            top, left, mask = self._patch(row, annotation, size)
            plane[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        areas = self._index.areas[annotations].copy()
        unknown = np.isnan(areas)
        areas[unknown] = mask_ops.areas(masks[unknown])
        labels = self._index.labels[annotations].astype(np.int64)
        truth = InstanceTruth(masks, labels, np.repeat([False, True], [len(kind) for kind in kinds]), areas)
        return {task: truth for task in tasks if task == "instance"}

    def _file(self, row: int) -> File:
        return self._folders[row] / self._names[row]

    def _annotations(self, row: int, *, crowd: bool) -> Int64[np.ndarray, " N"]:
        start, stop = self._index.starts[row : row + 2]
        return start + np.flatnonzero(self._index.crowds[start:stop] == crowd)

    def _patch(self, row: int, annotation: int, size_hw: tuple[int, int]) -> mask_ops.Patch:
        if self._index.kinds[annotation] == _POLYGONS:
            return mask_ops.polygons_to_patch(self._index.polygons(annotation), size_hw)
        size = tuple(self._index.rle_sizes[self._index.first[annotation]].tolist())
        if size != size_hw:
            raise RequestError(
                f"'{self._file(row)}' is {size_hw[0]}x{size_hw[1]} (height x width), but a mask of it is "
                f"{size[0]}x{size[1]}"
            )
        try:
            return self._index.patch(annotation)
        except RequestError as error:
            raise RequestError(f"a mask of '{self._file(row)}' is broken: {error}") from error

    def _check_declared(self, row: int, size_hw: tuple[int, int]) -> None:
        declared = tuple(self._sizes[row].tolist())
        if all(declared) and declared != size_hw:
            hint = (
                "; the picture is shown turned by its EXIF orientation, its objects must be annotated that way "
                "(or store it turned, without orientation)"
                if declared == size_hw[::-1]
                else "; correct the annotation file, or use the pictures that were annotated"
            )
            raise RequestError(
                f"'{self._file(row)}' is {size_hw[0]}x{size_hw[1]} (height x width), but its annotation file says "
                f"{declared[0]}x{declared[1]}{hint}"
            )
