"""Frames of video files by number, through PyAV (extra ``video``). Knows no annotations.

Frames are counted in the order in which they are shown, whatever their rate.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mask2former.data.archives import ArchivedFile
from mask2former.errors import MissingExtraError, RequestError

__all__ = ["VIDEO_SUFFIXES", "VideoFile"]

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
                            # Players turn what was filmed upright, and so do tools that annotate it.
                            image = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                            found[wanted[frame.pts]] = np.ascontiguousarray(image)
                            if len(found) == len(wanted):
                                break
        except av.FFmpegError as error:
            raise RequestError(f"the video '{self.path}' cannot be read: {error}") from error
        lost = sorted(set(places) - set(found))
        if lost:
            raise RequestError(f"the video '{self.path}' is damaged: frame {lost[0]} cannot be decoded")
        return [found[place] for place in places]
