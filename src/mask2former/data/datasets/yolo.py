"""Polygons in YOLO's segmentation format: a ``data.yaml``, images in ``images``, text files in ``labels``.

A line of a text file is one object: its class number and the corners of one polygon, as fractions of width and height
of the upright image. Has nothing to do with the YOLO models.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64

from mask2former.config import Task
from mask2former.data.annotated import Annotated
from mask2former.data.datasets.annotation_files import Location, is_name, read_lines, repeated, rows_with, some
from mask2former.data.datasets.file_names import tell_outside
from mask2former.data.datasets.mask_checks import PolygonFigures
from mask2former.data.datasets.reader import Reader
from mask2former.data.faults import fault, left_out_by
from mask2former.documents import read_text, read_yaml
from mask2former.errors import UserError
from mask2former.media.archives import File, Folder, leads_outside
from mask2former.media.folders import list_folder
from mask2former.media.images import IMAGE_SUFFIXES, note_passed_over
from mask2former.notes import note
from mask2former.ops.masks import polygons_to_patch
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures.categories import Categories
from mask2former.structures.ground_truth import GroundTruth, InstanceGroundTruth
from mask2former.text import printable, quoted

__all__ = ["YoloPolygons", "YoloSet", "read_yolo"]

_TOLERANCE = 0.02  # tools may write corners slightly outside the image
_SAME_SIDE = 2e-3  # of a side: what rounding by tools explains
_ROUNDING = 1e-4  # of a side: less than a pixel, so that no note is needed
_NEARLY_ALL = 0.9  # share of lines from which something is concluded about the files
_FEW = 3  # lines; with fewer, nothing is concluded about the files
_EXPORT = "masks cannot be learned from it: export polygons ('YOLO segmentation')"
_MOST = 10  # broken lines that are reported at once


@dataclass(frozen=True, slots=True)
class YoloSet:
    """The content of a ``data.yaml``: the classes, and the folders, lists or files of images of both splits.

    It is a settings file, so its folders may be anywhere. What its lists name must be below one of the ``roots`` (the
    folder of the file, and its ``path``) or below the list itself.
    """

    path: Path
    categories: Categories
    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    roots: tuple[Path, ...] = ()


def read_yolo(path: Location) -> YoloSet:
    """Read a ``data.yaml``.

    Its ``path``, if any, is looked for beside the file and in the working directory; if it does not exist (the file was
    written on another machine), the folder of the file is used instead.

    Raises:
        UserError: the file is missing, has no ``names`` or no ``train``, or images are not where it says.
    """
    file = Path(path)
    content = read_yaml(file, "YOLO file")
    if not isinstance(content, dict) or "names" not in content or "train" not in content:
        raise UserError(f"'{file}' is not a data.yaml of a YOLO data set: expected 'train', 'val' and 'names'")
    validation = content.get("val", content.get("valid"))
    if validation is None:
        raise UserError(f"'{file}' names no validation images; add a line such as 'val: images/val'")
    if content.get("kpt_shape") is not None:
        raise UserError(f"'{file}' has 'kpt_shape' and is for keypoints (pose); {_EXPORT}")
    declared = content.get("path")
    roots = [file.parent / str(declared), Path(str(declared)), file.parent] if declared else [file.parent]
    categories = _categories(content["names"], file)
    if (count := content.get("nc", len(categories))) != len(categories):
        raise UserError(
            f"'{file}': 'nc' is {quoted(count, 40)}, but 'names' has {len(categories)}; correct one of the two"
        )
    return YoloSet(
        file,
        categories,
        _paths(content["train"], roots, file),
        _paths(validation, roots, file),
        tuple(roots),
    )


def _categories(names: Any, file: Path) -> Categories:
    names = dict(enumerate(names)) if isinstance(names, list) else names
    pairs = list(names.items()) if isinstance(names, dict) else []
    if not pairs or any(isinstance(number, bool) or not isinstance(number, int) for number, _ in pairs):
        raise UserError(f"'{file}': 'names' must be a list of names, or a mapping of class number to name")
    if wrong := [name for _, name in pairs if not is_name(name)]:
        raise UserError(
            f"'{file}': {quoted(wrong[0])} in 'names' is not a name; put names such as yes, no and on in quotes"
        )
    return Categories.from_dict({"categories": [{"id": number, "name": str(name)} for number, name in pairs]})


def _paths(value: Any, roots: Sequence[Path], file: Path) -> tuple[Path, ...]:
    entries = value if isinstance(value, list) else [value]
    found_paths = []
    for entry in entries:
        if not isinstance(entry, str) or not entry:
            raise UserError(f"'{file}': {quoted(entry)} is not a path of images")
        # Some tools write ../train/images for what lies in train/images beside the file.
        candidates = [root / name for root in roots for name in (entry, entry.removeprefix("../"))]
        found = next((listed for listed in candidates if os.path.exists(listed)), None)
        if found is None:
            roots_tried = printable(" or ".join(dict.fromkeys(map(str, roots))), 300)
            raise UserError(
                f"'{file}': there is no {quoted(entry)} in {roots_tried}; correct it, or the 'path' of the file"
            )
        found_paths.append(found)
    return tuple(found_paths)


def _images(listed: Path, roots: Sequence[Path], *, allow_outside: bool) -> list[Path]:
    """The images of a folder, sorted, without hidden ones; or those listed in a text file, relative to it."""
    if listed.is_dir():
        folder = Folder(listed)
        note_passed_over(folder)
        return [listed / name for name in folder.names(IMAGE_SUFFIXES)]
    names = read_lines(listed, "list of images")
    if not allow_outside:
        outside = {name: None for name in names if _is_outside(name, listed.parent, roots)}
        tell_outside(list(outside), Folder(listed.parent), listed)
        names = [name for name in names if name not in outside]
    return [listed.parent / name for name in names]


def _is_outside(name: str, folder: Path, roots: Sequence[Path]) -> bool:
    """Whether a list entry, relative to the list's folder, lies outside that folder and the data set."""
    return leads_outside(name, folder) and all(leads_outside(os.path.abspath(folder / name), root) for root in roots)


def _label_file(image: Path) -> Path:
    """The path with ``labels`` in place of the last folder called ``images``."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


class YoloPolygons(Reader):
    """Images of one split with their objects; an image without a text file has none.

    Args:
        dataset: what :func:`read_yolo` read.
        split: which of its splits.
        filter_empty: leaves out images without objects.
        missing_masks: how to treat lines that contain a box.
        allow_outside: whether lists may name images that are not in the data set, see :class:`YoloSet`.

    Attributes:
        notes: sentences about what was left out.

    Raises:
        UserError: no images, or text files with other content; the message gives file and line.
    """

    tasks: tuple[Task, ...] = ("instance",)

    def __init__(
        self,
        dataset: YoloSet,
        split: Literal["train", "validation"],
        *,
        filter_empty: bool = False,
        missing_masks: Literal["error", "skip"] = "error",
        allow_outside: bool = False,
    ) -> None:
        self.categories = dataset.categories
        self.notes: list[str] = []
        sources = dataset.train if split == "train" else dataset.validation
        listed = [path for source in sources for path in _images(source, dataset.roots, allow_outside=allow_outside)]
        images = list(dict.fromkeys(listed))
        if not images:
            raise UserError(f"'{sources[0]}' has no images")
        lines = _Lines(dataset.categories.index_of_id())
        files = [_label_file(path) for path in images]
        for path in files:
            lines.add(path)
        lines.drop_flat()
        self._tell(lines, missing_masks)
        self.notes += _strays(listed, images, files)
        if len(lines.without_file) == len(images):
            raise UserError(
                f"none of the {len(images)} images has a text file; for instance, there is no "
                f"'{lines.without_file[0]}'; expected folders 'images' and 'labels' side by side"
            )
        self._labels = np.array(lines.labels, dtype=np.int64)
        self._starts = np.array(lines.starts, dtype=np.int64)
        self._ends = np.array(lines.ends, dtype=np.int64)
        self._corners = np.array(lines.corners, dtype=np.float64).reshape(-1, 2)
        counts = np.diff(self._starts)
        self._rows = rows_with(counts, sources[0], filter_empty=filter_empty)
        self._counts, self._images = counts[self._rows], images
        # Names may repeat across folders, but result files distinguish images by their ids.
        self._ids = [path.stem for path in images]
        if len(set(self._ids)) < len(images):
            whole = [Path(os.path.abspath(path)) for path in images]
            top = os.path.commonpath([path.parent for path in whole])
            self._ids = [path.relative_to(top).with_suffix("").as_posix() for path in whole]

    def _tell(self, lines: _Lines, missing_masks: Literal["error", "skip"]) -> None:
        if lines.keypoints and len(lines.keypoints) >= _NEARLY_ALL * lines.count:
            raise UserError(
                f"lines hold a box and keypoints x, y, visibility (pose): {some(lines.keypoints)}; {_EXPORT}"
            )
        tight = lines.with_tight_box
        if len(tight) >= max(_FEW, _NEARLY_ALL * len(lines.objects)):
            raise UserError(
                "lines begin with a box (centre, width and height) that just fits around their other points: "
                f"{some(tight)}; expected the class and the corners of one polygon: remove the box, or if the points "
                f"are keypoints, {_EXPORT}"
            )
        if lines.broken:
            more = f"; and {len(lines.broken) - _MOST} more" if len(lines.broken) > _MOST else ""
            fault("; ".join(lines.broken[:_MOST]) + more, len(lines.broken))
        boxes = lines.boxes
        if boxes and missing_masks == "error":
            fault(
                f"lines hold boxes, not polygons: {some(lines.boxes)}; a box is not enough to learn masks: export "
                "polygons ('YOLO segmentation'), or " + left_out_by("missing_masks"),
                len(boxes),
            )
            boxes = []
        for offenders, what in (
            (boxes, "left out objects with only a box"),
            (lines.flat, "left out objects without any area"),
            (
                tight,
                "read lines as polygons whose first four numbers are a box (centre, width and height) that just "
                "fits around the others; remove the box",
            ),
            (lines.clipped, "moved corners beyond the image, by at most 2 % of its side, to its border"),
            (lines.without_file, "treated images without a text file as empty"),
        ):
            if offenders:
                self.notes.append(f"{what}: {some(offenders)}")
        self.notes += lines.remarks()

    @property
    def annotation_files(self) -> list[File]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return [file for image in self._images if (file := _label_file(image)).is_file()]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_objects(self) -> Int64[np.ndarray, " I"]:
        return self._counts

    def file(self, index: int) -> File:
        return self._images[int(self._rows[index])]

    def image_id(self, index: int) -> str:
        """The name of the image without its ending, with its folders where names repeat."""
        return self._ids[int(self._rows[index])]

    def annotated(self, index: int, *, with_ignored: bool = False) -> Annotated:
        """The image and its objects; the format has no ignored pixels."""
        image = self.image(index)
        self.check_size(index, None, image.shape[:2])
        size = np.array([image.shape[1], image.shape[0]], dtype=np.float64)
        objects = self._objects(index)
        polygons = {position: [self._polygon(number) * size] for position, number in enumerate(objects)}
        path = self.file(index)
        info = {"image_id": self.image_id(index), "path": str(path)}
        labels = self._labels[objects.start : objects.stop]
        return Annotated(image, labels, polygons, name=path.name, info=info)

    def _objects(self, index: int) -> range:
        """The numbers of the objects of an image."""
        return range(*self._starts[int(self._rows[index]) :][:2].tolist())

    def _polygon(self, number: int) -> Float64[np.ndarray, "P 2"]:
        return self._corners[self._ends[number] : self._ends[number + 1]]

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, GroundTruth]:
        height, width = self.size(self.file(index))
        objects = self._objects(index)
        patches = [polygons_to_patch([self._polygon(number) * (width, height)], (height, width)) for number in objects]
        seen = np.array([patch.mask.any() for patch in patches], dtype=bool)
        if lost := np.count_nonzero(~seen):
            message = "images with objects that have no pixels; these are not measured"
            note(message, f"'{self.file(index)}' ({lost} of {len(objects)} objects)")
        masks = SparseMasks((patch for patch, is_seen in zip(patches, seen, strict=True) if is_seen), (height, width))
        labels = self._labels[objects.start : objects.stop][seen]
        found = InstanceGroundTruth(masks, labels, np.zeros(len(masks), dtype=bool))
        return {task: found for task in tasks if task in self.tasks}


class _Lines:
    """The objects of all text files, and their faults, as ``file, line``."""

    def __init__(self, class_of_id: dict[int, int]) -> None:
        self.class_of_id = class_of_id
        self.labels, self.starts = array("q"), array("q", [0])  # starts: of the objects of each image
        self.objects: list[str] = []  # of the objects
        self.corners, self.ends = array("d"), array("q", [0])  # x, y, x, y, ...; ends in corners
        self.broken: list[str] = []
        self.count = 0  # lines
        self.keypoints: list[str] = []
        self.boxes: list[str] = []
        self.flat: list[str] = []
        self.without_file: list[str] = []
        self.clipped: list[str] = []
        self.with_box: list[str] = []  # the first four numbers are a box that the other points lie in and spread over
        self.with_tight_box: list[str] = []  # and that fits them tightly

    def add(self, file: Path) -> None:
        """The objects of one image."""
        text = ""
        try:
            text = read_text(file, "text file")
        except UserError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                self.without_file.append(str(file))
            else:
                self.broken.append(str(error))
        for number, line in enumerate(text.splitlines(), start=1):
            words = line.split()
            if words:
                self._add_object(words, f"'{file}', line {number}")
        self.starts.append(len(self.labels))

    def _add_object(self, words: list[str], line: str) -> None:
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = [math.nan]
        self.count += 1
        if np.isfinite(values).all() and _has_visibility(np.array(values[1:])):
            self.keypoints.append(line)
        label = self.class_of_id.get(int(values[0]), -1) if values[0] % 1 == 0 else -1
        corners = np.array(values[1:])
        if not np.isfinite(values).all() or not len(corners):
            self.broken.append(
                f"{line}: expected a class number and corners x y x y ..., got {quoted(' '.join(words), 40)}"
            )
        elif label < 0:
            self.broken.append(
                f"{line}: class {printable(words[0], 40)} is not among the {len(self.class_of_id)} names of data.yaml"
            )
        elif len(corners) % 2:
            self.broken.append(f"{line}: {len(corners)} coordinates, which do not form pairs")
        elif corners.min() < -_TOLERANCE or corners.max() > 1 + _TOLERANCE:
            self.broken.append(
                f"{line}: coordinates from {corners.min():.6g} to {corners.max():.6g}; expected fractions of width "
                "and height, 0 to 1"
            )
        elif len(corners) == 4:
            self.boxes.append(line)
        else:
            self.objects.append(line)
            if corners.min() < -_ROUNDING or corners.max() > 1 + _ROUNDING:
                self.clipped.append(line)
            points = corners[4:].reshape(-1, 2)
            if _is_box_of(corners[:4], points):
                spans = _spans(points)
                # The second corner of a small polygon is also a box around it, but one several times its size.
                if (spans >= corners[2:4] / 2).any():
                    self.with_box.append(line)
                if len(points) >= 3 and np.abs(spans - corners[2:4]).max() < _SAME_SIDE:
                    self.with_tight_box.append(line)
            self.labels.append(label)
            self.corners.extend(corners.clip(0, 1).tolist())
            self.ends.append(len(self.corners) // 2)

    def drop_flat(self) -> None:
        """Leave out objects without any area."""
        counts = np.diff(np.array(self.ends))
        corners = np.array(self.corners).reshape(-1, 2)
        flat = PolygonFigures.of(corners, counts).flat
        if not flat.any():
            return
        self.flat = [self.objects[index] for index in np.flatnonzero(flat).tolist()]
        self.labels = array("q", np.array(self.labels)[~flat].tolist())
        self.starts = array("q", np.concatenate([[0], np.cumsum(~flat)])[np.array(self.starts)].tolist())
        self.corners = array("d", corners[np.repeat(~flat, counts)].ravel().tolist())
        self.ends = array("q", np.concatenate([[0], np.cumsum(counts[~flat])]).tolist())

    def remarks(self) -> list[str]:
        """What the lines may be instead of one polygon each, judging by all of them; no single line shows it."""
        count = len(self.objects)
        if count < _FEW:
            return []
        if len(self.with_box) >= max(_FEW, _NEARLY_ALL * count):
            return [
                f"{len(self.with_box)} of {count} lines have, as the first four numbers after the class, a box "
                f"around the others: if these are keypoints (pose) and not polygons, {_EXPORT}; if they are a box "
                "and a polygon, remove the box"
            ]
        if set(np.diff(np.array(self.ends)).tolist()) == {4}:
            return [
                f"all {len(self.labels)} lines have 8 numbers after the class and are read as polygons of four "
                "corners; if these are oriented boxes, the learned masks are boxes, not outlines: export polygons "
                "('YOLO segmentation')"
            ]
        return []


def _is_box_of(box: Float64[np.ndarray, " 4"], points: Float64[np.ndarray, "P 2"]) -> bool:
    """Whether points lie within a box given by centre and size; keypoints that are not annotated are 0, 0."""
    inside = np.abs(points - box[:2]) <= box[2:] / 2 + _SAME_SIDE
    return bool((inside.all(axis=1) | ~points.any(axis=1)).all())


def _spans(points: Float64[np.ndarray, "P 2"]) -> Float64[np.ndarray, " 2"]:
    """Width and height of points; keypoints that are not annotated are 0, 0."""
    known = points[points.any(axis=1)]
    return np.ptp(known, axis=0) if len(known) else np.zeros(2)


def _has_visibility(values: Float64[np.ndarray, " N"]) -> bool:
    """Whether numbers are a box and keypoints x, y, v with v of 0, 1 or 2; a polygon along the image border is not."""
    if len(values) < 7 or (len(values) - 4) % 3:
        return False
    points = values[4:].reshape(-1, 3)
    return bool(np.isin(points[:, 2], (0, 1, 2)).all()) and _is_box_of(values[:4], points[points[:, 2] > 0, :2])


def _strays(listed: Sequence[Path], image_files: Sequence[Path], files: Sequence[Path]) -> list[str]:
    """Inconsistencies between the lists of images and the text files.

    Raises:
        UserError: several images that have one text file.
    """
    images: dict[Path, Path] = {}
    for image, file in zip(image_files, files, strict=True):
        if images.setdefault(file, image) != image:
            raise UserError(f"'{images[file]}' and '{image}' share one text file, '{file}'; keep one of them")
    again = [str(image) for image in repeated(listed)]
    beside = sorted(
        str(path)
        for folder in {file.parent for file in files}
        if folder.is_dir()
        for path in list_folder(folder)
        if path.suffix == ".txt" and path not in images and path.name != "classes.txt"
    )
    return [
        f"{what}: {some(offenders)}"
        for offenders, what in (
            (again, "images are listed more than once, but read once"),
            (beside, "left out text files without an image in this split"),
        )
        if offenders
    ]
