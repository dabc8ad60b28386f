"""The contribution of each decoder layer: the metrics of its predictions, and how many objects its masks cover.

The recall of masks whatever their class shows that learned queries are proposals already before the first layer
(Mask2Former, the analysis of queries).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mask2former.analysis.curves import Curves, Drawn
from mask2former.analysis.inside import depth_names, predictions_of_depths
from mask2former.analysis.subjects import AnalyzedData, open_subjects
from mask2former.config import InferenceConfig, Task
from mask2former.evaluation.evaluate import predict_case
from mask2former.evaluation.scores import Evaluation
from mask2former.inference.opening import ModelSource, open_predictor
from mask2former.inference.predictor import Predictor
from mask2former.inference.settings import changed_pass
from mask2former.metrics.average_precision import InstanceEvaluator
from mask2former.models.mask2former import Mask2Former
from mask2former.progress import Progress, silent
from mask2former.structures import Categories, Instances, Prediction
from mask2former.structures.ground_truth import InstanceGroundTruth

__all__ = ["RECALL", "Depth", "LayerMetrics", "layer_metrics"]

RECALL = "proposals/AR100"
"""Average recall of 100 masks of an image over IoU 0.5 to 0.95, whatever their class, percent."""

_OBJECT = Categories.from_names(["object"])
_PROPOSALS = 100
_SHOWN = ("panoptic/PQ", "instance/AP", "semantic/mIoU")
_KEPT = 16  # passes of an image that is cut into tiles


@dataclass(frozen=True)
class Depth:
    """The quality of the predictions at a decoder depth.

    Attributes:
        name: ``queries`` before the first layer, then ``layer 1`` and so on.
        metrics: percent, as ``evaluate`` names them, and :data:`RECALL` where the data have instances; None where
            one is undefined.
    """

    name: str
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class LayerMetrics(Curves):
    """Metrics of every decoder depth on the same images; the last depth is what users get."""

    depths: tuple[Depth, ...]
    data: dict[str, Any]

    def curves(self) -> Drawn:
        """Over the depths."""
        found = {}
        for name in (RECALL, *_SHOWN):
            values = [depth.metrics.get(name) for depth in self.depths]
            if all(value is not None for value in values):
                found[name] = (list(range(len(values))), values)
        panels = [("AR@100 of masks of any class, %" if name == RECALL else f"{name}, %", (name,)) for name in found]
        return Drawn({"": found}, panels, [depth.name for depth in self.depths])


class _Passes:
    """One pass for all depths: the latest ones are kept, since each depth requests the same images."""

    def __init__(self, model: Mask2Former) -> None:
        self.model = model
        self._last: deque[tuple[Sequence[Tensor], list[list[Prediction]]]] = deque(maxlen=_KEPT)

    def __call__(self, images: Sequence[UInt8[Tensor, "C h w"]]) -> list[list[Prediction]]:
        for before, depths in self._last:
            if len(before) == len(images) and all(map(torch.equal, before, images)):
                return depths
        depths = predictions_of_depths(self.model, images)
        self._last.append((images, depths))
        return depths

    def network(self, depth: int, *, any_class: bool) -> _OneDepth:
        return _OneDepth(self, depth, any_class)


@dataclass(frozen=True)
class _OneDepth:
    """A network that returns the predictions of a model at one of its depths; optionally without class distinctions."""

    passes: _Passes
    depth: int
    any_class: bool

    @property
    def size_divisibility(self) -> int:
        return self.passes.model.size_divisibility

    def __call__(self, images: Sequence[UInt8[Tensor, "C h w"]], /) -> list[Prediction]:
        predictions = self.passes(images)[self.depth]
        return [_of_any_class(one) for one in predictions] if self.any_class else predictions


def _of_any_class(prediction: Prediction) -> Prediction:
    """The same with the probability of all classes together, so that every query is one object or none."""
    logits = prediction.class_logits
    both = torch.stack((logits[:, :-1].logsumexp(1), logits[:, -1]), dim=1)
    return replace(prediction, class_logits=both)


def layer_metrics(
    model: ModelSource,
    data: AnalyzedData = "scenes",
    tasks: Task | Sequence[Task] = (),
    *,
    device: str | None = None,
    progress: Progress = silent,
) -> LayerMetrics:
    """Measure the predictions of every decoder depth as those of the last one are measured.

    Args:
        model: a name, file or folder, a model, or a predictor.
        data: images with ground truth.
        tasks: what is measured; none: all tasks that both the model and the data have.
        device: see :class:`Predictor`.
        progress: called with the number of images done.

    Raises:
        UserError: model and data do not fit together, or the model has no queries.
    """
    predictor = open_predictor(model, device=device, quiet=True, progress=progress)
    subjects = open_subjects(predictor, data, (tasks,) if isinstance(tasks, str) else tuple(tasks))
    cases, passes = subjects.cases, _Passes(predictor.model)
    count = len(passes([torch.zeros((passes.model.channels, 64, 64), dtype=torch.uint8)]))
    settings = predictor.settings
    of_pass = {name: getattr(settings, name) for name in changed_pass(InferenceConfig(), settings) if name != "tasks"}
    for_objects = InferenceConfig(tasks=("instance",), max_instances=_PROPOSALS, **of_pass)
    found = [
        _Measured(
            Predictor(passes.network(depth, any_class=False), predictor.device, None, settings, predictor.categories),
            Predictor(passes.network(depth, any_class=True), predictor.device, None, for_objects, _OBJECT),
            Evaluation(subjects.tasks, predictor.categories, style=cases.style),
            InstanceEvaluator(_OBJECT, max_detections=_PROPOSALS),
        )
        for depth in range(count)
    ]
    has_objects = cases.style == "coco" and "instance" in cases.samples.tasks
    for index, case in enumerate(cases):
        truth = cases.samples.ground_truths(index, ["instance"])["instance"] if has_objects else None
        for one in found:
            predictions = predict_case(one.predictor, case, subjects.tasks, **subjects.overrides)
            one.evaluation.add(predictions, case.ground_truths)
            if isinstance(truth, InstanceGroundTruth):
                masks = predict_case(one.proposer, case, ["instance"], **subjects.overrides)["instance"]
                assert isinstance(masks, Instances)  # the data are no clips
                one.recall.update(masks, truth._replace(labels=np.zeros_like(truth.labels)))
        progress("measuring every layer", index + 1, len(cases))
    names = depth_names(predictor.model, count)
    return LayerMetrics(
        tuple(Depth(name, one.metrics(has_objects=has_objects)) for name, one in zip(names, found, strict=True)),
        subjects.record,
    )


@dataclass(frozen=True)
class _Measured:
    """What measures one depth."""

    predictor: Predictor
    proposer: Predictor
    evaluation: Evaluation
    recall: InstanceEvaluator

    def metrics(self, *, has_objects: bool) -> dict[str, float | None]:
        values = self.evaluation.compute()
        if has_objects:
            values |= {RECALL: self.recall.compute()[f"instance/AR{_PROPOSALS}"]}
        return {name: value if value == value else None for name, value in values.items()}
