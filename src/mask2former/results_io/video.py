"""Videos with the tracks drawn on them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from jaxtyping import UInt8

from mask2former.extras import need
from mask2former.files import discard, whole_file
from mask2former.results_io.growing import finishing, naming
from mask2former.results_io.partial import WorkingFile
from mask2former.structures.tracks import TrackedFrame

__all__ = ["VideoWriter"]

# By format: playable while it is written, in fragments of a second or clusters.
_MP4 = {"movflags": "frag_keyframe+delay_moov", "frag_duration": "1000000", "flush_packets": "1"}
_GROWING: Mapping[str, dict[str, str]] = {
    ".mp4": _MP4,
    ".mov": _MP4,
    ".m4v": _MP4,
    ".mkv": {"cluster_time_limit": "1000", "flush_packets": "1"},
}
_CLOCK = 60_000  # ticks per second: what all usual rates divide, and below the limit of MPEG-4


class VideoWriter:
    """A video of the frames with their tracks, shown at the times of the source; it appears when the block ends.

    H.264, which browsers and telephones play; MPEG-4 where PyAV has been built without it. Until then there is
    ``X.partial.mp4``, made of fragments of a second that are playable one by one; it lags by the few frames that the
    encoder holds. Where it cannot be closed, it stays.

    Args:
        path: where it goes; the suffix (.mp4, .mov, .mkv) says the format.
        rate: frames per second of the source, for the header; times are those of the frames.

    Attributes:
        complete: whether all frames are there, if no error says otherwise.
        working: the file that grows.

    Raises:
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], rate: float) -> None:
        need("video", "av", to="write videos")
        import av

        self._av = av
        self.path = Path(path)
        self.rate = Fraction(rate).limit_denominator(1001)
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
        self.add_image(np.asarray(frame.plot()), frame.seconds)

    def add_image(self, image: UInt8[np.ndarray, "H W 3"], seconds: float) -> None:
        """Write an image, to be shown from ``seconds`` on."""
        stream = self._stream or self._open(image.shape[0], image.shape[1])
        height, width = stream.height, stream.width
        # The usual format halves colours, so both sides must be even: a last row or column is shown twice.
        padding = ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0))
        frame = self._av.VideoFrame.from_ndarray(np.pad(image, padding, mode="edge"), format="rgb24")
        self._last = max(self._last + 1, round(seconds * _CLOCK))  # players refuse times that do not rise
        frame.pts, frame.time_base = self._last, Fraction(1, _CLOCK)
        with naming(self.working.path):
            self._container.mux(stream.encode(frame))

    def _open(self, height: int, width: int) -> Any:
        codecs = self._av.codecs_available
        codec, options = ("libx264", {"crf": "20", "preset": "veryfast"}) if "libx264" in codecs else ("mpeg4", {})
        with naming(self.working.path):
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
        with finishing(self.working, self._stack, kind, self.complete), naming(self.path):
            with naming(self.working.path):
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
