"""The evaluation loop over data sets of clips: tracks, all frames of a clip at once, as published, or panoptic tracks.

One clip is in memory at a time. Knows no video files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Int64

from mask2former.config import EvaluationConfig
from mask2former.data.clips import ClipSet, PanopticClips
from mask2former.errors import RequestError
from mask2former.evaluation.video_panoptic import VideoPanopticEvaluator
from mask2former.inference.evaluate import Evaluation, EvaluationReport
from mask2former.inference.predictor import Predictor
from mask2former.inference.result_files import ResultWriter
from mask2former.inference.track import TrackingTask
from mask2former.structures.truths import with_classes

__all__ = ["evaluate_clips"]


def evaluate_clips(
    predictor: Predictor,
    clips: ClipSet | PanopticClips,
    indices: Iterable[int],
    class_map: Int64[np.ndarray, " K"],
    metrics: EvaluationConfig | None = None,
    *,
    task: TrackingTask = "instance",
    results: ResultWriter | None = None,
    progress: Callable[[int], None] = lambda done: None,
    **overrides: Any,
) -> EvaluationReport:
    """Measure a predictor on clips; without annotations there are results but no metrics.

    Args:
        predictor: what is measured, on its device and with its settings.
        clips: where frames and truths come from; one clip is in memory at a time.
        indices: which of them.
        class_map: class indices of the data to those of the model, see
            :func:`~mask2former.inference.evaluate.match_classes`.
        metrics: the options of the metrics.
        task: ``instance`` takes all frames of a clip at once, as published, and measures the average precision of
            tracks; ``panoptic`` follows objects as :meth:`Predictor.track` does and measures video panoptic quality and
            identity switches, which needs :class:`~mask2former.data.clips.PanopticClips`.
        results: also gets the tracks.
        progress: told how many clips are done.
        overrides: settings of the predictor, for instance ``short_edge=0``.

    Raises:
        RequestError: a model that does not answer the task, clips without its ground truth, a wrong setting, or a file
            that is broken.
    """
    evaluation = Evaluation((), predictor.categories, predictor.settings, metrics)
    if task == "panoptic":
        evaluation.evaluators[task] = VideoPanopticEvaluator(predictor.categories)
    else:
        evaluation = Evaluation((task,), predictor.categories, predictor.settings, metrics, "youtube-vis")
    start, done = time.perf_counter(), 0
    for done, index in enumerate(indices, start=1):
        images = clips.images(index)
        if task == "panoptic":
            tracks = [frame.panoptic for frame in predictor.track(images, task, **overrides)]
        else:
            tracks = predictor.clip(images, **overrides)
        if clips.has_truth:
            truth = _truth(clips, index, task, class_map, predictor.categories.ignore_label)
            evaluation.add({task: tracks}, {task: truth})  # pyright: ignore[reportArgumentType]
        if results is not None:
            results.add(clips.clip_id(index), tracks)
        progress(done)
    measured = clips.has_truth
    found, rows = (evaluation.compute(), evaluation.per_class()) if measured else ({}, {})
    return EvaluationReport(found, rows, done, time.perf_counter() - start, evaluation.evaluators)


def _truth(
    clips: ClipSet | PanopticClips,
    index: int,
    task: TrackingTask,
    class_map: Int64[np.ndarray, " K"],
    ignore_label: int,
) -> Any:
    """The truth of a clip with the classes of the model."""
    if task == "instance" and isinstance(clips, ClipSet):
        return with_classes(clips.truth(index), class_map, ignore_label)
    if task == "panoptic" and isinstance(clips, PanopticClips):
        return [with_classes(truth, class_map, ignore_label) for truth in clips.panoptic_truths(index)]
    raise RequestError(f"these clips have no ground truth for the task {task}")
