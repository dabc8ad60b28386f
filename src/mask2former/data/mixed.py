"""Images of several data sets as one: those of each part as often as its configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from mask2former.config import MetricStyle, Reading, Task
from mask2former.data.annotated import Annotated
from mask2former.data.datasets.reader import Reader
from mask2former.errors import UserError
from mask2former.media.archives import File
from mask2former.structures.ground_truth import GroundTruth, with_classes
from mask2former.text import listed, quoted

__all__ = ["Mixed", "parts_of"]

Samples = TypeVar("Samples")


class Mixed(Reader):
    """Several data sets of images as one, in their order; see :class:`~mask2former.data.annotated.AnnotatedSet`.

    Args:
        parts: data sets for the same tasks. The first one has all classes; those of the others are found by their
            names.
        repeats: how often the images of each part occur; an image that is repeated is read each time.
        names: of the parts, for messages; None: "part 1" and so on.

    Attributes:
        parts: see above.
        names: see above.

    Raises:
        UserError: the parts are for different tasks or are measured by different tools, or one has a class that the
            first part lacks, or of another kind (thing or stuff).
    """

    def __init__(
        self, parts: Sequence[Reader], repeats: Sequence[int] | None = None, names: Sequence[str] | None = None
    ) -> None:
        first = parts[0]
        self.parts = tuple(parts)
        self.names = tuple(names or [f"part {number}" for number in range(1, len(parts) + 1)])
        repeats = repeats or [1] * len(parts)
        self.categories, self.tasks = first.categories, first.tasks
        self.metric_style: MetricStyle = first.metric_style
        self.has_ground_truth = all(part.has_ground_truth for part in parts)
        self.annotation_files = [file for part in parts for file in part.annotation_files]
        self._own_notes: list[str] = []
        lengths = [len(part) * times for part, times in zip(parts, repeats, strict=True)]
        shares = [
            f"{len(part)}{f' x {times}' if times > 1 else ''} of {name}"
            for part, times, name in zip(parts, repeats, self.names, strict=True)
        ]
        self._own_notes.append(f"{sum(lengths)} images: {', '.join(shares)}")
        self._class_maps = [self._class_map(part, name) for part, name in zip(parts, self.names, strict=True)]
        self._part_of = np.repeat(np.arange(len(parts)), lengths).tolist()
        self._index_of = np.concatenate(
            [np.arange(length) % max(1, len(part)) for part, length in zip(parts, lengths, strict=True)]
        ).tolist()

    def _class_map(self, part: Reader, name: str) -> Int64[np.ndarray, " K"] | None:
        """The class of part 1 for each class of another part; None where they are the same."""
        for what, mine, theirs in (
            ("for the tasks", self.tasks, part.tasks),
            ("measured like", (self.metric_style,), (part.metric_style,)),
        ):
            if mine != theirs:
                raise UserError(
                    f"data set mixed: {self.names[0]} is {what} {listed(mine, 3)}, {name} {what} {listed(theirs, 3)}; "
                    "expected parts that agree (some data sets have a setting 'task')"
                )
        kinds = [(item.name, item.is_thing) for item in self.categories]
        wanted = [(item.name, item.is_thing) for item in part.categories]
        if wanted == kinds:
            return None
        if unknown := [name for name, is_thing in wanted if kinds.count((name, is_thing)) != 1]:
            raise UserError(
                f"data set mixed: {name} has the classes {listed(unknown, 3, show=quoted)}, which {self.names[0]} does "
                f"not have exactly once, as things or stuff alike; its classes are {listed(self.categories.names, 5)}. "
                "Put the data set with all classes first, and rename classes (class_name, names) so that they agree"
            )
        if lacking := [name for name, is_thing in kinds if (name, is_thing) not in wanted]:
            self._own_notes.append(
                f"{name} does not have the classes {listed(lacking, 3, show=quoted)}: where its images show "
                "them, they are learned as background or as what its annotations say instead"
            )
        return np.array([kinds.index(kind) for kind in wanted], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._index_of)

    @property
    def notes(self) -> list[str]:  # pyright: ignore[reportIncompatibleVariableOverride]  (those of parts grow)
        """How many images and which classes are of which part, then the notes of the parts."""
        of_parts = [f"{name}: {said}" for name, part in self.named() for said in part.notes]
        return self._own_notes + of_parts

    def named(self) -> list[tuple[str, Reader]]:
        """Each part with its name."""
        return list(zip(self.names, self.parts, strict=True))

    @property
    def reading(self) -> Reading:
        """How the images of all parts are read."""
        return self.parts[0].reading

    @reading.setter
    def reading(self, reading: Reading) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        for part in self.parts:
            part.reading = reading

    @property
    def num_objects(self) -> Int64[np.ndarray, " I"] | None:
        counts = [part.num_objects for part in self.parts]
        known = [count for count in counts if count is not None]
        return self._of_all(known) if len(known) == len(counts) else None

    def wide(self) -> Bool[np.ndarray, " I"]:
        return self._of_all([part.wide() for part in self.parts])

    def _of_all(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """One value for each image, from those of each part."""
        starts = np.cumsum([0, *(len(part) for part in self.parts[:-1])])
        return np.concatenate(values)[starts[self._part_of] + self._index_of]

    def located(self, index: int) -> tuple[Reader, int]:
        """The part that an image is of, and its index there."""
        return self.parts[self._part_of[index]], self._index_of[index]

    def file(self, index: int) -> File:
        part, own = self.located(index)
        return part.file(own)

    def image(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        part, own = self.located(index)
        return part.image(own)

    def image_id(self, index: int) -> int | str:
        part, own = self.located(index)
        return part.image_id(own)

    def annotated(self, index: int, *, with_ignored: bool = False) -> Annotated:
        part, own = self.located(index)
        annotated = part.annotated(own, with_ignored=with_ignored)
        class_map = self._class_maps[self._part_of[index]]
        return annotated if class_map is None else replace(annotated, labels=class_map[annotated.labels])

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, GroundTruth]:
        part, own = self.located(index)
        found = part.ground_truths(own, tasks)
        class_map = self._class_maps[self._part_of[index]]
        if class_map is None:
            return found
        return {task: with_classes(truth, class_map, self.categories.ignore_label) for task, truth in found.items()}


def parts_of(samples: Samples) -> list[tuple[str, Samples | Reader]]:
    """The parts of a mixed data set with their names; any other data set is one without a name."""
    return [*samples.named()] if isinstance(samples, Mixed) else [("", samples)]
