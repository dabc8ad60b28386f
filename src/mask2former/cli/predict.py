"""From images to results: ``mask2former predict``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from mask2former.cli.bulk import predict_in_bulk
from mask2former.cli.shared import (
    OF_MODEL,
    BandRanges,
    Bands,
    BatchSize,
    Classes,
    Device,
    Dtype,
    LongEdge,
    MaxMegapixels,
    MinArea,
    Model,
    OfficialSettings,
    Recipe,
    ShortEdge,
    Task,
    Tile,
    TileOverlap,
    TrainedFor,
    ValueRange,
    ValueRule,
    Weights,
    allowed_pixels,
    chosen_bands,
    chosen_range,
    given,
    machine_option,
    named_model,
    setting_option,
    tasks_of,
    working,
)
from mask2former.cli.terminal import make_console, say
from mask2former.cli.views import Tta, TtaSizes, parse_views
from mask2former.errors import FailedError, OptionError, UserError
from mask2former.text import count, quoted

if TYPE_CHECKING:
    from mask2former.inference.predict_files import FilesReport

__all__ = ["predict"]

_bulk_option = partial(typer.Option, rich_help_panel="Bulk (--ray)")


def predict(
    sources: Annotated[
        list[str],  # with --ray they may be URLs, in which a Path would drop a slash
        typer.Argument(
            metavar="SOURCE",
            help="Images, folders (searched recursively), http(s) addresses, or - for standard input. With --ray, also "
            "globs, lists of images (.csv, .parquet) and URLs such as s3://.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="PATH", help="Folder for the results; it mirrors the structure of the sources."
        ),
    ],
    model: Model = None,
    recipe: Recipe = None,
    trained_for: TrainedFor = None,
    weights: Weights = None,
    task: Annotated[
        Task | None,
        typer.Option(
            "--task", "-t", help="What to predict.", show_default="the first of these that the model supports"
        ),
    ] = None,
    page: Annotated[
        str | None,
        typer.Option(
            metavar="N|all",
            help="Page, frame or plane to read from files that contain several: a number from 1, or 'all'. Results "
            "are named X_page3 and so on.",
            show_default="the first",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace existing results, and any other files with the same names."),
    ] = False,
    coco: Annotated[
        Path | None,
        typer.Option(help="Also write a COCO results file for all images, with instances of any score."),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write a table of all masks (.csv or .parquet) with sizes, shapes, scores and intensities, and a "
            "table of all images beside it (NAME_images). Needs the extra 'table'.",
        ),
    ] = None,
    pixel_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE|file",
            help="Side length of a pixel, for example 0.65um, or 'file' for what each file states (ImageJ, OME, "
            "DICOM, slides); adds units to the tables.",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORMAT",
            help="Also write the results in this format, to a subfolder of the output with its name; can be repeated: "
            "geojson, yolo, coco-dataset, cvat, label-studio, label-studio-polygons, label-tiff, imagej, "
            "class-masks, cutouts.",
        ),
    ] = None,
    no_overlays: Annotated[bool, typer.Option("--no-overlays", help="Do not draw the overlays X.png.")] = False,
    palette: Annotated[
        Literal["classes", "colorblind"],
        typer.Option(
            help="Colours of new overlays: those of the classes, or eight that colour-blind people can tell apart."
        ),
    ] = "classes",
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="The former name of --no-overlays.", hidden=True)
    ] = False,
    score_threshold: Annotated[
        float | None,
        setting_option(
            help="Keep instances with at least this score, and panoptic segments above it, 0 to 1.",
            show_default=OF_MODEL,
        ),
    ] = None,
    overlap_threshold: Annotated[
        float | None,
        setting_option(
            help="Drop panoptic segments, and instances of models without overlaps, whose visible share is below this, "
            "0 to 1.",
            show_default=OF_MODEL,
        ),
    ] = None,
    max_instances: Annotated[
        int | None, setting_option(help="Instance: maximum number of instances per image.", show_default=OF_MODEL)
    ] = None,
    classes: Classes = None,
    min_area: MinArea = None,
    short_edge: ShortEdge = None,
    long_edge: LongEdge = None,
    tile: Tile = None,
    tile_overlap: TileOverlap = None,
    official_settings: OfficialSettings = False,
    value_range: ValueRange = None,
    value_rule: ValueRule = None,
    band_ranges: BandRanges = None,
    bands: Bands = None,
    batch_size: BatchSize = 1,
    tta: Tta = False,
    tta_sizes: TtaSizes = None,
    device: Device = "auto",
    dtype: Dtype = None,
    max_megapixels: MaxMegapixels = None,
    compile: Annotated[
        bool,
        machine_option(
            "--compile",
            help="Compile the model for each of the first eight input sizes, which takes a minute or more per size; "
            "useful for many images of the same size. Needs a C++ compiler.",
        ),
    ] = False,
    ray: Annotated[
        bool,
        _bulk_option(
            "--ray",
            help="Distribute the images over processes or machines with Ray Data, and write results to shards "
            "(Parquet) instead of separate files for each image.",
        ),
    ] = False,
    actors: Annotated[
        int | None,
        _bulk_option(
            help="Number of processes that run the model.",
            show_default="one per GPU, or one per 4 CPU cores without GPUs",
        ),
    ] = None,
    shard_size: Annotated[int | None, _bulk_option(help="Number of images per shard.", show_default="64")] = None,
    image_timeout: Annotated[
        float | None,
        _bulk_option(
            metavar="SECONDS", help="Give up on an image whose file cannot be read within this time.", show_default="60"
        ),
    ] = None,
    json_lines: Annotated[bool, _bulk_option("--json-lines", help="Also write the results as JSON Lines.")] = False,
    column: Annotated[
        str | None,
        _bulk_option(
            help="Column with the names of the images, in lists of images.", show_default="image, or the only column"
        ),
    ] = None,
    retry_failed: Annotated[bool, _bulk_option("--retry-failed", help="Redo shards with failed images.")] = False,
    ray_address: Annotated[
        str | None,
        _bulk_option(
            help="Address of a running Ray cluster, for example auto.", show_default="RAY_ADDRESS, or only this machine"
        ),
    ] = None,
) -> None:
    """Segment images.

    For each image X, this writes an overlay (X.png), the masks or segments (X.json) and an exact map: X_ids.png
    (panoptic, id = R + 256 G + 65536 B) or X_labels.png (semantic, class indices).

    With --ray, the output is shards in Parquet instead, with a row for each image.

    Images that already have results are skipped, so that an interrupted run can be resumed. They are processed again if
    the image has changed or a file is missing. Results of another model or other settings are kept, unless --overwrite
    is given.
    """
    from mask2former.inference.predict_files import predict_files
    from mask2former.inference.result_files import Outcome
    from mask2former.media.images import standard_input

    console = make_console()
    name = named_model(model, sources)
    bulk = given(
        actors=actors,
        shard_size=shard_size,
        image_timeout=image_timeout,
        json_lines=json_lines,
        column=column,
        retry_failed=retry_failed,
        ray_address=ray_address,
    )
    if bulk and not ray:
        raise OptionError(lambda name: f"{name(next(iter(bulk)))} works only with --ray; give both or neither")
    of_files = given(coco=coco, table=table, pixel_size=pixel_size, also=also or None, page=page)
    of_files |= given(palette=palette != "classes")
    if ray and of_files:
        raise OptionError(lambda name: f"{name(next(iter(of_files)))} cannot be used with --ray, which writes shards")
    if ray and "-" in sources:
        raise UserError("standard input (-) cannot be used with --ray")
    if page is not None and page != "all" and not page.isdecimal():
        raise UserError(f"--page must be a number from 1, or all, got {quoted(page)}")
    if no_pictures:
        say("note: --no-pictures is called --no-overlays now", error=True)
    done = total = 0
    settings = given(
        score_threshold=score_threshold,
        overlap_threshold=overlap_threshold,
        max_instances=max_instances,
        classes=tuple(classes) if classes else None,
        min_area=min_area,
        short_edge=short_edge,
        long_edge=long_edge,
        official_settings=official_settings,
        value_range=chosen_range(value_range, value_rule, band_ranges),
        bands=chosen_bands(bands),
        tile=tile,
        tile_overlap=tile_overlap,
    )
    shared: dict[str, Any] = {
        "recipe": recipe,
        "trained_for": tasks_of(trained_for),
        "weights": weights,
        "overwrite": overwrite,
        "batch_size": batch_size,
        "views": parse_views(tta, tta_sizes),
        "device": device,
        "dtype": dtype,
        "compile": compile,
        **settings,
    }
    if ray:
        with allowed_pixels(max_megapixels):
            predict_in_bulk(console, name, sources, output, task, **bulk, **shared)
        return

    def so_far() -> str:
        if not total:
            return "nothing was written"
        return f"{count(done, 'image')} of {total} segmented into {output}; run the same command again to continue"

    def observe(outcome: Outcome) -> None:
        nonlocal done
        done += outcome.status == "done"
        if outcome.reason and total > 1:
            say(f"failed: {outcome.reason}", console=console, style="red")

    with allowed_pixels(max_megapixels), working(console, so_far, resumes=True) as show:

        def tell(step: str, number: int, of: int | None) -> None:
            nonlocal total
            if step in get_args(Task):
                total = of or 0
            show(step, number, of)

        report = predict_files(
            name,
            [standard_input() if source == "-" else source for source in dict.fromkeys(sources)],
            output,
            task,
            page=int(page) if page is not None and page.isdecimal() else page,  # pyright: ignore[reportArgumentType]
            overlays=not (no_overlays or no_pictures),
            palette=palette,
            coco=coco,
            table=table,
            pixel_size=pixel_size,
            also=also or (),
            progress=tell,
            observe=observe,
            **shared,
        )
    for note in report.notes:
        say(f"note: {note}", error=True)
    failed = report.outcomes["refused"] + report.outcomes["failed"]
    reasons = [outcome.reason for outcome in report.failed]
    if report.outcomes["refused"] == report.num_images:  # the request itself was wrong
        more = f" (and {failed - 1} more: no image could be segmented)" if failed > 1 else ""
        raise UserError(reasons[0] + more)
    line = _summary(report, name, output, coco)
    if table is not None:
        line += f"; tables: {table} and {table.stem}_images{table.suffix}"
    say(line if not also else f"{line}; also: {', '.join(dict.fromkeys(also))}")
    if failed:
        listed = "; ".join(reasons) + (
            f"; and {failed - len(reasons)} more (see above)" if failed > len(reasons) else ""
        )
        error = FailedError(f"{count(failed, 'image')} of {report.num_images} failed: {listed}")
        for outcome in report.failed:  # printed with --debug
            if outcome.trace:
                error.add_note(outcome.trace)
        raise error


def _summary(report: FilesReport, model: str, output: str, coco: Path | None) -> str:
    done, skipped = report.outcomes["done"], report.outcomes["skipped"]
    line = f"{count(done, 'image')} segmented ({report.task}, {model}) into {output}"
    if done + skipped > report.num_different:
        line += f"; {_found(report)}"
    if same := skipped - report.num_different:
        line += f"; {same} skipped because their results already exist"
    if report.num_different:
        line += (
            f"; {report.num_different} skipped and not counted because their results come from another "
            "model, other classes or settings, or another version (--overwrite replaces them)"
        )
    if report.num_crowded:
        limit = report.settings.max_instances
        line += f"; {count(report.num_crowded, 'image')} may contain more than {limit} instances: raise --max-instances"
    return line if coco is None else f"{line}; COCO results: {coco}"


def _found(report: FilesReport) -> str:
    """The number of objects in all results, and of candidates."""
    images = count(report.outcomes["done"] + report.outcomes["skipped"] - report.num_different, "image")
    if report.task == "instance":
        found, candidates = count(report.num_found, "instance"), count(report.num_candidates, "candidate")
        by_class = report.settings.class_thresholds
        score = f"score {report.settings.instance_threshold:g}"
        return f"{found} of {candidates} at or above {'the scores of their classes' if by_class else score} in {images}"
    if report.task == "panoptic":
        return f"{count(report.num_found, 'segment')} above score {report.settings.score_threshold:g} in {images}"
    return f"{count(report.num_found, 'class mask')} in {images}"
