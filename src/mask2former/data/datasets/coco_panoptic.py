"""Segments in COCO's panoptic format (Kirillov et al., CVPR 2019), official or your own: a JSON file and PNGs.

The JSON is read once into flat arrays, the PNGs when an image is read. Every fault of a file ends in a single
:class:`UserError` that names it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64
from scipy import ndimage

from mask2former.config import Task
from mask2former.data.datasets.annotation_files import (
    Location,
    categories_in,
    check_unique,
    entry_id,
    flag,
    found_file,
    number,
    read_annotations,
    rows_with,
    same_categories,
    some,
    stated_sides,
)
from mask2former.data.datasets.file_names import is_file_name, leads_to_file, tell_missing, tell_outside, where_else
from mask2former.data.datasets.mask_checks import box_of, boxes_agree
from mask2former.data.datasets.reader import Reader, SegmentReader
from mask2former.data.faults import fault
from mask2former.data.label_maps import read_id_colors, runs_of
from mask2former.errors import UserError
from mask2former.media.archives import File, Folder, open_folder
from mask2former.media.images import IMAGE_SUFFIXES, check_size
from mask2former.notes import is_collecting, note
from mask2former.structures.categories import Categories
from mask2former.structures.ground_truth import GroundTruth, PanopticGroundTruth
from mask2former.text import quoted, shown

__all__ = ["CocoPanoptic", "PanopticFiles"]

_KEYS = ("annotations", "categories")
_FORM = "COCO's panoptic"
_MAX_ID = 1 << 24  # ids must fit into three bytes
_MAX_AREA = 1 << 40  # pixels
_GREY = 0x010101  # of value 1


class PanopticFiles(NamedTuple):
    """One annotation file, the folder of its PNGs and the folder of its images."""

    annotations: Location | File
    segments: Location | Folder
    images: Location | Folder


class _Image(NamedTuple):
    image_id: int | str
    images: Folder
    name: str
    maps: Folder
    map_name: str
    size_hw: tuple[int, int]  # 0 where not given in the file


class CocoPanoptic(SegmentReader):
    """Images with their segments, in annotation order.

    Args:
        sources: files of one data set, all with the same categories.
        task: the task that targets are made for, see :class:`SegmentReader`.
        categories: the class list, if known; the files may have no other ids. None: the classes of the first file.
        ground_truths_from: see :class:`SegmentReader`.
        filter_empty: leaves out images without targets.
        missing_images: how to treat images that are annotated but do not exist.
        areas_from_file: the ground truth uses the areas in the file where they are larger than the visible part of a
            segment, and a segment without pixels counts as missed, as in the official tool. Otherwise pixels are
            counted, and such a segment is an error.
        allow_outside: whether file names may lead out of their folders.
        read: a function that returns the content of a file in COCO's form, for files of another form.

    Attributes:
        notes: sentences about what was left out; reading may add some.

    Raises:
        UserError: a file that is missing or broken, files with different categories, or no image left.
    """

    def __init__(
        self,
        sources: Sequence[PanopticFiles],
        task: Task = "panoptic",
        *,
        categories: Categories | None = None,
        ground_truths_from: Mapping[Task, Callable[[], Reader]] | None = None,
        filter_empty: bool = False,
        missing_images: Literal["error", "skip"] = "error",
        areas_from_file: bool = False,
        allow_outside: bool = False,
        read: Callable[[File], dict[str, Any]] | None = None,
    ) -> None:
        if not sources:
            raise UserError("no annotation files given; give at least one with its folders of PNGs and images")
        left_out: list[str] = []
        self._missing_images = missing_images
        self._areas_from_file = areas_from_file
        self._odd_areas: set[int] = set()  # rows
        self._num_odd_areas = 0  # of segments
        self._area_example = ""
        self._area_note = ""
        self._images: list[_Image] = []
        # Ids, classes, crowds, areas (NaN: not given in the file; 0: the file gives something that is not an area),
        # ends.
        self._growing = array("q"), array("i"), array("b"), array("d"), array("q", [0])
        boxes = self._boxes = array("f")  # x, y, width, height; NaN where not given in the file
        first: Categories | None = None
        for source in sources:
            file = found_file(source.annotations)
            content = read_annotations(file, _KEYS, _FORM) if read is None else read(file)
            found = categories_in(content, file)
            if categories is None and task != "semantic":
                _check_kinds(content["categories"], file)
            if first is None:
                first = found
            else:
                same_categories(first, found, sources[0].annotations, file)
            classes = categories or first
            known = classes.index_of_id()
            if unknown := [item.name for item in found if item.id not in known]:
                raise UserError(f"'{file}' has categories that its data set does not have: {some(unknown)}")
            segments = open_folder(source.segments, "folder of PNGs", allow_outside=allow_outside)
            images = open_folder(source.images, allow_outside=allow_outside)
            left_out += self._add(content, file, segments, images, classes)
            del content
        assert first is not None
        if task == "instance" and not (categories or first).thing_indices:
            raise UserError(
                f"'{sources[0].annotations}': all categories have 'isthing' 0, but instances (task: instance) "
                "are things only; set it to 1 for countable classes, or use task: panoptic or semantic"
            )
        super().__init__(categories or first, task, ground_truths_from)
        self.annotation_files = [found_file(source.annotations) for source in sources]
        self.notes += left_out
        ids, labels, crowds, areas, ends = self._growing
        self._ids = np.array(ids, dtype=np.int32)
        self._classes = np.array(labels, dtype=np.int64)
        self._crowds = np.array(crowds, dtype=bool)
        self._areas = np.array(areas, dtype=np.float64)
        self._ends = np.array(ends, dtype=np.int64)
        self._boxes_xywh = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        del self._growing, self._boxes
        if task == "panoptic":
            self._note_divided_stuff()
        self._counts = self._count()
        self._rows = rows_with(self._counts, sources[0].annotations, filter_empty=filter_empty)

    def _note_divided_stuff(self) -> None:
        """Note images with several segments of one class of stuff, of which models predict a single segment."""
        images = np.repeat(np.arange(len(self._images)), np.diff(self._ends))
        is_stuff = ~self._crowds & np.isin(self._classes, self.categories.stuff_indices)
        pairs = images[is_stuff] * len(self.categories) + self._classes[is_stuff]
        found, counts = np.unique(pairs, return_counts=True)
        if divided := np.unique(found[counts > 1] // len(self.categories)).tolist():
            self.notes.append(
                "images have several segments of one class of stuff, which is predicted as one, so that they cannot "
                f"all be found; join them: {some([self._images[index].name for index in divided])}"
            )

    # --- reading the annotation file ---

    def _add(
        self, content: dict[str, Any], file: File, segments: Folder, images: Folder, categories: Categories
    ) -> list[str]:
        """Add the images of one file; returns what was left out."""
        class_of_id = categories.index_of_id()
        listed = content.get("images") or []
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise UserError(f"'{file}': 'images' must be a list of objects")
        check_unique((entry.get("id") for entry in listed), "image", file)
        check_unique((entry.get("image_id") for entry in content["annotations"]), "annotated image", file)
        by_id: dict[Hashable, dict[str, Any]] = {entry_id(entry.get("id")): entry for entry in listed}
        missing, outside, without_map, maps_outside, renamed, again = [], [], [], [], [], []
        taken: set[str] = set()
        maps: set[str] = set()
        for entry in content["annotations"]:
            image_id = entry_id(entry.get("image_id"))
            name, infos = entry.get("file_name"), entry.get("segments_info")
            if image_id is None or not is_file_name(name) or not isinstance(infos, list):
                fault(
                    f"'{file}': the annotation {quoted(entry)} needs an 'image_id', a 'file_name' and a list "
                    "'segments_info'"
                )
                continue
            record = by_id.get(image_id, {})
            if listed and not record:
                fault(f"'{file}': the image {quoted(image_id)} of {quoted(name)} is not listed in 'images'")
                continue
            declared = record.get("file_name")
            image = _image_name(declared, name, images)
            if image is None:
                is_outside = is_file_name(declared) and leads_to_file(declared, images)
                (outside if is_outside else missing).append(declared or PurePosixPath(name).stem)
                continue
            if declared not in (None, image):
                renamed.append(f"{shown(image)} for {quoted(declared, 60)}")
            if image in taken:
                again.append(f"{image} (id {image_id})")
            if name in maps:
                fault(f"'{file}': {quoted(name)} is the PNG of two annotations; expected one PNG per image")
                continue
            taken.add(image)
            maps.add(name)
            if not segments.exists(name):
                (maps_outside if leads_to_file(name, segments) else without_map).append(name)
                continue
            size = stated_sides(record, f"the image {quoted(image)}", file)
            if size is not None and self._add_segments(infos, name, file, class_of_id):
                self._images.append(_Image(image_id, images, image, segments, name, size))
        tell_outside(outside, images, file)
        tell_outside(maps_outside, segments, file)
        if without_map:
            todo = where_else(without_map, segments)
            fault(f"'{segments}' lacks PNGs of '{file}': {some(without_map)}; {todo}", len(without_map))
        annotated = {entry_id(entry.get("image_id")) for entry in content["annotations"]}
        left_out = [entry.get("file_name", number) for number, entry in by_id.items() if number not in annotated]
        return tell_missing(missing, images, file, skip=self._missing_images == "skip") + [
            f"'{file}': {message}: {some(offenders)}"
            for message, offenders in (
                ("left out images without an annotation", left_out),
                ("took images with the names of their PNGs, since the ones listed in the file do not exist", renamed),
                ("images are listed more than once under different ids", again),
            )
            if offenders
        ]

    def _add_segments(self, infos: list[Any], name: str, file: File, class_of_id: Mapping[Any, int]) -> bool:
        """Add the segments of one image, all or none; returns whether they are valid."""
        rows: list[tuple[int, int, bool, float]] = []
        seen: set[int] = set()
        boxes = array("f")
        for info in infos:
            identifier = info.get("id") if isinstance(info, dict) else None
            if isinstance(identifier, bool) or not isinstance(identifier, int) or not 0 < identifier < _MAX_ID:
                fault(f"'{file}': the segment {quoted(info)} of {quoted(name)} needs an 'id' from 1 to {_MAX_ID - 1}")
                continue
            if identifier in seen:
                fault(f"'{file}': {quoted(name)} has two segments with the id {identifier}")
                continue
            seen.add(identifier)
            label, crowd = entry_id(info.get("category_id")), flag(info.get("iscrowd"))
            if label not in class_of_id:
                fault(
                    f"'{file}': segment {identifier} of {quoted(name)} has the category "
                    f"{quoted(info.get('category_id'), 40)}, which is not listed in 'categories'"
                )
                continue
            if crowd is None:
                fault(
                    f"'{file}': segment {identifier} of {quoted(name)} has {quoted(info['iscrowd'], 40)} as "
                    "'iscrowd'; expected 0 (an object) or 1 (a region of many objects)"
                )
                continue
            area = number(info.get("area"))
            known = area if area is not None and 0 < area <= _MAX_AREA else 0
            rows.append((identifier, class_of_id[label], crowd, math.nan if info.get("area") is None else known))
            boxes.extend(box_of(info.get("bbox")))
        if len(rows) < len(infos):
            return False
        *columns, ends = self._growing
        for column, values in zip(columns, zip(*rows, strict=True), strict=False):
            column.extend(values)
        ends.append(len(columns[0]))
        self._boxes.extend(boxes)
        return True

    # --- the data set ---

    def __len__(self) -> int:
        return len(self._rows)

    def _count(self) -> Int64[np.ndarray, " I"]:
        rows = np.repeat(np.arange(len(self._images)), np.diff(self._ends))
        if self.task == "semantic":
            rows = np.unique(rows * len(self.categories) + self._classes) // len(self.categories)
        else:
            rows = rows[self.are_targets(self._classes, self._crowds)]
        return np.bincount(rows, minlength=len(self._images))

    @property
    def num_objects(self) -> Int64[np.ndarray, " I"]:
        """Training targets of every image."""
        return self._counts[self._rows]

    @cached_property
    def _wide(self) -> Bool[np.ndarray, " I"]:
        sizes = [self._images[row].size_hw for row in self._rows.tolist()]
        if not all(min(size) for size in sizes):
            return super()._wide
        return np.array([width > height for height, width in sizes], dtype=bool)

    def file(self, index: int) -> File:
        image = self._images[int(self._rows[index])]
        return image.images / image.name

    def image_id(self, index: int) -> int | str:
        return self._images[int(self._rows[index])].image_id

    def segment_ids(self, index: int) -> Int32[np.ndarray, " N"]:
        """The ids of the segments of an image in the file, in the order of :meth:`segments`."""
        row = int(self._rows[index])
        return self._ids[self._ends[row] : self._ends[row + 1]]

    def _compare_areas(self, row: int, seen: Int64[np.ndarray, " N"]) -> None:
        """Note, once and with the count so far, that areas in the file differ from those in its PNGs."""
        said = self._areas[self._ends[row] : self._ends[row + 1]]
        differing = np.flatnonzero(~np.isnan(said) & (said != seen))
        if not len(differing) or row in self._odd_areas:
            return
        self._odd_areas.add(row)
        self._num_odd_areas += len(differing)
        if not self._area_example:
            index = differing[0]
            segment, name = self._ids[self._ends[row] + index], self._images[row].map_name
            says = f"{said[index]:.0f}" if said[index] > 0 else "no number above 0"
            self._area_example = f"segment {segment} of '{name}': {says} in the file, {seen[index]} pixels"
        elif self._area_note in self.notes:
            self.notes.remove(self._area_note)
        self._area_note = (
            f"{self._num_odd_areas} segments in {len(self._odd_areas)} images have an 'area' in the file "
            f"that differs from their number of pixels in the PNG ({self._area_example}); pixels are counted here, "
            "but the official tool for panoptic quality uses the areas in the file, so its numbers may differ"
        )
        self.notes.append(self._area_note)

    def _compare_boxes(self, row: int, ids: Int32[np.ndarray, "H W"]) -> None:
        """Note segments that do not match the box that the file gives them."""
        start, stop = self._ends[row : row + 2].tolist()
        windows = ndimage.find_objects(ids, max_label=stop - start) if stop > start else []
        at = [index for index, window in enumerate(windows) if window is not None]
        given = self._boxes_xywh[start:stop][at].astype(np.float64)
        found = np.array([[x.start, y.start, x.stop, y.stop] for y, x in (windows[index] for index in at)], np.float64)
        with np.errstate(invalid="ignore"):
            given[:, 2:] += given[:, :2]
        off = ~np.isnan(given).any(axis=1) & ~boxes_agree(found.reshape(-1, 4), given)
        if off.any():
            example = self._ids[start + at[int(np.argmax(off))]]
            note(
                "PNGs with segments that do not match their 'bbox' (IoU below 0.5), which is not used: expected x, "
                "y, width, height; check that the PNGs belong to their images",
                f"'{self._images[row].map_name}' ({np.count_nonzero(off)} of {len(at)} segments, such as {example})",
            )

    def check_size(
        self, index: int, labels_hw: Sequence[int] | None, image_hw: Sequence[int] | None = None, what: str = ""
    ) -> None:
        size = image_hw or self.size(self.file(index))
        super().check_size(index, labels_hw, size, what)
        declared = self._images[int(self._rows[index])].size_hw
        if all(declared) and tuple(size) != declared:
            check_size(self.file(index), size, declared, "its annotation file says", exif=self.exif)

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, GroundTruth]:
        ground_truths = super().ground_truths(index, tasks)
        if isinstance(ground_truth := ground_truths.get("panoptic"), PanopticGroundTruth):
            row = int(self._rows[index])
            seen = np.bincount(ground_truth.ids.ravel(), minlength=len(ground_truth.segments) + 1)[1:]
            if not self._areas_from_file:
                self._compare_areas(row, seen)
                return ground_truths
            # Parity: the official tool counts the pixels of predictions, but not those of the ground truth.
            areas = np.maximum(np.nan_to_num(self._areas[self._ends[row] : self._ends[row + 1]]).astype(np.int64), seen)
            ground_truths["panoptic"] = ground_truth._replace(areas=areas)
        return ground_truths

    def segments(
        self, index: int, purpose: Literal["training", "evaluation"]
    ) -> tuple[Int32[np.ndarray, "H W"], Int64[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
        """The map, on which segment k has the value k + 1, and the class and crowd flag of every segment.

        Raises:
            UserError: ids on the map that the JSON does not list, or, for an evaluation, the reverse.
        """
        row = int(self._rows[index])
        image = self._images[row]
        span = slice(self._ends[row], self._ends[row + 1])
        listed = self._ids[span]
        file = image.maps / image.map_name
        colors = read_id_colors(file)
        runs, lengths = runs_of(colors)
        on_map, kinds = np.unique(runs, return_inverse=True)
        unknown = np.setdiff1d(on_map, np.append(listed, 0))
        if len(unknown):
            raise UserError(
                f"'{file}' has ids that its 'segments_info' does not list: {some(unknown.tolist())}; "
                f"{_other_colors(on_map, listed) or 'list them, or paint them black (void)'}"
            )
        lost = np.setdiff1d(listed, on_map)
        if purpose == "evaluation" and len(lost) and not self._areas_from_file:
            raise UserError(
                f"'{file}' lacks segments that its 'segments_info' lists: {some(lost.tolist())}; nothing can be "
                "measured on them: remove them from the list"
            )
        index_of = {identifier: position for position, identifier in enumerate(listed.tolist(), start=1)}
        dense = np.array([index_of.get(identifier, 0) for identifier in on_map.tolist()], dtype=np.int32)
        ids = np.repeat(dense[kinds], lengths).reshape(colors.shape)
        if is_collecting():
            self._compare_boxes(row, ids)
        return ids, self._classes[span], self._crowds[span]


def _other_colors(on_map: Int32[np.ndarray, " N"], listed: Int32[np.ndarray, " M"]) -> str:
    """How a PNG seems to encode ids instead, as a phrase; empty if that is not recognised."""
    colors = on_map[on_map > 0]
    if not (colors % _GREY).any():
        return (
            "it is entirely grey; expected colours (id = R + 256 G + 65536 B), not ids as grey values, which allow "
            "only 255"
        )
    if np.isin((colors & 255) << 16 | colors & 0xFF00 | colors >> 16, listed).all():
        return "its colours are in the order B, G, R; expected id = R + 256 G + 65536 B: swap red and blue"
    return ""


def _check_kinds(categories: list[dict[str, Any]], file: File) -> None:
    """Refuse a class list that does not mark things; instance files may omit this, panoptic files may not."""
    silent = [entry["name"] for entry in categories if entry.get("isthing", entry.get("is_thing")) is None]
    if silent:
        raise UserError(
            f"'{file}': categories {some(silent)} have no 'isthing'; expected 1 for things, which are counted, and 0 "
            "for stuff, such as sky or road: add it to every category (task: semantic does not need it)"
        )


def _image_name(declared: Any, segments: str, images: Folder) -> str | None:
    """The image of a PNG: as declared in the file, else one of the same name with an image suffix."""
    if is_file_name(declared) and images.exists(declared):
        return declared
    stem = str(PurePosixPath(segments).with_suffix("")) if PurePosixPath(segments).name else segments
    return next((stem + suffix for suffix in IMAGE_SUFFIXES if images.exists(stem + suffix)), None)
