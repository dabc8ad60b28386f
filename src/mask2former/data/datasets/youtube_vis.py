"""Clips in YouTube-VIS format (Yang et al., ICCV 2019), official, OVIS or your own: one JSON file, frames or videos.

The file is read once; masks stay run-length encoded until a frame is read. Every fault of a file ends in a single
:class:`UserError` that names the file. Knows no sampling and no augmentation.
"""

from __future__ import annotations

import math
import os
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from mask2former import limits
from mask2former.config import Task
from mask2former.data.annotated import Annotated, cover, place_patches
from mask2former.data.clips import AnnotatedClip
from mask2former.data.datasets.annotation_files import (
    Location,
    categories_in,
    check_unique,
    entry_id,
    flag,
    found_file,
    ids_of,
    mentions,
    number,
    polygons_of,
    read_annotations,
    repeated,
    same_categories,
    sides,
    some,
    stuff_remark,
    tell_unlisted,
)
from mask2former.data.datasets.file_names import is_file_name, leads_to_file, tell_outside, where_else
from mask2former.data.datasets.mask_checks import MaskSummary, PolygonFigures, box_of, check_masks
from mask2former.data.datasets.reader import ClipReader
from mask2former.data.faults import fault
from mask2former.errors import UserError
from mask2former.media.archives import File, Folder, open_folder
from mask2former.media.frames import by_number
from mask2former.media.images import check_size
from mask2former.media.video import VideoFile
from mask2former.ops import masks as mask_ops
from mask2former.structures.categories import Categories
from mask2former.structures.ground_truth import ClipGroundTruth
from mask2former.text import quoted, shown

__all__ = ["YouTubeVIS", "is_youtube_vis"]

Source = tuple[Location | File, Location | Folder]


@dataclass(slots=True)
class _Track:
    """One object: its encodings one after the other, those of frame t in ``ends[t]`` to ``ends[t + 1]``."""

    label: int
    crowd: bool
    area: float
    counts: bytes
    ends: Int64[np.ndarray, " T1"]
    seen: bool  # whether any mask has a pixel

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
        raise UserError(f"'{file}': 'annotations' is not a list of objects")
    return content


def is_youtube_vis(path: str | os.PathLike[str]) -> bool:
    """Whether a file seems to describe videos: it lists them. It is searched, not parsed, and may be of any size."""
    return mentions(path, '"videos"')


def _categories(content: dict[str, Any], file: File) -> Categories:
    read = categories_in(content, file)
    # Parity: class indices follow the ids, whatever their order in the file.
    return Categories(tuple(sorted(read, key=lambda item: item.id)), read.ignore_label)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _video(entry: Mapping[str, Any], file: File, folder: Folder) -> _Video:
    where = f"'{file}': video {quoted(entry.get('id', entry), 60)}"
    files = entry.get("file_names", entry.get("file_name"))
    files = [files] if isinstance(files, str) else files
    video_id = entry_id(entry.get("id"))
    if video_id is None or not isinstance(files, list) or not files or not all(map(is_file_name, files)):
        raise UserError(f"{where} needs an 'id' and the list 'file_names' (or one 'file_name')")
    if not (_whole(entry.get("height")) and _whole(entry.get("width"))):
        raise UserError(f"{where} needs whole numbers as 'height' and 'width'")
    if sides(entry) is None:
        raise UserError(
            f"{where} is {quoted(entry['height'], 40)}x{quoted(entry['width'], 40)} pixels (height x width), which "
            "is larger than any frame; correct the values"
        )
    length = entry.get("length", len(files))
    in_one_file = len(files) == 1 and VideoFile.suits(files[0])
    if not _whole(length) or (length != len(files) and not in_one_file):
        raise UserError(f"{where} has {len(files)} files, but declares {quoted(length, 40)} frames")
    if in_one_file and "length" not in entry:
        raise UserError(f"{where} is a video file and needs its number of frames as 'length'")
    limits.check_limit(f"{where} has too many frames:", length, limits.FRAMES, "cut it into clips")
    return _Video(video_id, (entry["height"], entry["width"]), length, files, folder)


class _Masks:
    """What a file says about the masks of all frames, for comparison, and what is left out."""

    def __init__(self) -> None:
        self.names: list[str] = []
        # x1, y1, x2, y2, polygon or not, inner area, pixels, box (4), area, whether that is not a number, height, width
        self.figures = array("d")
        self.left_out: dict[str, list[str]] = defaultdict(list)

    def add(self, name: str, shape: _Shape, box: Any, area: Any, size_hw: tuple[int, int]) -> None:
        known = number(area)
        wrong = area is not None and (known is None or math.isnan(known))
        self.names.append(name)
        figures = (*shape.extent, shape.is_polygon, shape.area, shape.pixels, *box_of(box))
        self.figures.extend((*figures, math.nan if known is None else known, wrong, *size_hw))

    def areas(self, file: File) -> tuple[Float64[np.ndarray, " M"], list[str]]:
        """The areas of all masks, from the file where plausible, and sentences.

        Raises:
            UserError: nearly no mask matches its box, or nearly no polygon can be in pixels of its video.
        """
        table = np.array(self.figures, dtype=np.float64).reshape(-1, 15)
        summary = MaskSummary(
            extents=table[:, :4],
            is_polygon=table[:, 4] > 0,
            pixels=table[:, 5],
            boxes=table[:, 7:11],
            areas=table[:, 11],
            wrong_areas=table[:, 12] > 0,
            sizes_hw=table[:, 13:].astype(np.int64),
        )
        found = check_masks(summary)
        notes = [f"'{file}': {what}: annotations {some(names)}" for what, names in self.left_out.items()]
        return np.where(np.isnan(found.areas), table[:, 6], found.areas), [*notes, *found.notes(self.names, file)]


class _Shape(NamedTuple):
    """The mask of one frame; extent and area of polygons are as written, whatever part of them is in the image."""

    counts: bytes
    is_polygon: bool
    extent: Sequence[float]
    area: float
    pixels: int


def _polygon_shape(polygons: Sequence[Sequence[float]], size_hw: tuple[int, int], masks: _Masks, where: str) -> _Shape:
    """Polygons as an encoding, without those that have no interior; empty bytes if none has one."""
    corners = [np.array(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons if polygon]
    counts = np.array([len(one) for one in corners], dtype=np.int64)
    figures = PolygonFigures.of(np.concatenate([*corners, np.zeros((0, 2))]), counts)
    solid = [one for one, is_flat in zip(corners, figures.flat.tolist(), strict=True) if not is_flat]
    if len(solid) < len(polygons):
        what = "parts of masks that have no area" if solid else "masks without any area"
        masks.left_out[f"left out {what}"].append(where)
    if not solid:
        return _Shape(b"", True, (0, 0, 0, 0), 0, 0)
    extents = figures.extents[~figures.flat]
    extent = (*extents[:, :2].min(axis=0).tolist(), *extents[:, 2:].max(axis=0).tolist())
    patch = mask_ops.polygons_to_patch(solid, size_hw)
    encoded, _ = mask_ops.compress(mask_ops.encode_patch(patch, size_hw))
    return _Shape(encoded, True, extent, float(figures.areas[~figures.flat].sum()), int(np.count_nonzero(patch.mask)))


def _track(entry: Mapping[str, Any], video: _Video, label: int, masks: _Masks, name: str) -> _Track:
    """The encodings of one annotation; its area is the area of the masks that are added to ``masks``, and is set later.

    Raises:
        UserError: lists that differ in length from the video, or something that is not a mask.
    """
    segmentations, boxes, areas = (entry.get(key) for key in ("segmentations", "bboxes", "areas"))
    for key, values in (("segmentations", segmentations), ("bboxes", boxes), ("areas", areas)):
        if (values is not None or key == "segmentations") and (
            not isinstance(values, list) or len(values) != video.length
        ):
            raise UserError(f"'{key}' must be a list with one entry for each of the {video.length} frames")
    assert segmentations is not None
    crowd = flag(entry.get("iscrowd"))
    if crowd is None:
        raise UserError(
            f"'iscrowd' is {quoted(entry['iscrowd'], 40)}; expected 0 (an object) or 1 (a region of many objects)"
        )
    pieces, seen = [], False
    for index, segmentation in enumerate(segmentations):
        where = f"{name} in frame {index}"
        box = boxes[index] if boxes is not None else None
        # Parity: a frame counts only if both the box and the mask are given.
        if not segmentation or (boxes is not None and not box):
            if segmentation or box:
                masks.left_out[f"left out {'masks without a box' if segmentation else 'boxes without a mask'}"].append(
                    where
                )
            pieces.append(b"")
            continue
        if isinstance(segmentation, list):
            polygons, in_pairs = polygons_of(segmentation)
            if in_pairs:
                masks.left_out["read polygons that are lists of pairs [x, y] instead of x, y, x, y, ..."].append(where)
            shape = _polygon_shape(polygons, video.size_hw, masks, where)
        elif isinstance(segmentation, dict):
            counts, size = mask_ops.compress(segmentation)
            if size != video.size_hw:
                raise UserError(
                    f"the mask of frame {index} is {size} (height, width), but its video is {video.size_hw}"
                )
            # Broken masks are found before training.
            pixels, extent = mask_ops.encoded_extent({"size": size, "counts": counts})
            shape = _Shape(counts, False, extent, pixels, pixels)
        else:
            raise UserError(
                f"expected a run-length encoding or polygons in frame {index}, got {quoted(segmentation, 40)}"
            )
        pieces.append(shape.counts)
        seen |= shape.pixels > 0
        if not shape.counts:
            continue
        if not shape.pixels:
            masks.left_out["masks without pixels, where the object counts as not visible"].append(where)
        masks.add(where, shape, box, areas[index] if areas is not None else None, video.size_hw)
    if not any(pieces):
        masks.left_out["tracks without any mask"].append(name)
    return _Track(label, crowd, 0.0, b"".join(pieces), np.cumsum([0, *map(len, pieces)]), seen)


class YouTubeVIS(ClipReader):
    """Videos with their tracks, by ascending id as published; a sample is a complete clip at its original size.

    A video is a list of images in ``file_names``, or one video file (``file_name``, needs the extra ``video``).

    Args:
        sources: pairs of annotation file and the folder that its file names are relative to; all with the same
            categories.
        categories: the class table of a published data set; by default the classes of the first file, by ascending id.
        filter_empty: leaves out videos without tracks, other than crowds, that are visible in some frame.
        allow_outside: whether file names may lead out of their folders.

    Attributes:
        has_ground_truth: whether the files have annotations; those of official test sets have none.
        notes: sentences about what was left out or is contradictory.

    Raises:
        UserError: a file that is missing or broken, or files with different categories.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        categories: Categories | None = None,
        *,
        filter_empty: bool = False,
        allow_outside: bool = False,
    ) -> None:
        self._videos: list[_Video] = []
        self.notes: list[str] = []
        ground_truths: list[bool] = []
        table = categories is not None
        for source, frames in sources:
            file = found_file(source)
            folder = open_folder(frames, "folder of frames", allow_outside=allow_outside)
            content = _read(file)
            own = _categories(content, file)
            if categories is None:
                categories = own
            if not table:
                same_categories(categories, own, sources[0][0], file)
            elif unknown := sorted({item.id for item in own} - {item.id for item in categories}):
                raise UserError(f"'{file}': these categories do not exist in this data set: {some(unknown)}")
            by_id = _videos(content["videos"], file, folder)
            videos = [video for video in by_id.values() if video is not None]
            ground_truths.append(content.get("annotations") is not None)
            if not ground_truths[-1]:
                self.notes.append(
                    f"'{file}' has no 'annotations': its clips can be used neither for training nor for evaluation"
                )
            if not table and (stuff := [item.name for item in own if not item.is_thing]):
                self.notes.append(stuff_remark(stuff, file))
            self.notes += _add_tracks(content.get("annotations") or [], by_id, categories.index_of_id(), file)
            self.notes += _video_notes(videos, file)
            self._videos += sorted(videos, key=lambda video: (isinstance(video.id, str), video.id))
            del content  # many times the size of the data that is kept
        if filter_empty:
            self._videos = [video for video, count in zip(self._videos, self.num_objects, strict=True) if count]
        if categories is None or not self._videos:
            files = ", ".join(repr(str(file)) for file, _ in sources) or "no files"
            without = [*self.notes, "data.filter_empty=false keeps videos without objects"] if filter_empty else []
            raise UserError("; ".join([f"no videos{'' if not filter_empty else ' with objects'} in {files}", *without]))
        self.categories = categories
        self.annotation_files = [found_file(path) for path, _ in sources]
        self.has_ground_truth = all(ground_truths)

    def __len__(self) -> int:
        return len(self._videos)

    def clip_length(self, index: int) -> int:
        return self._videos[index].length

    def clip_size(self, index: int) -> tuple[int, int]:
        return self._videos[index].size_hw

    def image_id(self, index: int) -> int | str:
        return self._videos[index].id

    def files(self, index: int) -> list[str]:
        """The paths of the frames, or of the one video."""
        video = self._videos[index]
        return [str(video.folder / name) for name in video.files]

    @property
    def num_objects(self) -> Int64[np.ndarray, " V"]:
        """Tracks of every video that are visible in some frame, not counting crowds."""
        return np.array(
            [sum(track.seen and not track.crowd for track in video.tracks) for video in self._videos], dtype=np.int64
        )

    def images(self, index: int) -> list[UInt8[np.ndarray, "H W C"]]:
        """All frames of a video."""
        return self._images(self._videos[index], range(self._videos[index].length))

    def annotated(self, index: int, indices: Sequence[int], *, with_ignored: bool = False) -> AnnotatedClip:
        """Some frames of a video with their objects; crowds are left out, or ignored."""
        video = self._videos[index]
        tracks = [track for track in video.tracks if not track.crowd]
        labels = np.array([track.label for track in tracks], dtype=np.int64)
        name = os.path.dirname(video.files[0]) or str(video.id)
        frames = []
        for position, image in zip(indices, self._images(video, indices), strict=True):
            patches = {
                number: _patch(track, position, video)
                for number, track in enumerate(tracks)
                if track.annotated[position]
            }
            ids, masks = place_patches(patches, video.size_hw)
            ignored = None
            if with_ignored:
                crowds = (track for track in video.tracks if track.crowd and track.annotated[position])
                ignored = cover((_patch(track, position, video) for track in crowds), video.size_hw)
            frames.append(Annotated(image, labels, {}, ids, masks, name, ignored=ignored))
        annotated = np.array([track.annotated[list(indices)] for track in tracks], dtype=bool)
        return AnnotatedClip(frames, annotated.reshape(len(tracks), len(frames)))

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, ClipGroundTruth]:
        """All tracks of a video; areas are those of the file."""
        video = self._videos[index]
        shape = video.length, *video.size_hw
        mask_ops.check_dense_size(len(video.tracks), shape, f"the masks of video {quoted(video.id)}")
        masks = np.zeros((len(video.tracks), *shape), dtype=bool)
        for planes, track in zip(masks, video.tracks, strict=True):
            for position in np.flatnonzero(track.annotated).tolist():
                top, left, mask = _patch(track, position, video)
                planes[position, top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        tracks = ClipGroundTruth(
            masks,
            np.array([track.label for track in video.tracks], dtype=np.int64),
            np.array([track.crowd for track in video.tracks], dtype=bool),
            np.array([track.area for track in video.tracks], dtype=np.float64),
        )
        return {"instance": tracks}

    def _images(self, video: _Video, indices: Sequence[int]) -> list[UInt8[np.ndarray, "H W C"]]:
        in_one_file = VideoFile.suits(video.files[0])
        if in_one_file:
            if self.reading.get("bands") is not None:
                raise UserError(
                    f"'{video.files[0]}' is a video, which has red, green and blue channels, but the model expects "
                    "image bands"
                )
            images = VideoFile(video.folder / video.files[0]).read(indices, video.length)
        else:
            images = [self.read(video.folder / video.files[index]) for index in indices]
        for index, image in zip(indices, images, strict=True):
            if not in_one_file:
                file, says = video.folder / video.files[index], f"the annotation file of video {video.id} says"
                check_size(file, image.shape[:2], video.size_hw, says, exif=self.exif)
            elif image.shape[:2] != video.size_hw:
                raise UserError(
                    f"frame {index} of video {video.id} ('{video.folder / video.files[0]}') is "
                    f"{image.shape[0]}x{image.shape[1]} (height x width), but its annotation file says "
                    f"{video.size_hw[0]}x{video.size_hw[1]}"
                )
        return images


def _videos(entries: Sequence[Mapping[str, Any]], file: File, folder: Folder) -> dict[int | str, _Video | None]:
    """The videos of a file by id; None for those whose frames do not exist."""
    check_unique((entry.get("id") for entry in entries), "video", file)
    videos: dict[int | str, _Video | None] = {}
    lacking: list[str] = []
    outside: list[str] = []
    for entry in entries:
        try:
            video = _video(entry, file, folder)
        except UserError as error:
            fault(str(error))
            if (video_id := entry_id(entry.get("id"))) is not None:
                videos[video_id] = None
            continue
        missing = [name for name in video.files if not folder.exists(name)]
        for name in missing:
            (outside if leads_to_file(name, folder) else lacking).append(name)
        videos[video.id] = None if missing else video
    tell_outside(outside, folder, file)
    if lacking:
        todo = where_else(lacking, folder)
        fault(f"'{folder}' lacks frames of '{file}': {some(lacking)}; {todo}", len(lacking))
    return videos


def _video_notes(videos: Sequence[_Video], file: File) -> list[str]:
    """Properties of the frame lists that are rarely intended."""
    notes = []
    if again := repeated(name for video in videos for name in video.files):
        notes.append(f"'{file}': frames are listed more than once: {some(again)}")
    if unordered := [video.id for video in videos if list(video.files) != sorted(video.files, key=by_number)]:
        notes.append(
            f"'{file}': the frames of videos {some(unordered)} are not listed in the order of their numbers; they "
            "are read in the listed order"
        )
    return notes


def _add_tracks(
    entries: Sequence[Mapping[str, Any]],
    videos: Mapping[Any, _Video | None],
    class_of_id: Mapping[int, int],
    file: File,
) -> list[str]:
    """Add the annotations of a file to its videos; returns remarks about them."""
    check_unique((entry["id"] for entry in entries if "id" in entry), "annotation", file)
    masks, tracks = _Masks(), []
    of: dict[str, list[str]] = defaultdict(list)  # annotations by fault
    broken = ""  # the fault of the first of these
    for index, entry in enumerate(entries):
        name = shown(entry.get("id", f"number {index + 1}"))
        if (ids := ids_of(entry, "video_id", name, file)) is None:
            continue
        video_id, label = ids[0], class_of_id.get(ids[1])
        if video_id not in videos:
            of["unknown videos"].append(name)
        elif label is None:
            of["unknown classes"].append(name)
        elif (video := videos[video_id]) is not None:  # None: a fault that has already been reported
            try:
                track = _track(entry, video, label, masks, name)
            except (UserError, TypeError, ValueError, OverflowError) as error:
                broken = broken or str(error)
                of["broken"].append(name)
                continue
            video.tracks.append(track)
            tracks.append(track)
    _refuse(of, broken, file)
    areas, notes = masks.areas(file)
    ends = np.cumsum([track.annotated.sum() for track in tracks], dtype=np.int64)
    for track, known in zip(tracks, np.split(areas, ends[:-1]) if tracks else [], strict=True):
        present = known[known > 0]
        track.area = sum(present.tolist()) / max(len(present), 1)
    if tracks and all(track.crowd for track in tracks):
        notes.append(
            f"'{file}': all {len(tracks)} annotations are marked as crowd regions, so there is no object to learn; if "
            "they are single objects, set their 'iscrowd' to 0"
        )
    return notes


def _refuse(of: Mapping[str, list[str]], broken: str, file: File) -> None:
    """Report the faults of the annotations of a file, if there are any; these annotations have been left out."""
    tell_unlisted(of.get("unknown videos", ()), "videos", file)
    tell_unlisted(of.get("unknown classes", ()), "categories", file)
    if names := of.get("broken"):
        also = f"; {len(names) - 1} more annotations are broken: {some(names[1:])}" if len(names) > 1 else ""
        fault(f"'{file}': annotation {shown(names[0])} is broken: {broken}{also}", len(names))


def _patch(track: _Track, index: int, video: _Video) -> mask_ops.Patch:
    counts = track.counts[track.ends[index] : track.ends[index + 1]]
    return mask_ops.decode_patch({"size": list(video.size_hw), "counts": counts})
