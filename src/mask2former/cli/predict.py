"""Images to results: ``mask2former predict``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from mask2former.cli.shared import (
    Device,
    Dtype,
    FailedError,
    Model,
    Recipe,
    Task,
    ValueRange,
    count,
    named_model,
    working,
)
from mask2former.cli.terminal import make_console, say
from mask2former.cli.views import Tta, TtaSizes, parse_views
from mask2former.errors import RequestError

if TYPE_CHECKING:
    from mask2former.inference.files import FilesReport

__all__ = ["predict"]


def predict(
    sources: Annotated[list[Path], typer.Argument(help="Images, and folders that are searched to any depth.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results; keeps the folder structure of the sources.")
    ],
    model: Model = None,
    recipe: Recipe = None,
    task: Annotated[
        Task | None, typer.Option("--task", "-t", help="Default: the first of these the model was trained for.")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Segment images that have results already, too, and replace files that are in the way."
        ),
    ] = False,
    coco: Annotated[
        Path | None,
        typer.Option(help="Also write one COCO results file for the run; instances of any score are in it."),
    ] = None,
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Do not draw the overlays X.png.")] = False,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            help="Lowest score of an instance or panoptic segment to keep, 0 to 1.",
            show_default="the model's own",
            rich_help_panel="Settings",
        ),
    ] = None,
    overlap_threshold: Annotated[
        float | None,
        typer.Option(help="Panoptic: share of a mask that must stay its own, 0..1.", rich_help_panel="Settings"),
    ] = None,
    max_instances: Annotated[
        int | None, typer.Option(help="Instance: keep at most this many per image.", rich_help_panel="Settings")
    ] = None,
    short_edge: Annotated[
        int | None,
        typer.Option(help="Resize the shorter side to this many pixels; 0 keeps the size.", rich_help_panel="Settings"),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Instance: split images into tiles of this side in pixels, each resized to --short-edge; 0: no tiles.",
            show_default="as the model was trained",
            rich_help_panel="Settings",
        ),
    ] = None,
    long_edge: Annotated[
        int | None, typer.Option(help="Limit of the longer side in pixels.", rich_help_panel="Settings")
    ] = None,
    value_range: ValueRange = None,
    tta: Tta = False,
    tta_sizes: TtaSizes = None,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Segment images: for each image X an overlay X.png, exact maps, and X.json, which is written last.

    An image whose results are already there is skipped, so a stopped run resumes. It is segmented again if the image
    has changed or a file is missing; results of another model or other settings are kept unless --overwrite is given.
    The exact maps are X_ids.png (panoptic, id = R + 256 G + 65536 B) and X_labels.png (semantic, class indices).
    """
    from mask2former.inference.files import Outcome, predict_files

    console = make_console()
    name = named_model(model)
    done = total = 0
    settings = {
        "score_threshold": score_threshold,
        "overlap_threshold": overlap_threshold,
        "max_instances": max_instances,
        "short_edge": short_edge,
        "long_edge": long_edge,
        "value_range": value_range,
        "tile": tile,
    }

    def so_far() -> str:
        if not total:
            return "nothing was written"
        return f"{count(done, 'image')} of {total} segmented into {output}; the same command goes on from there"

    def observe(outcome: Outcome) -> None:
        nonlocal done
        done += outcome.status == "done"
        if outcome.reason and total > 1:
            say(f"failed: {outcome.reason}", console=console, style="red")

    with _told(so_far), working(console, so_far) as show:

        def tell(step: str, number: int, of: int | None) -> None:
            nonlocal total
            if step in get_args(Task):
                total = of or 0
            show(step, number, of)

        report = predict_files(
            name,
            sources,
            output,
            task,
            recipe=recipe,
            overlays=not no_pictures,
            coco=coco,
            overwrite=overwrite,
            views=parse_views(tta, tta_sizes),
            device=device,
            dtype=dtype,
            progress=tell,
            observe=observe,
            **{setting: value for setting, value in settings.items() if value is not None},
        )
    for note in report.notes:
        say(f"note: {note}", error=True)
    failed = report.outcomes["refused"] + report.outcomes["failed"]
    reasons = [outcome.reason for outcome in report.failed]
    if report.outcomes["refused"] == report.num_images:  # nothing was right about the request
        more = f" (and {failed - 1} more: no image could be segmented)" if failed > 1 else ""
        raise RequestError(reasons[0] + more)
    say(_summary(report, name, output, coco))
    if failed:
        listed = "; ".join(reasons) + (
            f"; and {failed - len(reasons)} more (see above)" if failed > len(reasons) else ""
        )
        error = FailedError(f"{count(failed, 'image')} of {report.num_images} failed: {listed}")
        for outcome in report.failed:  # shown with --debug
            if outcome.trace:
                error.add_note(outcome.trace)
        raise error


@contextlib.contextmanager
def _told(what_was_done: Callable[[], str]) -> Iterator[None]:
    """What ends a run early is told with what was done before."""
    try:
        yield
    except FailedError as error:
        raise FailedError(f"{error}; {what_was_done()}") from error


def _summary(report: FilesReport, model: str, output: Path, coco: Path | None) -> str:
    done, skipped = report.outcomes["done"], report.outcomes["skipped"]
    line = f"{count(done, 'image')} segmented ({report.task}, {model}) into {output}"
    if done + skipped > report.num_different:
        line += f"; {_found(report)}"
    if same := skipped - report.num_different:
        line += f"; {same} skipped, whose results were already there"
    if report.num_different:
        line += (
            f"; {report.num_different} skipped and not counted, whose results were made by another model, with other "
            "classes or settings, or by another version (--overwrite makes them anew)"
        )
    if report.num_crowded:
        limit = report.settings.max_instances
        line += f"; in {report.num_crowded} there may be more than the {limit} best instances: raise --max-instances"
    return line if coco is None else f"{line}; COCO results: {coco}"


def _found(report: FilesReport) -> str:
    """What results say in all, of how many candidates."""
    images = count(report.outcomes["done"] + report.outcomes["skipped"] - report.num_different, "image")
    if report.task == "instance":
        found, candidates = count(report.num_found, "instance"), count(report.num_candidates, "candidate")
        return f"{found} of {candidates} at or above score {report.settings.instance_threshold:g} in {images}"
    if report.task == "panoptic":
        return f"{count(report.num_found, 'segment')} above score {report.settings.score_threshold:g} in {images}"
    return f"{count(report.num_found, 'class mask')} in {images}"
