"""A demonstration that needs no files: scenes the model has never seen, segmented, measured and shown on one sheet.

Returns what it found and prints nothing; the command line does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mask2former import drawing
from mask2former.atomic import write_whole
from mask2former.config import Task
from mask2former.data.scenes import SCENE_CATEGORIES, Scenes
from mask2former.errors import RequestError
from mask2former.inference.evaluate import evaluate
from mask2former.inference.files import check_folder
from mask2former.inference.pictures import comparison_row
from mask2former.inference.predictor import Predictor
from mask2former.structures import Sample

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["DemoReport", "run", "table"]

_FIRST_SCENE = 2_000_000  # training draws below 1,000,000 and validation from there on
_STRIDE = 10_000  # scenes of one seed, so that no two seeds share a scene
_ROWS = 6
_CELL = 320  # pixels
_TASKS: tuple[Task, ...] = ("panoptic", "instance", "semantic")
_HEADLINES = {  # metric, and what it says
    "panoptic/PQ": ("PQ", "panoptic quality: every pixel in the right segment"),
    "instance/AP": ("AP", "average precision of object masks"),
    "semantic/mIoU": ("mIoU", "mean overlap of classes"),
}


@dataclass(frozen=True)
class DemoReport:
    """What a demonstration made.

    Attributes:
        sheet: the contact sheet.
        metrics: all metrics in percent, keyed ``task/name``.
        num_scenes: how many scenes were measured.
        seconds_per_scene: of model and post-processing for all three tasks.
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
    progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> DemoReport:
    """Segment fresh scenes for all tasks, measure, and write ``contact-sheet.png``.

    Args:
        source: a model trained on scenes: packaged name, file or folder.
        output: folder for the sheet; made when there is something to write.
        seed: chooses the scenes; none of them is drawn in training or for another seed.
        num_scenes: how many scenes are measured, at most 10,000; the first six are shown.
        device: see :class:`Predictor`.
        progress: told the step, and how many scenes of how many are done.

    Raises:
        RequestError: the model cannot be loaded, knows other classes than those of scenes or lacks a task, or the
            output cannot be written.
    """
    if not 1 <= num_scenes <= _STRIDE:
        raise RequestError(f"the number of scenes must be 1 to {_STRIDE}, got {num_scenes}")
    folder = Path(output)
    check_folder(folder)
    predictor = Predictor.from_pretrained(source, device=device)
    if predictor.categories.names != SCENE_CATEGORIES.names:
        raise RequestError(
            f"the model '{source}' knows {len(predictor.categories)} other classes; expected one trained on scenes"
        )
    predictor.choose_tasks(_TASKS)
    side = predictor.settings.short_edge or 128
    samples = Scenes((side, side), seed=_FIRST_SCENE + seed * _STRIDE, length=num_scenes)

    rows = []
    for index in range(min(_ROWS, num_scenes)):
        progress("drawing the contact sheet", index, _ROWS)
        rows.append(_row(samples[index], predictor, max(1, _CELL // side)))

    drawn = [samples[index] for index in range(num_scenes)]  # before the clock starts
    start = time.perf_counter()
    metrics = evaluate(predictor.model, drawn, _TASKS, progress=lambda done: progress("measuring", done, num_scenes))
    seconds = (time.perf_counter() - start) / num_scenes

    figures = "   ".join(f"{name} {metrics[key]:.1f}" for key, (name, _) in _HEADLINES.items())
    sheet = drawing.contact_sheet(
        rows,
        ("image", "truth", "panoptic", "instance", "semantic"),
        title="Mask2Former on scenes it has never seen",
        subtitle=f"{figures}   over {num_scenes} scenes",
        legend=[(item.name, item.color) for item in predictor.categories],
        cell_width=_CELL,
    )
    path = folder / "contact-sheet.png"
    write_whole(path, lambda file: sheet.save(file, format="PNG"))
    return DemoReport(path, metrics, num_scenes, seconds)


def table(report: DemoReport) -> Table:
    """The headline metrics for the terminal."""
    from rich.table import Table

    rows = Table(title=f"{report.num_scenes} fresh scenes, {report.seconds_per_scene:.2f} s each", title_justify="left")
    rows.add_column("metric")
    rows.add_column("%", justify="right")
    rows.add_column("what it says")
    for key, (name, meaning) in _HEADLINES.items():
        rows.add_row(name, f"{report.metrics[key]:.1f}", meaning)
    return rows


def _row(sample: Sample, predictor: Predictor, scale: int) -> list[Image.Image]:
    image = sample.image[0].permute(1, 2, 0).contiguous().numpy()
    return comparison_row(sample, predictor(image, _TASKS), predictor.categories, scale)
