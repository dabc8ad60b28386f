"""Comparison of exported files with their model: results, metrics, time, size and memory on the same images."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mask2former.config import Task
from mask2former.data.datasets.scenes import Scenes
from mask2former.data.sources import DataSource
from mask2former.errors import OptionError, UserError
from mask2former.evaluation.curves import plot_bars
from mask2former.evaluation.evaluate import evaluate
from mask2former.export.process_memory import peak_of_process
from mask2former.inference.exported import SUFFIXES, ExportedNetwork, is_exported
from mask2former.inference.opening import ModelSource, model_name, open_predictor
from mask2former.inference.predictor import Predictor
from mask2former.media.images import list_images, read_image
from mask2former.ops.sparse_masks import pairwise_iou
from mask2former.progress import Progress, silent
from mask2former.structures import Instances, PanopticSegmentation, Segmentation, SemanticSegmentation

__all__ = ["Verified", "VerifyReport", "draw_report", "verify_export"]

_SCENES = 4  # drawn if no images are named
_SAME = 0.5  # IoU from which an instance of the model and one of a file are the same


@dataclass(frozen=True)
class Verified:
    """One row: a model, or a file of it.

    Attributes:
        name: as given by the caller.
        runtime: the runtime that computes it.
        dtype: its precision, and how weights are stored if that differs.
        num_bytes: size of the file; for the model, the size of its weights.
        milliseconds: median from an image to its result, with calls alternating between the rows.
        peak_bytes: peak memory of a process that loads it and segments the largest image, beyond Python and PyTorch;
            None if it was not measured.
        differing: percent that differs from the result of the model, averaged over images: pixels (panoptic and
            semantic), or instances that only one of them has. None for the model.
        metrics: percent, keyed ``task/name``; empty without data.
    """

    name: str
    runtime: str
    dtype: str
    num_bytes: int
    milliseconds: float
    peak_bytes: int | None
    differing: float | None
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class VerifyReport:
    """The result of a comparison.

    Attributes:
        task: of the results.
        images: number of images that were compared.
        rows: the model, then the files.
        notes: what a user should know, one sentence each.
    """

    task: Task
    images: int
    rows: tuple[Verified, ...]
    notes: tuple[str, ...] = ()


def verify_export(
    files: Sequence[str | Path],
    against: ModelSource,
    *,
    images: Sequence[str | Path] = (),
    data: DataSource | None = None,
    task: Task | None = None,
    calls: int = 5,
    memory: bool = True,
    trust_code: bool = False,
    recipe: str | None = None,
    trained_for: Task | Sequence[Task] = (),
    weights: str | None = None,
    progress: Progress = silent,
) -> VerifyReport:
    """Compare exported files with their model; what ``mask2former verify-export`` does.

    Args:
        files: files written by :func:`~mask2former.export.exporter.export`.
        against: the model, or its name or file.
        images: files and folders; if empty, four drawn scenes.
        data: also measure all of them on this data set.
        task: of the results and metrics; None: see :class:`~mask2former.inference.predictor.Predictor`.
        calls: number of calls of each on each image, for the median.
        memory: also measure the peak memory of each, in a separate process; only on Linux, and not for models that
            are objects.
        trust_code: see :meth:`Predictor.from_pretrained`.
        recipe: for files without configuration, for instance ``coco-panoptic/r50``.
        trained_for: the tasks for which the model was trained, instead of a recipe.
        weights: which of several sets of weights in a file, by the name of its entry.
        progress: called at each step.

    Raises:
        UserError: a file or the model cannot be loaded, or their classes or settings differ.
        FailedError: a process that measures memory ended without a figure.
    """
    if isinstance(files, str | Path) or not files:
        raise UserError(f"expected a list of exported files, got {files!r}")
    if calls < 1:
        raise UserError(f"expected at least one call, got {calls}")
    for file in files:
        if not is_exported(file):
            raise UserError(f"'{file}' is not an exported file; expected a name ending in {' or '.join(SUFFIXES)}")
    device = None if isinstance(against, Predictor) else "cpu"
    loading = {"recipe": recipe, "trained_for": trained_for, "weights": weights}
    model = open_predictor(against, device=device, quiet=True, progress=progress, **loading)
    exported = [open_predictor(file, device="cpu", quiet=True, trust_code=trust_code) for file in files]
    for file, predictor in zip(files, exported, strict=True):
        if predictor.categories != model.categories or predictor.settings != model.settings:
            raise UserError(f"'{file}' has other classes or settings than the model; export the model again")
    chosen = model.choose_tasks(task)[0]
    predictors = [model, *exported]
    if model.settings.bands is not None and not images:
        raise OptionError(
            lambda name: f"the model expects image bands, which drawn scenes do not have; give {name('images')}"
        )
    if images:
        shown = [read_image(path, **model.settings.reading) for path, _ in list_images(images)]
    else:
        scenes = Scenes((240, 320), seed=0, length=_SCENES)
        shown = [scenes.image(index) for index in range(_SCENES)]
    milliseconds: list[list[float]] = [[] for _ in predictors]
    differing: list[list[float]] = [[] for _ in exported]
    for index, image in enumerate(shown):
        progress("comparing results", index, len(shown))
        results: list[Segmentation] = []
        for _ in range(calls):
            results = []
            for predictor, times in zip(predictors, milliseconds, strict=True):
                start = time.perf_counter()
                results.append(predictor(image, chosen, **model.settings.as_read))
                times.append(1000 * (time.perf_counter() - start))
        for result, shares in zip(results[1:], differing, strict=True):
            shares.append(_differing(result, results[0]))
    metrics: list[Mapping[str, float]] = [{} for _ in predictors]
    if data is not None:
        metrics = [dict(evaluate(predictor, data, chosen, progress=progress).metrics) for predictor in predictors]
    peaks: list[int | None] = [None for _ in predictors]
    if memory:
        progress("measuring memory", 0, None)
        largest = max(shown, key=lambda image: image.size)
        options = [loading, *({"trust_code": trust_code} for _ in files)]
        for index, (source, given) in enumerate(zip([against, *files], options, strict=True)):
            if isinstance(source, str | Path):
                peaks[index] = peak_of_process(source, largest, chosen, given)
    names = [model_name(against), *map(str, files)]
    rows = [
        Verified(
            name,
            _runtime(predictor),
            _precision(predictor),
            _num_bytes(predictor),
            statistics.median(times),
            peak,
            None if share is None else 100 * float(np.mean(share)),
            found,
        )
        for name, predictor, times, peak, share, found in zip(
            names, predictors, milliseconds, peaks, [None, *differing], metrics, strict=True
        )
    ]
    drawn = () if images else ("no images were given: drawn scenes were compared, in which most models find nothing",)
    return VerifyReport(chosen, len(shown), tuple(rows), drawn)


def draw_report(report: VerifyReport, path: Path) -> None:
    """The table as a bar chart, one row for each file; PNG, SVG or PDF, by the suffix.

    Raises:
        UserError: the path cannot be written, or has another suffix.
        MissingExtraError: matplotlib is not installed.
    """
    metric = next(iter(report.rows[0].metrics), None)
    columns: dict[str, list[float | None]] = {
        "milliseconds": [row.milliseconds for row in report.rows],
        "size, MB": [row.num_bytes / 1e6 for row in report.rows],
        "peak memory, MB": [None if row.peak_bytes is None else row.peak_bytes / 1e6 for row in report.rows],
        "differs from the model, %": [row.differing for row in report.rows],
    }
    if metric is not None:
        columns[f"{metric.replace('/', ' ')}, %"] = [row.metrics[metric] for row in report.rows]
    names = [f"{Path(row.name).name}\n{row.runtime} {row.dtype}" for row in report.rows]
    shown = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    plot_bars(names, shown, path)


def _runtime(predictor: Predictor) -> str:
    return predictor.network.runtime if isinstance(predictor.network, ExportedNetwork) else "torch"


def _precision(predictor: Predictor) -> str:
    network = predictor.network
    computed = str(getattr(network, "dtype", "")).removeprefix("torch.")
    stored = network.info.weights if isinstance(network, ExportedNetwork) else computed
    return computed if stored in (computed, "float32") else f"{stored} weights"


def _num_bytes(predictor: Predictor) -> int:
    if isinstance(predictor.network, ExportedNetwork):
        return predictor.network.num_bytes
    return sum(tensor.nbytes for tensor in predictor.model.state_dict().values())


def _differing(result: Segmentation, expected: Segmentation) -> float:
    """The share of pixels that differ, or of instances that only one of the results has, in 0..1."""
    if isinstance(result, Instances) and isinstance(expected, Instances):
        total = len(result) + len(expected)
        if not total:
            return 0.0
        overlaps = pairwise_iou([result.sparse], [expected.sparse]) >= _SAME
        same = overlaps & (result.labels[:, None] == expected.labels[None])
        return 1 - (same.any(0).sum() + same.any(1).sum()) / total
    if isinstance(result, PanopticSegmentation) and isinstance(expected, PanopticSegmentation):
        return float((_classes(result) != _classes(expected)).mean())  # the order of ids may differ
    assert isinstance(result, SemanticSegmentation)
    assert isinstance(expected, SemanticSegmentation)
    return float((result.labels != expected.labels).mean())


def _classes(result: PanopticSegmentation) -> np.ndarray:
    """The class index of every pixel, -1 for none."""
    table = np.full(max((segment.id for segment in result.segments), default=0) + 1, -1)
    for segment in result.segments:
        table[segment.id] = segment.label
    return table[result.ids]
