"""From videos to tracks: ``mask2former track``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mask2former.cli.shared import (
    OF_MODEL,
    BandRanges,
    Bands,
    Device,
    Dtype,
    MaxMegapixels,
    Model,
    Recipe,
    ShortEdge,
    StoppedError,
    TrainedFor,
    ValueRange,
    ValueRule,
    Weights,
    allowed_pixels,
    chosen_bands,
    chosen_range,
    given,
    named_model,
    setting_option,
    tasks_of,
    working,
)
from mask2former.cli.terminal import make_console, say
from mask2former.errors import UserError
from mask2former.text import count

__all__ = ["track"]

TrackingTask = Literal["panoptic", "instance"]


def track(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A video file, a folder of frames, a TIFF stack, or a camera number."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    model: Model = None,
    recipe: Recipe = None,
    trained_for: TrainedFor = None,
    weights: Weights = None,
    task: Annotated[
        TrackingTask | None,
        typer.Option("--task", "-t", help="What to track.", show_default="instance, if the model supports it"),
    ] = None,
    start: Annotated[float, typer.Option(min=0, max=1e9, help="Start at this time, in seconds.")] = 0.0,
    end: Annotated[
        float | None, typer.Option(min=0, max=1e9, help="Stop at this time, in seconds.", show_default="the end")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            help="Frames per second of a folder of frames, a stack or an animation.",
            show_default="those of an animation, otherwise 30",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
    no_video: Annotated[bool, typer.Option("--no-video", help="Do not draw X.mp4.")] = False,
    ytvis: Annotated[Path | None, typer.Option(help="Also write the tracks as a YouTube-VIS results file.")] = None,
    video_id: Annotated[int | None, typer.Option(help="ID of the video in the --ytvis file.", show_default="1")] = None,
    window: Annotated[
        int | None,
        setting_option(
            help="Number of frames that the model processes at once.", show_default="1, or 8 for video models"
        ),
    ] = None,
    stride: Annotated[
        int | None,
        setting_option(
            help="Number of frames from one window to the next.", show_default="three quarters of the window"
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="The former name of --score-threshold for instances.", hidden=True),
    ] = None,
    max_lost: Annotated[
        int | None, setting_option(help="End a track after this many frames without its object.", show_default="60")
    ] = None,
    score_threshold: Annotated[
        float | None,
        setting_option(
            help="Keep objects and panoptic segments with at least this score, 0 to 1.", show_default=OF_MODEL
        ),
    ] = None,
    short_edge: ShortEdge = None,
    value_range: ValueRange = None,
    value_rule: ValueRule = None,
    band_ranges: BandRanges = None,
    bands: Bands = None,
    device: Device = "auto",
    dtype: Dtype = None,
    max_megapixels: MaxMegapixels = None,
) -> None:
    """Track objects through a video of any length.

    For a video X, this writes X.mp4 with the tracks drawn on the video, and X.json with all masks.

    Ctrl-C stops after the current frame and keeps all finished frames. While the command runs, and after a crash,
    X.partial.mp4 and X.partial.jsonl contain the finished frames; both can be opened at any time.
    """
    from mask2former.inference.track_files import track_files

    name = named_model(model, [source])
    if video_id is not None and ytvis is None:
        raise UserError("--video-id applies to --ytvis; give both or neither")
    if threshold is not None:
        say("note: --threshold is called --score-threshold now, as in predict", error=True)
    settings = given(
        window=window,
        stride=stride,
        threshold=threshold,
        max_lost=max_lost,
        score_threshold=score_threshold,
        short_edge=short_edge,
        value_range=chosen_range(value_range, value_rule, band_ranges),
        bands=chosen_bands(bands),
    )
    with allowed_pixels(max_megapixels), working(make_console(), lambda: "nothing was written") as progress:
        report = track_files(
            name,
            source,
            output,
            task,
            recipe=recipe,
            trained_for=tasks_of(trained_for),
            weights=weights,
            start=start,
            end=end,
            rate=rate,
            video=not no_video,
            ytvis=ytvis,
            overwrite=overwrite,
            device=device,
            dtype=dtype,
            progress=progress,
            tell=lambda note: say(f"note: {note}", error=True),
            **given(video_id=video_id),
            **settings,
        )
    for note in report.notes:
        say(f"note: {note}")
    what = f"{count(report.num_frames, 'frame')} tracked ({report.task}, {name})"
    made = "; ".join(f"{kind}: {path}" for kind, path in report.files.items())
    done = f"{what}, {count(report.num_tracks, 'track')}; {made}"
    if not report.complete:
        raise StoppedError(done)
    say(done)
