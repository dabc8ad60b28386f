"""Models as files for other runtimes: ``mask2former export`` and ``verify-export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mask2former.cli.shared import (
    DataRoot,
    ModelArgument,
    ModelTasks,
    Recipe,
    Task,
    TrainedFor,
    Weights,
    size_hw_of,
    tasks_of,
    working,
)
from mask2former.cli.terminal import make_console, say
from mask2former.errors import FailedError, UserError
from mask2former.text import count

if TYPE_CHECKING:
    from rich.table import Table

    from mask2former.export import VerifyReport

__all__ = ["export", "verify_export"]


def export(
    model: ModelArgument,
    output: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="What to write: NAME.onnx, NAME.xml (OpenVINO) or NAME.pt2 (PyTorch)."),
    ],
    to: Annotated[
        Literal["onnx", "openvino", "pt2", "triton"] | None,
        typer.Option(
            help="Format to write; for triton, FILE is a new folder for the model repository of a Triton server.",
            show_default="from the suffix of FILE",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Fixed height and width in pixels; images must fit into this size and are padded to it.",
            show_default="any size; models with Swin need one",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images per call; 0: any number.")] = 1,
    frames: Annotated[
        int | None, typer.Option(help="Frames of a clip.", show_default="8 for clip models; others take images")
    ] = None,
    results: Annotated[
        Task | None,
        typer.Option(
            help="Make the file return results of this task instead of logits, at the size of the input padded to "
            "multiples of 32; for programs that do not use this package.",
            show_default="logits",
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16", "int8"],
        typer.Option(
            help="Precision of the weights in the file. float16 halves the file and computes in float32; int8 "
            "quarters it, computes in 8-bit integers and needs --calibration."
        ),
    ] = "float32",
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="For int8: images, or folders of images, like those that the file will be used for; can be repeated.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="For int8: also measure the drop in the metric on a data set, named as in evaluate (for example "
            "scenes)."
        ),
    ] = None,
    data_root: DataRoot = None,
    recipe: Recipe = None,
    trained_for: ModelTasks = None,
    weights: Weights = None,
) -> None:
    """Export a model to an ONNX, OpenVINO or compiled PyTorch file, and compare the file with the model.

    This takes a minute or more. ONNX and OpenVINO files need no PyTorch: they run wherever their runtime does, and with
    'mask2former predict --model NAME.onnx'. Writing PyTorch files needs a C++ compiler; they run on processors like
    that of this machine. An existing FILE is replaced.
    """
    from mask2former.data.sources import DataSource
    from mask2former.export import export as export_model
    from mask2former.export import verify_export as verify

    if data is not None and dtype != "int8":
        raise UserError("--data applies to --dtype int8; compare other files with mask2former verify-export")
    _refuse_root(data_root, data)
    console = make_console()
    with working(console, lambda: "nothing was written") as progress:
        done = export_model(
            model,
            output,
            to,
            size=None if size is None else size_hw_of(size),
            batch=batch or None,
            frames=frames,
            results=results,
            dtype=dtype,
            calibration=calibration or (),
            recipe=recipe,
            tasks=tasks_of(trained_for),
            weights=weights,
            progress=progress,
        )
    alike = f"logits differ from those of the model by at most {done.difference:.0e} of the largest"
    if results is not None:
        alike = f"on noise, {100 * done.difference:.2f} % of the results differ from those of the model"
    if dtype == "int8":
        alike = "compared with the model on the images of --calibration"
    say(f"{done.path} written ({done.num_bytes / 1e6:,.1f} MB): {alike}")
    if dtype == "int8":  # measures the loss of quality, which noise cannot show
        with working(console, lambda: f"{done.path} was written") as progress:
            report = verify(
                [output / "1/model.onnx" if to == "triton" else output],
                model,
                images=calibration or (),
                data=None if data is None else DataSource(data, data_root),
                calls=1,
                memory=False,
                recipe=recipe,
                trained_for=tasks_of(trained_for),
                weights=weights,
                progress=progress,
            )
        console.print(_table(report))


def verify_export(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Files that mask2former export wrote.")],
    against: Annotated[str, typer.Option(metavar="MODEL", help="The model: a name, file, folder, or hf://owner/name.")],
    images: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Images and folders on which to compare results; can be repeated.",
            show_default="4 drawn scenes",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Also measure the metric of each file on a data set, named as in evaluate, for example scenes."
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Also measure the metric of each file on your own data: annotations in COCO format of the images in "
            "the folder --images.",
        ),
    ] = None,
    data_root: DataRoot = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of images to measure.", show_default="all; of scenes 50")
    ] = None,
    task: Annotated[
        Task | None,
        typer.Option(
            "--task", "-t", help="Task to compare.", show_default="the first of these that the model supports"
        ),
    ] = None,
    calls: Annotated[int, typer.Option(min=1, help="Number of timed calls per image.")] = 5,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure the peak memory of each file, in separate processes.")
    ] = True,
    max_differing: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            metavar="PERCENT",
            help='Exit with code 1 if a file "differs" by more than this.',
            show_default="only shown",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw the table: a PNG, SVG or PDF file.")
    ] = None,
    recipe: Recipe = None,
    trained_for: TrainedFor = None,
    weights: Weights = None,
) -> None:
    """Compare exported files with their model: results, metrics, time, size and memory.

    The column "differs" shows the share of pixels whose class differs from that of the model, or of instances that
    only one of the two found; "ms" shows the median time from an image to its result; and "peak MB" shows the memory
    that a process needs to load the file and segment the largest image, in addition to that of Python and PyTorch.
    """
    from mask2former.data.sources import DataSource
    from mask2former.evaluation.curves import check_plot
    from mask2former.export import draw_report
    from mask2former.export import verify_export as verify

    _refuse_root(data_root, data)
    source, shown = None, images or []
    if annotations is not None:
        if data is not None or len(shown) != 1:
            raise UserError("--annotations needs one folder --images, and no --data")
        source = DataSource(annotations=annotations, images=shown[0], limit=limit)
    elif data is not None:
        source = DataSource(data, data_root, limit=limit)
    elif limit is not None:
        raise UserError("--limit applies to --data and --annotations; give one of them, or leave it out")
    if plot is not None:
        check_plot(plot, [*shown, *([] if source is None else source.files())])
    console = make_console()
    with working(console, lambda: "nothing was changed") as progress:
        report = verify(
            files,
            against,
            images=shown,
            data=source,
            task=task,
            calls=calls,
            memory=memory,
            recipe=recipe,
            trained_for=tasks_of(trained_for),
            weights=weights,
            progress=progress,
        )
    console.print(_table(report))
    if plot is not None:
        draw_report(report, plot)
        say(f"{plot} written")
    for note in report.notes:
        say(f"note: {note}")
    if max_differing is not None and (
        worse := [row for row in report.rows if row.differing is not None and not row.differing <= max_differing]
    ):
        others = f"; the same is true of {count(len(worse) - 1, 'more file')}" if len(worse) > 1 else ""
        raise FailedError(
            f"{worse[0].name} differs from the model by {worse[0].differing:.3f} %, more than --max-differing "
            f"{max_differing:g}{others}"
        )


def _refuse_root(data_root: Path | None, data: str | None) -> None:
    if data_root is not None and data is None:
        raise UserError("--data-root applies to --data; name the data set with --data, or leave it out")


def _table(report: VerifyReport) -> Table:
    from rich.table import Table

    table = Table(title=f"{report.task}, {count(report.images, 'image')}")
    model, named = report.rows[0], list(report.rows[0].metrics)[:1]
    has_memory = any(row.peak_bytes is not None for row in report.rows)
    for head in ("model", "runtime", "MB", *["peak MB"] * has_memory, "ms", "differs", *named):
        table.add_column(head, justify="left" if head in ("model", "runtime") else "right")
    for row in report.rows:
        differs = "" if row.differing is None else f"{row.differing:.3f} %"
        peak = ["" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f}"] * has_memory
        metrics = [f"{row.metrics[name]:.2f}" for name in named]
        if row is not model:
            metrics = [f"{row.metrics[name]:.2f} ({row.metrics[name] - model.metrics[name]:+.2f})" for name in named]
        runtime, size = f"{row.runtime} {row.dtype}", f"{row.num_bytes / 1e6:,.1f}"
        table.add_row(row.name, runtime, size, *peak, f"{row.milliseconds:,.0f}", differs, *metrics)
    return table
