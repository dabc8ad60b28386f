"""Our own JSON: results of images as saved, and tracks of a clip."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from mask2former import documents
from mask2former.documents import encode_json
from mask2former.errors import OptionError, UserError
from mask2former.files import check_file, discard, folder_lock, write_whole
from mask2former.ops import masks as mask_ops
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.results_io.growing import finishing, naming
from mask2former.results_io.partial import WorkingFile
from mask2former.results_io.writing import ListFile
from mask2former.structures.categories import Categories
from mask2former.structures.result_base import COCO_KEYS, RECORDS, SCHEMA_VERSION
from mask2former.structures.results import Instances, PanopticSegmentation, Segment, Segmentation, SemanticSegmentation
from mask2former.structures.tracks import TrackedFrame
from mask2former.text import printable

__all__ = ["TrackDocument", "read_result", "result_of", "saved_document", "write_json"]


def write_json(path: str | os.PathLike[str], values: Any) -> None:
    """Write a JSON file completely or not at all, creating its folder.

    Raises:
        UserError: the path cannot be written.
    """
    target = Path(path)
    check_file(target)
    text = encode_json(values) + "\n"
    write_whole(target, lambda file: file.write_text(text, encoding="utf-8"))


def read_result(path: Path) -> dict[str, Any] | None:
    """Results of an earlier run; None if there are none, or they are damaged or not in our format.

    Newer versions may use other keys, so their records are not read.
    """
    try:
        document = documents.read_json(path, "result")
    except UserError:
        return None
    if not isinstance(document, dict) or not {"task", "schema_version", "size"} <= document.keys():
        return None
    version, task, size = document["schema_version"], document["task"], document["size"]
    if not isinstance(version, int) or not isinstance(task, str) or task not in RECORDS:
        return None
    if version > SCHEMA_VERSION:
        return document
    if not (isinstance(size, list) and len(size) == 2 and all(_is_number(side) for side in size)):
        return None
    if not _is_number(document.get("num_candidates", 0)):
        return None
    lists = [document.get(RECORDS[task]), *([document["candidates"]] if "candidates" in document else [])]
    good = all(isinstance(rows, list) and all(_is_record(row, task) for row in rows) for rows in lists)
    return document if good else None


def saved_document(path: Path, task: str) -> dict[str, Any] | None:
    """:func:`read_result` of this version and of one task; waits if another run is replacing the file.

    Raises:
        UserError: it is of another task.
    """
    document = read_result(path)
    if document is None:
        with contextlib.suppress(OSError), folder_lock(path.parent):
            document = read_result(path)
    if document is None or document["schema_version"] != SCHEMA_VERSION:
        return None
    if document["task"] != task:
        raise OptionError(
            lambda name: (
                f"'{path}' contains results of the task '{document['task']}', not '{task}'; use "
                f"{name('overwrite')} or another output"
            )
        )
    return document


def result_of(document: Mapping[str, Any], categories: Categories) -> Segmentation:
    """The result from which a document of :func:`read_result` was made, pixel for pixel.

    Args:
        document: with masks as run lengths.
        categories: of the model.

    Raises:
        UserError: a class or a mask does not fit.
    """
    size, task = (int(document["size"][0]), int(document["size"][1])), document["task"]
    records, index_of_id = document[RECORDS[task]], categories.index_of_id()
    try:
        labels = [index_of_id[record["category_id"]] for record in records]
        if any(record["segmentation"]["size"] != list(size) for record in records):
            raise ValueError("masks and image differ in size")
        masks = SparseMasks((mask_ops.decode_patch(record["segmentation"]) for record in records), size)
        if task == "instance":
            scores = np.array([float(record["score"]) for record in records], dtype=np.float64)
            return Instances(masks, np.array(labels, dtype=np.int64), scores, masks.boxes, categories)
        if task == "semantic":
            values = np.array([categories.ignore_label, *labels], dtype=np.int32)[masks.numbered()]
            return SemanticSegmentation(values, categories)
        numbers = [record["id"] for record in records]
        ids = np.array([0, *numbers], dtype=np.int32)[masks.numbered()]
        segments = tuple(
            Segment(number, label, categories[label].is_thing, float(record["score"]), int(record["area"]))
            for number, label, record in zip(numbers, labels, records, strict=True)
        )
        return PanopticSegmentation(ids, segments, categories)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise UserError(
            f"not a result with these classes: {type(error).__name__}: {printable(str(error), 100)}"
        ) from error


def _is_record(value: Any, task: str) -> bool:
    if not isinstance(value, dict):
        return False
    for name in COCO_KEYS[task]:
        entry = value.get(name)
        if name == "bbox":
            good = isinstance(entry, list) and len(entry) == 4 and all(map(_is_number, entry))
        elif name == "segmentation":
            good = isinstance(entry, dict) and isinstance(entry.get("counts"), str) and "size" in entry
        else:
            good = _is_number(entry)
        if not good:
            return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


class TrackDocument(ListFile):
    """All tracks of a clip as JSON: per frame the objects with their masks as COCO run lengths, then a list of tracks.

    Keys: ``schema_version``, ``task``, ``model``, ``settings``, ``source``, ``size`` (height, width), ``rate``,
    ``frames`` (see :meth:`~mask2former.structures.tracks.TrackedFrame.to_dict`), ``tracks`` (``track_id``,
    ``category_id``, ``category_name``, ``score``, ``first_frame``, ``last_frame``, ``num_frames`` with a pixel),
    ``num_frames``, ``complete`` (False after Ctrl-C or an error) and ``notes``.

    Until the block ends there is ``X.partial.jsonl``: one line with the keys before ``frames``, then one for each
    finished frame. If the JSON file cannot be created from it, for instance on a full disk, it stays.

    Args:
        path: where to write it; missing folders are created.
        head: model, settings, source and rate, passed through.

    Attributes:
        notes: written at the end.
        complete: whether all frames are there, if no error says otherwise.
        task: of the frames.
        working: the growing file.
    """

    def __init__(self, path: str | os.PathLike[str], head: Mapping[str, Any]) -> None:
        super().__init__(path)
        self.head = dict(head)
        self.notes: list[str] = []
        self.complete = True
        self.task = ""  # of the frames
        self.working = WorkingFile(self.path, ".jsonl")
        self._lines: IO[bytes] | None = None
        self._tracks: dict[int, dict[str, Any]] = {}

    @property
    def num_tracks(self) -> int:
        """Tracks with a pixel so far."""
        return len(self._tracks)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.working.open()
            self._lines = self.working.path.open("r+b", buffering=0)
        except BaseException:
            discard(self._stack)
            raise
        return self

    def add(self, frame: TrackedFrame) -> None:
        """Append a frame."""
        if not self.count:
            self.task = frame.task
            head = {"schema_version": SCHEMA_VERSION, "task": frame.task, **self.head, "size": list(frame.size_hw)}
            self._append(encode_json(head))
        record = frame.to_dict()
        self._append(encode_json(record, compact=True))
        self.count += 1
        for item in record["objects"]:
            if item["track_id"] is None:
                continue
            track = self._tracks.setdefault(
                item["track_id"], {"track_id": item["track_id"], "first_frame": frame.index, "num_frames": 0}
            )
            # The latest values are the most reliable.
            track |= {name: item[name] for name in ("category_id", "category_name", "score")}
            track["last_frame"] = frame.index
            track["num_frames"] += 1

    def _append(self, line: str) -> None:
        """Write a line completely or not at all."""
        assert self._lines is not None, "used outside its with block"
        start, left = self._lines.tell(), memoryview(f"{line}\n".encode())
        with naming(self.working.path):
            try:
                while left:
                    left = left[self._lines.write(left) :]
            except BaseException:  # also Ctrl-C
                self._lines.truncate(start)
                self._lines.seek(start)
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lines is not None
        self._lines.close()
        if not self.count:
            self.working.release()
            discard(self._stack)
            assert kind is not None, "a clip has at least one frame"
            return
        with finishing(self.working, self._stack, kind, self.complete), naming(self.path):
            self._end(kind is None)

    def _end(self, finished: bool) -> None:
        assert self._file is not None
        tracks = [self._tracks[number] for number in sorted(self._tracks)]
        tail = {"tracks": tracks, "num_frames": self.count, "complete": finished and self.complete, "notes": self.notes}
        with self.working.path.open(encoding="utf-8", newline="\n") as lines:
            self.write(next(lines)[:-2] + ', "frames": [')
            for number, line in enumerate(lines):
                self.write((",\n" if number else "\n") + line[:-1])
        self.write("\n], " + encode_json(tail)[1:] + "\n")
        self._file.flush()
