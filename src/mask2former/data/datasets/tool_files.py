"""Objects in the native formats of annotation tools: records of these, converted to COCO's form.

A parser of :mod:`~mask2former.data.datasets.tool_formats` reads the content of a file; classes, ids and all checks are
the same for each format, and the reader is :class:`~mask2former.data.datasets.coco.CocoInstances`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mask2former import limits
from mask2former.data.datasets.annotation_files import Location, found_file, some
from mask2former.data.datasets.coco import CocoInstances
from mask2former.data.datasets.file_names import Stems, find_name
from mask2former.data.datasets.tool_formats import FORMATS, ToolName, records_of
from mask2former.data.datasets.tool_records import Record
from mask2former.data.faults import fault
from mask2former.errors import UserError
from mask2former.media.archives import File, Folder, find_folder
from mask2former.media.images import image_size
from mask2former.notes import collect_notes, note, sentences
from mask2former.structures.categories import Categories
from mask2former.text import listed, quoted

__all__ = ["open_tool_files"]


def open_tool_files(
    tool: ToolName,
    sources: Sequence[tuple[Location, Location]],
    *,
    names: Categories | None = None,
    class_attribute: str | None = None,
    filter_empty: bool = False,
    missing_images: Literal["error", "skip"] = "error",
    missing_masks: Literal["error", "skip"] = "error",
    allow_outside: bool = False,
) -> CocoInstances:
    """Images with their objects, in file order.

    Args:
        tool: the tool whose format it is.
        sources: pairs of annotations (a file, or a folder with one file per image) and image folder.
        names: the classes; None: those that occur, sorted.
        class_attribute: of VIA, see :class:`~mask2former.config.ToolFilesConfig`.
        filter_empty: leaves out images without objects.
        missing_images: how to treat images that are annotated but do not exist.
        missing_masks: how to treat boxes, points and lines.
        allow_outside: whether image names may lead out of their folders.

    Raises:
        UserError: a file is missing, broken or in another format, has classes that are not among ``names``, or is
            refused by :class:`CocoInstances`.
    """
    opened = [(found_file(path), images) for path, images in sources]
    files = {str(path): _files(path, tool) for path, _ in opened}
    with collect_notes() as notes:
        found = {
            path: [record for file in own for record in records_of(tool, file, class_attribute)]
            for path, own in files.items()
        }
        if FORMATS[tool].endings is not None:
            found = {str(path): _with_images(tool, found[str(path)], images) for path, images in opened}
        found = {path: _first_of_each(records, path) for path, records in found.items()}
        for path, images in opened:
            _compare_bytes(found[str(path)], images)
    labels = Counter(shape.label for records in found.values() for record in records for shape in record.shapes)
    if names is None:
        if not labels:
            raise UserError(f"'{sources[0][0]}' has no objects, so there is nothing to learn; is it the right file?")
        classes = Categories.from_dict(
            {"categories": [{"id": number, "name": name} for number, name in enumerate(sorted(labels), 1)]}
        )
    else:
        classes = replace(names, items=tuple(replace(item, is_thing=True) for item in names))
        if unknown := [
            f"{quoted(name)} of {count} objects" for name, count in labels.items() if name not in classes.names
        ]:
            fault(
                f"'{sources[0][0]}' has classes that the names file does not have: {some(unknown)}; expected "
                f"{listed(classes.names)}",
                len(unknown),
            )
    samples = CocoInstances(
        opened,
        categories=classes,
        filter_empty=filter_empty,
        missing_images=missing_images,
        missing_masks=missing_masks,
        allow_outside=allow_outside,
        read=lambda file: _coco(found[str(file)], classes),
    )
    samples.annotation_files = [file for own in files.values() for file, _ in own]
    samples.notes += sentences(notes)
    return samples


def _files(path: File, tool: ToolName) -> list[tuple[File, str]]:
    """Annotation files and their paths below the folder, sorted; or the single file and an empty path."""
    suffixes = FORMATS[tool].suffixes
    is_archive = isinstance(path, Path) and path.suffix.lower() == ".zip" and ".zip" not in suffixes
    if not isinstance(path, Path) or (path.is_file() and not is_archive):
        return [(path, "")]
    folder = find_folder(path)
    if folder is None:
        return [(path, "")]
    names = [name for name in folder.names(suffixes) if name.rpartition("/")[2] not in FORMATS[tool].others]
    if not names:
        raise UserError(f"'{path}' has no {' or '.join(suffixes)} files of {FORMATS[tool].title}; check the path")
    return [(folder / name, name) for name in names]


def _with_images(tool: ToolName, records: Sequence[Record], images: Location) -> list[Record]:
    """The records of files that do not name their images, with the names of these; those without an image unchanged."""
    folder = find_folder(images)
    if folder is None:  # reported when it is opened
        return list(records)
    named = []
    stems = Stems(folder, FORMATS[tool].endings or ())
    for record in records:
        name = stems.find(record.image) or record.image
        _check_covers(record, folder, name)
        named.append(record._replace(image=name))
    return named


def _first_of_each(records: Sequence[Record], path: str) -> list[Record]:
    """The records without those of an image that another one describes already, which are refused."""
    first: dict[str, Record] = {}
    for record in records:
        if (other := first.setdefault(record.image, record)) is not record:
            is_one_file = other.where == record.where
            what = f"'{path}' has" if is_one_file else f"'{other.where}' and '{record.where}' are both"
            twice = " twice" if is_one_file else ""
            fault(f"{what} annotations of {quoted(record.image)}{twice}; keep one, or join them")
    return list(first.values())


def _compare_bytes(records: Sequence[Record], images: Location) -> None:
    """Note images that are other files than those annotated: outlines in a format without sizes may not fit."""
    folder = find_folder(images) if any(record.num_bytes for record in records) else None
    if folder is None or folder.archive is not None:
        return
    for record in records:
        name = find_name(record.image, folder) if record.num_bytes else None
        path = None if name is None else folder / name
        if isinstance(path, Path) and path.is_file() and (count := path.stat().st_size) != record.num_bytes:
            note(
                "images with another number of bytes than when they were annotated; if they have been resized since, "
                "their outlines do not fit",
                f"'{path}' ({count:,}, then {record.num_bytes:,})",
            )


def _check_covers(record: Record, folder: Folder, name: str) -> None:
    """Refuse a record if no object covers a pixel of its image, as if they were coordinates of a map or another image.

    Images that are missing or damaged are reported later, and so are corners that are no numbers. The size of an image
    in an archive is not read, since that takes as long as reading the image.
    """
    image = folder / name
    size = limits.CORNER, limits.CORNER
    if isinstance(image, Path):
        if not image.is_file():
            return
        with contextlib.suppress(UserError):
            size = image_size(image)
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for shape in record.shapes:
        if shape.segmentation is None:
            return
        try:
            corners = np.concatenate([np.array(part, dtype=np.float64).reshape(-1, 2) for part in shape.segmentation])
            first, last = corners.min(axis=0), corners.max(axis=0)
        except (TypeError, ValueError, OverflowError):
            return
        # The first and the last centre of a pixel within the box of the object and the image.
        if not (np.ceil(np.maximum(first, 0) - 0.5) > np.floor(np.minimum(last, size[::-1]) - 0.5)).any():
            return
        low, high = np.minimum(low, first), np.maximum(high, last)
    if record.shapes:
        raise UserError(
            f"'{record.where}' has no object that covers a pixel of {quoted(name)}: they lie between x {low[0]:g} and "
            f"{high[0]:g}, y {low[1]:g} and {high[1]:g}; are these map coordinates, or those of another image? Export "
            "them in pixels of this one"
        )


def _stem(image: str) -> str:
    return image.rpartition(".")[0] or image


def _coco(records: Sequence[Record], classes: Categories) -> dict[str, Any]:
    """Records in COCO's form, with ids that identify the object for readers of messages."""
    id_of = {item.name: item.id for item in classes}
    stems = Counter(_stem(name) for name in {record.image for record in records})
    images, annotations = [], []
    for record in records:
        image_id = _stem(record.image) if stems[_stem(record.image)] == 1 else record.image  # a.jpg and a.png
        height, width = record.size_hw
        images.append({"id": image_id, "file_name": record.image, "height": height, "width": width})
        annotations += [
            {
                "id": f"{record.where} object {number} ({shape.what})",
                "image_id": image_id,
                "category_id": id_of[shape.label],
                "segmentation": shape.segmentation,
            }
            for number, shape in enumerate(record.shapes, start=1)
            if shape.label in id_of
        ]
    categories = [{"id": item.id, "name": item.name, "color": list(item.color)} for item in classes]
    return {"images": images, "annotations": annotations, "categories": categories}
