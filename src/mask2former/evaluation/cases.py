"""The images or clips to be measured, with their ground truth, read on access."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from mask2former.config import UNNAMED_CLASS, MetricStyle, Task
from mask2former.data.annotated import AnnotatedSet
from mask2former.data.clips import MeasuredClips
from mask2former.errors import UserError
from mask2former.structures.categories import Categories
from mask2former.structures.ground_truth import with_classes
from mask2former.text import listed, printable, quoted

__all__ = ["Case", "Cases", "match_classes"]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One image or clip and its ground truth.

    Attributes:
        image: RGB at its own size, which is also that of the ground truth; for a clip its frames, all of one size.
        ground_truths: by task, in the form that the evaluator of the task expects, with the model's class indices.
            Empty if there are no annotations.
        image_id: id in the data set, for files of results.
    """

    image: UInt8[np.ndarray, "H W C"] | Sequence[UInt8[np.ndarray, "H W C"]]
    ground_truths: Mapping[Task, Any]
    image_id: int | str

    @property
    def is_clip(self) -> bool:
        return not isinstance(self.image, np.ndarray)


class Cases:
    """The images or clips of a data set at their own size, with their ground truth, read on access.

    Args:
        samples: the data set; without annotations its cases have no ground truth.
        tasks: tasks for which ground truth is read; clips are measured by one of them at a time.
        categories: the classes of the model.
        class_map: class indices of the data set to those of the model, see :func:`match_classes`.
        limit: maximum number of cases, from the first.
    """

    def __init__(
        self,
        samples: AnnotatedSet | MeasuredClips,
        tasks: Sequence[Task],
        categories: Categories,
        class_map: Int64[np.ndarray, " K"],
        limit: int | None = None,
    ) -> None:
        self.samples = samples
        self.tasks: tuple[Task, ...] = tuple(tasks) if samples.has_ground_truth else ()
        self.categories = categories
        self.class_map = class_map
        self._count = len(samples) if limit is None else min(limit, len(samples))
        self._image = samples.images if isinstance(samples, MeasuredClips) else samples.image

    @property
    def style(self) -> MetricStyle:
        """Whose rules apply to them."""
        return self.samples.metric_style

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Case]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Case:
        ground_truths: dict[Task, Any] = {}
        if self.tasks:
            found, ignored = self.samples.ground_truths(index, self.tasks), self.categories.ignore_label
            ground_truths = {task: with_classes(found[task], self.class_map, ignored) for task in self.tasks}
        return Case(self._image(index), ground_truths, self.samples.image_id(index))


def match_classes(
    model: Categories, data: Categories, *, things_only: bool = False, notes: list[str] | None = None
) -> Int64[np.ndarray, " K"]:
    """The model's class index of every class of the data, matched by name in any order.

    Args:
        model: classes that the model predicts.
        data: classes that are annotated.
        things_only: whether the data only has objects, so that stuff classes of the model are not missing in it.
        notes: receives a sentence about classes that only the model has, which are not measured; None: an error.

    Raises:
        UserError: a class exists on one side only, or two classes have the same name.
    """
    items = [(index, item.name) for index, item in enumerate(model) if item.is_thing or not things_only]
    for side, names in (("model", [name for _, name in items]), ("data", list(data.names))):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise UserError(
                f"the {side} has several classes with the same name: {listed(twice, 5, show=quoted)}; rename them"
            )
    known = {name: index for index, name in items}
    in_data = frozenset(data.names)
    only_model = [name for name in known if name not in in_data]
    only_data = [name for name in data.names if name not in known]
    if only_data or (only_model and notes is None):
        sides = [f"only the model has {listed(only_model, 5, show=quoted)}"] if only_model else []
        sides += [f"only the data has {listed(only_data, 5, show=quoted)}"] if only_data else []
        advice = "evaluate on data with the classes that the model was trained for"
        if list(data.names) == [UNNAMED_CLASS]:
            name = f"set class_name: {printable(items[0][1], 60)}" if len(items) == 1 else "name it with class_name"
            advice = (
                f"maps without classes call every object '{UNNAMED_CLASS}'; if all objects belong to one class of the "
                f"model, {name} in 'dataset' of the run file"
            )
        elif len(items) == len(data) == 1:
            advice = f"if both are the same, name the class {quoted(items[0][1])} in the annotations"
        raise UserError(
            f"the classes of the model ({len(known)}) and of the data ({len(data)}) differ: {', '.join(sides)}; "
            f"{advice}"
        )
    if only_model and notes is not None:
        notes.append(
            f"classes that the data does not list are not measured ({len(only_model)} of {len(known)}): "
            f"{listed(only_model, 5, show=quoted)}; predictions of them count as wrong in PQ and mIoU"
        )
    return np.array([known[name] for name in data.names], dtype=np.int64)
