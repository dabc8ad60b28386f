"""YouTube-VIS results files: of clips that were predicted as a whole, and of tracks frame by frame."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, ClassVar

import numpy as np

from mask2former.config import Task
from mask2former.documents import encode_json
from mask2former.files import discard
from mask2former.results_io.writing import JsonList, ListFile
from mask2former.structures.categories import Categories
from mask2former.structures.clips import VideoInstances
from mask2former.structures.tracks import TrackedFrame

__all__ = ["TrackResults", "TracksFile"]


class TracksFile(JsonList):
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
        self.once(image_id)
        for label, record in zip(result.labels.tolist(), result.to_ytvis(image_id), strict=True):
            self.append_of_class(label, record)


class TrackResults(ListFile):
    """The tracks as a YouTube-VIS results file: one entry per track, with an encoding or None per frame.

    It is created at the end of its block, unless the block fails before any frame.

    The format has all frames of a track together, so the encodings are in memory until the end: about 200 bytes per
    object and frame. The score of a track is its mean over the clip, as in
    :func:`~mask2former.inference.tracking.join_frames`.

    Args:
        path: where it goes; missing folders are made.
        video_id: of the clip.
        categories: the classes of the model; their ids are written.
        things_only: whether a track can be of a thing class only.
    """

    def __init__(
        self, path: str | os.PathLike[str], video_id: int | str, categories: Categories, *, things_only: bool
    ) -> None:
        super().__init__(path)
        self.video_id = video_id
        self.categories = categories
        self.allowed = np.array([item.is_thing or not things_only for item in categories])
        self._encodings: dict[int, dict[int, Any]] = {}
        self._sums: dict[int, np.ndarray] = {}

    def add(self, frame: TrackedFrame) -> None:
        """Remember a frame."""
        index, self.count = self.count, self.count + 1
        for item in frame.to_dict()["objects"]:
            if item["track_id"] is not None:
                self._encodings.setdefault(item["track_id"], {})[index] = item["segmentation"]
        for number, row in zip(frame.track_ids.tolist(), frame.probabilities.astype(np.float64), strict=True):
            self._sums[number] = self._sums.get(number, 0.0) + row

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not self.count:
            discard(self._stack)
        else:
            with self._stack:
                self._finish()
        self._file = None

    def _finish(self) -> None:
        found = []
        for number in sorted(self._encodings):
            means = np.where(self.allowed, self._sums[number], 0.0) / self.count
            label = int(means.argmax())
            found.append((number, label, float(means[label])))
        self.write("[\n")
        # One after the other: a record is as long as the clip, however short its track is.
        for written, (number, label, score) in enumerate(sorted(found, key=lambda entry: -entry[2])):
            encodings = self._encodings[number]
            record = {
                "video_id": self.video_id,
                "score": score,
                "category_id": self.categories[label].id,
                "segmentations": [encodings.get(index) for index in range(self.count)],
            }
            self.write((",\n" if written else "") + encode_json(record, compact=True))
        self.write("\n]\n")
