"""Measuring a model on clips: what ``mask2former evaluate`` does where the data are clips."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mask2former.cli.data_sets import reading_outside
from mask2former.cli.scores import print_scores
from mask2former.cli.shared import count, fetch_weights, read_run_file, stoppable
from mask2former.cli.terminal import make_console, progress_bar, say
from mask2former.errors import RequestError

if TYPE_CHECKING:
    from mask2former.config import EvaluationConfig
    from mask2former.data.clips import ClipSet, PanopticClips
    from mask2former.inference.track import TrackingTask

__all__ = ["clips_by_name", "evaluate_on_clips"]

_FRAMES = 20  # of a scene clip


def clips_by_name(
    data: str | None,
    data_root: Path | None,
    annotations: Path | None,
    images: Path | None,
    split: Literal["validation", "train"],
    seed: int | None,
    size: int | None,
    limit: int | None,
    segments: Path | None = None,
    *,
    allow_outside: bool = False,
) -> ClipSet | PanopticClips | None:
    """The clips that the options of ``evaluate`` name, or None where they name pictures.

    Clips are ``scene-clips``, ``youtube-vis:2019`` and ``:2021``, a run file about clips, an annotation file with
    ``videos``, and a folder of id maps in place of one. With ``segments``, a folder of PNGs, the annotation file is one
    of video panoptic ground truth.

    Raises:
        RequestError: files that are missing or broken, or a year that there is none of.
    """
    from mask2former.config import ClipSampling, DataConfig, RunConfig, parse
    from mask2former.data.build import build_clips
    from mask2former.data.datasets.mask_folders import MaskFolders
    from mask2former.data.datasets.video_panoptic import VideoPanoptic, is_video_panoptic
    from mask2former.data.datasets.youtube_vis import YouTubeVIS, is_youtube_vis
    from mask2former.data.scenes import SceneClips

    names_files = not annotations.is_dir() if annotations is not None else (data or "").endswith((".yaml", ".yml"))
    if allow_outside and not names_files:
        raise RequestError(
            f"--allow-outside is for annotations that name files; {annotations or data or 'scenes'} has none"
        )
    if annotations is not None and images is not None:
        if segments is not None:
            return VideoPanoptic(annotations, segments, images, allow_outside=allow_outside)
        if is_video_panoptic(annotations):
            raise RequestError(
                f"'{annotations}' lists segments of videos; give the folder of their PNGs as --segments DIR"
            )
        if annotations.is_dir():
            return MaskFolders(images, annotations)
        if not is_youtube_vis(annotations):
            return None
        return YouTubeVIS([(annotations, images)], allow_outside=allow_outside)
    if data == "scene-clips":
        return SceneClips(size or 128, _FRAMES, 1_000_000 if seed is None else seed, limit or 20)
    if data is None:
        return None
    if data.endswith((".yaml", ".yml")):
        config = parse(RunConfig, read_run_file(Path(data), []), data).data.dataset
        if not isinstance(config, ClipSampling):
            return None
        return build_clips(reading_outside(config, data) if allow_outside else config, split)
    name, _, year = data.partition(":")
    if name != "youtube-vis":
        return None
    if year not in ("2019", "2021"):
        raise RequestError(f"--data {data}: expected youtube-vis:2019 or youtube-vis:2021")
    root = None if data_root is None else str(data_root)
    values = {"dataset": {"name": name, "year": int(year), "root": root}}
    config = parse(DataConfig, values, f"--data {data}").dataset
    assert isinstance(config, ClipSampling)
    return build_clips(config, split)


def evaluate_on_clips(
    model: str,
    clips: ClipSet | PanopticClips,
    source: dict[str, Any],
    *,
    tasks: list[str],
    limit: int | None,
    metrics: EvaluationConfig,
    max_detections: int | None,
    json: Path | None,
    results: Path | None,
    device: str,
    dtype: str | None,
) -> None:
    """Average precision of tracks, or video panoptic quality, in percent, by the task.

    Without annotations only the file of results is written. The task is ``instance`` unless ``panoptic`` is asked for,
    or the clips have no other truth.

    Raises:
        RequestError: a task that the clips have no truth for, several, or nothing to do.
    """
    from mask2former.data.checks import class_findings, require, split_findings
    from mask2former.data.clips import ClipSet, PanopticClips
    from mask2former.data.datasets.reader import ImageReader
    from mask2former.inference import files
    from mask2former.inference.evaluate import ClipCases, evaluate_predictor, match_classes
    from mask2former.inference.predictor import Predictor
    from mask2former.inference.result_files import result_writer
    from mask2former.notes import collect_notes, sentences

    known = {"instance": isinstance(clips, ClipSet), "panoptic": isinstance(clips, PanopticClips)}
    chosen = sorted(set(tasks)) or [next(task for task, is_known in known.items() if is_known)]
    for name in chosen:
        if not known.get(name):
            raise RequestError(
                f"these clips are measured by the task {' or '.join(task for task in known if known[task])}, not by "
                f"{name}"
            )
    if len(chosen) > 1:
        raise RequestError("clips are measured by one task at a time, since tracks are made differently; got two")
    task: TrackingTask = "panoptic" if chosen == ["panoptic"] else "instance"
    if task == "panoptic":
        limits = metrics.area_limits
        about_tracks = {"--max-detections": max_detections, "--area-limits": limits, "--results": results}
        for option, value in about_tracks.items():
            if value is not None:
                raise RequestError(f"{option} is about the task instance, not about panoptic")
    if not clips.has_truth and results is None:
        raise RequestError("these clips have no annotations to measure with; --results FILE.json writes the results")
    console = make_console()
    fetch_weights(console, model)
    settings: dict[str, Any] = {"short_edge": 0} if source.get("data") == "scene-clips" else {}
    with stoppable(lambda: "nothing was written"), contextlib.ExitStack() as stack:
        progress = stack.enter_context(progress_bar(console))
        bar = progress.add_task("loading model", total=None)
        predictor = Predictor.from_pretrained(model, device=device, dtype=dtype, quiet=True)
        found = stack.enter_context(collect_notes())
        if isinstance(clips, ImageReader):
            clips.value_range = predictor.settings.value_range
        classes = clips.categories
        things_only, split = all(item.is_thing for item in classes), source["split"]
        is_tracks = isinstance(clips, ClipSet)
        notes = require(
            split_findings(clips, split, measured_only=True) if is_tracks else class_findings(classes, split)
        )
        class_map = match_classes(predictor.categories, classes, things_only=things_only, notes=notes)
        if max_detections is not None:  # or the model would not give as many
            settings["max_instances"] = max(max_detections, predictor.settings.max_instances)
            settings["things_first"] = predictor.settings.things_first  # the choice is as published
        writer = None
        if results is not None:
            ids = {int(index): classes[number].id for number, index in enumerate(class_map)}
            writer = result_writer("instance", results, predictor.categories, category_ids=ids, style="youtube-vis")
            stack.enter_context(writer)
        cases = ClipCases(clips, class_map, limit, task=task)
        progress.update(bar, description="evaluating", total=len(cases), completed=0)
        report = evaluate_predictor(
            predictor,
            cases,
            [task],
            metrics,
            style=cases.style,
            results=writer,
            progress=lambda done: progress.update(bar, completed=done),
            **settings,
        )
    if report.num_images < len(clips):
        notes.append(f"only the first {report.num_images} of {len(clips)} clips are measured (--limit)")
    print_scores(console, report, [*clips.notes, *notes, *sentences(found)])
    seconds = report.seconds / max(report.num_images, 1)
    line = f"{count(report.num_images, 'clip')} done ({model}), {seconds:.1f} s each"
    if "instance/AP" in report.metrics:
        line += f": AP {report.metrics['instance/AP']:.2f}"
    if "panoptic/VPQ" in report.metrics:
        switches = report.metrics["panoptic/id_switches"]
        line += f": VPQ {report.metrics['panoptic/VPQ']:.2f}, identity switches {switches:.0f}"
    if json is not None:
        options = metrics.model_dump(mode="json", include={"max_detections", "area_limits"})
        request = {"model": model, **source, "tasks": [task], "settings": options if task == "instance" else {}}
        request |= {} if dtype is None else {"dtype": dtype}
        files.write_json(json, {**request, **report.to_dict()})
        line += f"; metrics: {json}"
    if writer is not None:
        line += f"; {count(writer.count, 'result')}: {writer.path}"
    say(line)
