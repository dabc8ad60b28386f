"""The evaluators of a set of tasks; the only place that knows them by the name of the task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from mask2former.config import MetricStyle, Task
from mask2former.errors import UserError
from mask2former.metrics.average_precision import InstanceEvaluator, VideoInstanceEvaluator
from mask2former.metrics.cityscapes import CityscapesInstanceEvaluator, CityscapesPixelEvaluator
from mask2former.metrics.panoptic import PanopticEvaluator
from mask2former.metrics.semantic import SemanticEvaluator
from mask2former.metrics.video_panoptic import VideoPanopticEvaluator
from mask2former.structures import Categories

__all__ = ["Evaluator", "evaluators"]


class Evaluator(Protocol):
    """What all evaluators offer. They can be pickled, so processes can exchange and merge them."""

    def update(self, prediction: Any, ground_truth: Any) -> None:
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
    area_limits: tuple[float, float] | None = None,
    boundary: bool = False,
    pooled_threshold: float | None = None,
    semantic_segments: bool = False,
    style: MetricStyle = "coco",
) -> dict[Task, Evaluator]:
    """One fresh evaluator per task.

    Args:
        tasks: what is measured.
        categories: the classes of the model.
        max_detections: instances per image and class.
        area_limits: pixels where medium and large instances begin; None: those of the style.
        boundary: also the boundary variants.
        pooled_threshold: also pooled average precision of instances, above this score.
        semantic_segments: also panoptic quality of label maps.
        style: whose rules count. ``cityscapes`` has its own metric of instances, without options, and its own of
            pixels; both expect :class:`~mask2former.structures.ground_truth.CityscapesGroundTruth`. Panoptic quality
            is the same.
            ``youtube-vis`` is about clips: ``instance`` counts tracks, with the options ``max_detections`` and
            ``area_limits`` alone; ``panoptic`` is video panoptic quality, without options.

    Raises:
        UserError: an option that makes no sense, or classes that the style does not know.
    """
    kinds: dict[Task, Evaluator] = {}
    for task in tasks:
        if style == "youtube-vis":
            if task == "panoptic":
                kinds[task] = VideoPanopticEvaluator(categories)
                continue
            if task != "instance":
                raise UserError(f"clips are measured by the tasks instance and panoptic, not by '{task}'")
            limits = area_limits or (128**2, 256**2)
            kinds[task] = VideoInstanceEvaluator(categories, max_detections=max_detections, area_limits=limits)
        elif task == "panoptic":
            kinds[task] = PanopticEvaluator(categories, boundary=boundary)
        elif task == "instance" and style == "cityscapes":
            kinds[task] = CityscapesInstanceEvaluator(categories)
        elif task == "instance":
            kinds[task] = InstanceEvaluator(
                categories,
                max_detections=max_detections,
                area_limits=area_limits or (32**2, 96**2),
                boundary=boundary,
                pooled_threshold=pooled_threshold,
            )
        else:
            kind = CityscapesPixelEvaluator if style == "cityscapes" else SemanticEvaluator
            kinds[task] = kind(categories, boundary=boundary, segments=semantic_segments)
    return kinds
