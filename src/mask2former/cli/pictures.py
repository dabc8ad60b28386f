"""Measuring a model on pictures: what ``mask2former evaluate`` does where the data are pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mask2former.cli.data_sets import dataset_by_name, reading_outside
from mask2former.cli.scores import print_scores
from mask2former.cli.shared import count, fetch_weights, stoppable
from mask2former.cli.terminal import make_console, progress_bar, say
from mask2former.cli.views import augmented
from mask2former.errors import RequestError

if TYPE_CHECKING:
    from mask2former.config import EvaluationConfig, Task
    from mask2former.data.annotated import AnnotatedSet
    from mask2former.data.images import ValueRange
    from mask2former.inference.evaluate import EvaluationReport
    from mask2former.inference.highlights import Highlights
    from mask2former.inference.predictor import Predictor

__all__ = ["PictureSource", "evaluate_on_pictures"]

_HEADLINES = ("panoptic/PQ", "instance/AP", "instance/boundary_AP", "instance/pooled_AP", "semantic/mIoU")
_FIRST_SCENE = 1_000_000  # of those for validation


@dataclass(frozen=True)
class PictureSource:
    """Which pictures the options of ``evaluate`` name: those of ``annotations``, else those of ``data``."""

    data: str | None
    data_root: Path | None
    annotations: Path | None
    images: Path | None
    split: Literal["validation", "train"]
    seed: int | None
    size: int | None
    limit: int | None
    allow_outside: bool = False

    def check(self) -> None:
        """Refuse options about scenes where the data are others.

        Raises:
            RequestError: naming the option.
        """
        data = self.data if self.annotations is None else str(self.annotations)
        if data in (None, "scenes"):
            return
        for option, value in (("--seed", self.seed), ("--size", self.size)):
            if value is not None:
                raise RequestError(f"{option} is about scenes, not about {data}")

    def open(self, default_task: Task, value_range: ValueRange | None = None) -> _Pictures:
        """Read what is needed to know how many there are.

        Raises:
            RequestError: no such data set, or files that are missing or broken.
        """
        from mask2former.data.build import build_pictures
        from mask2former.data.datasets.coco import CocoInstances
        from mask2former.data.scenes import Scenes

        if self.annotations is not None and self.images is not None:
            own = {"data": "coco", "annotations": str(self.annotations), "images": str(self.images)}
            samples = CocoInstances([(self.annotations, self.images)], allow_outside=self.allow_outside)
            samples.value_range = value_range
            return _Pictures(samples, own)
        if self.data is None or self.data == "scenes":
            first, side = _FIRST_SCENE if self.seed is None else self.seed, self.size or 128
            scenes = Scenes((side, side), seed=first, length=self.limit or 50)
            # Scenes are drawn at the size that is asked for, so the model takes them as they are.
            return _Pictures(scenes, {"data": "scenes", "seed": first, "size": side}, {"short_edge": 0})
        config = dataset_by_name(self.data, self.data_root, default_task)
        if self.allow_outside:
            config = reading_outside(config, self.data)
        return _Pictures(
            build_pictures(config, self.split, value_range=value_range),
            {"data": config.model_dump(mode="json"), "split": self.split},
        )


@dataclass(frozen=True)
class _Pictures:
    """A data set, what it is in records of the evaluation, and the settings of the predictor that it needs."""

    samples: AnnotatedSet
    source: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)


def evaluate_on_pictures(
    model: str,
    source: PictureSource,
    *,
    tasks: Sequence[str],
    metrics: EvaluationConfig,
    typed: Mapping[str, float | None],
    by: str | None,
    tta: bool,
    tta_sizes: str | None,
    json: Path | None,
    results: Path | None,
    page: Path | None,
    device: str,
    dtype: str | None,
) -> None:
    """Metrics of all tasks from one pass, in percent, on the terminal and in the files that were asked for.

    Args:
        model: name, file or folder.
        source: the pictures.
        tasks: what is measured; none: what both the model and the data have.
        metrics: their options.
        typed: those that were given on the command line and are about instances, or None.
        by: key of the images in the annotation file whose values are measured by themselves, too.
        tta: more views of each picture.
        tta_sizes: their sizes, as typed; imply ``tta``.
        json: file of the metrics.
        results: file or folder of the answers.
        page: the report.
        device: where the model runs.
        dtype: precision of the model; None: as stored.

    Raises:
        RequestError: data, model, tasks and options do not fit together.
    """
    from mask2former.data.archives import find_file
    from mask2former.data.checks import id_findings, require, split_findings
    from mask2former.data.datasets.annotation_files import groups_in
    from mask2former.inference import evaluate as evaluation
    from mask2former.inference.highlights import Highlights
    from mask2former.inference.predictor import Predictor
    from mask2former.inference.result_files import result_writer
    from mask2former.notes import collect_notes, sentences

    source.check()
    group_of = (
        None
        if by is None or source.annotations is None
        else groups_in(find_file(source.annotations) or source.annotations, by)
    )
    console = make_console()
    fetch_weights(console, model)
    with stoppable(lambda: "nothing was written"), contextlib.ExitStack() as stack:
        progress = stack.enter_context(progress_bar(console))
        bar = progress.add_task("loading data and model", total=None)
        predictor = augmented(Predictor.from_pretrained(model, device=device, dtype=dtype, quiet=True), tta, tta_sizes)
        found = stack.enter_context(collect_notes())
        highlights = Highlights(predictor.categories)
        pictures = source.open(predictor.settings.default_task, predictor.settings.value_range)
        samples, settings = pictures.samples, dict(pictures.settings)
        if predictor.settings.tile:
            settings.pop("short_edge", None)  # windows are resized as they were in training
        chosen = _chosen_tasks(predictor, samples, tasks)
        _check_about_instances(chosen, typed)
        classes = samples.categories
        things_only = all(item.is_thing for item in classes)
        notes = require(split_findings(samples, source.split, measured_only=True))
        if results is not None and (shared := id_findings(samples, source.split, source.limit)):
            raise RequestError(
                f"--results needs an id of its own for every image, and {shared[0].count} ids are of several (such as "
                f"'{shared[0].culprits[0]}'), as where several annotation files number theirs from 1; renumber them, "
                "or evaluate one file at a time"
            )
        class_map = evaluation.match_classes(predictor.categories, classes, things_only=things_only, notes=notes)
        if typed["--max-detections"] is not None:  # or the model would not give as many
            settings["max_instances"] = max(metrics.max_detections, predictor.settings.max_instances)
            settings["things_first"] = predictor.settings.things_first  # the choice is as published
        writer = None
        if results is not None:
            ids = {int(index): classes[number].id for number, index in enumerate(class_map)}
            kind = "instance" if "instance" in chosen else chosen[0]
            writer = result_writer(kind, results, predictor.categories, category_ids=ids, style=samples.metric_style)
            stack.enter_context(writer)
        cases = evaluation.ImageCases(samples, chosen, predictor.categories, class_map, source.limit)
        progress.update(bar, description="evaluating", total=len(cases), completed=0)
        report = evaluation.evaluate_predictor(
            predictor,
            cases,
            chosen,
            metrics,
            style=cases.style,
            results=writer,
            observe=None if page is None else highlights.add,
            group_of=group_of,
            progress=lambda done: progress.update(bar, completed=done),
            **settings,
        )
    if report.num_images < len(samples):
        notes.append(f"only the first {report.num_images} of {len(samples)} images are measured (--limit)")
    print_scores(console, report, [*samples.notes, *notes, *sentences(found)])
    measures = metrics.model_dump(mode="json", exclude={"every", "patience", "num_pictures", "tasks", "monitor"})
    request = {"model": model, **pictures.source, "tasks": list(chosen), "settings": measures}
    if by is not None:
        request["by"] = by
    if "tta" in predictor.recorded_settings:
        request["tta"] = predictor.recorded_settings["tta"]
    if dtype is not None:
        request["dtype"] = dtype
    written = _write(request, report, predictor, highlights, settings, page, json)
    if writer is not None:
        written.append(f"{count(writer.count, 'result')} ({writer.task}): {writer.path}")
    say("; ".join([_headline(model, report), *written]))


def _chosen_tasks(predictor: Predictor, samples: AnnotatedSet, asked: Sequence[str]) -> tuple[Task, ...]:
    """What was asked for, else what the model and the data both have."""
    answered = [task for task in predictor.settings.tasks if task in samples.tasks]
    chosen = predictor.choose_tasks(asked or answered or samples.tasks)  # pyright: ignore[reportArgumentType]
    if others := [task for task in chosen if task not in samples.tasks]:
        raise RequestError(f"the data have truths for {', '.join(samples.tasks)}, not {others[0]}")
    return chosen


def _check_about_instances(chosen: Sequence[str], options: Mapping[str, object]) -> None:
    if "instance" in chosen:
        return
    for option, value in options.items():
        if value is not None:
            raise RequestError(f"{option} is about instances; add --tasks instance (got {', '.join(chosen)})")


def _write(
    request: dict[str, Any],
    report: EvaluationReport,
    predictor: Predictor,
    highlights: Highlights,
    settings: Mapping[str, Any],
    page: Path | None,
    json: Path | None,
) -> list[str]:
    """The files that were asked for; returns a phrase for each."""
    import mask2former
    from mask2former.inference import files

    written = []
    if page is not None:
        from mask2former.inference.report import write_report

        shown = {
            **request,
            "inference": predictor.recorded_settings | dict(settings),
            "device": predictor.device,
            "version": f"mask2former {mask2former.__version__}",
        }
        write_report(page, report, predictor.categories, highlights, title=f"{request['model']}", settings=shown)
        written.append(f"report: {page}")
    if json is not None:
        files.write_json(json, {**request, **report.to_dict()})
        written.append(f"metrics: {json}")
    return written


def _headline(model: str, report: EvaluationReport) -> str:
    rate = report.num_images / max(report.seconds, 1e-9)
    metrics = report.metrics
    numbers = ", ".join(f"{name.split('/')[1]} {metrics[name]:.2f}" for name in _HEADLINES if name in metrics)
    return f"{count(report.num_images, 'picture')} measured ({model}), {rate:.1f} per second: {numbers}"
