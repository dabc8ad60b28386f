"""The evaluation loop: results of pictures and their truths through the evaluators of one or more tasks.

One picture at a time and no masks kept, so that the state of a whole data set stays small. Draws no progress and
prints nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from mask2former import postprocessing
from mask2former.config import EvaluationConfig, InferenceConfig, Task
from mask2former.errors import RequestError
from mask2former.evaluation.build import evaluators
from mask2former.models.mask2former import Mask2Former
from mask2former.structures.categories import Categories
from mask2former.structures.outputs import MaskOutput
from mask2former.structures.results import Instances, Segmentation
from mask2former.structures.samples import Sample, Target
from mask2former.structures.truths import InstanceTruth

if TYPE_CHECKING:
    from mask2former.inference.predictor import Predictor

__all__ = [
    "Case",
    "Evaluation",
    "EvaluationReport",
    "ResultsFile",
    "evaluate",
    "evaluate_predictor",
    "match_classes",
    "result_of",
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
    """

    metrics: dict[str, float]
    per_class: dict[Task, dict[str, dict[str, float]]]
    num_images: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; what is undefined is None."""
        return {
            "metrics": _defined(self.metrics),
            "per_class": {
                task: {name: _defined(values) for name, values in rows.items()} for task, rows in self.per_class.items()
            },
            "num_images": self.num_images,
            "seconds": round(self.seconds, 3),
        }


def _defined(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if value != value else value for name, value in values.items()}


def result_of(
    task: Task,
    output: MaskOutput,
    index: int,
    image_size_hw: tuple[int, int],
    output_size_hw: tuple[int, int],
    categories: Categories,
    settings: InferenceConfig,
) -> Segmentation:
    """The result of one task for image ``index`` of an output, with the settings that a checkpoint carries."""
    if task == "panoptic":
        return postprocessing.panoptic(
            output,
            index,
            image_size_hw,
            output_size_hw,
            categories,
            score_threshold=settings.score_threshold,
            overlap_threshold=settings.overlap_threshold,
        )
    if task == "instance":
        return postprocessing.instance(
            output,
            index,
            image_size_hw,
            output_size_hw,
            categories,
            things_only=settings.things_only,
            max_instances=settings.max_instances,
        )
    return postprocessing.semantic(
        output, index, image_size_hw, output_size_hw, categories, resize_masks_first=settings.resize_masks_first
    )


class Evaluation:
    """Scores results of one model task by task.

    Args:
        tasks: what is measured.
        categories: the classes of the model.
        settings: how outputs become results in :meth:`update`.
        metrics: the options of the metrics; its tasks are not looked at.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        categories: Categories,
        settings: InferenceConfig,
        metrics: EvaluationConfig | None = None,
    ) -> None:
        options = metrics or EvaluationConfig()
        self.categories = categories
        self.settings = settings
        self.evaluators = evaluators(
            tasks,
            categories,
            max_detections=options.max_detections,
            area_limits=options.area_limits,
            boundary=options.boundary,
            pooled_threshold=options.pooled_threshold,
        )

    def update(self, output: MaskOutput, sample: Sample) -> None:
        """``output`` of the sample's picture at its own size."""
        assert sample.target is not None
        size = (sample.image.shape[2], sample.image.shape[3])
        for task, evaluator in self.evaluators.items():
            prediction = result_of(task, output, 0, size, size, self.categories, self.settings)
            evaluator.update(prediction, evaluator.truth_of_target(sample.target))

    def add(self, answers: Mapping[Task, Segmentation], truths: Mapping[Task, Any]) -> None:
        """Results of one picture and its truths, for every task at least."""
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
    """Metrics in percent of a model on samples at their own size; ``progress`` is told how many are done."""
    assert model.categories is not None
    assert model.config is not None
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
    results: ResultsFile | None = None,
    progress: Callable[[int], None] = lambda done: None,
    **overrides: Any,
) -> EvaluationReport:
    """Measure a predictor the way it is used: pictures resized for the model, results at their own size.

    Args:
        predictor: what is measured, on its device and with its settings.
        cases: pictures with truths; only one is in memory at a time.
        tasks: all answered from one pass.
        metrics: the options of the metrics.
        results: also gets the instances.
        progress: told how many pictures are done.
        overrides: settings of the predictor, for instance ``short_edge=0``.

    Raises:
        RequestError: a task that the model does not answer, a wrong setting, or a truth that does not fit.
    """
    chosen = predictor.choose_tasks(tasks)
    evaluation = Evaluation(chosen, predictor.categories, predictor.settings, metrics)
    start, done = time.perf_counter(), 0
    for done, case in enumerate(cases, start=1):
        answers = predictor(case.image, chosen, **overrides)
        evaluation.add(answers, case.truths)
        if results is not None:
            instances = answers["instance"]
            assert isinstance(instances, Instances)
            results.add(case.image_id, instances)
        progress(done)
    found = evaluation.compute()
    return EvaluationReport(found, evaluation.per_class(), done, time.perf_counter() - start)


# --- pictures and truths ---------------------------------------------------------------------------------------------


def sample_cases(
    samples: Iterable[Sample], tasks: Sequence[Task], categories: Categories, class_map: Int64[np.ndarray, " K"]
) -> Iterator[Case]:
    """Samples at their own size with their truths.

    Args:
        samples: single pictures with targets. For instances, ``info`` may hold ``areas`` of the objects and crowd
            regions (``crowd_masks``, ``crowd_labels``, ``crowd_areas``), as :class:`CocoInstances` does. The place in
            the sequence is the image id where ``info["image_id"]`` is not.
        tasks: for which truths are made.
        categories: the classes of the model.
        class_map: class indices of the samples to those of the model, see :func:`match_classes`.
    """
    makers = evaluators(tasks, categories)
    for number, sample in enumerate(samples):
        assert sample.target is not None
        target = Target(torch.from_numpy(class_map)[sample.target.labels], sample.target.masks)
        yield Case(
            np.ascontiguousarray(sample.image[0].permute(1, 2, 0).numpy()),
            {
                task: _annotated_truth(target, sample.info, class_map)
                if task == "instance" and "areas" in sample.info
                else maker.truth_of_target(target)
                for task, maker in makers.items()
            },
            sample.info.get("image_id", number),
        )


def _annotated_truth(target: Target, info: Mapping[str, Any], class_map: Int64[np.ndarray, " K"]) -> InstanceTruth:
    """Objects and crowd regions as the annotation file has them, also objects too small to have a pixel."""
    masks, labels = target.masks[:, 0].numpy(), target.labels.numpy()
    return InstanceTruth(
        np.concatenate([masks, info["crowd_masks"]]),
        np.concatenate([labels, class_map[info["crowd_labels"]]]),
        np.repeat([False, True], [len(masks), len(info["crowd_masks"])]),
        np.concatenate([info["areas"], info["crowd_areas"]]),
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


# --- files of results ------------------------------------------------------------------------------------------------


class ResultsFile:
    """A COCO instance results file, as test servers take it, written picture by picture.

    A list of ``image_id``, ``category_id`` (of the data set), ``segmentation`` (compressed run-length encoding) and
    ``score``. There are no boxes: the official tool would take the areas of objects from them. Empty masks are left
    out. The file appears whole when the ``with`` block ends well, else not at all.

    Args:
        path: where it goes; missing folders are made.
        category_ids: of the data set, by class index of the model; classes that are missing here are left out.
    """

    def __init__(self, path: str | os.PathLike[str], category_ids: Mapping[int, int]) -> None:
        self.path = Path(path)
        self.category_ids = dict(category_ids)
        self.count = 0
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._temporary.open("w", encoding="utf-8")
        self._file.write("[")
        return self

    def add(self, image_id: int | str, instances: Instances) -> None:
        """Append the instances of one picture."""
        assert self._file is not None, "used outside its with block"
        filled = [bool(mask.any()) for mask in instances.masks]
        rows = zip(instances.labels.tolist(), instances.to_coco(image_id), filled, strict=True)
        for label, record, has_pixels in rows:
            if label in self.category_ids and has_pixels:
                record["category_id"] = self.category_ids[label]
                del record["bbox"]
                self._file.write(",\n" if self.count else "\n")
                self._file.write(json.dumps(record, allow_nan=False, separators=(",", ":")))
                self.count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        try:
            if kind is None:
                self._file.write("\n]\n")
            self._file.close()
            if kind is None:
                self._temporary.replace(self.path)
        finally:
            self._file = None
            self._temporary.unlink(missing_ok=True)
