"""The evaluation loop: model outputs and truths of samples through the evaluators of one or more tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from mask2former import postprocessing
from mask2former.config import InferenceConfig, Task
from mask2former.evaluation.build import evaluators
from mask2former.models.mask2former import Mask2Former
from mask2former.structures.categories import Categories
from mask2former.structures.outputs import MaskOutput
from mask2former.structures.results import Segmentation
from mask2former.structures.samples import Sample

__all__ = ["Evaluation", "evaluate", "result_of"]


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
    """Scores outputs of one model on samples with targets, task by task."""

    def __init__(self, tasks: Sequence[Task], categories: Categories, settings: InferenceConfig) -> None:
        self.categories = categories
        self.settings = settings
        self.evaluators = evaluators(tasks, categories)

    def update(self, output: MaskOutput, sample: Sample) -> None:
        """``output`` of the sample's picture at its own size."""
        assert sample.target is not None
        size = (sample.image.shape[2], sample.image.shape[3])
        for task, evaluator in self.evaluators.items():
            prediction = result_of(task, output, 0, size, size, self.categories, self.settings)
            evaluator.update(prediction, evaluator.truth_of_target(sample.target))

    def compute(self) -> dict[str, float]:
        """All metrics in percent, keyed ``task/name``."""
        return {name: value for evaluator in self.evaluators.values() for name, value in evaluator.compute().items()}


def evaluate(
    model: Mask2Former,
    samples: Iterable[Sample],
    tasks: Sequence[Task],
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Metrics in percent of a model on samples at their own size; ``progress`` is told how many are done."""
    assert model.categories is not None
    assert model.config is not None
    evaluation = Evaluation(tasks, model.categories, model.config.inference)
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
