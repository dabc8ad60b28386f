"""Clips in YouTube-VIS format (Yang et al., ICCV 2019), official, OVIS, or anybody's own: one JSON, frames or videos.

The file is read once; masks stay run-length encoded until a frame is asked for. Everything that is wrong with a file
ends in one :class:`RequestError` that names the file. Knows no sampling and no augmentation.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from mask2former.data.annotated import Annotated, cover, place_patches
from mask2former.data.archives import File, Folder, find_file, open_folder
from mask2former.data.clips import AnnotatedClip, whole_clip
from mask2former.data.datasets.annotation_files import (
    categories_in,
    check_unique,
    entry_id,
    read_annotations,
    same_categories,
    some,
)
from mask2former.data.datasets.reader import ImageReader
from mask2former.data.images import check_size
from mask2former.data.video_file import VideoFile
from mask2former.errors import RequestError
from mask2former.ops import masks as mask_ops
from mask2former.structures.categories import Categories
from mask2former.structures.samples import Sample
from mask2former.structures.truths import ClipTruth

__all__ = ["YouTubeVIS", "is_youtube_vis", "read_clip_categories"]

Source = tuple[str | os.PathLike[str] | File, str | os.PathLike[str] | Folder]


@dataclass(slots=True)
class _Track:
    """One object: its encodings one after the other, those of frame t in ``ends[t]`` to ``ends[t + 1]``."""

    label: int
    crowd: bool
    area: float
    counts: bytes
    ends: Int64[np.ndarray, " T1"]

    @property
    def annotated(self) -> Bool[np.ndarray, " T"]:
        return np.diff(self.ends) > 0


@dataclass(slots=True)
class _Video:
    id: int | str
    size_hw: tuple[int, int]
    length: int
    files: Sequence[str]  # of the frames, or one video
    folder: Folder
    tracks: list[_Track] = field(default_factory=list)


def _read(file: File) -> dict[str, Any]:
    content = read_annotations(file, ("videos", "categories"), "YouTube-VIS")
    entries = content.get("annotations")
    if entries is not None and not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
        raise RequestError(f"'{file}': 'annotations' is no list of objects")
    return content


def _found(path: str | os.PathLike[str] | File) -> File:
    """A path as a file, which may lie in an archive; one that is not there is reported when it is read."""
    if isinstance(path, (str, os.PathLike)):
        return find_file(path) or Path(path)
    return path


def is_youtube_vis(path: str | os.PathLike[str]) -> bool:
    """Whether a file seems to be about videos: it names them. It is searched, not parsed, and may be of any size."""
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b'"videos"') >= 0
    except (OSError, ValueError):  # readers say what is wrong with it
        return False


def _categories(content: dict[str, Any], file: File) -> Categories:
    read = categories_in(content, file)
    # Parity: class indices follow the ids, whatever the order of the file.
    return Categories(tuple(sorted(read, key=lambda item: item.id)), read.ignore_label)


def read_clip_categories(path: str | os.PathLike[str] | File) -> Categories:
    """The class list of a file, by rising id; colours are made up where the file has none.

    Raises:
        RequestError: no such file, another format, or categories that are incomplete or given twice.
    """
    file = _found(path)
    return _categories(_read(file), file)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _video(entry: Mapping[str, Any], file: File, folder: Folder) -> _Video:
    where = f"'{file}': video {entry.get('id', entry)!r:.60}"
    files = entry.get("file_names", entry.get("file_name"))
    files = [files] if isinstance(files, str) else files
    video_id = entry_id(entry.get("id"))
    if video_id is None or not isinstance(files, list) or not files or not all(isinstance(one, str) for one in files):
        raise RequestError(f"{where} needs an 'id' and the list 'file_names' (or one 'file_name')")
    if not (_whole(entry.get("height")) and _whole(entry.get("width"))):
        raise RequestError(f"{where} needs whole numbers as 'height' and 'width'")
    length = entry.get("length", len(files))
    in_one_file = len(files) == 1 and VideoFile.suits(files[0])
    if not _whole(length) or (length != len(files) and not in_one_file):
        raise RequestError(f"{where} has {len(files)} files, but says it has {length!r:.20} frames")
    if in_one_file and "length" not in entry:
        raise RequestError(f"{where} is a video file and needs its number of frames as 'length'")
    return _Video(video_id, (entry["height"], entry["width"]), length, files, folder)


def _track(entry: Mapping[str, Any], video: _Video, label: int) -> _Track:
    """The encodings of one annotation.

    Raises:
        RequestError: lists of another length than the video, or something that is no mask.
    """
    segmentations, boxes, areas = (entry.get(key) for key in ("segmentations", "bboxes", "areas"))
    for key, values in (("segmentations", segmentations), ("bboxes", boxes), ("areas", areas)):
        if (values is not None or key == "segmentations") and (
            not isinstance(values, list) or len(values) != video.length
        ):
            raise RequestError(f"'{key}' must be a list with one entry for each of the {video.length} frames")
    assert segmentations is not None
    pieces, known = [], []
    for place, segmentation in enumerate(segmentations):
        # Parity: a frame counts where both the box and the mask are given.
        if not segmentation or (boxes is not None and not boxes[place]):
            pieces.append(b"")
            continue
        if isinstance(segmentation, list):
            polygons = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in segmentation]
            mask = np.zeros(video.size_hw, dtype=bool)
            top, left, patch = mask_ops.polygons_to_patch(polygons, video.size_hw)
            mask[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
            segmentation = mask_ops.encode(mask[None])[0]
        counts, size = mask_ops.compress(segmentation)
        if size != video.size_hw:
            raise RequestError(f"the mask of frame {place} is {size} (height, width), its video {video.size_hw}")
        pixels = mask_ops.encoded_area({"size": size, "counts": counts})  # broken ones are found before training
        pieces.append(counts)
        area = areas[place] if areas is not None else None
        known.append(float(area or pixels))
    present = [area for area in known if area > 0]
    return _Track(
        label,
        bool(entry.get("iscrowd", 0)),
        sum(present) / max(len(present), 1),
        b"".join(pieces),
        np.cumsum([0, *map(len, pieces)]),
    )


class YouTubeVIS(ImageReader, Sequence[Sample]):
    """Videos with their tracks, by rising id as published; a sample is a whole clip at its own size.

    A video is a list of pictures in ``file_names``, or one video file (``file_name``, needs the extra ``video``).

    Args:
        sources: pairs of annotation file and the folder that its file names are relative to; same categories.
        categories: the class table of a published data set; by default the classes of the first file, by rising id.
        keep_empty: False leaves out videos without tracks other than crowds.

    Attributes:
        has_truth: whether the files have annotations; those of official test sets have none.

    Raises:
        RequestError: a file that is missing or broken, or files with different categories.
    """

    def __init__(
        self, sources: Sequence[Source], categories: Categories | None = None, *, keep_empty: bool = True
    ) -> None:
        self._videos: list[_Video] = []
        self.notes: list[str] = []
        truths: list[bool] = []
        table = categories is not None
        for source, frames in sources:
            file, folder = _found(source), open_folder(frames, "folder of frames")
            content = _read(file)
            own = _categories(content, file)
            if categories is None:
                categories = own
            if not table:
                same_categories(categories, own, sources[0][0], file)
            elif unknown := sorted({item.id for item in own} - {item.id for item in categories}):
                raise RequestError(f"'{file}': there are no such categories in this data set: {some(unknown)}")
            check_unique((entry.get("id") for entry in content["videos"]), "video", file)
            videos = {video.id: video for video in (_video(entry, file, folder) for entry in content["videos"])}
            lacking = [name for video in videos.values() for name in video.files if not folder.exists(name)]
            if lacking:
                raise RequestError(f"'{folder}' lacks frames of '{file}': {some(lacking)}; check the folder")
            truths.append(content.get("annotations") is not None)
            _add_tracks(content.get("annotations") or [], videos, categories.index_of_id(), file)
            self._videos += sorted(videos.values(), key=lambda video: (isinstance(video.id, str), video.id))
            del content  # many times the memory of what is kept
        if not keep_empty:
            self._videos = [video for video in self._videos if any(not track.crowd for track in video.tracks)]
        if categories is None or not self._videos:
            raise RequestError(f"no videos in {', '.join(repr(str(file)) for file, _ in sources) or 'no files'}")
        self.categories = categories
        self.has_truth = all(truths)

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> Sample:  # pyright: ignore[reportIncompatibleMethodOverride]  (no slices)
        return whole_clip(self, index)

    def clip_length(self, index: int) -> int:
        return self._videos[index].length

    def clip_size(self, index: int) -> tuple[int, int]:
        return self._videos[index].size_hw

    def clip_id(self, index: int) -> int | str:
        return self._videos[index].id

    @property
    def num_objects(self) -> Int64[np.ndarray, " V"]:
        """Tracks of every video, crowds not counted."""
        return np.array([sum(not track.crowd for track in video.tracks) for video in self._videos], dtype=np.int64)

    def images(self, index: int) -> list[UInt8[np.ndarray, "H W 3"]]:
        """All frames of a video."""
        return self._images(self._videos[index], range(self._videos[index].length))

    def annotated(self, index: int, places: Sequence[int], *, with_ignored: bool = False) -> AnnotatedClip:
        """Some frames of a video with their objects, crowds left out, or ignored."""
        video = self._videos[index]
        tracks = [track for track in video.tracks if not track.crowd]
        labels = np.array([track.label for track in tracks], dtype=np.int64)
        name = os.path.dirname(video.files[0]) or str(video.id)
        frames = []
        for place, image in zip(places, self._images(video, places), strict=True):
            patches = {
                number: _patch(track, place, video) for number, track in enumerate(tracks) if track.annotated[place]
            }
            ids, masks = place_patches(patches, video.size_hw)
            ignored = None
            if with_ignored:
                crowds = (track for track in video.tracks if track.crowd and track.annotated[place])
                ignored = cover((_patch(track, place, video) for track in crowds), video.size_hw)
            frames.append(Annotated(image, labels, {}, ids, masks, name, ignored=ignored))
        annotated = np.zeros((len(tracks), len(frames)), dtype=bool)
        for row, track in zip(annotated, tracks, strict=True):
            row[:] = track.annotated[list(places)]
        return AnnotatedClip(frames, annotated)

    def truth(self, index: int) -> ClipTruth:
        """All tracks of a video; areas are those of the file."""
        video = self._videos[index]
        masks = np.zeros((len(video.tracks), video.length, *video.size_hw), dtype=bool)
        for planes, track in zip(masks, video.tracks, strict=True):
            for place in np.flatnonzero(track.annotated).tolist():
                top, left, mask = _patch(track, place, video)
                planes[place, top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        return ClipTruth(
            masks,
            np.array([track.label for track in video.tracks], dtype=np.int64),
            np.array([track.crowd for track in video.tracks], dtype=bool),
            np.array([track.area for track in video.tracks], dtype=np.float64),
        )

    def _images(self, video: _Video, places: Sequence[int]) -> list[UInt8[np.ndarray, "H W 3"]]:
        in_one_file = VideoFile.suits(video.files[0])
        if in_one_file:
            images = VideoFile(video.folder / video.files[0]).read(places, video.length)
        else:
            images = [self.read(video.folder / video.files[place]) for place in places]
        for place, image in zip(places, images, strict=True):
            if not in_one_file:
                file, says = video.folder / video.files[place], f"the annotation file of video {video.id} says"
                check_size(file, image.shape[:2], video.size_hw, says, exif=self.exif)
            elif image.shape[:2] != video.size_hw:
                raise RequestError(
                    f"frame {place} of video {video.id} ('{video.folder / video.files[0]}') is "
                    f"{image.shape[0]}x{image.shape[1]} (height x width), but its annotation file says "
                    f"{video.size_hw[0]}x{video.size_hw[1]}"
                )
        return images


def _add_tracks(
    entries: Sequence[Mapping[str, Any]], videos: Mapping[Any, _Video], class_of_id: Mapping[int, int], file: File
) -> None:
    for number, entry in enumerate(entries):
        name = entry.get("id", f"number {number + 1}")
        try:
            video, label = videos.get(entry.get("video_id")), class_of_id.get(entry.get("category_id", -1))
        except TypeError as error:
            raise RequestError(f"'{file}': annotation {name} needs a 'video_id' and a 'category_id'") from error
        if video is None:
            raise RequestError(f"'{file}': the video of annotation {name} is not listed in 'videos'")
        if label is None:
            raise RequestError(f"'{file}': the category of annotation {name} is not listed in 'categories'")
        try:
            video.tracks.append(_track(entry, video, label))
        except (RequestError, TypeError, ValueError, OverflowError) as error:
            raise RequestError(f"'{file}': annotation {name} is broken: {error}") from error


def _patch(track: _Track, place: int, video: _Video) -> mask_ops.Patch:
    counts = track.counts[track.ends[place] : track.ends[place + 1]]
    try:
        return mask_ops.decode_patch({"size": list(video.size_hw), "counts": counts})
    except RequestError as error:
        raise RequestError(f"a mask of video {video.id}, frame {place}, is broken: {error}") from error
