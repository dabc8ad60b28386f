"""Measuring a model: the options of ``mask2former evaluate``, and which of them go together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from mask2former import limits
from mask2former.cli.clips import clips_by_name, evaluate_on_clips
from mask2former.cli.data_sets import metric_options
from mask2former.cli.names import complete_model
from mask2former.cli.pictures import PictureSource, evaluate_on_pictures
from mask2former.cli.shared import Device, Dtype
from mask2former.cli.views import Tta, TtaSizes
from mask2former.errors import RequestError

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Name (see: mask2former models), file, folder, or hf://owner/name.", autocompletion=complete_model
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:TASK]",
            help="scenes or scene-clips (built in), coco, coco-stuff-10k, ade20k, ade20k-full, cityscapes, "
            "mapillary-vistas, youtube-vis:YEAR; RUN.yaml for the data of a run file.",
            show_default="scenes",
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Holds the data sets.", show_default="$MASK2FORMER_DATA or ./datasets"),
    ] = None,
    split: Annotated[Literal["validation", "train"], typer.Option(help="Which part of the data.")] = "validation",
    annotations: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Your data: objects in COCO's format, or tracks in YouTube-VIS format."),
    ] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the images.")] = None,
    segments: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Clips with panoptic ground truth (VIPSeg's format): the folder of the PNGs of its frames.",
        ),
    ] = None,
    allow_outside: Annotated[
        bool,
        typer.Option(
            "--allow-outside",
            help="Also read images outside their folder that annotations name (../a.jpg, /data/a.jpg).",
        ),
    ] = False,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", "--task", "-t", help="Can be repeated; default: all it was trained for."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "--scenes",
            min=1,
            max=limits.INTEGER,
            help="Read at most this many images.",
            show_default="all, or 50 scenes",
        ),
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(
            min=1, help="Instance: how many count per image and class.", show_default="100, or as RUN.yaml says"
        ),
    ] = None,
    area_limits: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="PX PX",
            help="Instance: where medium and large objects begin.",
            show_default="1024 9216, of clips 16384 65536",
        ),
    ] = None,
    boundary: Annotated[
        bool, typer.Option("--boundary", help="Also boundary PQ, AP and IoU, which look at outlines (takes longer).")
    ] = False,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Also measure groups of pictures: a key that the images of --annotations have, for instance modality.",
        ),
    ] = None,
    pooled: Annotated[
        float | None,
        typer.Option(metavar="SCORE", help="Instance: also TP/(TP+FP+FN) of objects above SCORE (DSB 2018)."),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", "--output", "-o", help="Also write the metrics here.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Also write the results as test servers take them: of several tasks the instances. A .json file; for "
            "label maps, and for Cityscapes' instances, a folder."
        ),
    ] = None,
    report_folder: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Also write DIR/index.html: numbers, charts and pictures."),
    ] = None,
    tta: Tta = False,
    tta_sizes: TtaSizes = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=limits.SCENE,
            help="Seed of the first scene.",
            show_default="1000000, for validation",
            rich_help_panel="Scenes",
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=32, help="Side in pixels.", show_default="128", rich_help_panel="Scenes")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Measure a model: panoptic quality, average precision and mean IoU, in percent.

    Clips (--data scene-clips or youtube-vis:2019, --annotations in YouTube-VIS format or a folder of id maps) are
    measured by the average precision of tracks. With panoptic ground truth (--data scene-clips --task panoptic, or
    --annotations, --images and --segments in VIPSeg's format) they are measured by video panoptic quality and identity
    switches. With --data RUN.yaml the metrics have the options of its evaluation.
    """
    page = None if report_folder is None else report_folder / "index.html"
    given = [entry for entry in (model, data, annotations, images, segments) if entry is not None]
    _check_outputs(json, results, page, given)
    _check_data(data, data_root, annotations, images, segments)
    if by is not None and annotations is None:
        raise RequestError("--by names a key of the images in a file; give --annotations FILE.json with it")
    options = {
        "max_detections": max_detections,
        "area_limits": area_limits,
        "boundary": boundary or None,
        "pooled_threshold": pooled,
        "semantic_segments": None,
    }
    metrics = metric_options(data, options)
    asked = [name for entry in tasks or () for name in entry.split(",")]
    clips = clips_by_name(
        data, data_root, annotations, images, split, seed, size, limit, segments, allow_outside=allow_outside
    )
    if clips is not None:
        about_pictures = {
            "--boundary": boundary,
            "--pooled": pooled is not None,
            "--by": by is not None,
            "--tta": tta or tta_sizes is not None,
            "--report": page is not None,
        }
        _refuse(about_pictures, "pictures, not about clips")
        if data != "scene-clips":
            about_scenes = {"--seed": seed is not None, "--size": size is not None}
            _refuse(about_scenes, f"scenes, not about {data or annotations}")
        source = {"data": data or str(annotations), "split": split, "images": None if images is None else str(images)}
        if segments is not None:
            source["segments"] = str(segments)
        evaluate_on_clips(
            model,
            clips,
            source,
            tasks=asked,
            limit=limit,
            metrics=metrics,
            max_detections=max_detections,
            json=json,
            results=results,
            device=device,
            dtype=dtype,
        )
        return
    evaluate_on_pictures(
        model,
        PictureSource(data, data_root, annotations, images, split, seed, size, limit, allow_outside),
        tasks=asked,
        metrics=metrics,
        typed={"--pooled": pooled, "--max-detections": max_detections},
        by=by,
        tta=tta,
        tta_sizes=tta_sizes,
        json=json,
        results=results,
        page=page,
        device=device,
        dtype=dtype,
    )


def _check_outputs(json: Path | None, results: Path | None, page: Path | None, inputs: Sequence[str | Path]) -> None:
    """Refuse places that cannot be written or that are read, before anything is measured."""
    from mask2former.inference import files

    for path in (json, results, page):
        if path is not None:
            (files.check_folder if path is results and path.suffix != ".json" else files.check_file)(path)
    # Beside X.json panoptic results have a folder X of images.
    for path in (json, results, page, None if results is None or not results.name else results.with_suffix("")):
        if path is not None:
            files.check_apart(path, inputs)
    if json is not None and results is not None and json.resolve() == results.resolve():
        raise RequestError(f"--json and --results would both write '{json}'; name two files")


def _check_data(
    data: str | None, data_root: Path | None, annotations: Path | None, images: Path | None, segments: Path | None
) -> None:
    """Refuse two names for the data, and half of one."""
    if (annotations is None) != (images is None):
        raise RequestError("--annotations FILE.json and --images DIR belong together; give both, or neither for scenes")
    if segments is not None and annotations is None:
        raise RequestError(
            "--segments is the folder of PNGs of an annotation file; give --annotations FILE.json with it"
        )
    if annotations is not None:
        for option, value in (("--data", data), ("--data-root", data_root)):
            if value is not None:
                raise RequestError(f"{option} and --annotations name different data; give one of the two")


def _refuse(given: dict[str, bool], subject: str) -> None:
    for option, is_given in given.items():
        if is_given:
            raise RequestError(f"{option} is about {subject}")
