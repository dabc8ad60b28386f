"""Label maps beside images, anybody's: two trees of folders and a file with the names of the classes.

A label map is a PNG (or TIFF, BMP) whose pixels are class numbers; that of ``a/X.jpg`` is ``a/X.png``. Every number is
a class of the names file or is declared as ignored; any other is an error, so nothing is lost unseen.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from jaxtyping import Int32

from mask2former.config import Task
from mask2former.data.annotated import Annotated
from mask2former.data.archives import File, Folder, open_folder
from mask2former.data.datasets.annotation_files import some
from mask2former.data.datasets.reader import Reader, annotated_labels
from mask2former.data.faults import fault
from mask2former.data.images import IMAGE_SUFFIXES, note_passed_over
from mask2former.data.label_maps import LabelCounts, count_labels, read_label_map, remap, runs_of
from mask2former.errors import UserError
from mask2former.structures.categories import Categories
from mask2former.structures.ground_truth import GroundTruth
from mask2former.text import listed, quoted

__all__ = ["LabelFolder"]

_LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
_LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp")
_IGNORED = (255,)

Location = str | os.PathLike[str]


class LabelFolder(Reader):
    """Images with label maps, sorted by path; ``Sample.name`` is the path below the image folder.

    Args:
        sources: pairs of image folder and folder of label maps.
        categories: the classes, see :func:`read_names`.
        class_of: class indices of the numbers on the maps; None: these are the ids of the classes.
        ignore: numbers that are neither learned nor measured; None: 255, unless it is the number of a class.
        label_suffix: what the names of label maps have before their ending, for instance ``_mask`` in ``X_mask.png``.
        unpaired: what to do about images without a label map, and the other way round.
        unseen_classes: what :mod:`~mask2former.data.checks` says about classes without a pixel beside an ignored number
            that covers much: that the number is probably the class, or nothing.
        notes: sentences about the classes, to begin with.

    Attributes:
        notes: sentences about what was left out.

    Raises:
        UserError: no such folders, nothing in them that belongs together, or a number that is a class and ignored.
    """

    tasks: tuple[Task, ...] = ("semantic",)

    def __init__(
        self,
        sources: Sequence[tuple[Location | Folder, Location | Folder]],
        categories: Categories,
        *,
        class_of: Mapping[int, int] | None = None,
        ignore: Sequence[int] | None = None,
        label_suffix: str = "",
        unpaired: Literal["error", "skip"] = "error",
        unseen_classes: Literal["error", "keep"] = "keep",
        notes: Sequence[str] = (),
    ) -> None:
        self.categories = categories
        self.unseen_classes = unseen_classes
        self.notes: list[str] = list(notes)
        numbers = categories.index_of_id() if class_of is None else dict(class_of)
        if ignore is None:
            ignore = [number for number in _IGNORED if number not in numbers]
        if both := sorted(set(ignore) & set(numbers)):
            names = [categories[numbers[number]].name for number in both]
            raise UserError(
                f"the label numbers {quoted(both)} are classes ({listed(names, 5)}) and ignored; "
                "take them out of one of both (dataset.ignore, or the names file, whose lines may say number and name: "
                f"{quoted(f'{both[0] + 1} {names[0]}')})"
            )
        self.class_of: dict[int, int] = {**numbers, **dict.fromkeys(ignore, categories.ignore_label)}
        self._pairs: list[tuple[Folder, str, Folder, str]] = []
        for images, labels in sources:
            self._add(open_folder(images), open_folder(labels, "folder of label maps"), label_suffix, unpaired)

    def _add(self, images: Folder, labels: Folder, label_suffix: str, unpaired: Literal["error", "skip"]) -> None:
        note_passed_over(images)
        maps = _by_stem(labels, _LABEL_SUFFIXES, label_suffix)
        if label_suffix and str(images) != str(labels):
            kept = set(maps.values())
            if others := [name for name in labels.names(_LABEL_SUFFIXES) if name not in kept]:
                self.notes.append(f"'{labels}': skipped files whose names do not end in {label_suffix}: {some(others)}")
        # X.jpg and X.png, or X_mask.png, may lie side by side.
        image_files = _by_stem(images, IMAGE_SUFFIXES, "", set(maps.values()) if str(images) == str(labels) else ())
        common = [stem for stem in image_files if stem in maps]
        if not common:
            lossy = labels.names(_LOSSY_SUFFIXES)
            if lossy and not labels.names(_LABEL_SUFFIXES) and str(images) != str(labels):
                raise UserError(
                    f"the label maps in '{labels}' are {PurePosixPath(lossy[0]).suffix} files (such as {lossy[0]}), "
                    "which changes the numbers of their pixels; export them again as PNG"
                )
            found = [next(iter(names.values()), "nothing") for names in (image_files, maps)]
            raise UserError(
                f"no image of '{images}' (such as {found[0]}) has a label map in '{labels}' (such as {found[1]}); "
                "they must have one name but for the ending, or set label_suffix"
            )
        for index, names, others, what in (
            (images, image_files, maps, "images without a label map"),
            (labels, maps, image_files, "label maps without an image"),
        ):
            if alone := [name for stem, name in names.items() if stem not in others]:
                if unpaired == "error":
                    fault(f"'{index}' has {what}: {some(alone)}; leave them out with unpaired=skip", len(alone))
                else:
                    self.notes.append(f"'{index}': left out {what}: {some(alone)}")
        self._pairs.extend((images, image_files[stem], labels, maps[stem]) for stem in common)

    def __len__(self) -> int:
        return len(self._pairs)

    def file(self, index: int) -> File:
        images, name, _, _ = self._pairs[index]
        return images / name

    def label_file(self, index: int) -> File:
        """Where the label map is."""
        _, _, labels, name = self._pairs[index]
        return labels / name

    def image_id(self, index: int) -> str:
        """The path below the image folder, without the ending."""
        return str(PurePosixPath(self._pairs[index][1]).with_suffix(""))

    def annotated(self, index: int, *, with_ignored: bool = False) -> Annotated:
        classes = self._classes(index)
        image = self.image(index)
        self.check_size(index, classes.shape, image.shape[:2])
        name, image_id = self._pairs[index][1], self.image_id(index)
        return annotated_labels(image, classes, len(self.categories), name, image_id, with_ignored=with_ignored)

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, GroundTruth]:
        classes = self._classes(index)
        self.check_size(index, classes.shape)
        return {task: classes for task in tasks if task in self.tasks}

    def _classes(self, index: int) -> Int32[np.ndarray, "H W"]:
        """Class indices, and the ignore label of the categories.

        Raises:
            UserError: the file is broken, or has numbers that are neither a class nor ignored.
        """
        file = self.label_file(index)
        numbers = read_label_map(file)
        if unknown := sorted(set(np.unique(runs_of(numbers)[0]).tolist()) - self.class_of.keys()):
            raise UserError(
                f"'{file}' has the numbers {some(unknown)}, which are no classes; name them in the names file, or "
                f"ignore them (dataset.ignore){self._hint(numbers, unknown)}"
            )
        return remap(numbers, self.class_of, self.categories.ignore_label)

    def _hint(self, numbers: Int32[np.ndarray, "H W"], unknown: Sequence[int]) -> str:
        """What numbers that are no classes look like."""
        if min(unknown) >= 1000 and all(number // 1000 in self.class_of for number in unknown):
            return "; they look like 1000 times the class plus the number of an object: keep the class alone"
        strange = np.isin(numbers, unknown)
        has_inner = (strange[1:-1] & (numbers[1:-1] == numbers[2:]) & (numbers[1:-1] == numbers[:-2])).any()
        if len(unknown) > 2 and not has_inner:
            return "; they are only on edges, as where a label map was resized or saved with smoothing: make it without"
        return ""

    def counts(self, index: int) -> LabelCounts:
        """What is on the label map.

        Raises:
            UserError: the file is missing or broken.
        """
        return count_labels(self.label_file(index))


def _by_stem(folder: Folder, suffixes: Sequence[str], ending: str, without: Collection[str] = ()) -> dict[str, str]:
    """Files by path without suffix and ``ending``.

    Raises:
        UserError: two files of one stem.
    """
    found: dict[str, str] = {}
    for name in folder.names(suffixes):
        stem = str(PurePosixPath(name).with_suffix(""))
        if name in without or not stem.endswith(ending):
            continue
        stem = stem.removesuffix(ending)
        if stem in found:
            raise UserError(f"'{folder}' has '{found[stem]}' and '{name}'; which of them is meant is not clear")
        found[stem] = name
    return found
