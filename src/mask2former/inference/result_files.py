"""Files of results as the test servers and the official tools of the data sets take them.

A writer gets one result after the other inside a ``with`` block. What lists the results appears whole when the block
ends well, else not at all; images appear whole one by one. Ids of classes are those of the data set. Nothing here
knows how results are made.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, Protocol, Self

import numpy as np
from PIL import Image

from mask2former.files import discard, whole_file, write_whole
from mask2former.config import MetricStyle, Task
from mask2former.errors import UserError
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures.categories import Categories
from mask2former.structures.clips import VideoInstances
from mask2former.structures.results import Instances, PanopticSegmentation, SemanticSegmentation

__all__ = [
    "CityscapesInstanceFiles",
    "LabelMapFiles",
    "PanopticFiles",
    "ResultWriter",
    "ResultsFile",
    "SemanticFile",
    "TracksFile",
    "result_writer",
]

_LARGEST_LABEL = 65535  # what 16 bits hold


class ResultWriter(Protocol):
    """What all writers offer."""

    task: ClassVar[Task]
    path: Path
    count: int  # what has been written: objects, segments, classes or images

    def __enter__(self) -> Self: ...

    def add(self, image_id: int | str, result: Any, /) -> None:
        """Append the result of one image.

        Raises:
            UserError: there is a result of this image already, or its id is no file name.
        """
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def result_writer(
    task: Task,
    path: str | os.PathLike[str],
    categories: Categories,
    *,
    category_ids: Mapping[int, int] | None = None,
    style: MetricStyle = "coco",
) -> ResultWriter:
    """The writer of one task in the form that a data set's test server takes.

    ===========  ============================================  =====================================================
    task         coco                                          cityscapes
    ===========  ============================================  =====================================================
    panoptic     ``X.json`` and the folder ``X`` of PNG files  the same
    instance     ``X.json``                                    a folder with a text file per image and a PNG file
                                                               per object
    semantic     ``X.json`` (run lengths), or a folder of      a folder of label maps
                 label maps if ``path`` does not end in
                 ``.json``
    ===========  ============================================  =====================================================

    For ``youtube-vis`` instances are tracks, in ``X.json`` (:class:`TracksFile`).

    Args:
        task: what the results are.
        path: a file ending in ``.json``, or a folder.
        categories: the classes of the model.
        category_ids: of the data set, by class index of the model; classes that are missing here are left out. Without
            it, the ids of ``categories``.
        style: whose test server it is.

    Raises:
        UserError: a folder where a file is needed, or the reverse.
    """
    ids = {index: item.id for index, item in enumerate(categories)} if category_ids is None else dict(category_ids)
    target = Path(path)
    is_json = target.suffix == ".json"
    needs_folder = style == "cityscapes" and task != "panoptic"
    if needs_folder and is_json:
        raise UserError(f"{task} results for {style} are a folder of files, got '{target}'; leave out .json")
    if not needs_folder and not is_json and task != "semantic":
        raise UserError(f"{task} results are a JSON file, got '{target}'; expected a name that ends in .json")
    if task == "panoptic":
        return PanopticFiles(target, ids)
    if task == "instance":
        if style == "youtube-vis":
            return TracksFile(target, ids)
        return CityscapesInstanceFiles(target, ids) if needs_folder else ResultsFile(target, ids)
    if is_json:
        return SemanticFile(target, ids)
    free = (value for value in (categories.ignore_label, 255, _LARGEST_LABEL) if value not in ids.values())
    no_class = 0 if needs_folder else next(free, min(set(range(len(ids) + 1)) - set(ids.values())))
    return LabelMapFiles(target, ids, no_class=no_class)


def _stem(image_id: int | str) -> str:
    """The name of an image's files: numbers as COCO writes them, with 12 digits."""
    if isinstance(image_id, int):
        return f"{image_id:012d}"
    parts = image_id.replace("\\", "/").split("/")
    if not image_id or any(part in ("", ".", "..") for part in parts) or "\0" in image_id or ":" in parts[0]:
        raise UserError(f"the id of an image must do as a file name below the folder of results, got '{image_id}'")
    return image_id


class _Writer:
    """What all writers share: an image comes once."""

    def __init__(self, path: str | os.PathLike[str], category_ids: Mapping[int, int]) -> None:
        self.path = Path(path)
        self.category_ids = dict(category_ids)
        self.count = 0
        self._seen: set[int | str] = set()

    def _once(self, image_id: int | str) -> None:
        if image_id in self._seen:
            raise UserError(f"image '{image_id}' has a result already; give each image once")
        self._seen.add(image_id)

    def _table(self, no_class: int) -> np.ndarray:
        """Ids by class index; the last entry is for no class."""
        table = np.full(max(self.category_ids, default=-1) + 2, no_class, dtype=np.int64)
        table[list(self.category_ids)] = list(self.category_ids.values())
        return table


class _JsonList(_Writer):
    """A JSON list that grows entry by entry in a temporary file."""

    opening, closing = "[", "\n]\n"

    def __init__(self, path: str | os.PathLike[str], category_ids: Mapping[int, int]) -> None:
        super().__init__(path, category_ids)
        self._stack = contextlib.ExitStack()
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        if self.path.is_dir():
            raise UserError(f"'{self.path}' is a folder; expected the name of a file to write")
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(whole_file(self.path))
            self._file = stack.enter_context(temporary.open("w", encoding="utf-8"))
            self._stack = stack.pop_all()
        self._file.write(self.opening)
        return self

    def _append(self, record: dict[str, Any]) -> None:
        assert self._file is not None, "used outside its with block"
        self._file.write(",\n" if self.count else "\n")
        self._file.write(json.dumps(record, allow_nan=False, separators=(",", ":")))
        self.count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        file, self._file = self._file, None
        assert file is not None
        if kind is not None:
            discard(self._stack)
            return
        with self._stack:
            file.write(self.closing)


class ResultsFile(_JsonList):
    """A COCO instance results file, as test servers take it, written image by image.

    A list of ``image_id``, ``category_id`` (of the data set), ``segmentation`` (compressed run-length encoding) and
    ``score``. There are no boxes: the official tool would take the areas of objects from them. Empty masks are left
    out. The file appears whole when the ``with`` block ends well, else not at all.

    Args:
        path: where it goes; missing folders are made.
        category_ids: of the data set, by class index of the model; classes that are missing here are left out.
    """

    task: ClassVar[Task] = "instance"

    def add(self, image_id: int | str, result: Instances) -> None:
        """Append the instances of one image."""
        assert self._file is not None, "used outside its with block"
        self._once(image_id)
        filled = [bool(mask.size) for _, _, mask in result.sparse]
        rows = zip(result.labels.tolist(), result.to_coco(image_id), filled, strict=True)
        for label, record, has_pixels in rows:
            if label in self.category_ids and has_pixels:
                record["category_id"] = self.category_ids[label]
                del record["bbox"]
                self._append(record)


class TracksFile(_JsonList):
    """A YouTube-VIS results file, as its test server takes it, written clip by clip.

    A list of ``video_id``, ``category_id`` (of the data set), ``score`` and ``segmentations``: one compressed
    run-length encoding per frame, also of empty masks. The usual name is ``results.json``.

    Args:
        path: where it goes; missing folders are made.
        category_ids: of the data set, by class index of the model; classes that are missing here are left out.
    """

    task: ClassVar[Task] = "instance"

    def add(self, image_id: int | str, result: VideoInstances) -> None:
        """Append the tracks of one clip, whose id it is."""
        self._once(image_id)
        for label, record in zip(result.labels.tolist(), result.to_ytvis(image_id), strict=True):
            if label in self.category_ids:
                record["category_id"] = self.category_ids[label]
                self._append(record)


class SemanticFile(_JsonList):
    """Run lengths of label maps, as COCO-Stuff's tools take them: one entry for each class in an image.

    A list of ``image_id``, ``category_id`` (of the data set) and ``segmentation``; where the id of an image is text,
    it is ``file_name`` too, by which published files tell images apart.

    Args:
        path: where it goes; missing folders are made. The usual name is ``sem_seg_predictions.json``.
        category_ids: of the data set, by class index of the model; classes that are missing here are left out.
    """

    task: ClassVar[Task] = "semantic"

    def add(self, image_id: int | str, result: SemanticSegmentation) -> None:
        """Append the classes of one image."""
        self._once(image_id)
        index_of_id = result.categories.index_of_id()
        for record in result.to_coco(image_id, image_id if isinstance(image_id, str) else None):
            label = index_of_id[record["category_id"]]
            if label in self.category_ids:
                record["category_id"] = self.category_ids[label]
                self._append(record)


class PanopticFiles(_JsonList):
    """COCO panoptic results: ``X.json`` and the folder ``X`` beside it, with a PNG file of segment ids per image.

    The id of a segment is R + 256 G + 65536 B. The PNG files come first, and ``X.json`` lists them when all are there.

    Args:
        path: of the JSON file; missing folders are made.
        category_ids: of the data set, by class index of the model; segments of classes that are missing here become
            void.
    """

    task: ClassVar[Task] = "panoptic"
    opening, closing = '{"annotations": [', "\n]}\n"

    def add(self, image_id: int | str, result: PanopticSegmentation) -> None:
        """Write the segments of one image."""
        self._once(image_id)
        name = f"{_stem(image_id)}.png"
        kept = [segment for segment in result.segments if segment.label in self.category_ids]
        numbers = [segment.id for segment in kept]
        ids = np.where(np.isin(result.ids, numbers), result.ids, 0)
        channels = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)
        write_whole(self.path.with_suffix("") / name, _png(channels))
        info = [{"id": segment.id, "category_id": self.category_ids[segment.label]} for segment in kept]
        self._append({"image_id": image_id, "file_name": name, "segments_info": info})


class _Folder(_Writer):
    """A folder whose files are whole one by one."""

    def __enter__(self) -> Self:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"'{self.path}' is a file; expected a folder for results")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise UserError(f"cannot write '{self.path}': {error.strerror}; choose another place") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class LabelMapFiles(_Folder):
    """A PNG file of data-set ids per image; 8 bits, or 16 where an id needs them.

    For Cityscapes these are label ids, not train ids.

    Args:
        path: the folder; it is made.
        category_ids: of the data set, by class index of the model.
        no_class: the value of pixels without a class, and of classes that are missing in ``category_ids``.

    Raises:
        UserError: an id that 16 bits do not hold.
    """

    task: ClassVar[Task] = "semantic"

    def __init__(self, path: str | os.PathLike[str], category_ids: Mapping[int, int], no_class: int) -> None:
        super().__init__(path, category_ids)
        if wrong := [number for number in (*category_ids.values(), no_class) if not 0 <= number <= _LARGEST_LABEL]:
            raise UserError(
                f"label maps hold numbers from 0 to {_LARGEST_LABEL}, got the class id {wrong[0]}; write run lengths "
                "instead (a name that ends in .json)"
            )
        self.no_class = no_class

    def add(self, image_id: int | str, result: SemanticSegmentation) -> None:
        """Write the label map of one image."""
        self._once(image_id)
        table = self._table(self.no_class)
        ids = table[np.minimum(result.labels, len(table) - 1)]
        kind = np.uint16 if table.max() > 255 else np.uint8
        write_whole(self.path / f"{_stem(image_id)}.png", _png(ids.astype(kind)))
        self.count += 1


class CityscapesInstanceFiles(_Folder):
    """Cityscapes instance results: ``NAME_pred.txt`` per image, and a black and white PNG file per object beside it.

    Each line is the name of the PNG file, the label id and the score. Empty masks are left out. The text file comes
    last. ``NAME`` is the id of the image, which for Cityscapes is ``city_sequence_frame``.

    Args:
        path: the folder; it is made.
        category_ids: label ids by class index of the model; classes that are missing here are left out.
    """

    task: ClassVar[Task] = "instance"

    def add(self, image_id: int | str, result: Instances) -> None:
        """Write the instances of one image."""
        self._once(image_id)
        stem = _stem(image_id)
        lines = []
        for patch, label, score in zip(result.sparse, result.labels.tolist(), result.scores.tolist(), strict=True):
            if label in self.category_ids and patch.mask.size:
                image = self.path / f"{stem}_{len(lines):03d}_{self.category_ids[label]}.png"
                (mask,) = SparseMasks([patch], result.size_hw).dense()
                write_whole(image, _png(mask.astype(np.uint8) * np.uint8(255)))
                lines.append(f"{image.name} {self.category_ids[label]} {score!r}\n")
        text = "".join(lines)
        write_whole(self.path / f"{stem}_pred.txt", lambda file: file.write_text(text, encoding="utf-8"))
        self.count += len(lines)


def _png(values: np.ndarray) -> Callable[[Path], None]:
    image = Image.fromarray(values)
    return lambda file: image.save(file, format="PNG", compress_level=4)
