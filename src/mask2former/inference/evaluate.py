"""The evaluation loop: results of pictures and their truths through the evaluators of one or more tasks.

One picture at a time and no masks kept, so that the state of a whole data set stays small. Draws no progress and
prints nothing.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from mask2former.config import EvaluationConfig, InferenceConfig, MetricStyle, Task
from mask2former.data.annotated import AnnotatedSet
from mask2former.errors import RequestError
from mask2former.evaluation.build import Evaluator, evaluators
from mask2former.evaluation.instance import InstanceEvaluator, OperatingPoints
from mask2former.inference.answers import ALL_CANDIDATES, clip_result_of, predicted, result_of
from mask2former.inference.predictor import Predictor
from mask2former.inference.result_files import ResultWriter
from mask2former.models.mask2former import Mask2Former
from mask2former.structures.categories import Categories
from mask2former.structures.clips import VideoInstances
from mask2former.structures.outputs import MaskOutput
from mask2former.structures.results import Segmentation
from mask2former.structures.samples import Sample
from mask2former.structures.truths import Truth, with_classes

__all__ = [
    "Case",
    "Evaluation",
    "EvaluationReport",
    "evaluate",
    "evaluate_predictor",
    "match_classes",
    "sample_cases",
]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One picture and what is true about it.

    Attributes:
        image: RGB at its own size, which is also that of the truths.
        truths: by task, in the form that the evaluator of the task expects; class indices are those of the model.
        image_id: of the data set, for files of results.
    """

    image: UInt8[np.ndarray, "H W 3"]
    truths: Mapping[Task, Any]
    image_id: int | str


@dataclass(frozen=True)
class EvaluationReport:
    """What an evaluation found.

    Attributes:
        metrics: percent, keyed ``task/name``; NaN where undefined.
        per_class: task, class name and metric to percent.
        num_images: how many pictures were measured.
        seconds: of reading, model, post-processing and metrics together.
        evaluators: by task, for what is more than numbers: curves, confusions.
        groups: name to metrics and number of pictures, of the groups that were asked for.
    """

    metrics: dict[str, float]
    per_class: dict[Task, dict[str, dict[str, float]]]
    num_images: int
    seconds: float
    evaluators: Mapping[Task, Evaluator] = field(default_factory=dict)
    groups: Mapping[str, tuple[dict[str, float], int]] = field(default_factory=dict)

    def operating_points(self) -> OperatingPoints | None:
        """What instances above a score are worth; None where none were measured or there were no true ones."""
        evaluator = self.evaluators.get("instance")
        return evaluator.operating_points() if isinstance(evaluator, InstanceEvaluator) else None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; what is undefined is None."""
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


def _points(points: OperatingPoints) -> list[dict[str, float | None]]:
    """One entry per threshold, percent but for the score."""
    return [
        {"score": round(float(score), 2), **_defined({name: 100 * float(value) for name, value in values.items()})}
        for score, *rest in zip(*points, strict=True)
        for values in [dict(zip(("precision", "recall", "F1"), rest, strict=True))]
    ]


def _defined(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if value != value else value for name, value in values.items()}


class Evaluation:
    """Scores results of one model task by task.

    Args:
        tasks: what is measured.
        categories: the classes of the model.
        settings: how outputs become results in :meth:`update`.
        metrics: the options of the metrics; its tasks are not looked at.
        style: whose rules count; truths must have the form that these expect.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        categories: Categories,
        settings: InferenceConfig,
        metrics: EvaluationConfig | None = None,
        style: MetricStyle = "coco",
    ) -> None:
        options = metrics or EvaluationConfig()
        self.categories = categories
        self.settings = settings.model_copy(update=ALL_CANDIDATES)
        self.style: MetricStyle = style
        self.evaluators = evaluators(
            tasks,
            categories,
            max_detections=options.max_detections,
            area_limits=options.area_limits,
            boundary=options.boundary,
            pooled_threshold=options.pooled_threshold,
            semantic_segments=options.semantic_segments,
            style=style,
        )

    def update(
        self,
        output: MaskOutput,
        sample: Sample,
        image_size_hw: tuple[int, int] | None = None,
        truths: Mapping[Task, Truth] | None = None,
    ) -> None:
        """``output`` of the sample's picture or clip, at its own size or resized to ``image_size_hw``.

        Without ``truths`` they are made of the sample's target, which knows no crowd regions.
        """
        assert not self.settings.tile, "windows are put together by the caller, who has answer()"
        size = (sample.image.shape[2], sample.image.shape[3])
        sizes = (image_size_hw or size, size)
        answers: dict[Task, Segmentation | VideoInstances] = {}
        for task in self.evaluators:
            if self.style == "youtube-vis":
                answers[task] = clip_result_of(output, 0, *sizes, self.categories, self.settings)
            else:
                answers[task] = result_of(task, output, 0, *sizes, self.categories, self.settings)
        self.answer(answers, sample, truths)

    def answer(
        self,
        answers: Mapping[Task, Segmentation | VideoInstances],
        sample: Sample,
        truths: Mapping[Task, Truth] | None = None,
    ) -> None:
        """Results of the sample's picture or clip; without ``truths`` as in :meth:`update`."""
        assert sample.target is not None
        for task, evaluator in self.evaluators.items():
            truth = evaluator.truth_of_target(sample.target) if truths is None else truths[task]
            evaluator.update(answers[task], truth)

    def add(self, answers: Mapping[Task, Segmentation | VideoInstances], truths: Mapping[Task, Any]) -> None:
        """Results of one picture or clip and its truths, for every task at least."""
        for task, evaluator in self.evaluators.items():
            evaluator.update(answers[task], truths[task])

    def merge(self, other: Evaluation) -> None:
        """Add what another process has seen."""
        for task, evaluator in self.evaluators.items():
            evaluator.merge(other.evaluators[task])

    def compute(self) -> dict[str, float]:
        """All metrics in percent, keyed ``task/name``."""
        return {name: value for evaluator in self.evaluators.values() for name, value in evaluator.compute().items()}

    def per_class(self) -> dict[Task, dict[str, dict[str, float]]]:
        """Task, class name and metric to percent."""
        return {task: evaluator.per_class() for task, evaluator in self.evaluators.items()}


def evaluate(
    model: Mask2Former,
    samples: Iterable[Sample],
    tasks: Sequence[Task],
    progress: Callable[[int], None] | None = None,
    metrics: EvaluationConfig | None = None,
) -> dict[str, float]:
    """Metrics in percent of a model on samples at their own size; ``progress`` is told how many are done.

    Raises:
        RequestError: the model looks through windows; :func:`evaluate_predictor` measures those.
    """
    assert model.categories is not None
    assert model.config is not None
    if model.config.inference.tile:
        raise RequestError("this model looks through windows (inference.tile); measure it with evaluate_predictor")
    evaluation = Evaluation(tasks, model.categories, model.config.inference, metrics)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for done, sample in enumerate(samples, start=1):
            output = model([sample.image.to(model.device)], auxiliary=False)
            evaluation.update(output, sample)
            if progress is not None:
                progress(done)
    model.train(was_training)
    return evaluation.compute()


def evaluate_predictor(
    predictor: Predictor,
    cases: Iterable[Case],
    tasks: Sequence[Task],
    metrics: EvaluationConfig | None = None,
    *,
    style: MetricStyle = "coco",
    results: ResultWriter | None = None,
    observe: Callable[[Case, Mapping[Task, Segmentation]], None] | None = None,
    group_of: Mapping[int | str, str] | None = None,
    progress: Callable[[int], None] = lambda done: None,
    **overrides: Any,
) -> EvaluationReport:
    """Measure a predictor the way it is used: pictures resized for the model, results at their own size.

    Args:
        predictor: what is measured, on its device and with its settings.
        cases: pictures with truths; only one is in memory at a time.
        tasks: all answered from one pass.
        metrics: the options of the metrics.
        style: whose rules count; truths must have the form that these expect.
        results: also gets the results of its task, which must be among ``tasks``.
        observe: shown every image with what a user gets of its results, for instance :meth:`Highlights.add`.
        group_of: a name for every image id; pictures of one name are also measured by themselves.
        progress: told how many pictures are done.
        overrides: settings of the predictor, for instance ``short_edge=0``.

    Raises:
        RequestError: a task that the model does not answer, a wrong setting, or a truth that does not fit.
    """
    chosen = predictor.choose_tasks(tasks)

    def empty() -> Evaluation:
        return Evaluation(chosen, predictor.categories, predictor.settings, metrics, style)

    evaluation, groups, sizes = empty(), defaultdict[str, Evaluation](empty), Counter[str]()
    start, done = time.perf_counter(), 0
    for done, case in enumerate(cases, start=1):
        answers = predictor(case.image, chosen, **ALL_CANDIDATES | overrides)
        evaluation.add(answers, case.truths)
        if group_of is not None:
            groups[group_of[case.image_id]].add(answers, case.truths)
            sizes[group_of[case.image_id]] += 1
        if results is not None:
            results.add(case.image_id, answers[results.task])
        if observe is not None:
            observe(case, {task: predicted(answer, predictor.settings) for task, answer in answers.items()})
        progress(done)
    found = evaluation.compute()
    rows = evaluation.per_class()
    by_group = {name: (groups[name].compute(), sizes[name]) for name in sorted(groups)}
    return EvaluationReport(found, rows, done, time.perf_counter() - start, evaluation.evaluators, by_group)


# --- pictures and truths ---------------------------------------------------------------------------------------------


def sample_cases(
    samples: AnnotatedSet,
    tasks: Sequence[Task],
    categories: Categories,
    class_map: Int64[np.ndarray, " K"],
    limit: int | None = None,
) -> Iterator[Case]:
    """Pictures of a data set at their own size with their truths.

    Args:
        samples: the data set; it has truths for all ``tasks``.
        tasks: for which truths are read.
        categories: the classes of the model.
        class_map: class indices of the data set to those of the model, see :func:`match_classes`.
        limit: only so many pictures.
    """
    for index in range(len(samples) if limit is None else min(limit, len(samples))):
        truths = samples.truths(index, tasks)
        yield Case(
            samples.image(index),
            {task: with_classes(truths[task], class_map, categories.ignore_label) for task in tasks},
            samples.image_id(index),
        )


def match_classes(model: Categories, data: Categories, *, things_only: bool = False) -> Int64[np.ndarray, " K"]:
    """The model's class index of every class of the data, by name.

    Args:
        model: what the model knows.
        data: what is annotated.
        things_only: the data has objects alone, so stuff that the model knows is not missed there.

    Raises:
        RequestError: a class that only one side has, or two classes of one name.
    """
    items = [(index, item.name) for index, item in enumerate(model) if item.is_thing or not things_only]
    for side, names in (("model", [name for _, name in items]), ("data", list(data.names))):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise RequestError(f"the {side} has several classes of one name: {_listed(twice)}; give each its own")
    known = {name: index for index, name in items}
    only_model = [name for name in known if name not in set(data.names)]
    only_data = [name for name in data.names if name not in known]
    if only_model or only_data:
        sides = [f"only the model has {_listed(only_model)}"] if only_model else []
        sides += [f"only the data has {_listed(only_data)}"] if only_data else []
        raise RequestError(
            f"the classes of the model ({len(known)}) and of the data ({len(data)}) differ: {', '.join(sides)}; "
            "evaluate on data with the classes that the model was trained for"
        )
    return np.array([known[name] for name in data.names], dtype=np.int64)


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more
