"""The evaluators of a set of tasks; the only place that maps tasks to evaluators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from mask2former.config import EvaluationConfig, MetricStyle, Task
from mask2former.errors import UserError
from mask2former.metrics.average_precision import InstanceEvaluator, VideoInstanceEvaluator
from mask2former.metrics.cityscapes import CityscapesInstanceEvaluator, CityscapesPixelEvaluator
from mask2former.metrics.panoptic import PanopticEvaluator
from mask2former.metrics.semantic import SemanticEvaluator
from mask2former.metrics.video_panoptic import VideoPanopticEvaluator
from mask2former.structures import Categories

__all__ = ["Evaluator", "evaluators"]


class Evaluator(Protocol):
    """The interface of all evaluators. They can be pickled, so processes can exchange and merge them."""

    def update(self, prediction: Any, ground_truth: Any) -> None:
        """Add one image or clip."""
        ...

    def merge(self, other: Any) -> None:
        """Add the images or clips of another evaluator of the same kind."""
        ...

    def compute(self) -> dict[str, float]:
        """Metrics by name in percent, NaN where undefined."""
        ...

    def per_class(self) -> dict[str, dict[str, float]]:
        """Metrics of each class by class name and metric, in percent."""
        ...


def evaluators(
    tasks: Iterable[Task],
    categories: Categories,
    options: EvaluationConfig | None = None,
    style: MetricStyle = "coco",
) -> dict[Task, Evaluator]:
    """One new evaluator per task.

    Args:
        tasks: the tasks to measure.
        categories: the classes of the model.
        options: the options of the metrics; its tasks are ignored.
        style: whose rules apply. ``cityscapes`` has its own metrics for instances (without options) and for pixels;
            both expect :class:`~mask2former.structures.ground_truth.CityscapesGroundTruth`. Panoptic quality is the
            same.
            ``youtube-vis`` is for clips: ``instance`` counts tracks, with only the options ``max_detections`` and
            ``area_limits``; ``panoptic`` is video panoptic quality, without options.

    Raises:
        UserError: an option is invalid, or the style does not know some of the classes.
    """
    options = options or EvaluationConfig()
    max_detections, limits, boundary = options.max_detections, options.area_limits, options.boundary
    kinds: dict[Task, Evaluator] = {}
    for task in tasks:
        if style == "youtube-vis":
            if task == "panoptic":
                kinds[task] = VideoPanopticEvaluator(categories)
                continue
            if task != "instance":
                raise UserError(f"clips are measured by the tasks instance and panoptic, not by '{task}'")
            kinds[task] = VideoInstanceEvaluator(
                categories, max_detections=max_detections, area_limits=limits or (128**2, 256**2)
            )
        elif task == "panoptic":
            kinds[task] = PanopticEvaluator(categories, boundary=boundary)
        elif task == "instance" and style == "cityscapes":
            kinds[task] = CityscapesInstanceEvaluator(categories)
        elif task == "instance":
            kinds[task] = InstanceEvaluator(
                categories,
                max_detections=max_detections,
                area_limits=limits or (32**2, 96**2),
                boundary=boundary,
                pooled_threshold=options.pooled_threshold,
            )
        else:
            kind = CityscapesPixelEvaluator if style == "cityscapes" else SemanticEvaluator
            kinds[task] = kind(categories, boundary=boundary, segments=options.semantic_segments)
    return kinds
