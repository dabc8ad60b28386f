"""Objects in COCO's instance format (Lin et al., ECCV 2014), official or your own.

The files are read once into flat arrays; polygons and run-length encodings are kept until an image is read. Every fault
of a file ends in a single :class:`UserError` that names the file. Knows nothing of augmentation but the forms that
survive it.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from mask2former import limits
from mask2former.config import Task
from mask2former.data.annotated import Annotated, cover, place_patches
from mask2former.data.datasets.annotation_files import (
    Location,
    categories_in,
    check_unique,
    entry_id,
    flag,
    found_file,
    ids_of,
    number,
    polygons_of,
    read_annotations,
    rows_with,
    same_categories,
    some,
    stated_sides,
    stuff_remark,
    tell_unlisted,
)
from mask2former.data.datasets.file_names import find_name, is_file_name, leads_to_file, tell_missing, tell_outside
from mask2former.data.datasets.mask_checks import MaskSummary, PolygonFigures, box_of, check_masks, lies_outside
from mask2former.data.datasets.reader import Reader
from mask2former.data.faults import fault, left_out_by
from mask2former.errors import UserError
from mask2former.media.archives import File, Folder, open_folder
from mask2former.media.images import check_size
from mask2former.notes import is_collecting, note
from mask2former.ops import masks as mask_ops
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures.categories import Categories
from mask2former.structures.ground_truth import GroundTruth, InstanceGroundTruth
from mask2former.text import quoted, shown

__all__ = ["CocoInstances"]

Source = tuple[Location | File, Location | Folder]

_HUNDREDTHS = 100  # official coordinates have two decimals
_KEYS = ("images", "annotations", "categories")
_FORM = "COCO's instance"
_MISSED = "images with objects that have no pixels; these objects count as missed, as in the official tool"


# --- the index -------------------------------------------------------------------------------------------------------

_POLYGONS, _RLE = 0, 1


class _Growing:
    """Flat arrays of one split, while its files are read."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.folders: list[Folder] = []
        self.image_ids: list[int | str] = []
        self.heights, self.widths = array("q"), array("q")  # 0: not given in the file
        self.rows = array("q")  # image of each annotation
        self.labels = array("i")
        self.crowds = array("b")
        self.areas = array("d")  # NaN: not given in the file
        self.kinds = array("b")
        self.first = array("q")  # first polygon, or number of the encoding
        self.parts = array("q")  # polygons
        self.polygon_ends = array("q", [0])  # in numbers, two per corner
        self.corners = array("d")  # x, y, x, y, ...
        self.rle_ends = array("q", [0])  # in bytes
        self.rle_bytes = bytearray()
        self.rle_sizes = array("q")  # height, width, height, width, ...
        self.rle_extents = array("d")  # pixels, x1, y1, x2, y2, of each encoding


@dataclass(frozen=True, slots=True)
class _Index:
    """The annotations of a split, sorted by image; see :class:`_Growing`."""

    starts: Int64[np.ndarray, " I+1"]  # annotations of image i: starts[i] to starts[i + 1]
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


class _Reader:
    """Reads the files of one split; remarks are collected in ``notes``."""

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
        self.flat: list[Bool[np.ndarray, " P"]] = []  # polygons without an inside, by file
        self.empty: list[Bool[np.ndarray, " A"]] = []  # annotations without any area, by file

    def add(self, content: dict[str, Any], file: File, folder: Folder) -> None:
        row_of_id = self._images(content["images"], file, folder)
        check_unique((entry["id"] for entry in content["annotations"] if "id" in entry), "annotation", file)
        of: dict[str, list[Any]] = defaultdict(list)  # annotations by the remark that applies to them
        broken = ""  # the fault of the first of these segmentations
        names: list[Any] = []  # of the annotations that are used
        boxes, wrong_areas = array("d"), array("b")
        before = len(self.out.rows), len(self.out.polygon_ends) - 1
        for index, entry in enumerate(content["annotations"]):
            name = entry.get("id", f"number {index + 1}")
            if (ids := ids_of(entry, "image_id", name, file)) is None:
                continue
            row, label = row_of_id.get(ids[0], -1), self.class_of_id.get(ids[1], -1)
            crowd = flag(entry.get("iscrowd"))
            if row == -1:
                of["unknown images"].append(name)
            elif label == -1:
                of["unknown classes"].append(name)
            elif crowd is None:
                of["flags"].append((name, entry["iscrowd"]))
            elif row is not None:  # None: its image is skipped
                segmentation = entry.get("segmentation")
                if not segmentation:
                    of["no mask"].append(name)
                    continue
                try:
                    in_pairs = self._segmentation(segmentation, row)
                except (UserError, TypeError, ValueError, OverflowError) as error:
                    broken = broken or (str(error) if isinstance(error, UserError) else quoted(segmentation, 60))
                    of["broken"].append(name)
                    continue
                if in_pairs:
                    of["pairs"].append(name)
                area = number(entry.get("area"))
                names.append(name)
                self.out.rows.append(row)
                self.out.labels.append(label)
                self.out.crowds.append(crowd and self.heed_crowds)
                self.out.areas.append(math.nan if area is None else area)
                wrong_areas.append((area is None or math.isnan(area)) and entry.get("area") is not None)
                boxes.extend(box_of(entry.get("bbox")))
        self._refuse(of, broken, file)
        if of["no mask"] and self.missing_masks == "skip":
            self.notes.append(f"'{file}': left out objects without segmentation: annotations {some(of['no mask'])}")
        if of["pairs"]:
            self.notes.append(
                f"'{file}': read polygons that are lists of pairs [x, y] instead of x, y, x, y, ...: annotations "
                f"{some(of['pairs'])}"
            )
        self._compare(before, boxes, wrong_areas, names, file)

    def _refuse(self, of: dict[str, list[Any]], broken: str, file: File) -> None:
        """Report the faults of the annotations of a file, if there are any; these annotations have been left out."""
        tell_unlisted(of["unknown images"], "images", file)
        tell_unlisted(of["unknown classes"], "categories", file)
        if of["flags"]:
            names, flags = zip(*of["flags"], strict=True)
            fault(
                f"'{file}': annotations {some(names)} have {quoted(flags[0], 40)} as 'iscrowd'; expected 0 (an "
                "object) or 1 (a region of many objects)",
                len(of["flags"]),
            )
        if of["broken"]:
            first, *more = of["broken"]
            also = f"; {len(more)} more annotations have broken segmentations: {some(more)}" if more else ""
            fault(
                f"'{file}': the segmentation of annotation {shown(first)} is broken: {broken}{also}", len(of["broken"])
            )
        if of["no mask"] and self.missing_masks == "error":
            fault(
                f"'{file}': annotations {some(of['no mask'])} have no segmentation, and a box is not enough to learn "
                "masks; add polygons or run-length encodings, or " + left_out_by("missing_masks"),
                len(of["no mask"]),
            )

    def _compare(
        self, before: tuple[int, int], boxes: array[float], wrong_areas: array[int], names: list[Any], file: File
    ) -> None:
        """Compare the annotations of a file, which are those after the first of ``before``, with one another.

        Polygons without an interior are marked; masks are compared with what else the file says about them.
        """
        out, (start, first) = self.out, before
        if not names:
            return
        ends = np.array(out.polygon_ends[first:], dtype=np.int64) // 2
        corners = np.array(out.corners[2 * int(ends[0]) :], dtype=np.float64).reshape(-1, 2)
        polygons = PolygonFigures.of(corners, np.diff(ends))
        self.flat.append(polygons.flat)

        kinds, firsts, parts = (
            np.array(values[start:], dtype=np.int64) for values in (out.kinds, out.first, out.parts)
        )
        rows = np.array(out.rows[start:], dtype=np.int64)
        is_polygon = kinds == _POLYGONS
        encoded = np.array(out.rle_extents, dtype=np.float64).reshape(-1, 5)
        pixels, extents = np.zeros(len(names)), np.zeros((len(names), 4))
        pixels[~is_polygon], extents[~is_polygon] = encoded[firsts[~is_polygon], 0], encoded[firsts[~is_polygon], 1:]
        lost = np.zeros(len(names), dtype=np.int64)  # polygons of each annotation that have no inside
        long = np.zeros(len(names), dtype=bool)
        if len(polygons.flat):
            at = firsts[is_polygon] - first
            # Polygons without an interior are treated as absent.
            low = np.where(polygons.flat[:, None], np.inf, polygons.extents[:, :2])
            high = np.where(polygons.flat[:, None], -np.inf, polygons.extents[:, 2:])
            extents[is_polygon, :2] = np.minimum.reduceat(low, at)
            extents[is_polygon, 2:] = np.maximum.reduceat(high, at)
            pixels[is_polygon] = np.add.reduceat(np.where(polygons.flat, 0, polygons.areas), at)
            lost[is_polygon] = np.add.reduceat(polygons.flat.astype(np.int64), at)
            long[is_polygon] = np.add.reduceat(polygons.lengths, at) > limits.OUTLINE
        if long.any():
            offenders = [names[index] for index in np.flatnonzero(long).tolist()]
            fault(
                f"'{file}': the outlines of annotations {some(offenders)} are longer than {limits.OUTLINE:,} pixels; "
                "are their coordinates in pixels of the image?",
                len(offenders),
            )
        empty = np.where(is_polygon, lost == parts, pixels == 0)
        for where, message in (
            (empty, "left out objects without any area"),
            ((lost > 0) & ~empty, "left out parts of objects that have no area"),
        ):
            if where.any():
                offenders = [names[index] for index in np.flatnonzero(where).tolist()]
                self.notes.append(f"'{file}': {message}: annotations {some(offenders)}")

        empty |= long
        kept = np.flatnonzero(~empty)
        sizes = np.stack([np.array(out.heights, np.int64), np.array(out.widths, np.int64)], axis=1)
        summary = MaskSummary(
            extents[kept],
            is_polygon[kept],
            pixels[kept],
            np.array(boxes, dtype=np.float64).reshape(-1, 4)[kept],
            np.array(out.areas[start:], dtype=np.float64)[kept],
            np.array(wrong_areas, dtype=bool)[kept],
            sizes[rows[kept]],
        )
        found = check_masks(summary)
        self.notes += found.notes([names[index] for index in kept.tolist()], file)
        np.frombuffer(out.areas, dtype=np.float64)[start + kept] = found.areas
        self.empty.append(empty)

    def _images(self, entries: list[dict[str, Any]], file: File, folder: Folder) -> dict[Hashable, int | None]:
        """Row of each image by id; None for images that are skipped."""
        check_unique((entry.get("id") for entry in entries), "image", file)
        rows: dict[Hashable, int | None] = {}
        missing, outside, again, renamed = [], [], [], []
        taken: dict[str, str] = {}  # declared names, by the names under which images were found
        for entry in entries:
            name = entry.get("file_name")
            image_id = entry_id(entry.get("id"))
            if image_id is None or not is_file_name(name):
                fault(f"'{file}': the image {quoted(entry)} needs an 'id' and a 'file_name'")
                continue
            size = stated_sides(entry, f"the image {quoted(name)}", file)
            if size is None:
                rows[image_id] = None
                continue
            found = find_name(name, folder)
            if found is None:
                (outside if leads_to_file(name, folder) else missing).append(name)
                rows[image_id] = None
                continue
            if taken.get(found, name) != name:
                raise UserError(
                    f"'{file}' lists {quoted(taken[found])} and {quoted(name)}, but '{folder}' contains only "
                    f"{quoted(found)}; keep the folders that distinguish them"
                )
            if found in taken:
                again.append(f"{found} (id {image_id})")
            elif found != name:
                renamed.append(f"{quoted(name)} as {quoted(found)}")
            taken[found] = name
            rows[image_id] = len(self.out.names)
            self.out.names.append(found)
            self.out.folders.append(folder)
            self.out.image_ids.append(image_id)
            self.out.heights.append(size[0])
            self.out.widths.append(size[1])
        tell_outside(outside, folder, file)
        self.notes += tell_missing(missing, folder, file, skip=self.missing_images == "skip")
        if renamed:
            self.notes.append(
                f"'{file}': images were not found in '{folder}' under the names in the file, but under others: "
                f"{some(renamed)}; check that this is the right folder"
            )
        if again:
            self.notes.append(
                f"'{file}': images are listed more than once under different ids, each with the objects of its own "
                f"id: {some(again)}"
            )
        return rows

    def _segmentation(self, segmentation: Any, row: int) -> bool:
        """Add one segmentation; returns whether it has polygons that are lists of pairs."""
        out = self.out
        if isinstance(segmentation, dict):
            counts, size = mask_ops.compress(segmentation)
            declared = (out.heights[row], out.widths[row])
            if all(declared) and size != declared:
                raise UserError(f"its size is {list(size)} (height, width), but that of its image is {list(declared)}")
            pixels, extent = mask_ops.encoded_extent({"size": size, "counts": counts})
            out.kinds.append(_RLE)
            out.first.append(len(out.rle_ends) - 1)
            out.parts.append(0)
            out.rle_bytes += counts
            out.rle_ends.append(len(out.rle_bytes))
            out.rle_sizes.extend(size)
            out.rle_extents.extend((pixels, *extent))
            return False
        polygons, in_pairs = polygons_of(segmentation)  # refused before anything is added, so that reading may go on
        out.kinds.append(_POLYGONS)
        out.first.append(len(out.polygon_ends) - 1)
        out.parts.append(len(polygons))
        for polygon in polygons:
            out.corners.extend(polygon or (0, 0))
            out.polygon_ends.append(len(out.corners))
        return in_pairs

    def index(self) -> _Index:
        """What was read, without objects that have no area."""
        out = self.out
        rows, kinds, first, parts = (np.array(values) for values in (out.rows, out.kinds, out.first, out.parts))
        nothing = np.zeros(0, dtype=bool)
        kept = np.flatnonzero(~np.concatenate([*self.empty, nothing]))
        order = kept[np.argsort(rows[kept], kind="stable")]  # file order within an image
        corners = np.array(out.corners).reshape(-1, 2)
        lengths = np.diff(np.array(out.polygon_ends)) // 2
        solid = ~np.concatenate([*self.flat, nothing])
        if not solid.all():
            corners, lengths = corners[np.repeat(solid, lengths)], lengths[solid]
            before, of_polygons = np.concatenate([[0], np.cumsum(solid)]), kinds == _POLYGONS
            starts, parts = first.copy(), parts.copy()
            first[of_polygons] = before[starts[of_polygons]]
            parts[of_polygons] = before[(starts + parts)[of_polygons]] - first[of_polygons]
        if corners.size and np.abs(corners).max() < 2**31 / _HUNDREDTHS - 1:
            hundredths = np.rint(corners * _HUNDREDTHS).astype(np.int32)
            if (hundredths / _HUNDREDTHS == corners).all():
                corners = hundredths  # half the memory, the same numbers
        counts = np.bincount(rows[kept], minlength=len(out.names))
        return _Index(
            starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            labels=np.array(out.labels)[order].astype(np.int32),
            crowds=np.array(out.crowds)[order].astype(bool),
            areas=np.array(out.areas)[order],
            kinds=kinds[order].astype(np.int8),
            first=first[order],
            parts=parts[order],
            polygon_ends=np.concatenate([[0], np.cumsum(lengths)]),
            corners=corners,
            rle_ends=np.array(out.rle_ends),
            rle_bytes=bytes(out.rle_bytes),
            rle_sizes=np.array(out.rle_sizes).reshape(-1, 2),
        )


# --- the data set ----------------------------------------------------------------------------------------------------


class CocoInstances(Reader):
    """Images with their objects, in file order, by index and at their original size.

    Training targets are the objects that are not crowd regions; the ground truth has both, objects first, with the
    areas given in the file.

    Args:
        sources: pairs of annotation file and image folder, all with the same categories.
        categories: the class list, if known; the files may have no other ids. None: the classes of the first file.
        filter_empty: leaves out images without objects other than crowd regions.
        missing_images: how to treat images that are listed but do not exist.
        missing_masks: how to treat objects that have only a box.
        crowds: how to read annotations with ``iscrowd`` 1: as a region of many objects, neither learned nor counted as
            missed, or as an object like any other (CVAT sets the flag on painted masks).
        allow_outside: whether file names may lead out of their folders.
        read: a function that returns the content of a file in COCO's form, for files of another form.

    Attributes:
        notes: sentences about what was left out.

    Raises:
        UserError: a file that is missing or broken, files with different categories, or no image left.
    """

    tasks = ("instance",)

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        categories: Categories | None = None,
        filter_empty: bool = False,
        missing_images: Literal["error", "skip"] = "error",
        missing_masks: Literal["error", "skip"] = "error",
        crowds: Literal["regions", "objects"] = "regions",
        allow_outside: bool = False,
        read: Callable[[File], dict[str, Any]] | None = None,
    ) -> None:
        if not sources:
            raise UserError("no annotation files given; give at least one with its image folder")
        reader: _Reader | None = None
        first: Categories | None = None
        for path, images in sources:
            file = found_file(path)
            content = read_annotations(file, _KEYS, _FORM) if read is None else read(file)
            found = categories_in(content, file)
            if first is not None:
                same_categories(first, found, sources[0][0], file)
            first = first or found
            if categories is not None and (unknown := {item.id for item in found} - set(categories.index_of_id())):
                raise UserError(f"'{file}' has category ids that its data set does not have: {some(sorted(unknown))}")
            reader = reader or _Reader(
                categories or first, missing_images, missing_masks, heed_crowds=crowds == "regions"
            )
            if categories is None and (stuff := [item.name for item in found if not item.is_thing]):
                if len(stuff) == len(found):
                    raise UserError(
                        f"'{file}': all categories have 'isthing' 0, but instances are things only, so nothing would "
                        "be predicted or measured; set it to 1 for countable classes, or remove it"
                    )
                reader.notes.append(stuff_remark(stuff, file))
            reader.add(content, file, open_folder(images, allow_outside=allow_outside))
            del content  # the objects of the file take many times the memory of the index
        assert reader is not None
        assert first is not None
        self.categories = categories or first
        self.annotation_files = [found_file(path) for path, _ in sources]
        self._index = reader.index()
        out = reader.out
        self._names, self._folders, self._image_ids = out.names, out.folders, out.image_ids
        self._sizes = np.stack([np.array(out.heights, np.int64), np.array(out.widths, np.int64)], axis=1)
        starts = self._index.starts
        objects = np.concatenate([[0], np.cumsum(~self._index.crowds)])
        counts = objects[starts[1:]] - objects[starts[:-1]]
        num_crowds, total = int(self._index.crowds.sum()), len(self._index.crowds)
        if num_crowds and categories is None:  # the classes of published files are known, and so are their crowds
            what = (
                f"all {total} annotations are marked as crowd regions, so there are no objects to learn"
                if num_crowds == total
                else f"{num_crowds} of {total} annotations are marked as crowd regions, which are not learned and in "
                "no metric"
            )
            reader.notes.append(
                f"'{sources[0][0]}': {what}; if they are single objects (CVAT and Datumaro mark painted masks), set "
                "crowds=objects"
            )
        self.notes = reader.notes
        self._rows = rows_with(counts, sources[0][0], filter_empty=filter_empty)
        self._counts = counts[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def listed(self) -> list[File]:
        """Every image in the annotation files, including those that ``filter_empty`` leaves out."""
        return [self._file(row) for row in range(len(self._names))]

    @property
    def num_objects(self) -> Int64[np.ndarray, " I"]:
        """The objects of every image, not counting crowd regions."""
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
        """The image and its objects before anything is rasterised; crowd regions are left out, or ignored.

        Raises:
            UserError: the image cannot be read or its size differs from that in the file, or an encoding is broken.
        """
        row = int(self._rows[index])
        image = self.read(self._file(row))
        size = (image.shape[0], image.shape[1])
        self._check_declared(row, size)
        self._check_extents(row, size)
        annotations = self._annotations(row, crowd=False)
        polygons = {
            position: self._index.polygons(annotation)
            for position, annotation in enumerate(annotations)
            if self._index.kinds[annotation] == _POLYGONS
        }
        patches = {
            position: self._patch(row, annotation, size)
            for position, annotation in enumerate(annotations)
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

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, GroundTruth]:
        row = int(self._rows[index])
        size = self.size(self._file(row))
        self._check_declared(row, size)
        self._check_extents(row, size)
        kinds = [self._annotations(row, crowd=crowd) for crowd in (False, True)]
        annotations = np.concatenate(kinds)
        masks = SparseMasks((self._patch(row, annotation, size) for annotation in annotations.tolist()), size)
        pixels = masks.areas
        # Parity: the official tool also counts objects without pixels as missed.
        if lost := np.count_nonzero(pixels[: len(kinds[0])] == 0):
            note(_MISSED, f"'{self._file(row)}' ({lost} of {len(kinds[0])} objects)")
        areas = self._index.areas[annotations].copy()
        unknown = np.isnan(areas)
        areas[unknown] = pixels[unknown]
        labels = self._index.labels[annotations].astype(np.int64)
        ground_truth = InstanceGroundTruth(
            masks, labels, np.repeat([False, True], [len(kind) for kind in kinds]), areas
        )
        return {task: ground_truth for task in tasks if task == "instance"}

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
            raise UserError(
                f"'{self._file(row)}' is {size_hw[0]}x{size_hw[1]} (height x width), but one of its masks is "
                f"{size[0]}x{size[1]}"
            )
        return self._index.patch(annotation)

    def _check_declared(self, row: int, size_hw: tuple[int, int]) -> None:
        declared = tuple(self._sizes[row].tolist())
        expected = declared if all(declared) else None
        check_size(self._file(row), size_hw, expected, "its annotation file says", exif=self.exif)

    def _check_extents(self, row: int, size_hw: tuple[int, int]) -> None:
        """Note polygons outside an image whose size the file does not give; for others this was noted on reading."""
        if self._sizes[row].all() or not is_collecting():
            return
        annotations = range(*self._index.starts[row : row + 2].tolist())
        outlines = [
            np.concatenate(self._index.polygons(at)) for at in annotations if self._index.kinds[at] == _POLYGONS
        ]
        if not outlines:
            return
        extents = np.array([[*corners.min(axis=0), *corners.max(axis=0)] for corners in outlines])
        if outside := np.count_nonzero(lies_outside(extents, np.array(size_hw))):
            note(
                "images with objects that lie wholly or mostly outside them; the annotation file gives no 'height' "
                "and 'width', so check that the images still have the size at which they were annotated",
                f"'{self._file(row)}' ({outside} of {len(outlines)} objects; it is {size_hw[0]}x{size_hw[1]}, height x "
                f"width, and polygons reach to y {extents[:, 3].max():g}, x {extents[:, 2].max():g})",
            )
