"""Images to results: ``mask2former predict``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    fetch_weights,
    named_model,
    stoppable,
)
from mask2former.cli.terminal import make_console, progress_bar, say
from mask2former.cli.views import Tta, TtaSizes, augmented
from mask2former.errors import UserError

if TYPE_CHECKING:
    from mask2former.config import InferenceConfig

__all__ = ["predict"]

_LISTED = 10  # failures in the last sentence
_COUNTED = ("differs", "crowded", "found", "candidates")  # of outcomes


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
    no_images: Annotated[bool, typer.Option("--no-images", help="Do not draw the overlays X.png.")] = False,
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
    from mask2former.files import leftovers_note, reserved
    from mask2former.inference import files
    from mask2former.notes import collect_notes, sentences

    console = make_console()
    with collect_notes() as noted:
        jobs = files.plan(sources, output)
    name = named_model(model)
    if coco is not None:
        files.check_apart(coco, [name])
        files.check_coco_file(coco, jobs, overwrite=overwrite)

    from mask2former.inference.predictor import Predictor

    settings = {
        "score_threshold": score_threshold,
        "overlap_threshold": overlap_threshold,
        "max_instances": max_instances,
        "short_edge": short_edge,
        "long_edge": long_edge,
    }
    given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    if value_range is not None:
        given["value_range"] = value_range
    if tile is not None:
        given |= {"tile": tile, "tile_overlap": tile // 4}
    fetch_weights(console, name)
    with stoppable(lambda: "nothing was written"):
        predictor = augmented(Predictor.from_pretrained(name, recipe, device, dtype, **given), tta, tta_sizes)
        chosen = predictor.choose_tasks(task)[0]

    counts: dict[str, int] = dict.fromkeys(("done", "skipped", "refused", "failed", *_COUNTED), 0)
    reasons: list[str] = []  # the first ones
    traces: list[str] = []
    usable: list[files.Job] = []

    def so_far() -> str:
        done = f"{count(counts['done'], 'image')} of {len(jobs)} segmented into {output}"
        return f"{done}; the same command goes on from there"

    removed = leftovers_note(path.parent for path in (*(job.document for job in jobs), *([coco] if coco else [])))
    pipe = contextlib.nullcontext() if coco is None else reserved(coco)
    with stoppable(so_far), _told(so_far), pipe, collect_notes() as found, progress_bar(console) as progress:
        for outcome in progress.track(
            files.segment_files(
                predictor,
                jobs,
                chosen,
                model=name,
                overlay=not no_images,
                candidates=coco is not None,
                overwrite=overwrite,
            ),
            total=len(jobs),
            description=chosen,
        ):
            counts[outcome.status] += 1
            for what in _COUNTED:
                counts[what] += getattr(outcome, what)
            if not outcome.reason and not outcome.differs:
                usable.append(outcome.job)
            if outcome.reason:
                if len(reasons) < _LISTED:
                    reasons.append(outcome.reason)
                    traces += [outcome.trace] if outcome.trace else []
                if len(jobs) > 1:
                    say(f"failed: {outcome.reason}", console=console, style="red")
        if coco is not None and usable:
            files.write_coco_results(coco, usable, chosen, predictor.categories)

    for note in (*removed, *sentences([*noted, *found])):
        say(f"note: {note}", error=True)
    if counts["refused"] == len(jobs):  # nothing was right about the request
        more = f" (and {len(jobs) - 1} more: no image could be segmented)" if len(jobs) > 1 else ""
        raise UserError(reasons[0] + more)
    line = f"{count(counts['done'], 'image')} segmented ({chosen}, {name}) into {output}"
    if counts["done"] + counts["skipped"] > counts["differs"]:
        line += f"; {_found(chosen, counts, predictor.settings)}"
    if same := counts["skipped"] - counts["differs"]:
        line += f"; {same} skipped, whose results were already there"
    if counts["differs"]:
        line += (
            f"; {counts['differs']} skipped and not counted, whose results were made by another model, with other "
            "classes or settings, or by another version (--overwrite makes them anew)"
        )
    if counts["crowded"]:
        limit = predictor.settings.max_instances
        line += f"; in {counts['crowded']} there may be more than the {limit} best instances: raise --max-instances"
    if coco is not None:
        line += f"; COCO results: {coco}"
    say(line)
    if failed := counts["refused"] + counts["failed"]:
        listed = "; ".join(reasons) + (f"; and {failed - len(reasons)} more (see above)" if failed > _LISTED else "")
        error = FailedError(f"{count(failed, 'image')} of {len(jobs)} failed: {listed}")
        for trace in traces:  # shown with --debug
            error.add_note(trace)
        raise error


@contextlib.contextmanager
def _told(what_was_done: Callable[[], str]) -> Iterator[None]:
    """What ends a run early is told with what was done before."""
    try:
        yield
    except FailedError as error:
        raise FailedError(f"{error}; {what_was_done()}") from error


def _found(task: str, counts: Mapping[str, int], settings: InferenceConfig) -> str:
    """What results say in all, of how many candidates."""
    images = f"in {count(counts['done'] + counts['skipped'] - counts['differs'], 'image')}"
    if task == "instance":
        found, candidates = count(counts["found"], "instance"), count(counts["candidates"], "candidate")
        return f"{found} of {candidates} at or above score {settings.instance_threshold:g} {images}"
    if task == "panoptic":
        return f"{count(counts['found'], 'segment')} above score {settings.score_threshold:g} {images}"
    return f"{count(counts['found'], 'class mask')} {images}"
