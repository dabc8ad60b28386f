"""The evaluation loop over data sets of clips, all frames of a clip at once, as published.

One clip is in memory at a time. Knows no video files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Int64

from mask2former.config import EvaluationConfig
from mask2former.data.clips import ClipSet
from mask2former.inference.answers import ALL_CANDIDATES
from mask2former.inference.evaluate import Evaluation, EvaluationReport
from mask2former.inference.predictor import Predictor
from mask2former.inference.result_files import ResultWriter

__all__ = ["evaluate_clips"]


def evaluate_clips(
    predictor: Predictor,
    clips: ClipSet,
    indices: Iterable[int],
    class_map: Int64[np.ndarray, " K"],
    metrics: EvaluationConfig | None = None,
    *,
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
        results: also gets the tracks.
        progress: told how many clips are done.
        overrides: settings of the predictor, for instance ``short_edge=0``.

    Raises:
        RequestError: a model that does not answer the task instance, a wrong setting, or a file that is broken.
    """
    evaluation = Evaluation(("instance",), predictor.categories, predictor.settings, metrics, "youtube-vis")
    start, done = time.perf_counter(), 0
    for done, index in enumerate(indices, start=1):
        tracks = predictor.clip(clips.images(index), **ALL_CANDIDATES | overrides)
        if clips.has_truth:
            truth = clips.truth(index)
            evaluation.add({"instance": tracks}, {"instance": truth._replace(labels=class_map[truth.labels])})
        if results is not None:
            results.add(clips.clip_id(index), tracks)
        progress(done)
    measured = clips.has_truth
    found, rows = (evaluation.compute(), evaluation.per_class()) if measured else ({}, {})
    return EvaluationReport(found, rows, done, time.perf_counter() - start)
