"""The result of an evaluation: the evaluators of some tasks, and their metrics."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mask2former.config import EvaluationConfig, MetricStyle, Task
from mask2former.metrics.average_precision import InstanceEvaluator, OperatingPoints
from mask2former.metrics.build import Evaluator, evaluators
from mask2former.results_io import ResultWriter
from mask2former.structures.categories import Categories
from mask2former.structures.clips import VideoInstances
from mask2former.structures.results import PanopticSegmentation, Segmentation

__all__ = ["Evaluation", "EvaluationReport", "Predictions"]

Predictions = Mapping[Task, Segmentation | VideoInstances | Sequence[PanopticSegmentation]]


@dataclass(frozen=True)
class EvaluationReport:
    """The result of an evaluation.

    Attributes:
        metrics: percent, keyed ``task/name``; NaN where undefined.
        per_class: task, class name and metric to percent.
        num_images: number of images or clips that were measured.
        seconds: total time of reading, model, post-processing and metrics.
        evaluators: by task, for results beyond single numbers: curves, confusions.
        groups: name to metrics and number of images, for the requested groups.
        unit: whether images or clips were measured.
        num_available: number of images or clips in the data.
        request: model, data, tasks and options, as written to files of metrics.
        notes: what a user should know, one sentence each.
        results: the writer of the results, if they were written.
    """

    metrics: dict[str, float]
    per_class: dict[Task, dict[str, dict[str, float]]]
    num_images: int
    seconds: float
    evaluators: Mapping[Task, Evaluator] = field(default_factory=dict)
    groups: Mapping[str, tuple[dict[str, float], int]] = field(default_factory=dict)
    unit: Literal["image", "clip"] = "image"
    num_available: int = 0
    request: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    results: ResultWriter | None = None

    def operating_points(self) -> OperatingPoints | None:
        """Quality of the instances above each score; None if none were measured or there were no true ones."""
        return _operating_points(self.evaluators)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, with None for undefined values."""
        groups = {name: {"metrics": _defined(values), "num_images": n} for name, (values, n) in self.groups.items()}
        return {
            **({"groups": groups} if groups else {}),
            **({"score_thresholds": _points(points)} if (points := self.operating_points()) else {}),
            "metrics": _defined(self.metrics),
            "per_class": {
                task: {name: _defined(values) for name, values in rows.items()} for task, rows in self.per_class.items()
            },
            "num_images": self.num_images,
            "seconds": round(self.seconds, 3),
        }


def _operating_points(evaluators: Mapping[Task, Evaluator]) -> OperatingPoints | None:
    evaluator = evaluators.get("instance")
    return evaluator.operating_points() if isinstance(evaluator, InstanceEvaluator) else None


def _points(points: OperatingPoints) -> list[dict[str, float | None]]:
    """One entry per threshold, in percent except for the score."""
    return [
        {"score": round(float(score), 2), **_defined({name: 100 * float(value) for name, value in values.items()})}
        for score, *rest in zip(*points, strict=True)
        for values in [dict(zip(("precision", "recall", "F1"), rest, strict=True))]
    ]


def _defined(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if value != value else value for name, value in values.items()}


class Evaluation:
    """The evaluators of some tasks.

    Args:
        tasks: tasks to measure.
        categories: the classes of the model.
        metrics: the options of the metrics; its tasks are ignored.
        style: whose rules apply; ground truth must have the form that these expect.
        others: additional evaluators, each with its task.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        categories: Categories,
        metrics: EvaluationConfig | None = None,
        style: MetricStyle = "coco",
        others: Sequence[tuple[Task, Evaluator]] = (),
    ) -> None:
        self.others: list[tuple[Task, Evaluator]] = [(task, copy.deepcopy(evaluator)) for task, evaluator in others]
        self.evaluators = evaluators(tasks, categories, metrics, style)

    def add(self, predictions: Predictions, ground_truths: Mapping[Task, Any]) -> None:
        """Add the results and the ground truth of one image or clip, with an entry for every task."""
        for task, evaluator in self._all():
            evaluator.update(predictions[task], ground_truths[task])

    def merge(self, other: Evaluation) -> None:
        """Add the counts of another process."""
        for (_, evaluator), (_, seen) in zip(self._all(), other._all(), strict=True):
            evaluator.merge(seen)

    def compute(self) -> dict[str, float]:
        """All metrics in percent, keyed ``task/name``."""
        return {name: value for _, evaluator in self._all() for name, value in evaluator.compute().items()}

    def best_threshold(self) -> float | None:
        """The score at which instances have the highest F1, rounded to 0.01; None if nothing was found."""
        points = _operating_points(self.evaluators)
        return None if points is None or not points.f1.max() > 0 else round(float(points.scores[points.best]), 2)

    def class_thresholds(self, least: int = 10) -> dict[str, float]:
        """The same for each class with at least ``least`` true objects; with fewer, the result would be random."""
        evaluator = self.evaluators.get("instance")
        if not isinstance(evaluator, InstanceEvaluator):
            return {}
        found = {
            item.name: evaluator.operating_points(label)
            for label, item in enumerate(evaluator.categories)
            if evaluator.num_true(label) >= least
        }
        return {name: round(float(at.scores[at.best]), 2) for name, at in found.items() if at and at.f1.max() > 0}

    def per_class(self) -> dict[Task, dict[str, dict[str, float]]]:
        """Task, class name and metric to percent."""
        rows: dict[Task, dict[str, dict[str, float]]] = {task: {} for task, _ in self._all()}
        for task, evaluator in self._all():
            for name, values in evaluator.per_class().items():
                rows[task].setdefault(name, {}).update(values)
        return rows

    def _all(self) -> Iterator[tuple[Task, Evaluator]]:
        yield from self.evaluators.items()
        yield from self.others
