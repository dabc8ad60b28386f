"""Frames of video files and cameras, by number or one after the other, through PyAV (extra ``video``).

Frames are counted in the order in which they are shown, whatever their rate. Knows no annotations.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mask2former.data.archives import ArchivedFile
from mask2former.errors import MissingExtraError, RequestError

__all__ = ["VIDEO_SUFFIXES", "VideoFile", "VideoStream", "camera_stream"]

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "video") from error
    return av


class VideoFile:
    """One video on disk.

    Args:
        path: of the file.

    Raises:
        RequestError: it is missing, or no video that can be decoded.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike[str] | ArchivedFile) -> None:
        if isinstance(path, ArchivedFile):
            raise RequestError(f"the video '{path}' lies in an archive; unpack it")
        self.path = Path(path)
        _av()
        if not self.path.is_file():
            raise RequestError(f"there is no video '{self.path}'; check the path")

    @staticmethod
    def suits(path: str | os.PathLike[str]) -> bool:
        """Whether the name is that of a video."""
        return Path(path).suffix.lower() in VIDEO_SUFFIXES

    def read(self, places: Sequence[int]) -> list[UInt8[np.ndarray, "H W 3"]]:
        """The frames at these places, RGB and upright, in the order asked for.

        Decoding starts at the key frame before the first of them.

        Raises:
            RequestError: the file is no video, is damaged, or has fewer frames.
        """
        av = _av()
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise RequestError(f"'{self.path}' has no pictures; expected a video")
                stream = container.streams.video[0]
                times = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
                if places and max(places) >= len(times):
                    raise RequestError(f"'{self.path}' has {len(times)} frames; frame {max(places)} was asked for")
                wanted = {times[place]: place for place in places}
                found: dict[int, UInt8[np.ndarray, "H W 3"]] = {}
                if wanted:
                    container.seek(min(wanted), stream=stream, backward=True)
                    for frame in container.decode(stream):
                        if frame.pts in wanted:
                            found[wanted[frame.pts]] = _upright(frame)
                            if len(found) == len(wanted):
                                break
        except av.FFmpegError as error:
            raise RequestError(f"the video '{self.path}' cannot be read: {error}") from error
        lost = sorted(set(places) - set(found))
        if lost:
            raise RequestError(f"the video '{self.path}' is damaged: frame {lost[0]} cannot be decoded")
        return [found[place] for place in places]

    def stream(self, start: float = 0.0, end: float | None = None) -> VideoStream:
        """The frames shown from ``start`` up to ``end`` (excluded), in seconds; None: all that follow.

        Raises:
            RequestError: the file is no video.
        """
        return VideoStream(str(self.path), f"the video '{self.path}'", {}, start, end)


def camera_stream(number: int) -> VideoStream:
    """What a camera shows, until it is stopped.

    Raises:
        RequestError: there is no such camera, or none can be opened on this system.
        MissingExtraError: PyAV is not installed.
    """
    _av()
    if sys.platform == "darwin":
        return VideoStream(str(number), f"camera {number}", {"format": "avfoundation", "options": {"framerate": "30"}})
    if not sys.platform.startswith("linux"):
        raise RequestError("cameras are read on Linux and macOS only; pass an iterator of frames")
    return VideoStream(f"/dev/video{number}", f"camera {number}", {"format": "v4l2"})


class VideoStream:
    """Frames one after the other, RGB and upright, each with its time in seconds; one is in memory at a time.

    Where the file is damaged the frames end, and :attr:`notes` says so.

    Args:
        place: what PyAV opens.
        name: for messages.
        options: for PyAV's ``open``.
        start: seconds.
        end: seconds, excluded; None: all that follow.

    Attributes:
        rate: frames per second, the mean where it varies.
        num_frames: about how many there are, None where it is not known.
        notes: what went wrong, as sentences; complete when the frames have ended.

    Raises:
        RequestError: it cannot be opened, or has no pictures.
    """

    def __init__(
        self, place: str, name: str, options: dict[str, Any], start: float = 0.0, end: float | None = None
    ) -> None:
        av = _av()
        self.name, self.start, self.end = name, start, end
        self.notes: list[str] = []
        try:
            self._container = av.open(place, **options)
        except (av.FFmpegError, OSError) as error:
            raise RequestError(f"{name} cannot be opened: {getattr(error, 'strerror', None) or error}") from error
        if not self._container.streams.video:
            self._container.close()
            raise RequestError(f"{name} has no pictures; expected a video")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate = float(self._stream.average_rate or 30)
        seconds = (self._container.duration or 0) / 1_000_000
        last = seconds if end is None else min(end, seconds)
        self.num_frames = max(1, round((last - start) * self.rate)) if seconds else None

    def __iter__(self) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], float]]:
        """The frames and their times; only once.

        Raises:
            RequestError: not a single frame.
        """
        av = _av()
        stream, unit = self._stream, float(self._stream.time_base or 1)
        zero = stream.start_time or 0
        count, seconds, damage = 0, 0.0, ""
        with self._container as container:
            if self.start > 0:
                container.seek(zero + int(self.start / unit), stream=stream, backward=True)
            frames = container.decode(stream)
            while True:
                try:
                    frame = next(frames, None)
                except av.FFmpegError as error:
                    damage = str(error.strerror or error)
                    break
                if frame is None:
                    break
                seconds = seconds + 1 / self.rate if frame.pts is None else (frame.pts - zero) * unit
                if self.end is not None and seconds >= self.end:
                    break
                if seconds < self.start - 1e-6:
                    continue
                count += 1
                yield _upright(frame), seconds
        promised = self.num_frames or 0
        if not damage and self.end is None and count < 0.9 * promised - 1:
            damage = f"it ends early, {promised} frames were to come"
        if not count:
            reason = f"it is damaged: {damage}" if damage else "there is none in the time asked for"
            raise RequestError(f"{self.name} gives no frame; {reason}")
        if damage:
            self.notes.append(f"{self.name} is damaged after {seconds:.2f} s ({damage}); the frames before are used")


def _upright(frame: Any) -> UInt8[np.ndarray, "H W 3"]:
    """Players turn what was filmed upright, and so do tools that annotate it."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
