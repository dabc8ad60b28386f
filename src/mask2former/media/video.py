"""Frames of video files and cameras, by number or in sequence, through PyAV (extra ``video``).

Frames are counted in display order, whatever their rate. Knows no annotations.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import struct
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mask2former import limits
from mask2former.documents import check_regular
from mask2former.errors import UserError
from mask2former.extras import need
from mask2former.limits import check_limit
from mask2former.media.archives import ArchivedFile
from mask2former.notes import note
from mask2former.text import printable

__all__ = ["VIDEO_SUFFIXES", "VideoFile", "VideoStream", "camera_stream"]

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")

_DEPTH = 8  # frames that wait for earlier ones; decoders need that many only next to a gap
_HOLE = 2.5  # times the usual interval: with smaller gaps between frames, the rate merely varies
# Formats that FFmpeg may recognise a file as. Playlists, lists of files and stream descriptions would read other files,
# or the network, whatever the file's name.
_FORMATS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "mxf", "dv", "nut", "rm", "gif"),
    *("apng", "h264", "hevc", "m4v", "mjpeg", "ivf", "obu", "yuv4mpegpipe"),
)
_OF_FILES = {"protocol_whitelist": "file", "format_whitelist": ",".join(_FORMATS)}
_ATTACHED_IMAGE = 0x400  # of FFmpeg's dispositions
_RATE = 30.0  # frames per second where not given in the file
_HDR = {16: "PQ", 18: "HLG"}  # transfer functions, by their numbers in H.273


def _av() -> Any:
    need("video", "av", to="read videos")
    import av

    return av


def _open(address: str, options: dict[str, Any], name: str) -> tuple[Any, Any, list[str]]:
    """The container, its first video stream, and remarks about the others.

    Raises:
        UserError: it cannot be opened, or has no frames.
    """
    av = _av()
    try:
        # Damaged metadata is not used; PyAV 19 always accepts it. Options that a container does not know are passed to
        # its streams.
        tolerant = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
        container = av.open(address, **tolerant, **options)
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        reason = printable(str(getattr(error, "strerror", None) or error), 200)
        # Cameras that lose power leave an MP4 without the index that they would have written at its end.
        hint = "; expected MP4, MOV, MKV, WebM, AVI or similar (not a playlist), complete: an MP4 or MOV cut short may "
        hint = "" if options.get("format") else f"{hint}have lost the index at its end, which tools can restore"
        raise UserError(f"{name} cannot be opened: {reason}{hint}") from error
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        kinds = sorted({"cover image" if stream.type == "video" else stream.type for stream in container.streams})
        container.close()
        raise UserError(f"{name} has no video stream (it has: {', '.join(kinds) or 'nothing'}); expected a video")
    context = streams[0].codec_context
    try:
        check_limit(
            f"{name} is {context.width}x{context.height} (width x height); the pixels of a frame are:",
            context.width * context.height,
            limits.VIDEO_PIXELS,
            "make it smaller",
        )
    except UserError:
        container.close()
        raise
    notes = []
    if len(streams) > 1:
        sizes = ", ".join(f"{stream.codec_context.width}x{stream.codec_context.height}" for stream in streams)
        notes.append(f"{name} has {len(streams)} video streams (width x height {sizes}); the first is used")
    return container, streams[0], notes


def _is_cover(stream: Any) -> bool:
    """Whether it is the cover image of a music file."""
    return bool(getattr(getattr(stream, "disposition", None), "value", 0) & _ATTACHED_IMAGE)


class VideoFile:
    """One video on disk.

    Args:
        path: of the file.

    Raises:
        UserError: it is missing, or not a video that can be decoded.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike[str] | ArchivedFile) -> None:
        if isinstance(path, ArchivedFile):
            raise UserError(f"the video '{path}' is in an archive; unpack it")
        self.path = Path(path)
        _av()
        if not check_regular(self.path, "video"):
            raise UserError(f"'{self.path}' is an empty file; expected a video")

    @staticmethod
    def suits(path: str | os.PathLike[str]) -> bool:
        """Whether the name is that of a video."""
        return Path(path).suffix.lower() in VIDEO_SUFFIXES

    def read(self, indices: Sequence[int], length: int | None = None) -> list[UInt8[np.ndarray, "H W 3"]]:
        """The frames at these indices, RGB and upright, in their order.

        Decoding starts at the key frame before the first of them. Frames are counted without decoding the others, so a
        file with lost frames, or frames without times, is refused: annotations would shift to other frames. So is one
        with fewer than ``length`` frames.

        Raises:
            UserError: the file is not a video, is damaged, or has fewer frames.
        """
        av = _av()
        name = f"the video '{self.path}'"
        container, stream, _ = _open(*_of_file(self.path), name=name)
        found: dict[int, UInt8[np.ndarray, "H W 3"]] = {}
        with container:
            try:
                count = broken = 0
                times: list[int] = []
                key_frames: list[tuple[int, int]] = []  # number of packets before them, and their times
                for number, packet in enumerate(container.demux(stream)):
                    if packet.is_keyframe and packet.pts is not None:
                        key_frames.append((number, packet.pts))
                    if packet.size and not packet.is_discard:
                        count += 1
                        broken += packet.is_corrupt
                        times += [] if packet.pts is None else [packet.pts]
                times.sort()
                if broken:
                    raise UserError(
                        f"{name} is damaged ({broken} of {count} packets), so its frames cannot be counted; re-encode "
                        "what remains of it and annotate that"
                    )
                if len(set(times)) < count:
                    raise UserError(
                        f"the frames of {name} have no distinct times ({len(set(times))} times for {count} frames), "
                        "so they cannot be told apart; convert it to .mp4 or to a folder of frames"
                    )
                if length is not None and len(times) < length:
                    raise UserError(
                        f"'{self.path}' has {len(times)} frames, but its annotations say {length}; it is cut short, "
                        "or not the video that was annotated"
                    )
                if length is not None and len(times) > length:
                    note(
                        "videos with more frames than their annotations have, of which only the first are read; check "
                        "that they have not been converted to another frame rate since",
                        f"'{self.path}' ({len(times)} frames, {length} in the annotations)",
                    )
                if indices and max(indices) >= len(times):
                    raise UserError(f"'{self.path}' has {len(times)} frames; frame {max(indices)} was requested")
                wanted = {times[index]: index for index in indices}
                before = [number for number, time in key_frames if wanted and time <= min(wanted)]
                # What is marked as a key frame may be the start of a gradual refresh, which shows nothing at first.
                for skipped in (*before[-1:], 0) if wanted else ():
                    for time, image in self._images(skipped, wanted):
                        found[wanted[time]] = image
                    if len(found) == len(wanted):
                        break
            except (av.FFmpegError, OverflowError) as error:  # the latter: times beyond what FFmpeg seeks
                raise UserError(f"{name} cannot be read: {printable(str(error), 200)}") from error
        lost = sorted(set(indices) - set(found))
        if lost:
            raise UserError(f"{name} is damaged: frame {lost[0]} cannot be decoded")
        return [found[index] for index in indices]

    def _images(self, skipped: int, times: Collection[int]) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
        """The images at these times, decoded after a number of packets: FFmpeg's search does not find every frame."""
        name = f"the video '{self.path}'"
        container, stream, _ = _open(*_of_file(self.path), name=name)
        remaining = set(times)
        with container:
            for packet in itertools.islice(container.demux(stream), skipped, None):
                for frame in packet.decode():
                    if frame.pts in remaining:
                        remaining.remove(frame.pts)
                        yield frame.pts, _upright(frame, name)
                if not remaining:
                    break

    def stream(self, start: float = 0.0, end: float | None = None) -> VideoStream:
        """The frames shown from ``start`` up to ``end`` (exclusive), in seconds; None: to the end.

        Raises:
            UserError: the file is not a video.
        """
        address, options = _of_file(self.path)
        return VideoStream(address, f"the video '{self.path}'", options, start, end)


def _of_file(path: Path) -> tuple[str, dict[str, Any]]:
    """What PyAV opens for a file, in a form that cannot be mistaken for an address or a list of files."""
    # Also checked by decoders, since frames may be larger than stated in the container.
    return os.path.abspath(path), {"options": {**_OF_FILES, "max_pixels": str(limits.VIDEO_PIXELS)}}


def camera_stream(number: int) -> VideoStream:
    """The frames of a camera, until it is stopped.

    Raises:
        UserError: the camera does not exist, or cameras cannot be opened on this system.
        MissingExtraError: PyAV is not installed.
    """
    _av()
    name = f"camera {number}"
    if sys.platform == "darwin":
        options = {"format": "avfoundation", "options": {"framerate": "30"}}
        return VideoStream(str(number), name, options, live=True)
    if not sys.platform.startswith("linux"):
        raise UserError("cameras are supported only on Linux and macOS; pass an iterator of frames")
    return VideoStream(f"/dev/video{number}", name, {"format": "v4l2"}, live=True)


class VideoStream:
    """Frames in temporal order, RGB and upright, each with its time in seconds.

    For a file, some decoded frames wait until it is certain that no earlier one follows, as decoders deliver them next
    to a gap. Frames that are missing, may be corrupted or had no time are reported by :attr:`notes`.

    Args:
        address: what PyAV opens.
        name: for messages.
        options: for PyAV's ``open``.
        start: seconds.
        end: seconds, exclusive; None: to the end.
        live: from a camera: frames are delivered as they arrive, and pauses are not gaps in a file.

    Attributes:
        rate: frames per second, the mean where it varies.
        num_frames: approximate number of frames, None where unknown.
        notes: what a user should know, as sentences; complete when the frames have ended.

    Raises:
        UserError: it cannot be opened, or has no frames.
    """

    def __init__(
        self,
        address: str,
        name: str,
        options: dict[str, Any],
        start: float = 0.0,
        end: float | None = None,
        *,
        live: bool = False,
    ) -> None:
        self.name, self.start, self.end, self.live = name, start, end, live
        self._address, self._options = address, options
        self._container, self._stream, self.notes = self._opened()
        stream = self._stream
        self.rate = float(stream.average_rate or _RATE)
        if not 0 < self.rate <= limits.VIDEO_RATE:
            self.notes.append(f"{name} claims {self.rate:g} frames per second; {_RATE:g} is assumed for its length")
            self.rate = _RATE
        self._unit = float(stream.time_base or 1)
        # Containers count all their streams, and sound may continue after the last frame; of some, it is an estimate.
        alone = len(self._container.streams) == 1 and "matroska" in self._container.format.name
        self._exact = bool(stream.duration) or alone
        self._seconds = stream.duration * self._unit if stream.duration else (self._container.duration or 0) / 1_000_000
        last = self._seconds if end is None else min(end, self._seconds)
        count = (last - start) * self.rate
        self.num_frames = max(1, round(count)) if self._seconds > 0 and count <= limits.VIDEO_FRAMES else None
        self._broken = Counter[str]()  # packets
        self._guessed = self._late = 0  # frames without a time, frames that came too late
        self._restarts: list[float] = []
        self._first = np.inf  # when the first frame from ``start`` on should be shown

    def _opened(self) -> tuple[Any, Any, list[str]]:
        container, stream, notes = _open(self._address, self._options, self.name)
        # Frame threading would be faster, but its output for damaged data differs from run to run.
        stream.thread_type = "SLICE"
        stream.codec_context.options = {"max_pixels": str(limits.VIDEO_PIXELS)}
        return container, stream, notes

    def _packets(self) -> Iterator[Any]:
        """The packets from the key frame before ``start`` on.

        Raises:
            UserError: ``start`` is beyond what can be searched.
        """
        if self.start <= 0:
            return self._container.demux(self._stream)
        time = (self._stream.start_time or 0) + int(self.start / self._unit)
        try:
            self._container.seek(time, stream=self._stream, backward=True)
            packets = self._container.demux(self._stream)
            first = next(packets)
            if first.is_keyframe and _time_of(first, time) <= time:
                return itertools.chain([first], packets)
        except OverflowError as error:
            raise UserError(f"{self.name} cannot be searched for second {self.start:g}") from error
        except (StopIteration, _av().FFmpegError):
            pass
        # FFmpeg's search finds other frames, too, as in MPEG-TS, or later ones.
        skipped = 0
        self._reopen()
        with contextlib.suppress(_av().FFmpegError):  # which is reported when it is decoded
            for number, packet in enumerate(self._container.demux(self._stream)):
                if packet.dts is not None and packet.dts > time:
                    break
                if packet.is_keyframe and _time_of(packet, time) <= time:
                    skipped = number
        self._reopen()
        return itertools.islice(self._container.demux(self._stream), skipped, None)

    def _reopen(self) -> None:
        self._container.close()
        self._container, self._stream, _ = self._opened()

    def __iter__(self) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], float]]:
        """The frames and their times; only once.

        Raises:
            UserError: there is not a single frame, or one has a display matrix of other than quarter turns and mirrors.
        """
        times: list[float] = []
        doubtful: list[float] = []
        interlaced, length = 0, 0.0  # frames; seconds of the last one
        try:
            for seconds, frame, certain in self._in_order():
                if self.end is not None and seconds >= self.end:
                    break
                if seconds < self.start - 1e-6:
                    continue
                if not times:
                    self._say_how_it_is_shown(frame)
                times.append(seconds)
                length = float((getattr(frame, "duration", 0) or 0) * self._unit)
                if not certain:
                    doubtful.append(seconds)
                interlaced += bool(frame.interlaced_frame)
                yield _upright(frame, self.name), seconds
        finally:
            self._container.close()
        if not times:
            reason = "there are none in the requested time"
            if self._broken or self.start < self._seconds:
                reason = f"it is damaged: {self._reasons() or 'nothing in it can be decoded'}"
            raise UserError(f"{self.name} yields no frames; {reason}")
        if interlaced:
            self.notes.append(
                f"{self.name} is interlaced ({interlaced} of {len(times)} frames): every other line shows a "
                "different moment, so moving outlines look combed; deinterlace it first"
            )
        if not self.live:
            self._say_what_is_missing(times, doubtful, times[-1] + max(length, 1 / self.rate))

    def _decoded(self) -> Iterator[tuple[Any, bool]]:
        """Frames in decoder order, and whether their content can be trusted.

        It cannot from a damaged packet up to the next intact key frame, since frames encode changes to earlier ones.
        """
        av = _av()
        packets = self._packets()
        damaged_times: set[int] = set()
        certain = True
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                self._broken[str(error.strerror or error)] += 1
                packet = None
            frames, ends = [], packet is None
            if packet is not None and packet.pts is not None and not packet.is_discard:
                seconds = (packet.pts - (self._stream.start_time or 0)) * self._unit
                self._first = min(self._first, seconds if seconds >= self.start else np.inf)
            if packet is not None and packet.is_corrupt:
                self._broken["packets are lost"] += 1
                if packet.pts is None:
                    certain = False
                else:
                    damaged_times.add(packet.pts)
            try:
                frames = self._stream.codec_context.decode(None) if packet is None else packet.decode()
            except EOFError:  # the demuxer's last packet has flushed the decoder
                pass
            except av.FFmpegError as error:
                self._broken[str(error.strerror or error)] += 1
                certain = False
            for frame in frames:
                is_damaged = frame.is_corrupt or frame.pts in damaged_times
                damaged_times.discard(frame.pts)
                certain = not is_damaged and (certain or bool(frame.key_frame))
                yield frame, certain
            if ends:
                return

    def _in_order(self) -> Iterator[tuple[float, Any, bool]]:
        """Frames with ascending times."""
        zero, interval = self._stream.start_time or 0, 1 / self.rate
        depth = 0 if self.live else _DEPTH
        waiting: list[Any] = []  # time, number, frame, whether it can be trusted
        late: list[Any] = []
        newest = last = -np.inf
        shift = 0.0

        def shown(most: int) -> Iterator[tuple[float, Any, bool]]:
            """The first of those that wait, until only this many do."""
            nonlocal last
            while len(waiting) > most:
                last, _, frame, certain = heapq.heappop(waiting)
                yield last, frame, certain

        for number, (frame, certain) in enumerate(self._decoded()):
            if frame.pts is None:
                self._guessed += 1
                seconds = newest + interval if number else self.start
            else:
                seconds = (frame.pts - zero) * self._unit + shift
            newest = seconds
            if seconds <= last:
                late.append((seconds, number, frame, certain))
                if len(late) <= _DEPTH:
                    continue
                # This many frames are not late: the clock of the recording was set back.
                yield from shown(0)
                self._restarts.append(last)
                offset = last + interval - min(late)[0]
                shift, newest = shift + offset, newest + offset
                for seconds, *entry in late:
                    heapq.heappush(waiting, (seconds + offset, *entry))
            else:
                heapq.heappush(waiting, (seconds, number, frame, certain))
                self._late += len(late)
            late = []
            yield from shown(depth)
        self._late += len(late)
        yield from shown(0)

    def _say_how_it_is_shown(self, frame: Any) -> None:
        """What players do with the frames but this reader does not."""
        ratio = self._stream.sample_aspect_ratio
        if ratio and ratio != 1:
            self.notes.append(
                f"{self.name} has pixels that are not square ({ratio.numerator}:{ratio.denominator}); the frames are "
                "used as stored, so what players show as a circle is an ellipse"
            )
        # WebM keeps alpha beside the frames, where decoders do not see it.
        if self._stream.metadata.get("alpha_mode") == "1" or any(part.is_alpha for part in frame.format.components):
            self.notes.append(
                f"{self.name} has an alpha channel, which is not used; transparent pixels show the colours that are "
                "stored under them"
            )
        if curve := _HDR.get(int(getattr(frame, "color_trc", 0) or 0)):
            self.notes.append(
                f"{self.name} is HDR ({curve}); its brightness is read like that of ordinary video, so the frames "
                "look pale: convert it to SDR first if the model was trained on that"
            )

    def _reasons(self) -> str:
        return ", ".join(f"{reason} ({number} times)" for reason, number in self._broken.items())

    def _say_what_is_missing(self, times: list[float], doubtful: list[float], ended: float) -> None:
        intervals = np.diff(times)
        usual = float(np.median(intervals)) if len(intervals) else 1 / self.rate
        holes = np.flatnonzero(intervals > _HOLE * usual)
        slack = 3 / self.rate if self._exact else 0.1 * self._seconds + 2 / self.rate
        if self.end is None and ended + slack < self._seconds:
            self.notes.append(
                f"{self.name} is damaged after {times[-1]:.2f} s (it ends early, {self._seconds:.2f} s were "
                "expected); the frames before are used"
            )
        if self._broken:
            self.notes.append(f"{self.name} is damaged: {self._reasons()}")
        if doubtful:
            span = f"from {doubtful[0]:.2f} to {doubtful[-1]:.2f} s"
            self.notes.append(f"{self.name} is damaged: {len(doubtful)} frames {span} may show something else")
        if self.start == 0 and times[0] > _HOLE * usual:
            self.notes.append(f"{self.name} has no frame that can be decoded before {times[0]:.2f} s")
        if self.start > 0 and times[0] > self._first + self._unit:
            self.notes.append(
                f"{self.name} has frames from {self._first:.2f} s on that cannot be decoded from the key frame before "
                f"them; the first is that at {times[0]:.2f} s"
            )
        # If many intervals are long, the rate varies, and nothing is missing.
        if len(holes) and (self._broken or len(holes) <= max(1, 0.1 * len(intervals))):
            shown = ", ".join(f"{times[index]:.2f} to {times[index + 1]:.2f} s" for index in holes[:3])
            more = f" and {len(holes) - 3} more" if len(holes) > 3 else ""
            self.notes.append(
                f"{self.name} has {len(holes)} gap{'s' if len(holes) > 1 else ''} without frames: {shown}{more}"
            )
        if self._guessed:
            self.notes.append(
                f"{self.name} has {self._guessed} of {len(times)} frames without a time; each is placed "
                f"1/{self.rate:g} s after the one before"
            )
        if self._late:
            self.notes.append(
                f"{self.name} delivered {self._late} frames too late to be put in order; they are left out"
            )
        if self._restarts:
            shown = ", ".join(f"{seconds:.2f} s" for seconds in self._restarts[:3])
            self.notes.append(
                f"the clock of {self.name} is set back after {shown} ({len(self._restarts)} times in total); its "
                "times continue from there"
            )


def _time_of(packet: Any, otherwise: int) -> int:
    """When a packet is shown, else when it is decoded, in units of its stream."""
    return next((time for time in (packet.pts, packet.dts) if time is not None), otherwise)


def _upright(frame: Any, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """The frame as shown by players and annotation tools: rotated and mirrored by its display matrix.

    Raises:
        UserError: the matrix is not a combination of quarter turns and mirrors.
    """
    try:
        image = frame.to_ndarray(format="rgb24")
    except (_av().FFmpegError, ValueError, MemoryError) as error:
        size = f"{frame.width}x{frame.height}"
        reason = printable(str(error), 200) or "no memory"
        raise UserError(f"a frame of {name} ({size}, width x height) cannot be converted to RGB: {reason}") from error
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        a, b, u, c, d, v, *_ = struct.unpack("=9i", bytes(matrix)[:36])
        # Pixel (x, y) is shown at (a x + c y, b x + d y). A matrix of zeros is ignored, as in players.
        pairs = ((a, b), (c, d))
        signs = [round(value / max(abs(a), abs(b), 1)) for value in pairs[0]]
        signs += [round(value / max(abs(c), abs(d), 1)) for value in pairs[1]]
        is_oblique = any(min(map(abs, pair)) > 0.01 * max(map(abs, pair)) for pair in pairs)
        if is_oblique or u or v or [abs(sign) for sign in signs] not in ([1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]):
            raise UserError(
                f"{name} has the display matrix {[round(value / 65536, 3) for value in (a, b, c, d)]}; expected "
                "quarter turns and mirrors: re-encode it in the orientation in which it is shown, for instance with "
                "ffmpeg"
            )
        if signs[1]:
            image = image.swapaxes(0, 1)
        image = image[:: signs[1] + signs[3] or 1, :: signs[0] + signs[2] or 1]
    return np.ascontiguousarray(image)
