"""What tracking leaves on disk: a video with the tracks drawn on it, one JSON file, and a YouTube-VIS results file.

Video and JSON file grow as working files that can be played and read at any moment (:mod:`.partial`), also after a kill
or on a full disk. The final files are made of them whatever else ends the run.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import numpy as np
from jaxtyping import UInt8

from mask2former.files import discard, whole_file
from mask2former.errors import MissingExtraError
from mask2former.inference.partial import WorkingFile
from mask2former.structures.categories import Categories
from mask2former.structures.results import SCHEMA_VERSION
from mask2former.structures.tracks import TrackedFrame

__all__ = ["FrameWriter", "TrackDocument", "TrackResults", "VideoWriter"]

# By format: playable while it is written, in fragments of a second or clusters.
_MP4 = {"movflags": "frag_keyframe+delay_moov", "frag_duration": "1000000", "flush_packets": "1"}
_GROWING: Mapping[str, dict[str, str]] = {
    ".mp4": _MP4,
    ".mov": _MP4,
    ".m4v": _MP4,
    ".mkv": {"cluster_time_limit": "1000", "flush_packets": "1"},
}
_CLOCK = 60_000  # ticks per second: what all usual rates divide, and below the limit of MPEG-4


class FrameWriter(Protocol):
    """What all writers offer: frames in the order of time, inside a ``with`` block."""

    path: Path

    def __enter__(self) -> Self: ...

    def add(self, frame: TrackedFrame) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class VideoWriter:
    """A video of the frames with their tracks, shown at the times of the source; it appears when the block ends.

    H.264, which browsers and telephones play; MPEG-4 where PyAV has been built without it. Until then there is
    ``X.partial.mp4``, made of fragments of a second that are playable one by one; it lags by the few frames that the
    encoder holds. Where it cannot be closed, it stays.

    Args:
        path: where it goes; the suffix (.mp4, .mov, .mkv) says the format.
        rate: frames per second of the source, for the header; times are those of the frames.
        labels: whether names and ids are written.

    Attributes:
        complete: whether all frames are there, if no error says otherwise.
        working: the file that grows.

    Raises:
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], rate: float, *, labels: bool = True) -> None:
        try:
            import av
        except ImportError as error:
            raise MissingExtraError("av", "video") from error
        self._av = av
        self.path = Path(path)
        self.rate = Fraction(rate).limit_denominator(1001)
        self.labels = labels
        self.complete = True
        self.working = WorkingFile(self.path, self.path.suffix)
        self._stack = contextlib.ExitStack()
        self._temporary = self.path
        self._container: Any = None
        self._stream: Any = None  # as long as there is no frame
        self._last = -1

    def __enter__(self) -> Self:
        # The suffix says which format.
        self._temporary = self._stack.enter_context(whole_file(self.path, suffix=self.path.suffix))
        try:
            self.working.open()
        except BaseException:
            discard(self._stack)
            raise
        return self

    def add(self, frame: TrackedFrame) -> None:
        """Draw and write a frame."""
        self.add_image(np.asarray(frame.plot(labels=self.labels)), frame.seconds)

    def add_image(self, pixels: UInt8[np.ndarray, "H W 3"], seconds: float) -> None:
        """Write an image, to be shown from ``seconds`` on."""
        stream = self._stream or self._open(pixels.shape[0], pixels.shape[1])
        height, width = stream.height, stream.width
        # The usual format halves colours, so both sides must be even: a last row or column is shown twice.
        padding = ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0))
        image = self._av.VideoFrame.from_ndarray(np.pad(pixels, padding, mode="edge"), format="rgb24")
        self._last = max(self._last + 1, round(seconds * _CLOCK))  # players refuse times that do not rise
        image.pts, image.time_base = self._last, Fraction(1, _CLOCK)
        with _naming(self.working.path):
            self._container.mux(stream.encode(image))

    def _open(self, height: int, width: int) -> Any:
        codecs = self._av.codecs_available
        codec, options = ("libx264", {"crf": "20", "preset": "veryfast"}) if "libx264" in codecs else ("mpeg4", {})
        with _naming(self.working.path):
            self._container = self._av.open(
                str(self.working.path), "w", options=_GROWING.get(self.path.suffix.lower(), {})
            )
        self._stream = self._container.add_stream(codec, rate=self.rate, options=options)
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _CLOCK)
        return self._stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._container is None:
            self.working.release()
            discard(self._stack)
            return
        with _finishing(self.working, self._stack, kind, self.complete), _naming(self.path):
            with _naming(self.working.path):
                try:
                    self._container.mux(self._stream.encode())
                finally:
                    self._container.close()
            self._copy()

    def _copy(self) -> None:
        """Fragments to the usual order of a file, which knows its length; pixels are not encoded again."""
        if _GROWING.get(self.path.suffix.lower()) is not _MP4:  # as usual already
            self.working.path.replace(self._temporary)
            return
        with (
            self._av.open(str(self.working.path)) as source,
            self._av.open(str(self._temporary), "w") as target,
        ):
            stream = source.streams.video[0]
            copied = target.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.size:  # the last one is empty
                    packet.stream = copied
                    target.mux(packet)


class _Document:
    """A text file that is made at the end of its block, unless that fails before any frame."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.count = 0  # frames
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(whole_file(self.path))
            self._file = stack.enter_context(temporary.open("wb"))
            self._stack = stack.pop_all()
        return self

    def _write(self, text: str) -> None:
        assert self._file is not None, "used outside its with block"
        self._file.write(text.encode())

    def _end(self, finished: bool) -> None:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        if kind is not None and not self.count:
            discard(self._stack)
        else:
            with self._stack:
                self._end(kind is None)
        self._file = None


class TrackDocument(_Document):
    """All tracks of a clip as JSON: per frame the objects with their masks as COCO run lengths, then a list of tracks.

    Keys: ``schema_version``, ``task``, ``model``, ``settings``, ``source``, ``size`` (height, width), ``rate``,
    ``frames`` (see :meth:`~mask2former.structures.tracks.TrackedFrame.to_dict`), ``tracks`` (``track_id``,
    ``category_id``, ``category_name``, ``score``, ``first_frame``, ``last_frame``, ``num_frames`` with a pixel),
    ``num_frames``, ``complete`` (False after Ctrl-C or an error) and ``notes``.

    Until the block ends there is ``X.partial.jsonl``: one line with the keys before ``frames``, then one for each
    finished frame. Where the JSON file cannot be made of it, for instance on a full disk, it stays.

    Args:
        path: where it goes; missing folders are made.
        head: model, settings, source and rate, passed through.

    Attributes:
        notes: written at the end.
        complete: whether all frames are there, if no error says otherwise.
        task: of the frames.
        working: the file that grows.
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
            self._append(json.dumps(head, allow_nan=False))
        record = frame.to_dict()
        self._append(json.dumps(record, allow_nan=False, separators=(",", ":")))
        self.count += 1
        for item in record["objects"]:
            if item["track_id"] is None:
                continue
            track = self._tracks.setdefault(
                item["track_id"], {"track_id": item["track_id"], "first_frame": frame.index, "num_frames": 0}
            )
            # The latest are the best founded.
            track |= {name: item[name] for name in ("category_id", "category_name", "score")}
            track["last_frame"] = frame.index
            track["num_frames"] += 1

    def _append(self, line: str) -> None:
        """Write a line, or nothing of it."""
        assert self._lines is not None, "used outside its with block"
        start, left = self._lines.tell(), memoryview(f"{line}\n".encode())
        with _naming(self.working.path):
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
        with _finishing(self.working, self._stack, kind, self.complete), _naming(self.path):
            self._end(kind is None)

    def _end(self, finished: bool) -> None:
        assert self._file is not None
        tracks = [self._tracks[number] for number in sorted(self._tracks)]
        tail = {"tracks": tracks, "num_frames": self.count, "complete": finished and self.complete, "notes": self.notes}
        with self.working.path.open("rb") as lines:
            self._write(next(lines).decode()[:-2] + ', "frames": [')
            for number, line in enumerate(lines):
                self._file.write((b",\n" if number else b"\n") + line[:-1])
        self._write("\n], " + json.dumps(tail, allow_nan=False)[1:] + "\n")
        self._file.flush()


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the operating system that name no file are about this one."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextlib.contextmanager
def _finishing(
    working: WorkingFile, final: contextlib.ExitStack, kind: type[BaseException] | None, complete: bool
) -> Iterator[None]:
    """Make the final file in the block; then the working file goes, with what earlier runs left if the run is complete.

    Where that fails the working file stays, the final one is as it was before the run, and an error that already ends
    the run is not replaced.
    """
    try:
        try:
            yield
        except BaseException:
            discard(final)
            raise
        final.close()
    except Exception:  # raised again, unless another error already ends the run
        working.release()
        if kind is None:
            raise
    except BaseException:
        working.release()
        raise
    else:
        working.remove(earlier=complete and kind is None)


class TrackResults(_Document):
    """The tracks as a YouTube-VIS results file: one entry per track, with an encoding or None per frame.

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

    def _end(self, finished: bool) -> None:
        records = []
        for number, encodings in sorted(self._encodings.items()):
            means = np.where(self.allowed, self._sums[number], 0.0) / self.count
            label = int(means.argmax())
            records.append(
                {
                    "video_id": self.video_id,
                    "score": float(means[label]),
                    "category_id": self.categories[label].id,
                    "segmentations": [encodings.get(index) for index in range(self.count)],
                }
            )
            assert math.isfinite(records[-1]["score"])
        records.sort(key=lambda record: -record["score"])
        self._write("[\n" + ",\n".join(json.dumps(record, separators=(",", ":")) for record in records) + "\n]\n")
