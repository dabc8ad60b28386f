"""Frames in temporal order, whatever their source: a video, a folder of images, a camera or an iterator.

One frame is in memory at a time. Knows nothing of models or annotations.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from mask2former import limits
from mask2former.config import Reading
from mask2former.documents import check_regular
from mask2former.errors import OptionError, UserError
from mask2former.limits import check_limit
from mask2former.media.archives import Folder
from mask2former.media.folders import is_passed_over, list_folder
from mask2former.media.image_files import ImagePage, all_pages, frame_seconds, num_pages
from mask2former.media.images import IMAGE_SUFFIXES, ImageSource, is_image_name, note_passed_over, read_image
from mask2former.media.video import VIDEO_SUFFIXES, VideoFile, camera_stream
from mask2former.notes import Note, collect_notes, note, sentences

__all__ = ["Frame", "FrameSource", "Frames", "open_frames"]

FrameSource = str | os.PathLike[str] | int | Iterable[ImageSource]

_RATE = 30.0  # frames per second where not given


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: its index among those that are read, from 0, and its time in the source."""

    image: UInt8[np.ndarray, "H W C"]
    index: int
    seconds: float


class _Timed(Protocol):
    """Images with their times, once; :class:`~mask2former.media.video.VideoStream` has the same interface."""

    name: str
    rate: float
    num_frames: int | None

    @property
    def notes(self) -> list[str]: ...

    def __iter__(self) -> Iterator[tuple[UInt8[np.ndarray, "H W C"], float]]: ...


class Frames:
    """Frames of one size, iterated once.

    Attributes:
        name: their source, for messages.
        rate: frames per second, the mean where it varies.
        num_frames: approximate number of frames, None where unknown.
    """

    def __init__(self, source: _Timed) -> None:
        self._source = source
        self.name, self.rate, self.num_frames = source.name, source.rate, source.num_frames

    @property
    def reading(self) -> Reading:
        """How images among the frames are read, see :func:`~mask2former.media.images.read_image`; videos have bytes.

        Raises:
            UserError: set to choose bands of a video or camera, which has red, green and blue.
        """
        return self._source.reading if isinstance(self._source, _Images) else {}

    @reading.setter
    def reading(self, reading: Reading) -> None:
        if isinstance(self._source, _Images):
            self._source.reading = reading
        elif reading.get("bands") is not None:
            raise UserError(
                f"{self.name} has red, green and blue channels, but the model expects bands of image files "
                f"({reading.get('bands')}); use a folder of frames with these bands, or a stack"
            )

    @property
    def notes(self) -> list[str]:
        """Problems found while reading, as sentences; complete when the frames have ended."""
        return self._source.notes

    def __iter__(self) -> Iterator[Frame]:
        """The frames.

        Raises:
            UserError: a frame cannot be read or differs in size from the first, or there are none.
        """
        size = None
        for index, (image, seconds) in enumerate(self._source):
            size = size or image.shape
            if image.shape != size:
                file = self._source.last if isinstance(self._source, _Images) else ""
                raise UserError(
                    f"frame {index} of {self.name}{file} is {image.shape[0]}x{image.shape[1]} but the first is "
                    f"{size[0]}x{size[1]} (height x width); all frames of a clip must have the same size"
                )
            yield Frame(image, index, seconds)
        if size is None:
            raise UserError(f"{self.name} has no frames; expected at least one")


class _Images:
    """Images at a fixed rate, or at the times of an animation.

    Args:
        images: one after the other.
        name: of their source, for messages.
        rate: frames per second; None: those of ``shown``, or 30.
        start: seconds to skip.
        end: seconds, exclusive; None: to the end.
        passed_over: notes about files that are left out.
        shown: how long each image is shown, in seconds; empty if unknown.

    Attributes:
        last: the file of the image that was read last, in brackets, for messages; empty if it has none.
    """

    def __init__(
        self,
        images: Iterable[ImageSource],
        name: str,
        rate: float | None,
        start: float,
        end: float | None,
        passed_over: Iterable[Note] = (),
        shown: Sequence[float] = (),
    ) -> None:
        self.name, self.rate = name, rate or (len(shown) / sum(shown) if shown else _RATE)
        self._times = None if rate or not shown else list(itertools.accumulate(shown, initial=0.0))
        self._found = list(passed_over)
        self.reading: Reading = {}
        self.last = ""
        self._images = images
        self._first = self._from(start)
        self._stop = None if end is None else self._from(end)
        total = len(images) if isinstance(images, list | tuple) else None
        self.num_frames = None if total is None else max(0, min(total, self._stop or total) - self._first)

    def __iter__(self) -> Iterator[tuple[UInt8[np.ndarray, "H W C"], float]]:
        is_empty, index = True, None
        for index, source in enumerate(self._images):
            if self._stop is not None and index >= self._stop:
                break
            if index >= self._first:
                with collect_notes() as found:
                    image = read_image(source, **self.reading)
                self._found += found
                is_empty = False
                self.last = f" ('{source}')" if isinstance(source, str | os.PathLike | ImagePage) else ""
                yield image, index / self.rate if self._times is None else self._times[index]
        if is_empty and index is not None:
            raise UserError(
                f"{self.name} yields no frames; there are none in the requested time (at {self.rate:g} per second)"
            )

    def _from(self, seconds: float) -> int:
        """The index of the first image that is not shown before this time."""
        if self._times is None:
            return int(np.ceil(seconds * self.rate - 1e-6))
        return int(np.searchsorted(self._times[:-1], seconds - 1e-6))

    @property
    def notes(self) -> list[str]:
        return sentences(self._found)


def open_frames(
    source: FrameSource, *, start: float = 0.0, end: float | None = None, rate: float | None = None
) -> Frames:
    """The frames of a source.

    Args:
        source: a video file, a folder of images (in the order of the numbers in their names), an image file with
            several pages (a stack, an animation), a camera number, or images of any kind that
            :func:`~mask2former.media.images.read_image` accepts, one after the other.
        start: seconds to skip; videos are searched, not read, up to there.
        end: seconds, exclusive; None: to the end.
        rate: frames per second of sources other than videos and cameras, which have their own; by default the times
            that an animation states, otherwise 30.

    Raises:
        UserError: the file, folder or camera does not exist, it contains no frames, the times are invalid, or a rate is
            given for a video or camera.
        MissingExtraError: a video or a camera without PyAV.
    """
    if not 0 <= start < np.inf or (end is not None and not start < end):
        raise UserError(f"the times must satisfy 0 <= start < end in seconds, got start {start} and end {end}")
    if rate is not None and not 0 < rate <= 1000:
        raise UserError(f"the rate must be above 0 and at most 1000 frames per second, got {rate}")
    if isinstance(source, int):
        if source < 0:
            raise UserError(f"camera numbers start at 0, got {source}")
        _refuse_rate(rate, f"camera {source}")
        return Frames(camera_stream(source))
    if not isinstance(source, str | os.PathLike):
        if not isinstance(source, Iterable) or getattr(source, "ndim", 4) != 4:  # an array: all frames at once
            raise UserError(
                "expected a video, a folder, a camera number or a sequence of frames, got one image "
                f"({type(source).__name__}); pass [image] or predict it"
            )
        return Frames(_Images(source, "the sequence of frames", rate, start, end))
    path = Path(source)
    if path.is_dir():
        with collect_notes() as passed_over:
            note_passed_over(Folder(path), [entry.name for entry in list_folder(path) if entry.is_file()])
            images = _images_of(path)
        return Frames(_Images(images, f"the folder '{path}'", rate, start, end, passed_over))
    if path.suffix.lower() in (*IMAGE_SUFFIXES, ".gif"):
        pages = _pages_of(path)
        return Frames(_Images(pages, f"the pages of '{path}'", rate, start, end, shown=frame_seconds(path, len(pages))))
    check_regular(path, "video or folder", hint=f"expected {', '.join(VIDEO_SUFFIXES)} or a folder")
    _refuse_rate(rate, f"the video '{path}'")
    return Frames(VideoFile(path).stream(start, end))


def _refuse_rate(rate: float | None, name: str) -> None:
    if rate is not None:
        raise OptionError(
            lambda option: (
                f"{option('rate')} applies to folders, stacks, animations and sequences of frames; {name} "
                "has its own times, so leave it out"
            )
        )


def _images_of(folder: Path) -> list[ImageSource]:
    """The images in a folder without hidden files: frame 2 before frame 10."""
    files = [entry for entry in list_folder(folder) if entry.is_file() and not is_passed_over(entry.name)]
    names = [entry.name for entry in files if is_image_name(entry.name)]
    if not names:
        inside = [entry.name for entry in list_folder(folder) if entry.is_dir()]
        hint = f"; it contains folders: give one of them ('{inside[0]}')" if inside else ""
        raise UserError(f"the folder '{folder}' contains no images{hint or '; expected the frames of a clip'}")
    names.sort(key=by_number)
    _note_numbers(folder, names)
    return [folder / name for name in names]


def _note_numbers(folder: Path, names: Sequence[str]) -> None:
    """Note numbers that occur twice, or are missing where most names count on in equal steps."""
    found = [re.fullmatch(r"(.*?)(\d{1,18})", Path(name).stem) for name in names]
    if None in found or len({match[1] for match in found if match is not None}) > 1:
        return
    steps = np.diff([int(match[2]) for match in found if match is not None])
    forward = steps[steps > 0].tolist()
    usual, count = Counter(forward).most_common(1)[0] if forward else (0, 0)
    gaps = np.flatnonzero(steps >= 2 * usual) if 2 * count > len(forward) else []
    for what, indices in (
        ("have gaps, across which they are read one after the other", gaps),
        ("occur more than once; all files are read as frames of their own", np.flatnonzero(steps == 0)),
    ):
        if len(indices):
            shown = ", ".join(f"'{names[index]}' to '{names[index + 1]}'" for index in indices[:3])
            more = f" and {len(indices) - 3} more" if len(indices) > 3 else ""
            note(f"folders of frames whose numbers {what}", f"'{folder}' ({shown}{more})")


def _pages_of(path: Path) -> list[ImageSource]:
    """The pages of a stack, or the frames of an animation."""
    count = num_pages(path)
    if count == 1:
        raise UserError(f"'{path}' is an image; expected a video, a stack or a folder of frames (images: predict)")
    check_limit(f"'{path}' has too many pages:", count, limits.IMAGE_PAGES - 1, "save them as single files in a folder")
    return [*all_pages(path, count)]


def by_number(name: str) -> list[tuple[int, int, str]]:
    """Sort key for names of frames: 2.jpg comes before 10.jpg."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]
