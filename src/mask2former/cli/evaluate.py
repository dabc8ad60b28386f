"""Measures a model: ``mask2former evaluate``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from mask2former import limits
from mask2former.cli.scores import headline, print_scores
from mask2former.cli.shared import (
    AllowOutside,
    BatchSize,
    DataRoot,
    Device,
    Dtype,
    MaxMegapixels,
    ModelArgument,
    OfficialSettings,
    Recipe,
    Tile,
    TileOverlap,
    TrainedFor,
    Weights,
    allowed_pixels,
    given,
    tasks_of,
    working,
)
from mask2former.cli.terminal import make_console, say
from mask2former.cli.views import Tta, TtaSizes, parse_views
from mask2former.text import count

__all__ = ["evaluate"]

_scenes_option = partial(typer.Option, rich_help_panel="Scenes")


def evaluate(
    model: ModelArgument,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:TASK]",
            help="Data set: scenes or scene-clips (built in), coco, coco-stuff-10k, ade20k, ade20k-full, cityscapes, "
            "mapillary-vistas or youtube-vis:YEAR; or RUN.yaml, for the data of a run file.",
            show_default="scenes",
        ),
    ] = None,
    data_root: DataRoot = None,
    split: Annotated[
        Literal["validation", "train"], typer.Option(help="Which part of the data to use.")
    ] = "validation",
    annotations: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Your own data: a file in COCO or YouTube-VIS format."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Your own data: the folder of the images or frames.")
    ] = None,
    segments: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Your own clips with panoptic ground truth (VIPSeg format): the folder of PNG files.",
        ),
    ] = None,
    allow_outside: AllowOutside = False,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            "--task",
            "-t",
            metavar="TASK",
            help="A task to measure; can be repeated.",
            show_default="all that the model supports",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "--scenes",
            min=1,
            max=limits.INTEGER,
            help="Maximum number of images or clips.",
            show_default="all; of scenes 50, of scene clips 20",
        ),
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=limits.DETECTIONS,
            help="Instance: maximum number of detections per image and class that are evaluated.",
            show_default="100, or as RUN.yaml says",
        ),
    ] = None,
    area_limits: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="PX PX",
            help="Instance: areas in pixels from which objects count as medium and as large.",
            show_default="1024 9216; for clips 16384 65536",
        ),
    ] = None,
    boundary: Annotated[
        bool, typer.Option("--boundary", help="Also compute boundary PQ, AP and IoU, which compare outlines (slower).")
    ] = False,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Also measure groups of images: those with the same value of this key in --annotations, for example "
            "modality.",
        ),
    ] = None,
    pooled: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SCORE",
            help="Instance: also compute TP/(TP+FP+FN) for objects above SCORE (DSB 2018).",
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option("--json", "--output", "-o", metavar="FILE.json", help="Also write the metrics to this file."),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Also write the predictions in the format of the data set's test server: a .json file, or a folder "
            "for label maps and for instances of Cityscapes. With several tasks, the instances are written."
        ),
    ] = None,
    report_folder: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Also write DIR/index.html with metrics, charts and images."),
    ] = None,
    tta: Tta = False,
    tta_sizes: TtaSizes = None,
    tile: Tile = None,
    tile_overlap: TileOverlap = None,
    official_settings: OfficialSettings = False,
    seed: Annotated[
        int | None,
        _scenes_option(min=0, max=limits.SCENE, help="Random seed of the first scene.", show_default="1000000"),
    ] = None,
    size: Annotated[
        int | None, _scenes_option(min=32, help="Side of the scenes in pixels.", show_default="128")
    ] = None,
    recipe: Recipe = None,
    trained_for: TrainedFor = None,
    weights: Weights = None,
    device: Device = "auto",
    dtype: Dtype = None,
    max_megapixels: MaxMegapixels = None,
    batch_size: BatchSize = 1,
) -> None:
    """Evaluate a model: panoptic quality, average precision and mean IoU, in percent.

    Clips are evaluated by the average precision of tracks (--data scene-clips or youtube-vis:2019, or --annotations in
    YouTube-VIS format or a folder of id maps), or by video panoptic quality and identity switches (--data scene-clips
    --task panoptic, or --segments).

    With --data RUN.yaml, metrics are computed with the evaluation settings of the run file.
    """
    from mask2former.config import EvaluationConfig, parse
    from mask2former.data.sources import DataSource
    from mask2former.evaluation.evaluate import evaluate as measure

    options = given(max_detections=max_detections, area_limits=area_limits, boundary=boundary, pooled_threshold=pooled)
    page = None if report_folder is None else report_folder / "index.html"
    console = make_console()
    with allowed_pixels(max_megapixels), working(console, lambda: "nothing was written") as tell:
        report = measure(
            model,
            DataSource(data, data_root, annotations, images, segments, split, seed, size, limit, by, allow_outside),
            tasks_of(tasks),
            parse(EvaluationConfig, options, "evaluate"),
            views=parse_views(tta, tta_sizes),
            results=results,
            json=json,
            report=page,
            recipe=recipe,
            trained_for=tasks_of(trained_for),
            weights=weights,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            progress=tell,
            **given(tile=tile, tile_overlap=tile_overlap, official_settings=official_settings),
        )
    print_scores(console, report)
    written = [f"report: {page}"] if page is not None else []
    if json is not None:
        written.append(f"metrics: {json}")
    if (writer := report.results) is not None:
        written.append(f"{count(writer.count, 'result')} ({writer.task}): {writer.path}")
    say("; ".join([headline(model, report), *written]))
