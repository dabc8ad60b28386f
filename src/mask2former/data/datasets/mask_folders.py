"""Clips as two folder trees: an image and an id map per frame (DAVIS, YouTube-VOS, MOSE and similar data sets).

Every value of an id map except 0 is one object, which keeps its value throughout the clip; there is one class for all
objects. Knows no sampling and no augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from mask2former.config import UNNAMED_CLASS, Task
from mask2former.data.annotated import Annotated
from mask2former.data.clips import AnnotatedClip
from mask2former.data.datasets.annotation_files import Location, read_lines, repeated, some
from mask2former.data.datasets.file_names import tell_outside
from mask2former.data.datasets.reader import ClipReader
from mask2former.data.label_maps import Palettes, read_with_palette, remap
from mask2former.data.sequence import spread_indices
from mask2former.errors import UserError
from mask2former.media.archives import Folder, leads_outside
from mask2former.media.folders import is_passed_over, list_folder
from mask2former.media.frames import by_number
from mask2former.media.images import IMAGE_SUFFIXES, check_size
from mask2former.ops.masks import check_dense_size
from mask2former.structures.categories import Categories
from mask2former.structures.ground_truth import ClipGroundTruth
from mask2former.text import quoted

__all__ = ["MaskFolders"]

_SAMPLED_CLIPS = 20  # number of clips of which some id maps are read at the start
_VOID = 255  # what some data sets use where nothing is annotated; far above the object ids
_FAR_BELOW = 128


class MaskFolders(ClipReader):
    """Clips by name; a sample is a complete clip at its original size.

    Frames are matched by name: ``images/CLIP/00000.jpg`` belongs to ``masks/CLIP/00000.png``. Images without an id map
    are left out.

    Id maps of one clip whose palettes differ are refused: one id may mean several objects there.

    Args:
        images: folder with one folder of images per clip, as ``DAVIS/JPEGImages/480p``.
        masks: folder with one folder of id maps (8-bit, 16-bit or palette PNG) per clip, as ``DAVIS/Annotations/480p``.
        clips: a text file with the names of the clips, one per line, as ``DAVIS/ImageSets/2017/train.txt``; by default
            all folders of ``masks``.
        allow_outside: whether these names may lead out of the folders.

    Attributes:
        notes: which images were left out, and whether 255 seems to mark regions that are not annotated.

    Raises:
        UserError: something is missing, or one of the id maps that are read at the start is broken.
    """

    categories = Categories.from_names([UNNAMED_CLASS])
    num_objects = None  # known only after reading all id maps

    def __init__(
        self,
        images: Location,
        masks: Location,
        clips: Location | None = None,
        *,
        allow_outside: bool = False,
    ) -> None:
        self.notes: list[str] = []
        self._frames: list[list[tuple[Path, Path]]] = []  # image and id map
        self._names = _clip_names(Path(masks), clips)
        if again := repeated(self._names):
            self.notes.append(f"clips of '{clips}' are listed more than once, but read once: {some(again)}")
            self._names = list(dict.fromkeys(self._names))
        if not allow_outside and clips is not None:
            outside = {name for name in self._names if leads_outside(name, masks) or leads_outside(name, images)}
            tell_outside(sorted(outside), Folder(Path(masks)), clips)
            self._names = [name for name in self._names if name not in outside]
        if clips is None and (without := sorted(set(_folders(Path(images))) - set(self._names))):
            self.notes.append(f"left out clips of '{images}' without a folder of id maps: {some(without)}")
        for name in self._names:
            maps, image_files = _files(Path(masks) / name, (".png",)), _files(Path(images) / name, IMAGE_SUFFIXES)
            alone = sorted(maps.keys() - image_files.keys())
            if alone:
                raise UserError(
                    f"'{Path(images) / name}' has no image for the id map '{maps[alone[0]].name}'; folders of id maps "
                    "are read as clips, whose frames have the names of their id maps (label maps of images are "
                    "measured through a run file)"
                )
            if not maps:
                raise UserError(f"'{Path(masks) / name}' has no id maps; expected one PNG per frame")
            if extra := len(image_files) - len(maps):
                self.notes.append(f"clip '{name}': left out {extra} of {len(image_files)} images, which have no id map")
            self._frames.append([(image_files[stem], maps[stem]) for stem in sorted(maps, key=by_number)])

        self._check_some()

    def _check_some(self) -> None:
        """Read a few id maps of some clips, to refuse or note at the start what applies to all of them."""
        marked, num_read, highest = [], 0, 0
        for index in spread_indices(len(self), _SAMPLED_CLIPS):
            frames = self._frames[index]
            palettes = Palettes()
            found = [
                _read_ids(frames[position][1], palettes) for position in sorted({0, len(frames) // 2, len(frames) - 1})
            ]
            num_read += len(found)
            below = max(int(ids[ids != _VOID].max(initial=0)) for ids in found)
            if 0 < below < _FAR_BELOW and (count := sum(bool((ids == _VOID).any()) for ids in found)):
                marked += [self._names[index]] * count
                highest = max(highest, below)
        if marked:
            self.notes.append(
                f"{_VOID} occurs on {len(marked)} of {num_read} id maps that were read (clips "
                f"{some(list(dict.fromkeys(marked)))}), whose other ids end at {highest}; it is read as one more "
                "object: where it marks regions that are not annotated, write 0 instead"
            )

    def __len__(self) -> int:
        return len(self._frames)

    def clip_length(self, index: int) -> int:
        return len(self._frames[index])

    def clip_size(self, index: int) -> tuple[int, int]:
        return self.size(self._frames[index][0][0])

    def image_id(self, index: int) -> str:
        return self._names[index]

    def files(self, index: int) -> list[str]:
        """The paths of the frames."""
        return [str(image) for image, _ in self._frames[index]]

    def images(self, index: int) -> list[UInt8[np.ndarray, "H W C"]]:
        """All frames of a clip."""
        return [self.read(image) for image, _ in self._frames[index]]

    def annotated(self, index: int, indices: Sequence[int], *, with_ignored: bool = False) -> AnnotatedClip:
        """Some frames of a clip with the objects in at least one of them, by ascending id; 0 is background."""
        images, maps = self._read(index, indices)
        present = [np.setdiff1d(ids, 0) for ids in maps]
        numbers = np.unique(np.concatenate(present))
        labels = np.zeros(len(numbers), dtype=np.int64)
        table = {number: position for position, number in enumerate(numbers.tolist(), start=1)}
        frames = [
            Annotated(image, labels, {}, remap(ids, table, 0), name=self._names[index])
            for image, ids in zip(images, maps, strict=True)
        ]
        return AnnotatedClip(frames, np.stack([np.isin(numbers, found) for found in present], axis=1))

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, ClipGroundTruth]:
        """All objects of a clip."""
        _, maps = self._read(index, range(self.clip_length(index)))
        stacked = np.stack(maps)
        numbers = np.setdiff1d(stacked, 0)
        check_dense_size(len(numbers), stacked.shape, f"the masks of clip {quoted(self._names[index])}")
        masks = stacked[None] == numbers[:, None, None, None]
        labels, crowds = np.zeros(len(numbers), dtype=np.int64), np.zeros(len(numbers), dtype=bool)
        return {"instance": ClipGroundTruth(masks, labels, crowds)}

    def _read(
        self, index: int, indices: Sequence[int]
    ) -> tuple[list[UInt8[np.ndarray, "H W C"]], list[Int32[np.ndarray, "H W"]]]:
        images, maps, palettes = [], [], Palettes()
        for position in indices:
            image_file, path = self._frames[index][position]
            image, ids = self.read(image_file), _read_ids(path, palettes)
            check_size(image_file, image.shape[:2], ids.shape, "its id map is", exif=self.exif)
            if images and image.shape != images[0].shape:
                raise UserError(
                    f"'{image_file}' is {image.shape[0]}x{image.shape[1]} (height x width), but the first frame of "
                    f"its clip is {images[0].shape[0]}x{images[0].shape[1]}; all frames must have the same size"
                )
            images.append(image)
            maps.append(ids)
        return images, maps


def _read_ids(path: Path, palettes: Palettes) -> Int32[np.ndarray, "H W"]:
    """An id map, whose palette must agree with those of its clip that were read earlier."""
    ids, palette = read_with_palette(path)
    if palette:
        present = np.flatnonzero(np.bincount(ids.ravel())).tolist()
        conflict = palettes.add(f"'{path.name}'", {number: palette[number] for number in present if number in palette})
        if conflict is not None:
            raise UserError(
                f"the palettes of the id maps in '{path.parent}' differ, so that one id may mean several objects: "
                f"{conflict}; save all id maps of a clip with the same palette, or as grey PNG if the ids are right"
            )
    return ids


def _clip_names(masks: Path, clips: Location | None) -> list[str]:
    names = _folder_names(list_folder(masks)) if clips is None else read_lines(Path(clips), "list of clips")
    if not names:
        raise UserError(f"'{clips or masks}' contains no clips; expected one folder per clip")
    return names


def _files(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files of a folder by name without suffix."""
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise UserError(
            f"there is no folder {quoted(str(folder), 300)} for the clip of this name; check the path"
        ) from error
    files = {path.stem: path for path in paths if not path.name.startswith(".")}
    alike = [path.name for path in paths if files.get(path.stem, path) != path]
    if alike:
        raise UserError(
            f"'{folder}' has two files for one frame: '{alike[0]}' and '{files[Path(alike[0]).stem].name}'; keep one"
        )
    return files


def _folders(parent: Path) -> list[str]:
    """Names of the folders in a folder, without those that hold no data; none where it is missing.

    A folder that is missing is reported when clips are read.
    """
    return _folder_names(list_folder(parent)) if parent.is_dir() else []


def _folder_names(entries: Sequence[Path]) -> list[str]:
    return [entry.name for entry in entries if entry.is_dir() and not is_passed_over(entry.name)]
