"""A demonstration that needs no files: scenes that the model has never seen, segmented, measured and shown.

The functions return their results; the command line prints them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mask2former import visualization
from mask2former.config import Task
from mask2former.data.datasets.scenes import SceneClips, Scenes
from mask2former.errors import MissingExtraError, UserError
from mask2former.evaluation.cases import Cases, match_classes
from mask2former.evaluation.comparison import comparison_row
from mask2former.evaluation.evaluate import evaluate_predictor
from mask2former.files import check_folder, write_whole
from mask2former.inference.predictor import Predictor
from mask2former.inference.tracking import join_frames
from mask2former.metrics.average_precision import VideoInstanceEvaluator
from mask2former.progress import Progress, silent
from mask2former.results_io.video import VideoWriter
from mask2former.scenes import SCENE_CATEGORIES
from mask2former.structures import Sample
from mask2former.structures.tracks import TrackedFrame

__all__ = ["DemoReport", "VideoDemoReport", "run", "run_video"]

_FIRST_SCENE = 2_000_000  # training uses scenes below 1,000,000, and validation scenes from there on
_STRIDE = 10_000  # scenes per seed, so that no two seeds share a scene
_ROWS = 6
_CELL = 320  # pixels
_CLIP_SIDE = 128  # pixels
_CLIP_FRAMES = 48  # of the clip that is shown
_MEASURED_FRAMES = 20  # of the clips that are measured
_CLIP_RATE = 10.0  # frames per second: things move fast
_CLIP_SCALE = 3  # enlargement of the displayed clip
_TASKS: tuple[Task, ...] = ("panoptic", "instance", "semantic")
_HEADLINES = ("panoptic/PQ", "instance/AP", "semantic/mIoU")


@dataclass(frozen=True)
class DemoReport:
    """The result of a demonstration.

    Attributes:
        sheet: the contact sheet.
        metrics: all metrics in percent, keyed ``task/name``.
        num_scenes: number of scenes that were measured.
        seconds_per_scene: of model and post-processing, for all three tasks together.
    """

    sheet: Path
    metrics: dict[str, float]
    num_scenes: int
    seconds_per_scene: float


def run(
    source: str | Path,
    output: str | Path,
    *,
    seed: int = 0,
    num_scenes: int = 50,
    device: str | None = None,
    progress: Progress = silent,
) -> DemoReport:
    """Segment new scenes for all tasks, measure the results, and write ``contact-sheet.png``.

    Args:
        source: a model trained on scenes: packaged name, file or folder.
        output: folder for the sheet; created when there is something to write.
        seed: selects the scenes; none of them is drawn in training or for another seed.
        num_scenes: number of scenes to measure, at most 10,000; the first six are shown.
        device: see :class:`Predictor`.
        progress: called with the step, and the numbers of scenes done and in total.

    Raises:
        UserError: the model cannot be loaded, has other classes than those of scenes or lacks a task, or the
            output cannot be written.
    """
    predictor, folder = _prepared(source, device, output, num_scenes, "scenes")
    predictor.choose_tasks(_TASKS)
    side = predictor.settings.short_edge or 128
    samples = Scenes((side, side), seed=_FIRST_SCENE + seed * _STRIDE, length=num_scenes)

    rows = []
    num_rows = min(_ROWS, num_scenes)
    for index in range(num_rows):
        progress("drawing the contact sheet", index, num_rows)
        rows.append(_row(samples[index], predictor, max(1, _CELL // side)))

    class_map = match_classes(predictor.categories, samples.categories)
    cases = list(Cases(samples, _TASKS, predictor.categories, class_map))  # before the timer starts
    report = evaluate_predictor(
        predictor, cases, _TASKS, progress=lambda done: progress("measuring", done, num_scenes), short_edge=0
    )
    metrics, seconds = report.metrics, report.seconds / num_scenes

    figures = "   ".join(f"{key.split('/')[1]} {metrics[key]:.1f}" for key in _HEADLINES)
    sheet = visualization.contact_sheet(
        rows,
        ("image", "ground truth", "panoptic", "instance", "semantic"),
        title="Mask2Former on scenes it has never seen",
        subtitle=f"{figures}   over {num_scenes} scenes",
        legend=[(item.name, item.color) for item in predictor.categories],
        cell_width=_CELL,
    )
    path = folder / "contact-sheet.png"
    write_whole(path, lambda file: sheet.save(file, format="PNG"))
    return DemoReport(path, metrics, num_scenes, seconds)


@dataclass(frozen=True)
class VideoDemoReport:
    """The result of a demonstration of tracking.

    Attributes:
        video: an MP4, or a GIF if PyAV is not installed.
        metrics: all metrics of tracks in percent, keyed ``instance/name``.
        num_clips: number of clips that were measured.
        num_tracks: number of tracks in the displayed clip.
        seconds_per_frame: of reading, model and linking.
    """

    video: Path
    metrics: dict[str, float]
    num_clips: int
    num_tracks: int
    seconds_per_frame: float


def run_video(
    source: str | Path,
    output: str | Path,
    *,
    seed: int = 0,
    num_clips: int = 20,
    device: str | None = None,
    progress: Progress = silent,
) -> VideoDemoReport:
    """Track the things in new scene clips, measure the tracks, and write ``tracks.mp4``: a clip beside its tracks.

    Args:
        source: a model trained on scenes: packaged name, file or folder.
        output: folder for the video; created when there is something to write.
        seed: selects the clips; none of them is drawn in training or for another seed.
        num_clips: number of clips of 20 frames to measure, at most 10,000.
        device: see :class:`Predictor`.
        progress: called with the step, and the numbers of frames or clips done and in total.

    Raises:
        UserError: see :func:`run`.
    """
    predictor, folder = _prepared(source, device, output, num_clips, "clips")
    first = _FIRST_SCENE + seed * _STRIDE

    # Not evaluate_predictor, which measures clips with one pass over all frames: this demonstration is about tracks.
    clips = SceneClips(_CLIP_SIDE, _MEASURED_FRAMES, first, num_clips)
    evaluator, seconds = VideoInstanceEvaluator(predictor.categories), 0.0
    for index in range(num_clips):
        progress("measuring", index, num_clips)
        images = clips.images(index)  # before the timer starts
        start = time.perf_counter()
        found = join_frames(predictor.track(images, "instance", short_edge=0), things_only=True)
        seconds += time.perf_counter() - start
        evaluator.update(found, clips.ground_truths(index, ["instance"])["instance"])

    numbers: set[int] = set()

    def image_files() -> Iterator[tuple[Image.Image, float]]:
        shown = SceneClips(_CLIP_SIDE, _CLIP_FRAMES, first, 1).images(0)
        for frame in predictor.track(shown, "instance", short_edge=0, rate=_CLIP_RATE):
            progress("drawing the video", frame.index, _CLIP_FRAMES)
            numbers.update(frame.track_ids.tolist())
            yield _side_by_side(frame), frame.seconds

    video = _write_video(folder, image_files())
    return VideoDemoReport(
        video, evaluator.compute(), num_clips, len(numbers), seconds / (num_clips * _MEASURED_FRAMES)
    )


def _prepared(
    source: str | Path, device: str | None, output: str | Path, number: int, what: str
) -> tuple[Predictor, Path]:
    """The model, if its classes are those of scenes, and the folder, if it can be written."""
    if not 1 <= number <= _STRIDE:
        raise UserError(f"the number of {what} must be 1 to {_STRIDE}, got {number}")
    folder = Path(output)
    check_folder(folder)
    predictor = Predictor.from_pretrained(source, device=device, quiet=True)
    if predictor.categories.names != SCENE_CATEGORIES.names:
        raise UserError(
            f"the {len(predictor.categories)} classes of the model '{source}' are not those of scenes; expected a "
            "model trained on scenes"
        )
    return predictor, folder


def _side_by_side(frame: TrackedFrame) -> Image.Image:
    tracked = frame.plot(scale=_CLIP_SCALE)
    sheet = Image.new("RGB", (2 * tracked.width, tracked.height))
    sheet.paste(Image.fromarray(frame.image).resize(tracked.size, Image.Resampling.BICUBIC))
    sheet.paste(tracked, (tracked.width, 0))
    return sheet


def _write_video(folder: Path, images: Iterator[tuple[Image.Image, float]]) -> Path:
    """An MP4, or a GIF if PyAV is not installed."""
    try:
        writer = VideoWriter(folder / "tracks.mp4", _CLIP_RATE)
    except MissingExtraError:
        first, *others = [image.quantize(128) for image, _ in images]
        path = folder / "tracks.gif"
        milliseconds = round(1000 / _CLIP_RATE)
        write_whole(
            path,
            lambda file: first.save(
                file, format="GIF", save_all=True, append_images=others, duration=milliseconds, loop=0
            ),
        )
        return path
    with writer:
        for image, seconds in images:
            writer.add_image(np.asarray(image), seconds)
    return writer.path


def _row(sample: Sample, predictor: Predictor, scale: int) -> list[Image.Image]:
    image = sample.image[0].permute(1, 2, 0).contiguous().numpy()
    return comparison_row(sample, predictor(image, _TASKS), predictor.categories, scale)
