"""Your own images with label maps: two folder trees and a file with the names of the classes.

A label map is a PNG (or TIFF, BMP) whose pixels are class numbers; that of ``a/X.jpg`` is ``a/X.png``. Every number is
either a class in the names file or declared as ignored; any other is an error, so nothing is lost silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int32

from mask2former.config import Task
from mask2former.data.annotated import Annotated
from mask2former.data.datasets.annotation_files import Location, some
from mask2former.data.datasets.pairs import Names, pair_files
from mask2former.data.datasets.reader import Reader, annotated_labels
from mask2former.data.label_maps import ColorTable, LabelCounts, count_labels, read_label_map, remap, runs_of
from mask2former.errors import UserError
from mask2former.media.archives import File, Folder, open_folder
from mask2former.structures.categories import Categories
from mask2former.structures.ground_truth import GroundTruth
from mask2former.text import listed, quoted

__all__ = ["LabelFolder", "LabelFolders"]

_IGNORED = (255,)


class LabelFolders(NamedTuple):
    """Where images and label maps are, and a list of the images to use; None: all."""

    images: Location | Folder
    labels: Location | Folder
    split: Location | None = None


class LabelFolder(Reader):
    """Images with label maps, sorted by path; ``Sample.name`` is the path below the image folder.

    Args:
        sources: image folder, folder of label maps and, optionally, a list, see :class:`LabelFolders`.
        categories: the classes, see :func:`read_names`.
        class_of: class indices of the numbers on the maps; None: these are the ids of the classes.
        ignore: numbers that are neither learned nor measured; None: 255, unless it is the number of a class.
        files: how images and label maps are named, and how to treat images without a map and the reverse.
        colors: the numbers of the colours on the maps, where these are drawn in colours.
        unseen_classes: how :mod:`~mask2former.data.checks` reports classes without pixels while an ignored number
            covers much of the images: as probably being that class, or not at all.
        notes: sentences about the classes, to begin with.

    Attributes:
        notes: sentences about what was left out.

    Raises:
        UserError: the folders do not exist or contain no matching files, or a number is both a class and ignored.
    """

    tasks: tuple[Task, ...] = ("semantic",)

    def __init__(
        self,
        sources: Sequence[LabelFolders | tuple[Location | Folder, Location | Folder]],
        categories: Categories,
        *,
        class_of: Mapping[int, int] | None = None,
        ignore: Sequence[int] | None = None,
        files: Names = Names(),  # noqa: B008  (it is frozen)
        colors: ColorTable | None = None,
        unseen_classes: Literal["error", "keep"] = "keep",
        notes: Sequence[str] = (),
    ) -> None:
        self.categories = categories
        self.unseen_classes = unseen_classes
        self.colors = colors
        self.notes: list[str] = list(notes)
        numbers = categories.index_of_id() if class_of is None else dict(class_of)
        if ignore is None:
            ignore = [number for number in _IGNORED if number not in numbers]
        if both := sorted(set(ignore) & set(numbers)):
            names = [categories[numbers[number]].name for number in both]
            raise UserError(
                f"the label numbers {quoted(both)} are classes ({listed(names, 5)}) and also ignored; remove them "
                "from one of the two (dataset.ignore, or the names file, whose lines may be number and name: "
                f"{quoted(f'{both[0] + 1} {names[0]}')})"
            )
        self.class_of: dict[int, int] = {**numbers, **dict.fromkeys(ignore, categories.ignore_label)}
        self._pairs: list[tuple[Folder, str, Folder, str]] = []
        for given in sources:
            source = given if isinstance(given, LabelFolders) else LabelFolders(*given)
            images, labels = open_folder(source.images), open_folder(source.labels, "folder of label maps")
            pairs = pair_files(images, labels, files, source.split, self.notes)
            self._pairs.extend((images, image, labels, label) for image, label in pairs)

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
            UserError: the file is broken, or contains numbers that are neither a class nor ignored.
        """
        file = self.label_file(index)
        numbers = read_label_map(file) if self.colors is None else self.colors.read(file)
        if unknown := sorted(set(np.unique(runs_of(numbers)[0]).tolist()) - self.class_of.keys()):
            raise UserError(
                f"'{file}' contains the numbers {some(unknown)}, which are not classes; name them in the names file, "
                f"or ignore them (dataset.ignore){self._hint(numbers, unknown)}"
            )
        return remap(numbers, self.class_of, self.categories.ignore_label)

    def _hint(self, numbers: Int32[np.ndarray, "H W"], unknown: Sequence[int]) -> str:
        """A hint at what numbers that are not classes look like."""
        if min(unknown) >= 1000 and all(number // 1000 in self.class_of for number in unknown):
            return "; they look like 1000 times the class plus an object number: keep only the class"
        strange = np.isin(numbers, unknown)
        has_inner = (strange[1:-1] & (numbers[1:-1] == numbers[2:]) & (numbers[1:-1] == numbers[:-2])).any()
        if len(unknown) > 2 and not has_inner:
            return (
                "; they occur only on edges, as if the label map had been resized or saved with smoothing: create "
                "it without smoothing"
            )
        return ""

    def counts(self, index: int) -> LabelCounts:
        """What the label map contains.

        Raises:
            UserError: the file is missing or broken.
        """
        return count_labels(self.label_file(index), self.colors)
