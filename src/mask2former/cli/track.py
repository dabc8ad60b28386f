"""Videos to tracks: ``mask2former track``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mask2former import interrupts
from mask2former.cli.shared import (
    Device,
    Dtype,
    FailedError,
    Model,
    Recipe,
    StoppedError,
    ValueRange,
    count,
    fetch_weights,
    named_model,
    stoppable,
)
from mask2former.cli.terminal import make_console, progress_bar, say
from mask2former.errors import UserError

__all__ = ["track"]

TrackingTask = Literal["panoptic", "instance"]


def track(
    source: Annotated[str, typer.Argument(help="A video, a folder of frames, or the number of a camera.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    model: Model = None,
    recipe: Recipe = None,
    task: Annotated[
        TrackingTask | None, typer.Option("--task", "-t", help="Default: instance, if the model was trained for it.")
    ] = None,
    start: Annotated[float, typer.Option(min=0, max=1e9, help="Start at this time, in seconds.")] = 0.0,
    end: Annotated[float | None, typer.Option(min=0, max=1e9, help="Stop at this time, in seconds.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Frames per second of a folder of frames.", show_default="30")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
    no_video: Annotated[bool, typer.Option("--no-video", help="Do not draw X.mp4.")] = False,
    ytvis: Annotated[Path | None, typer.Option(help="Also write the tracks as a YouTube-VIS results file.")] = None,
    video_id: Annotated[int, typer.Option(help="The clip's id in that file.")] = 1,
    window: Annotated[
        int | None,
        typer.Option(
            help="Frames that the model sees at once; default: 1, or 8 for models of clips.", rich_help_panel="Settings"
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(help="Frames from one window to the next; default: three quarters.", rich_help_panel="Settings"),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="The former name of --score-threshold for instances.", hidden=True),
    ] = None,
    max_lost: Annotated[
        int | None, typer.Option(help="Frames after which an unseen track is forgotten.", rich_help_panel="Settings")
    ] = None,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            help="Lowest class probability of an object or panoptic segment to keep, 0 to 1.",
            show_default="the model's own",
            rich_help_panel="Settings",
        ),
    ] = None,
    short_edge: Annotated[
        int | None,
        typer.Option(help="Resize the shorter side to this many pixels; 0 keeps the size.", rich_help_panel="Settings"),
    ] = None,
    value_range: ValueRange = None,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Follow objects through a video of any length: X.mp4 with the tracks drawn on it, and X.json with all masks.

    Ctrl-C ends it after the frame in work; what was done can be played and read, and so can X.partial.mp4 and
    X.partial.jsonl at any moment, also after a kill or on a full disk.
    """
    from mask2former.files import leftovers_note
    from mask2former.data.frames import open_frames
    from mask2former.inference import failures, files

    console = make_console()
    where, name = _parse(source)
    places = {"results": output / f"{name}.json"}
    if not no_video:
        places["video"] = output / f"{name}.mp4"
    if ytvis is not None:
        places["YouTube-VIS results"] = ytvis
    _check_places(places, where, overwrite)
    for place in places.values():
        files.check_file(place)
    weights = named_model(model)
    frames = open_frames(where, start=start, end=end, rate=rate)

    from mask2former.inference.predictor import Predictor
    from mask2former.inference.video_output import TrackDocument, TrackResults, VideoWriter

    video = None if no_video else VideoWriter(places["video"], frames.rate)
    settings: dict[str, Any] = {
        "window": window,
        "stride": stride,
        "threshold": threshold,
        "max_lost": max_lost,
        "score_threshold": score_threshold,
        "short_edge": short_edge,
        "value_range": value_range,
    }
    given = {key: value for key, value in settings.items() if value is not None}
    if threshold is not None:
        say("note: --threshold is called --score-threshold now, as in predict", error=True)
    fetch_weights(console, weights)
    with stoppable(lambda: "nothing was written"):
        predictor = Predictor.from_pretrained(weights, recipe, device, dtype)
        results, recorded = predictor.track_opened(frames, task, **given)

    head = {"model": weights, "settings": recorded, "source": str(source), "rate": round(frames.rate, 4)}
    document = TrackDocument(places["results"], head)
    growing: list[TrackDocument | VideoWriter] = [document] if video is None else [document, video]
    notes = leftovers_note(place.parent for place in places.values())
    if left := [f"'{path}'" for writer in growing if (path := writer.working.left())]:
        notes.append(
            f"a run that was killed has left its finished frames in {' and '.join(left)}; this run begins with the "
            "first frame, and removes them when it is complete"
        )
    for note in notes:
        say(f"note: {note}", error=True)
    stopped = False
    try:
        with contextlib.ExitStack() as stack:
            ends = stack.enter_context(interrupts.postponed())
            writers: list[Any] = [stack.enter_context(writer) for writer in growing]
            if ytvis is not None:
                things = predictor.settings.things_only
                tracks = TrackResults(ytvis, video_id, predictor.categories, things_only=things)
                writers.append(stack.enter_context(tracks))
            progress = stack.enter_context(progress_bar(console))
            bar = progress.add_task("tracking", total=frames.num_frames)
            for frame in results:
                for writer in writers:
                    writer.add(frame)
                progress.advance(bar)
                if ends():
                    stopped = True
                    break
            document.notes += frames.notes
            for writer in growing:
                writer.complete = not stopped
    except Exception as error:
        if not document.count:
            raise
        kept = [f"'{next(filter(Path.exists, (w.working.path, w.path)), w.path)}'" for w in growing]
        most = f" (and played up to the last seconds in {kept[1]})" if len(kept) > 1 else ""
        reason = str(error)  # which names the frame
        if not isinstance(error, UserError):
            reason = failures.reason(error, f"frame {document.count + 1} of {frames.name}", predictor.device)
        done = f"{reason}; {count(document.count, 'finished frame')} can be read in {kept[0]}{most}"
        raise FailedError(done) from error
    for note in frames.notes:
        say(f"note: {note}")
    made = "; ".join(f"{kind}: {place}" for kind, place in places.items())
    what = f"{count(document.count, 'frame')} tracked ({document.task}, {weights})"
    done = f"{what}, {count(document.num_tracks, 'track')}; {made}"
    if stopped:
        raise StoppedError(done)
    say(done)


def _parse(source: str) -> tuple[Path | int, str]:
    """What is read, and how its results are called."""
    path = Path(source)
    if source.isdecimal() and not path.exists():
        return int(source), f"camera-{source}"
    return path, path.resolve().name if path.is_dir() else path.stem


def _check_places(places: dict[str, Path], source: Path | int, overwrite: bool) -> None:
    if len({place.resolve() for place in places.values()}) < len(places):
        raise UserError(f"two results would be written to one file; got {', '.join(map(str, places.values()))}")
    for place in places.values():
        if isinstance(source, Path) and place.resolve() == source.resolve():
            raise UserError(f"'{place}' would overwrite the video itself; choose another output")
        if place.is_file() and not overwrite:  # into a device or a pipe it is written
            raise UserError(f"'{place}' is there already; use --overwrite or another output")
