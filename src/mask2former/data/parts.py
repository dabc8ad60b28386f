"""Some images or clips of a data set as a data set: held back for validation, the others, or those with some values."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from mask2former.config import Reading, Task, ValidationSplitConfig
from mask2former.data.annotated import Annotated, AnnotatedSet
from mask2former.data.clips import AnnotatedClip, ClipSet
from mask2former.data.datasets.annotation_files import groups_in
from mask2former.data.datasets.official import Split
from mask2former.data.datasets.reader import ClipReader, Reader
from mask2former.errors import UserError
from mask2former.media.archives import File
from mask2former.structures.ground_truth import GroundTruth
from mask2former.text import listed, quoted

__all__ = ["Part", "PartOfClips", "is_held_back", "part_of", "selected"]


def is_held_back(key: str, split: ValidationSplitConfig) -> bool:
    """Whether the item with this name is for validation: decided by its name and the seed alone."""
    digest = hashlib.sha256(f"{split.seed}\0{key}".encode("utf-8", "surrogatepass")).digest()
    position = int.from_bytes(digest[:6], "big") / 2**48  # uniform in [0, 1), exact
    if split.share is not None:
        return position < split.share
    fold, folds = split.fold_of
    return int(position * folds) + 1 == fold


def part_of(whole: AnnotatedSet | ClipSet, wanted: ValidationSplitConfig, split: Split) -> Part | PartOfClips:
    """The training or the validation part of the training data.

    Raises:
        UserError: the data is drawn, not read; a part would be empty; or a name does not match the pattern of groups.
    """
    if not isinstance(whole, Reader | ClipReader):
        raise UserError(
            "data.validation splits images or clips that are read from files; for drawn scenes set num_validation"
        )
    held = np.array([is_held_back(key, wanted) for key in _keys(whole, wanted.groups)], dtype=bool)
    indices = np.flatnonzero(held if split == "validation" else ~held)
    if not len(indices):
        of = "" if wanted.groups is None else f" in {len(set(_keys(whole, wanted.groups)))} groups"
        raise UserError(
            f"data.validation leaves nothing for {'validation' if split == 'validation' else 'training'}, of "
            f"{len(whole)} {whole.counted}s{of}; set another share or seed"
        )
    return PartOfClips(whole, indices) if isinstance(whole, ClipReader) else Part(whole, indices)  # pyright: ignore


def selected(whole: Reader, wanted: Mapping[str, Sequence[str | int | float]]) -> Reader:
    """The images whose entries in the annotation files have one of the values under each key; all without a key.

    Raises:
        UserError: an image has no such key or, by its id, different values in two files; or no image has one of the
            values, or all of them.
    """
    kept = np.ones(len(whole), dtype=bool)
    for key, values in wanted.items():
        found: dict[int | str, str] = {}
        for file in whole.annotation_files:
            groups = groups_in(file, key)
            if unclear := [number for number, group in groups.items() if found.get(number, group) != group]:
                raise UserError(
                    f"select: {len(unclear)} images (ids {listed(unclear, 3)}) have another value under '{key}' in "
                    f"'{file}' than in a file before; make a part of each annotation file"
                )
            found |= groups
        own = [found[whole.image_id(index)] for index in range(len(whole))]
        known, texts = sorted(set(own)), [str(value) for value in values]
        if unknown := [text for text in texts if text not in known]:
            raise UserError(
                f"select: no image has {listed(unknown, 3, show=quoted)} under '{key}'; its values are "
                f"{listed(known, 10, show=quoted)}"
            )
        kept &= np.isin(own, texts)
    if not kept.any():
        raise UserError(f"select: none of {len(whole)} images has wanted values under all of {listed(wanted, 5)}")
    return whole if kept.all() else Part(whole, np.flatnonzero(kept))


def _keys(whole: Reader | ClipReader, groups: str | None) -> list[str]:
    """The key that decides for each image or clip: the name of its group, or its own name without its folder."""
    ids = [str(whole.image_id(index)) for index in range(len(whole))]  # pyright: ignore[reportAttributeAccessIssue]
    files = (
        [os.path.abspath(str(whole.file(index))) for index in range(len(whole))] if isinstance(whole, Reader) else ids
    )
    if groups is None:
        return [f"{name}\0{os.path.basename(file)}" for name, file in zip(ids, files, strict=True)]
    folder = os.path.commonpath([os.path.dirname(file) for file in files]) if isinstance(whole, Reader) else ""
    names = [os.path.relpath(file, folder) if folder else file for file in files]
    found = [re.search(groups, name) for name in names]
    if lacking := [name for name, match in zip(names, found, strict=True) if match is None]:
        raise UserError(
            f"data.validation.groups {quoted(groups)} does not match the names of {len(lacking)} of {len(names)} "
            f"{whole.counted}s ({listed(lacking, 3, show=quoted)}); expected a pattern that matches the group in "
            "each name"
        )
    return [match[match.re.groups and 1] or "" for match in found if match is not None]


class _Some:
    """Some images or clips of a data set.

    Args:
        whole: the complete data set.
        indices: of its images or clips to include.
    """

    def __init__(self, whole: Any, indices: Int64[np.ndarray, " I"]) -> None:
        self.whole = whole
        self.indices = indices.tolist()
        self.categories, self.tasks, self.notes = whole.categories, whole.tasks, whole.notes
        self.has_ground_truth, self.metric_style = whole.has_ground_truth, whole.metric_style
        self.annotation_files = whole.annotation_files

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def reading(self) -> Reading:
        """How the images of the complete data set are read."""
        return self.whole.reading

    @reading.setter
    def reading(self, reading: Reading) -> None:
        self.whole.reading = reading

    @property
    def num_objects(self) -> Int64[np.ndarray, " I"] | None:
        counts = self.whole.num_objects
        return None if counts is None else counts[self.indices]

    def wide(self) -> Bool[np.ndarray, " I"]:
        return self.whole.wide()[self.indices]

    def image_id(self, index: int) -> int | str:
        return self.whole.image_id(self.indices[index])

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, GroundTruth]:
        return self.whole.ground_truths(self.indices[index], tasks)


class Part(_Some, Reader):  # pyright: ignore[reportIncompatibleVariableOverride]  (it passes ``reading`` on)
    """Some images of a data set; see :class:`~mask2former.data.annotated.AnnotatedSet`."""

    def file(self, index: int) -> File:
        return self.whole.file(self.indices[index])

    def image(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        return self.whole.image(self.indices[index])

    def annotated(self, index: int, *, with_ignored: bool = False) -> Annotated:
        return self.whole.annotated(self.indices[index], with_ignored=with_ignored)


class PartOfClips(_Some, ClipReader):  # pyright: ignore[reportIncompatibleVariableOverride]  (likewise)
    """Some clips of a data set; see :class:`~mask2former.data.clips.ClipSet`."""

    def clip_length(self, index: int) -> int:
        return self.whole.clip_length(self.indices[index])

    def images(self, index: int) -> list[UInt8[np.ndarray, "H W C"]]:
        return self.whole.images(self.indices[index])

    def annotated(self, index: int, indices: Sequence[int], *, with_ignored: bool = False) -> AnnotatedClip:
        return self.whole.annotated(self.indices[index], indices, with_ignored=with_ignored)
