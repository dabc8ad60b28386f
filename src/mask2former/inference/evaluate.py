"""The evaluation loop: images and clips through a predictor, its results and their ground truth through the evaluators.

One image or clip at a time and no masks kept, so that the state of a whole data set stays small. Draws no progress and
prints nothing.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, UInt8

from mask2former.config import EvaluationConfig, MetricStyle, Task
from mask2former.data.annotated import AnnotatedSet
from mask2former.data.clips import ClipSet, PanopticClips
from mask2former.errors import FailedError, RequestError
from mask2former.evaluation.average_precision import InstanceEvaluator, OperatingPoints
from mask2former.evaluation.build import Evaluator, evaluators
from mask2former.inference import failures
from mask2former.inference.answers import ALL_CANDIDATES, predicted
from mask2former.inference.predictor import Predictor
from mask2former.inference.result_files import ResultWriter
from mask2former.structures.categories import Categories
from mask2former.structures.clips import VideoInstances
from mask2former.structures.results import PanopticSegmentation, Segmentation
from mask2former.structures.truths import with_classes
from mask2former.text import quoted

__all__ = [
    "Case",
    "Cases",
    "ClipCases",
    "Evaluation",
    "EvaluationReport",
    "ImageCases",
    "evaluate_predictor",
    "match_classes",
    "predict_case",
]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One image or clip and its ground truth.

    Attributes:
        image: RGB at its own size, which is also that of the ground truth; of a clip its frames, all of one size.
        truths: by task, in the form that the evaluator of the task expects; class indices are those of the model.
            Empty where there are no annotations.
        image_id: of the data set, for files of results.
    """

    image: UInt8[np.ndarray, "H W 3"] | Sequence[UInt8[np.ndarray, "H W 3"]]
    truths: Mapping[Task, Any]
    image_id: int | str

    @property
    def is_clip(self) -> bool:
        return not isinstance(self.image, np.ndarray)

    @property
    def size_hw(self) -> tuple[int, int]:
        first = self.image if isinstance(self.image, np.ndarray) else self.image[0]
        return first.shape[0], first.shape[1]


Predictions = Mapping[Task, Segmentation | VideoInstances | Sequence[PanopticSegmentation]]


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
        return _operating_points(self.evaluators)

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


def _operating_points(evaluators: Mapping[Task, Evaluator]) -> OperatingPoints | None:
    evaluator = evaluators.get("instance")
    return evaluator.operating_points() if isinstance(evaluator, InstanceEvaluator) else None


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
    """The evaluators of some tasks.

    Args:
        tasks: what is measured.
        categories: the classes of the model.
        metrics: the options of the metrics; its tasks are not looked at.
        style: whose rules count; ground truth must have the form that these expect.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        categories: Categories,
        metrics: EvaluationConfig | None = None,
        style: MetricStyle = "coco",
    ) -> None:
        options = metrics or EvaluationConfig()
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

    def add(self, predictions: Predictions, truths: Mapping[Task, Any]) -> None:
        """Results of one image or clip and its ground truth, for every task at least."""
        for task, evaluator in self.evaluators.items():
            evaluator.update(predictions[task], truths[task])

    def merge(self, other: Evaluation) -> None:
        """Add what another process has seen."""
        for task, evaluator in self.evaluators.items():
            evaluator.merge(other.evaluators[task])

    def compute(self) -> dict[str, float]:
        """All metrics in percent, keyed ``task/name``."""
        return {name: value for evaluator in self.evaluators.values() for name, value in evaluator.compute().items()}

    def best_threshold(self) -> float | None:
        """The score at which instances have the highest F1, rounded to 0.01; None where none was found."""
        points = _operating_points(self.evaluators)
        return None if points is None or not points.f1.max() > 0 else round(float(points.scores[points.best]), 2)

    def per_class(self) -> dict[Task, dict[str, dict[str, float]]]:
        """Task, class name and metric to percent."""
        return {task: evaluator.per_class() for task, evaluator in self.evaluators.items()}


def predict_case(predictor: Predictor, case: Case, tasks: Sequence[Task], **overrides: Any) -> Predictions:
    """The results that are measured, by task: what users get for the same image or clip, with all candidates.

    The only way from pixels to measured results: :func:`evaluate_predictor` and the validation during training both
    come through here.

    Raises:
        RequestError: as a call of the predictor, or of its ``clip``.
    """
    if isinstance(case.image, np.ndarray):
        return predictor(case.image, tasks, **ALL_CANDIDATES | overrides)
    if "panoptic" in tasks:
        frames = predictor.track(case.image, "panoptic", **overrides)
        return {"panoptic": [frame.panoptic for frame in frames if frame.panoptic is not None]}  # all of them
    return {"instance": predictor.clip(case.image, **ALL_CANDIDATES | overrides)}


def _predict_or_name(
    predictor: Predictor, case: Case, tasks: Sequence[Task], overrides: Mapping[str, Any]
) -> Predictions:
    """:func:`predict_case`; what fails is named and ends the evaluation, since metrics of the others are not those."""
    try:
        return predict_case(predictor, case, tasks, **overrides)
    except RequestError:
        raise
    except Exception as error:
        subject = f"{'clip' if case.is_clip else 'image'} '{case.image_id}'"
        sentence = failures.reason(error, subject, predictor.device)
        raise FailedError(f"{sentence}; metrics without it would be of other data, so none are written") from error


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
    """Measure a predictor the way it is used: images and clips resized for the model, results at their own size.

    Args:
        predictor: what is measured, on its device and with its settings.
        cases: images or clips with ground truth; only one is in memory at a time. Those without annotations have
            results, but no metrics.
        tasks: all predicted in one pass.
        metrics: the options of the metrics.
        style: whose rules count; ground truth must have the form that these expect.
        results: also gets the results of its task, which must be among ``tasks``.
        observe: shown every image with what a user gets of its results, for instance :meth:`Highlights.add`.
        group_of: a name for every image id; images of one name are also measured by themselves.
        progress: told how many are done.
        overrides: settings of the predictor, for instance ``short_edge=0``.

    Raises:
        RequestError: a task that the model does not answer, a wrong setting, or ground truth that does not fit.
        FailedError: an image or clip could not be predicted, for instance for want of memory.
    """
    chosen = predictor.choose_tasks(tasks)

    def empty() -> Evaluation:
        return Evaluation(chosen, predictor.categories, metrics, style)

    evaluation, groups, sizes = empty(), defaultdict[str, Evaluation](empty), Counter[str]()
    start, done, measured = time.perf_counter(), 0, 0
    for done, case in enumerate(cases, start=1):
        predictions = _predict_or_name(predictor, case, chosen, overrides)
        if case.truths:
            evaluation.add(predictions, case.truths)
            measured += 1
        if group_of is not None:
            groups[group_of[case.image_id]].add(predictions, case.truths)
            sizes[group_of[case.image_id]] += 1
        if results is not None:
            results.add(case.image_id, predictions[results.task])
        if observe is not None:
            assert not case.is_clip, "clips are not observed"
            shown = {task: predicted(result, predictor.settings) for task, result in predictions.items()}
            observe(case, shown)  # pyright: ignore[reportArgumentType]
        progress(done)
    found, rows = (evaluation.compute(), evaluation.per_class()) if measured else ({}, {})
    by_group = {name: (groups[name].compute(), sizes[name]) for name in sorted(groups)}
    return EvaluationReport(found, rows, done, time.perf_counter() - start, evaluation.evaluators, by_group)


# --- images, clips and their ground truth ----------------------------------------------------------------------------


class Cases(ABC):
    """The images or clips of a data set with their ground truth, read when they are taken.

    Args:
        samples: the data set.
        style: whose rules measure it.
        limit: only the first so many.
    """

    def __init__(self, samples: AnnotatedSet | ClipSet | PanopticClips, style: MetricStyle, limit: int | None) -> None:
        self.notes = samples.notes
        self.style: MetricStyle = style
        self._count = len(samples) if limit is None else min(limit, len(samples))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Case]:
        return (self[index] for index in range(len(self)))

    @abstractmethod
    def __getitem__(self, index: int) -> Case: ...


class ImageCases(Cases):
    """The images of a data set at their own size with their ground truth, read when they are taken.

    Args:
        samples: the data set; it has ground truth for all ``tasks``.
        tasks: for which ground truth is read.
        categories: the classes of the model.
        class_map: class indices of the data set to those of the model, see :func:`match_classes`.
        limit: only the first so many images.
    """

    def __init__(
        self,
        samples: AnnotatedSet,
        tasks: Sequence[Task],
        categories: Categories,
        class_map: Int64[np.ndarray, " K"],
        limit: int | None = None,
    ) -> None:
        super().__init__(samples, samples.metric_style, limit)
        self.samples = samples
        self.tasks = tuple(tasks)
        self.categories = categories
        self.class_map = class_map

    def __getitem__(self, index: int) -> Case:
        truths = self.samples.truths(index, self.tasks)
        ignored = self.categories.ignore_label
        return Case(
            self.samples.image(index),
            {task: with_classes(truths[task], self.class_map, ignored) for task in self.tasks},
            self.samples.image_id(index),
        )


_UNUSED = -1  # label of pixels that are no class, which only label maps have


class ClipCases(Cases):
    """The clips of a data set, all frames at their own size, read when they are taken.

    Args:
        clips: the data set; without annotations its cases have no ground truth.
        class_map: class indices of the data set to those of the model, see :func:`match_classes`.
        limit: only the first so many clips.
        task: ``instance`` (all frames at once, as published), or ``panoptic``, for which objects are followed from
            frame to frame and the clips must be :class:`~mask2former.data.clips.PanopticClips`.

    Raises:
        RequestError: clips without ground truth for the task.
    """

    def __init__(
        self,
        clips: ClipSet | PanopticClips,
        class_map: Int64[np.ndarray, " K"],
        limit: int | None = None,
        *,
        task: Literal["instance", "panoptic"] = "instance",
    ) -> None:
        super().__init__(clips, "youtube-vis", limit)
        if not isinstance(clips, PanopticClips if task == "panoptic" else ClipSet):
            raise RequestError(f"these clips have no ground truth for the task {task}")
        self.samples = clips
        self.class_map = class_map
        self.task: Task = task

    def __getitem__(self, index: int) -> Case:
        truths: dict[Task, Any] = {}
        if self.samples.has_truth:
            if self.task == "panoptic":
                assert isinstance(self.samples, PanopticClips)
                frames = self.samples.panoptic_truths(index)
                truths["panoptic"] = [with_classes(truth, self.class_map, _UNUSED) for truth in frames]
            else:
                assert isinstance(self.samples, ClipSet)
                truths["instance"] = with_classes(self.samples.truth(index), self.class_map, _UNUSED)
        return Case(self.samples.images(index), truths, self.samples.clip_id(index))


def match_classes(
    model: Categories, data: Categories, *, things_only: bool = False, notes: list[str] | None = None
) -> Int64[np.ndarray, " K"]:
    """The model's class index of every class of the data, by name, in whatever order.

    Args:
        model: what the model knows.
        data: what is annotated.
        things_only: the data has objects alone, so stuff that the model knows is not missed there.
        notes: gets a sentence about classes that only the model has, which are not measured; None refuses them.

    Raises:
        RequestError: a class that only one side has, or two classes of one name.
    """
    items = [(index, item.name) for index, item in enumerate(model) if item.is_thing or not things_only]
    for side, names in (("model", [name for _, name in items]), ("data", list(data.names))):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise RequestError(f"the {side} has several classes of one name: {_listed(twice)}; give each its own")
    known = {name: index for index, name in items}
    in_data = frozenset(data.names)
    only_model = [name for name in known if name not in in_data]
    only_data = [name for name in data.names if name not in known]
    if only_data or (only_model and notes is None):
        sides = [f"only the model has {_listed(only_model)}"] if only_model else []
        sides += [f"only the data has {_listed(only_data)}"] if only_data else []
        raise RequestError(
            f"the classes of the model ({len(known)}) and of the data ({len(data)}) differ: {', '.join(sides)}; "
            "evaluate on data with the classes that the model was trained for"
        )
    if only_model and notes is not None:
        notes.append(
            f"classes that the data do not list are not measured ({len(only_model)} of {len(known)}): "
            f"{_listed(only_model)}; predictions of them count as wrong in PQ and mIoU"
        )
    return np.array([known[name] for name in data.names], dtype=np.int64)


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(quoted(name) for name in names[:most]) + more
