"""Measuring a model: a predictor processes images and clips, and evaluators compare its results with the ground truth.

:func:`evaluate` is the public function, and :func:`evaluate_predictor` its loop. The loop handles a few images or one
clip at a time and keeps no masks, so the state stays small even for a complete data set. It draws no progress and
prints nothing.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, cast, get_args

import numpy as np
from jaxtyping import Int64, UInt8

import mask2former
from mask2former.config import DatasetConfig, EvaluationConfig, MetricStyle, Task
from mask2former.data.annotated import AnnotatedSet
from mask2former.data.build import read_as
from mask2former.data.checks import Finding, Split, id_findings, require, split_findings
from mask2former.data.clips import MeasuredClips
from mask2former.data.sample_sets import SampleSet, as_reader
from mask2former.data.sources import DataSource, OpenedData
from mask2former.errors import FailedError, OptionError, UserError
from mask2former.evaluation.cases import Case, Cases, match_classes
from mask2former.evaluation.scores import Evaluation, EvaluationReport, Predictions
from mask2former.files import check_folder, check_outputs
from mask2former.inference import failures
from mask2former.inference.opening import ModelSource, model_files, model_name, open_predictor
from mask2former.inference.pipeline import Failure
from mask2former.inference.predictor import ALL_CANDIDATES, Predictor, predicted
from mask2former.metrics.build import Evaluator
from mask2former.notes import collect_notes, sentences
from mask2former.progress import Progress, silent, tiles_told
from mask2former.results_io import ResultWriter, result_writer
from mask2former.results_io.json import write_json
from mask2former.structures.results import Segmentation

if TYPE_CHECKING:
    from mask2former.evaluation.gallery import Gallery
    from mask2former.inference.tta import MultiScaleFlip

__all__ = ["evaluate", "evaluate_predictor", "image_tasks", "matched_classes", "predict_case"]


def predict_case(predictor: Predictor, case: Case, tasks: Sequence[Task], **overrides: Any) -> Predictions:
    """The results to be measured, by task: those that users get for the same image or clip, with all candidates.

    This is the only way from pixels to measured results, used by both :func:`evaluate_predictor` and the validation
    during training.

    Raises:
        UserError: see :class:`Predictor`, and its method ``clip``.
    """
    overrides = predictor.settings.as_read | overrides
    if isinstance(case.image, np.ndarray):
        return predictor(case.image, tasks, **ALL_CANDIDATES | overrides)
    if "panoptic" in tasks:
        frames = predictor.track(case.image, "panoptic", **overrides)
        return {"panoptic": [frame.panoptic for frame in frames if frame.panoptic is not None]}  # all of them
    return {"instance": predictor.clip(case.image, **ALL_CANDIDATES | overrides)}


def _predicted(
    predictor: Predictor,
    cases: Sequence[Case] | Cases,
    tasks: Sequence[Task],
    batch_size: int,
    overrides: dict[str, Any],
) -> Generator[tuple[Case, Predictions], None, None]:
    """Each case with its results, in order. An error names the case and ends the loop, to avoid metrics of other data.

    Images are read ahead, one at a time, since readers may not be thread-safe, and post-processed behind the network.
    """
    if not len(cases):
        return
    first = cases[0]
    if first.is_clip:
        for case in itertools.chain([first], (cases[index] for index in range(1, len(cases)))):
            with _naming(case, predictor):
                yield case, predict_case(predictor, case, tasks, **overrides)
        return
    read, reading = {0: first}, threading.Lock()

    def image(index: int) -> UInt8[np.ndarray, "H W C"]:
        with reading:
            if index not in read:
                read[index] = cases[index]
            found = read[index].image
        assert isinstance(found, np.ndarray), "images and clips cannot be measured together"
        return found

    settings = ALL_CANDIDATES | overrides
    found = predictor.in_stages(range(len(cases)), image, _results, None, tasks, batch_size, **settings)
    with contextlib.closing(found):  # ends its threads
        for index, results in found:
            if isinstance(results, Failure) and index not in read:
                raise results.error
            case = read.pop(index)
            with _naming(case, predictor):
                if isinstance(results, Failure):
                    raise results.error
            yield case, results


def _results(index: int, image: object, results: Any) -> Any:
    return results


@contextlib.contextmanager
def _naming(case: Case, predictor: Predictor) -> Iterator[None]:
    """Errors in this context name the image or clip."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        subject = f"{'clip' if case.is_clip else 'image'} '{case.image_id}'"
        sentence = failures.reason(error, subject, predictor.device)
        raise FailedError(f"{sentence}; metrics without it would be for other data, so none are written") from error


def evaluate_predictor(
    predictor: Predictor,
    cases: Sequence[Case] | Cases,
    tasks: Sequence[Task],
    metrics: EvaluationConfig | None = None,
    *,
    batch_size: int = 1,
    style: MetricStyle = "coco",
    results: ResultWriter | None = None,
    observe: Callable[[Case, Mapping[Task, Segmentation]], None] | None = None,
    group_of: Mapping[int | str, str] | None = None,
    others: Sequence[tuple[Task, Evaluator]] = (),
    progress: Callable[[int], None] = lambda done: None,
    **overrides: Any,
) -> EvaluationReport:
    """Measure a predictor as it is used: images and clips are resized for the model, results have their original size.

    Args:
        predictor: the predictor to measure, on its device and with its settings.
        cases: images or clips with ground truth; only one clip, or about ``3 * batch_size`` images and four more, are
            in memory at a time. Cases without annotations have results, but no metrics.
        tasks: tasks to predict, all in one pass.
        metrics: the options of the metrics.
        batch_size: the largest number of images that go through the network together, see :meth:`Predictor.stream`.
        style: whose rules apply; ground truth must have the form that these expect.
        results: writer that receives the results of its task, which must be among ``tasks``.
        observe: called with every image and the user's part of its results, for instance :meth:`Gallery.add`.
        group_of: a group name for every image id; each group is also measured separately.
        others: further evaluators, each with its task; they are copied, so those passed in stay empty.
        progress: called with the number of cases done.
        overrides: settings of the predictor, for instance ``short_edge=0``.

    Raises:
        UserError: a task is not supported by the model, a setting is wrong, or ground truth does not fit.
        FailedError: an image or clip could not be predicted, for instance because memory ran out.
    """
    chosen = predictor.choose_tasks(tasks)

    def empty() -> Evaluation:
        return Evaluation(chosen, predictor.categories, metrics, style, others)

    evaluation, groups, sizes = empty(), defaultdict[str, Evaluation](empty), Counter[str]()
    start, done, measured = time.perf_counter(), 0, 0
    with contextlib.closing(_predicted(predictor, cases, chosen, batch_size, overrides)) as found:
        for done, (case, predictions) in enumerate(found, start=1):
            if case.ground_truths:
                evaluation.add(predictions, case.ground_truths)
                measured += 1
            if group_of is not None:
                groups[group_of[case.image_id]].add(predictions, case.ground_truths)
                sizes[group_of[case.image_id]] += 1
            if results is not None:
                results.add(case.image_id, predictions[results.task])
            if observe is not None:
                assert not case.is_clip, "clips cannot be observed"
                shown = {task: predicted(result, predictor.settings) for task, result in predictions.items()}
                observe(case, shown)  # pyright: ignore[reportArgumentType]
            progress(done)
    figures, rows = (evaluation.compute(), evaluation.per_class()) if measured else ({}, {})
    by_group = {name: (groups[name].compute(), sizes[name]) for name in sorted(groups)}
    return EvaluationReport(figures, rows, done, time.perf_counter() - start, evaluation.evaluators, by_group)


# --- the call --------------------------------------------------------------------------------------------------------

Samples = AnnotatedSet | MeasuredClips

# Options of the metrics; the other options of EvaluationConfig only concern training.
_MEASURES = ("max_detections", "area_limits", "boundary", "pooled_threshold", "semantic_segments")
_OF_CLIPS = ("max_detections", "area_limits")
_CLIP_TASKS: tuple[Task, ...] = ("instance", "panoptic")


def evaluate(
    model: ModelSource,
    data: DataSource | DatasetConfig | Samples | SampleSet | str | Path = "scenes",
    tasks: Task | Sequence[Task] = (),
    metrics: EvaluationConfig | None = None,
    *,
    evaluators: Sequence[tuple[Task, Evaluator]] = (),
    views: MultiScaleFlip | None = None,
    results: ResultWriter | str | os.PathLike[str] | None = None,
    json: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    recipe: str | None = None,
    trained_for: Task | Sequence[Task] = (),
    weights: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int = 1,
    progress: Progress = silent,
    **settings: Any,
) -> EvaluationReport:
    """Measure a model on images or clips; what ``mask2former evaluate`` does.

        report = evaluate("scenes-tiny", DataSource(annotations="val.json", images="val"), "instance")
        print(report.metrics["instance/AP"])

    Args:
        model: a name, file or folder, a model, or a predictor.
        data: a data set, its name or configuration, or a :class:`~mask2former.data.sources.DataSource`.
        tasks: what is measured. None: for images, all tasks that both the model and the data support; for clips,
            ``instance`` or else ``panoptic``.
        metrics: options of the metrics. Options that are not set come from the run file that names the data, or else
            are the defaults, so that a model is measured as during its training.
        evaluators: your own metrics, each with its task; they are copied, so those passed in stay empty.
        views: test-time augmentation.
        results: also write the results: a writer, or a file or folder in the format of the test servers; with several
            tasks, the instances.
        json: also write the metrics to this file.
        report: also write a page with metrics, charts and images to this ``.html`` file.
        recipe: for files without configuration, for instance ``coco-panoptic/r50``.
        trained_for: instead of ``recipe``, the tasks that the model was trained for.
        weights: see :meth:`Predictor.from_pretrained`.
        device: see :class:`Predictor`.
        dtype: see :class:`Predictor`.
        batch_size: the largest number of images that go through the network together, see :meth:`Predictor.stream`.
        progress: called with the step, and the numbers of images (or clips) done and in total, or of tiles for an
            image that has many.
        settings: inference settings that replace the stored ones, as in :meth:`Predictor.from_pretrained`, for instance
            ``tile=512``. They are recorded.

    Returns:
        Metrics in percent, and what they were measured on.

    Raises:
        UserError: data, model, tasks and options do not fit together, or a file cannot be written; nothing is
            written then.
        FailedError: an image or clip could not be predicted, for instance because memory ran out.
    """
    data = str(data) if isinstance(data, Path) else data
    source = data if isinstance(data, DataSource) else DataSource(data) if _is_named(data) else DataSource()
    _check_outputs(json, results, report, [*source.files(), *model_files(model)])

    @functools.cache  # loaded as late as possible, so missing data is noticed before a download
    def predictor() -> Predictor:
        loading: dict[str, Any] = {"recipe": recipe, "trained_for": trained_for, "weights": weights}
        loading |= settings
        return open_predictor(model, device=device, dtype=dtype, views=views, quiet=True, progress=progress, **loading)

    requested = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    given = set() if metrics is None else metrics.model_fields_set & set(_MEASURES)
    group_of = None
    with collect_notes() as found, contextlib.ExitStack() as stack:
        if data is source or _is_named(data):
            opened = source.open(lambda: predictor().settings.default_task)
        else:
            opened = OpenedData(samples=as_reader(cast("SampleSet", data)), record={"data": type(data).__name__})
        samples, options = opened.samples, _options(metrics, given, opened.evaluation)
        if is_clip := isinstance(samples, MeasuredClips):
            chosen = _clip_tasks(samples, requested)
            others = {"views": views, "report": report, "by": source.by}
            others |= {"batch_size": batch_size if batch_size > 1 else None}
            _check_clips(chosen, given, others, results)
        else:
            group_of = source.groups()
            chosen = image_tasks(predictor(), samples, requested)
            if results is not None and (shared := id_findings(samples, source.split, source.limit)):
                raise _shared_ids(shared[0])
            if "instance" not in chosen:
                subject = f"instances; add the task instance (got {', '.join(chosen)})"
                _refuse(given & {"pooled_threshold", "max_detections"}, subject)
        if not samples.has_ground_truth:
            _check_unannotated("clips" if is_clip else "images", results, report)
        if strange := [task for task, _ in evaluators if task not in chosen]:
            raise UserError(
                f"an evaluator is for the task {strange[0]}, which is not measured; measured: {', '.join(chosen)}"
            )
        read_as(samples, predictor().settings.reading)
        class_map, notes = matched_classes(predictor(), samples, source.split)
        named = source.data.partition(":")[2] if isinstance(source.data, str) else ""
        if not requested and named in get_args(Task) and named not in chosen:
            notes.append(f"'{source.data}': the model was not trained for {named}; measured: {', '.join(chosen)}")
        overrides = _overrides(predictor(), opened, options, given, is_clip=is_clip)
        writer = None
        if results is not None:
            writer = _writer(results, chosen, predictor(), samples, class_map)
            stack.enter_context(writer)
        cases = Cases(samples, chosen, predictor().categories, class_map, source.limit)
        gallery = _gallery(predictor()) if report is not None else None
        num_done = 0

        def tell(done: int) -> None:
            nonlocal num_done
            num_done = done
            progress("evaluating", done, len(cases))

        stack.enter_context(tiles_told(progress, "evaluating", lambda: num_done, len(cases)))
        tell(0)
        measured = evaluate_predictor(
            predictor(),
            cases,
            chosen,
            options,
            style=cases.style,
            results=writer,
            observe=None if gallery is None else gallery.add,
            group_of=group_of,
            others=evaluators,
            batch_size=batch_size,
            progress=tell,
            **overrides,
        )
    request = {
        "model": model_name(model),
        **opened.record,
        "tasks": list(chosen),
        "settings": _recorded_options(options, chosen, is_clip=is_clip),
        **({} if source.by is None else {"by": source.by}),
        **{name: value for name, value in predictor().recorded_settings.items() if name == "tta"},
        **({} if dtype is None else {"dtype": dtype}),
        **settings,
    }
    measured = replace(
        measured,
        unit="clip" if is_clip else "image",
        num_available=len(samples),
        request=request,
        notes=(*samples.notes, *notes, *sentences(found)),
        results=writer,
    )
    if report is not None:
        from mask2former.evaluation.report import write_report

        how = {
            "inference": predictor().recorded_settings | overrides,
            "device": predictor().device,
            "version": f"mask2former {mask2former.__version__}",
        }
        title, classes = request["model"], predictor().categories
        write_report(Path(report), measured, classes, gallery, title=title, settings=request | how)
    if json is not None:
        write_json(json, {**request, **measured.to_dict()})
    return measured


def _is_named(data: object) -> TypeGuard[str | DatasetConfig]:
    """Whether the data is a name or a configuration, and not yet loaded."""
    kinds, _ = get_args(DatasetConfig)  # DatasetConfig is an annotated union
    return isinstance(data, (str, *get_args(kinds)))


def _check_outputs(
    json: str | os.PathLike[str] | None,
    results: ResultWriter | str | os.PathLike[str] | None,
    report: str | os.PathLike[str] | None,
    inputs: Sequence[str | Path],
) -> None:
    """Reject output paths that cannot be written or that are inputs, before anything is measured."""
    files = [(name, Path(path)) for name, path in (("json", json), ("report", report)) if path is not None]
    folders: list[tuple[str, Path]] = []
    if isinstance(results, str | os.PathLike):
        target = Path(results)
        if target.suffix == ".json":  # panoptic results X.json come with a folder X of images
            files.append(("results", target))
            folders.append(("results", target.with_suffix("")))
        else:
            check_folder(target)
            folders.append(("results", target))
    check_outputs(files, inputs, folders)


def _options(
    metrics: EvaluationConfig | None, given: Collection[str], of_run: EvaluationConfig | None
) -> EvaluationConfig:
    """Options that are given, otherwise those of the run file, otherwise the defaults."""
    values = {} if of_run is None else {name: getattr(of_run, name) for name in _MEASURES}
    return EvaluationConfig(**values | {name: getattr(metrics, name) for name in given})


def _recorded_options(options: EvaluationConfig, tasks: Sequence[Task], *, is_clip: bool) -> dict[str, Any]:
    if is_clip:
        return options.model_dump(mode="json", include=set(_OF_CLIPS)) if "instance" in tasks else {}
    return options.model_dump(mode="json", include=set(_MEASURES))


def _refuse(names: Iterable[str], subject: str) -> None:
    """Reject arguments that do not apply here."""
    for argument in names:
        raise OptionError(lambda name, argument=argument: f"{name(argument)} applies to {subject}")


def image_tasks(predictor: Predictor, samples: AnnotatedSet, requested: Sequence[Task]) -> tuple[Task, ...]:
    """The requested tasks, or else those that both the model and the data have."""
    both: list[Task] = [task for task in predictor.settings.tasks if task in samples.tasks]
    chosen = predictor.choose_tasks(requested or both or samples.tasks)
    if others := [task for task in chosen if task not in samples.tasks]:
        raise UserError(f"the data has ground truth for {', '.join(samples.tasks)}, not {others[0]}")
    return chosen


def _clip_tasks(samples: MeasuredClips, requested: Sequence[Task]) -> tuple[Task]:
    """The requested task, or else ``instance`` if the clips have tracks."""
    known: list[Task] = [task for task in _CLIP_TASKS if task in samples.tasks]
    chosen: list[Task] = sorted(set(requested)) or known[:1]
    for task in chosen:
        if task not in known:
            raise UserError(f"these clips are measured by the task {' or '.join(known)}, not by {task}")
    if len(chosen) > 1:
        raise UserError("clips are measured by one task at a time, because each task has its own tracks; got two")
    return (chosen[0],)


def _check_clips(
    tasks: Sequence[Task],
    given: Collection[str],
    others: Mapping[str, object],
    results: object,
) -> None:
    about_images = [*(name for name in _MEASURES if name in given and name not in _OF_CLIPS)]
    _refuse([*about_images, *(name for name, value in others.items() if value is not None)], "images, not to clips")
    if "panoptic" in tasks:
        about_tracks = [name for name in _OF_CLIPS if name in given] + (["results"] if results is not None else [])
        _refuse(about_tracks, "the task instance, not to panoptic")


def _check_unannotated(what: str, results: object, report: object) -> None:
    if results is None:
        raise OptionError(
            lambda name: (
                f"these {what} have no annotations to measure with; {name('results')} FILE.json writes the results"
            )
        )
    if report is not None:
        _refuse(["report"], f"{what} with annotations, and these have none")


def _shared_ids(shared: Finding) -> UserError:
    return OptionError(
        lambda name: (
            f"{name('results')} needs a different id for every image, but {shared.count} ids occur more than once "
            f"(such as '{shared.offenders[0]}'), for instance because several annotation files count from 1; renumber "
            "them, or evaluate one file at a time"
        )
    )


def matched_classes(predictor: Predictor, samples: Samples, split: Split) -> tuple[Int64[np.ndarray, " K"], list[str]]:
    """The model's index of every class of the data, and notes about the data."""
    notes = require(split_findings(samples, split, measured_only=True))
    things_only = all(item.is_thing for item in samples.categories)
    return match_classes(predictor.categories, samples.categories, things_only=things_only, notes=notes), notes


def _overrides(
    predictor: Predictor, opened: OpenedData, options: EvaluationConfig, given: Collection[str], *, is_clip: bool
) -> dict[str, Any]:
    """Settings of the predictor for this evaluation."""
    overrides: dict[str, Any] = {}
    if opened.as_drawn and (is_clip or not predictor.settings.tile):  # tiles are resized as in training
        overrides["short_edge"] = 0
    if "max_detections" in given:  # otherwise the model would return fewer
        overrides["max_instances"] = max(options.max_detections, predictor.settings.max_instances)
        overrides["things_first"] = predictor.settings.things_first  # the selection remains as published
    return overrides


def _writer(
    results: ResultWriter | str | os.PathLike[str],
    tasks: Sequence[Task],
    predictor: Predictor,
    samples: Samples,
    class_map: Int64[np.ndarray, " K"],
) -> ResultWriter:
    if not isinstance(results, str | os.PathLike):
        if results.task not in tasks:
            raise UserError(
                f"the writer expects results of the task {results.task}, which is not measured; measured: "
                f"{', '.join(tasks)}"
            )
        return results
    ids = {int(index): samples.categories[number].id for number, index in enumerate(class_map)}
    kind = "instance" if "instance" in tasks else tasks[0]
    return result_writer(kind, results, predictor.categories, category_ids=ids, style=samples.metric_style)


def _gallery(predictor: Predictor) -> Gallery:
    from mask2former.evaluation.gallery import Gallery

    return Gallery(predictor.categories)
