"""Videos to tracks: ``mask2former track``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mask2former.cli.shared import (
    Device,
    Dtype,
    Model,
    Recipe,
    StoppedError,
    ValueRange,
    count,
    named_model,
    working,
)
from mask2former.cli.terminal import make_console, say

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
    from mask2former.inference.track_files import track_files

    weights = named_model(model)
    if threshold is not None:
        say("note: --threshold is called --score-threshold now, as in predict", error=True)
    settings = {
        "window": window,
        "stride": stride,
        "threshold": threshold,
        "max_lost": max_lost,
        "score_threshold": score_threshold,
        "short_edge": short_edge,
        "value_range": value_range,
    }
    with working(make_console(), lambda: "nothing was written") as progress:
        report = track_files(
            weights,
            source,
            output,
            task,
            recipe=recipe,
            start=start,
            end=end,
            rate=rate,
            video=not no_video,
            ytvis=ytvis,
            video_id=video_id,
            overwrite=overwrite,
            device=device,
            dtype=dtype,
            progress=progress,
            tell=lambda note: say(f"note: {note}", error=True),
            **{name: value for name, value in settings.items() if value is not None},
        )
    for note in report.notes:
        say(f"note: {note}")
    what = f"{count(report.num_frames, 'frame')} tracked ({report.task}, {weights})"
    made = "; ".join(f"{kind}: {place}" for kind, place in report.files.items())
    done = f"{what}, {count(report.num_tracks, 'track')}; {made}"
    if not report.complete:
        raise StoppedError(done)
    say(done)
