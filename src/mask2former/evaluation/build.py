"""The evaluators of a set of tasks; the only place that knows them by the name of the task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from mask2former.config import Task
from mask2former.evaluation.instance import InstanceEvaluator
from mask2former.evaluation.panoptic import PanopticEvaluator
from mask2former.evaluation.semantic import SemanticEvaluator
from mask2former.structures import Categories, Target

__all__ = ["Evaluator", "evaluators"]


class Evaluator(Protocol):
    """What all evaluators offer. They can be pickled, so processes can exchange and merge them."""

    def truth_of_target(self, target: Target) -> Any:
        """The ground truth of one image in the form that ``update`` expects."""
        ...

    def update(self, prediction: Any, truth: Any) -> None:
        """Add one image."""
        ...

    def merge(self, other: Any) -> None:
        """Add the images of another evaluator of the same kind."""
        ...

    def compute(self) -> dict[str, float]:
        """Named numbers in percent, NaN where undefined."""
        ...

    def per_class(self) -> dict[str, dict[str, float]]:
        """Class name to named numbers in percent."""
        ...


def evaluators(
    tasks: Iterable[Task],
    categories: Categories,
    *,
    max_detections: int = 100,
    area_limits: tuple[float, float] = (32**2, 96**2),
    boundary: bool = False,
    pooled_threshold: float | None = None,
) -> dict[Task, Evaluator]:
    """One fresh evaluator per task; the options are those of :class:`InstanceEvaluator`."""
    kinds: dict[Task, Evaluator] = {}
    for task in tasks:
        if task == "panoptic":
            kinds[task] = PanopticEvaluator(categories)
        elif task == "instance":
            kinds[task] = InstanceEvaluator(
                categories,
                max_detections=max_detections,
                area_limits=area_limits,
                boundary=boundary,
                pooled_threshold=pooled_threshold,
            )
        else:
            kinds[task] = SemanticEvaluator(categories)
    return kinds
