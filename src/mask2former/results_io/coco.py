"""COCO result files: in the form of test servers, result by result, and as one file from saved results.

Saved results (``X.json`` of images) are written by ``mask2former predict``; one image at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from mask2former.config import Task
from mask2former.data.label_maps import colors_of_ids
from mask2former.documents import encode_json
from mask2former.files import check_file, whole_file, write_whole
from mask2former.notes import note
from mask2former.results_io.json import saved_document
from mask2former.results_io.writing import JsonList, file_stem, json_entries, png_of
from mask2former.structures.categories import Categories
from mask2former.structures.result_base import COCO_KEYS, RECORDS
from mask2former.structures.results import Instances, PanopticSegmentation, SemanticSegmentation

__all__ = [
    "PanopticFiles",
    "ResultsFile",
    "SavedResult",
    "SemanticFile",
    "is_coco_results",
    "write_coco_results",
]

_PANOPTIC_INFO = {"description": "results of mask2former predict"}


class ResultsFile(JsonList):
    """A COCO instance results file for test servers, written image by image.

    A list of ``image_id``, ``category_id`` (of the data set), ``segmentation`` (compressed run-length encoding) and
    ``score``. There are no boxes: the official tool would compute the areas of objects from them. Empty masks are left
    out. The file appears completely when the ``with`` block ends without an error, else not at all.

    Args:
        path: where to write it; missing folders are created.
        category_ids: of the data set, by class index of the model; classes that are missing here are left out.
    """

    task: ClassVar[Task] = "instance"

    def add(self, image_id: int | str, result: Instances) -> None:
        """Append the instances of one image."""
        self.once(image_id)
        filled = [bool(mask.size) for _, _, mask in result.sparse]
        rows = zip(result.labels.tolist(), result.to_coco(image_id), filled, strict=True)
        for label, record, has_pixels in rows:
            if has_pixels:
                del record["bbox"]
                self.append_of_class(label, record)


class SemanticFile(JsonList):
    """Run lengths of label maps for COCO-Stuff's tools: one entry for each class in an image.

    A list of ``image_id``, ``category_id`` (of the data set) and ``segmentation``; where the id of an image is text, it
    is also ``file_name``, by which published files identify images.

    Args:
        path: where to write it; missing folders are created. The usual name is ``sem_seg_predictions.json``.
        category_ids: of the data set, by class index of the model; classes that are missing here are left out.
    """

    task: ClassVar[Task] = "semantic"

    def add(self, image_id: int | str, result: SemanticSegmentation) -> None:
        """Append the classes of one image."""
        self.once(image_id)
        index_of_id = result.categories.index_of_id()
        for record in result.to_coco(image_id, image_id if isinstance(image_id, str) else None):
            self.append_of_class(index_of_id[record["category_id"]], record)


class PanopticFiles(JsonList):
    """COCO panoptic results: ``X.json`` and the folder ``X`` beside it, with a PNG file of segment ids per image.

    The id of a segment is R + 256 G + 65536 B. The PNG files are written first, and ``X.json`` lists them when all
    exist.

    Args:
        path: of the JSON file; missing folders are created.
        category_ids: of the data set, by class index of the model; segments of classes that are missing here become
            void.
    """

    task: ClassVar[Task] = "panoptic"
    opening, closing = '{"annotations": [', "\n]}\n"

    def add(self, image_id: int | str, result: PanopticSegmentation) -> None:
        """Write the segments of one image."""
        self.once(image_id)
        name = f"{file_stem(image_id)}.png"
        kept = [segment for segment in result.segments if segment.label in self.category_ids]
        numbers = [segment.id for segment in kept]
        ids = np.where(np.isin(result.ids, numbers), result.ids, 0)
        write_whole(self.path.with_suffix("") / name, png_of(colors_of_ids(ids)))
        info = [{"id": segment.id, "category_id": self.category_ids[segment.label]} for segment in kept]
        self.append({"image_id": image_id, "file_name": name, "segments_info": info})


# --- from saved results ----------------------------------------------------------------------------------------------


class SavedResult(Protocol):
    """The result of one image on disk.

    Attributes:
        stem: name without suffix, below the folder of results.
        document: its JSON file.
    """

    @property
    def stem(self) -> Path: ...

    @property
    def document(self) -> Path: ...


def write_coco_results(path: Path, saved: Iterable[SavedResult], task: Task, categories: Categories) -> None:
    """Write the COCO results of images, from their JSON files, completely or not at all, one in memory at a time.

    A list of records, or for panoptic a dictionary. Image ids are the numbers in the file names if every name is a
    number (as in COCO), else the names with their folders. Images whose results have been removed in the meantime are
    left out with a note.

    Args:
        path: the file.
        saved: those that are done or skipped; existing files of others may belong to another image.
        task: of the results.
        categories: of the model.

    Raises:
        UserError: existing results are of another task, or the path cannot be written.
    """
    check_file(path)
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(_coco_text(list(saved), task, categories))


def _coco_text(saved: Sequence[SavedResult], task: Task, categories: Categories) -> Iterator[str]:
    """The file, in pieces."""
    stems = [job.stem.as_posix() for job in saved]
    names = [stem.rsplit("/", 1)[-1] for stem in stems]
    # At most 18 digits: more do not fit the integers of most readers.
    numbered = all(name.isdecimal() and len(name) < 19 for name in names)
    numbered = numbered and len({int(name) for name in names}) == len(names)
    ids: list[Any] = [int(name) for name in names] if numbered else stems
    identified = list(zip(ids, saved, strict=True))
    if task == "panoptic":
        yield f'{{"info": {encode_json(_PANOPTIC_INFO)}, "images": ['
        yield from json_entries(_panoptic_image(*entry) for entry in _documents(identified, task))
        yield '], "annotations": ['
        yield from json_entries(_panoptic_annotation(*entry) for entry in _documents(identified, task))
        classes = [{"id": item.id, "name": item.name, "isthing": int(item.is_thing)} for item in categories]
        yield f'], "categories": {encode_json(classes)}}}\n'
        return
    yield "["
    yield from json_entries(
        {"image_id": identifier, **{field: record[field] for field in COCO_KEYS[task]}}
        for identifier, _, document in _documents(identified, task)
        for key in (RECORDS[task], "candidates")
        for record in document.get(key, ())
    )
    yield "]\n"


def _documents(identified: Iterable[tuple[Any, SavedResult]], task: Task) -> Iterator[tuple[Any, str, dict[str, Any]]]:
    """The id, the stem and the results of images, one in memory at a time."""
    for identifier, job in identified:
        document = saved_document(job.document, task)
        if document is None:
            note("images whose results had been removed when the COCO file was written, left out", f"'{job.document}'")
        else:
            yield identifier, job.stem.as_posix(), document


def _panoptic_image(identifier: Any, stem: str, document: dict[str, Any]) -> dict[str, Any]:
    height, width = document["size"]
    return {"id": identifier, "file_name": f"{stem}.png", "height": height, "width": width}


def _panoptic_annotation(identifier: Any, stem: str, document: dict[str, Any]) -> dict[str, Any]:
    info = [{key: segment[key] for key in COCO_KEYS["panoptic"]} for segment in document["segments"]]
    return {"image_id": identifier, "file_name": f"{stem}_ids.png", "segments_info": info}


def is_coco_results(path: Path) -> bool:
    """Whether a file was written by :func:`write_coco_results`, judging by its first bytes."""
    with path.open("rb") as file:
        head = file.read(200)
    return head.strip() == b"[]" or head.startswith(
        (b'[{"image_id": ', b'{"info": ' + encode_json(_PANOPTIC_INFO).encode())
    )
