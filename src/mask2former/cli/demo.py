"""Demonstration: ``mask2former demo``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mask2former import limits
from mask2former.cli.shared import DEFAULT_MODEL, Device, given, show_file, working
from mask2former.cli.terminal import make_console, say
from mask2former.errors import UserError
from mask2former.text import count

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["demo"]

_OF_CLIPS = "scene-clips"

_OF_IMAGES = {
    "panoptic/PQ": "panoptic quality: every pixel in the right segment",
    "instance/AP": "average precision of object masks",
    "semantic/mIoU": "mean overlap of classes",
}
_OF_TRACKS = {
    "instance/AP": "average precision of whole tracks",
    "instance/AP50": "the same, where half of the mask is enough",
    "instance/AR10": "objects found by the ten best tracks",
}


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, max=limits.SEED, help="Random seed that selects the scenes.")] = 0,
    scenes: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Number of scenes to measure.", show_default="50")
    ] = None,
    video: Annotated[bool, typer.Option("--video", help="Track objects through a video instead.")] = False,
    clips: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="With --video: number of clips to measure.", show_default="20"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model trained on drawn scenes: its name or file.",
            show_default=f"{DEFAULT_MODEL}; with --video: {_OF_CLIPS}",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the result when done.")] = True,
    device: Device = "auto",
) -> None:
    """Segment newly drawn scenes with a packaged model, then measure and show the predictions."""
    from mask2former import demo as demonstration

    if video and scenes is not None:
        raise UserError("--scenes applies to images; give --clips with --video")
    if clips is not None and not video:
        raise UserError("--clips applies to --video; give both, or --scenes")
    console = make_console()
    with working(console, lambda: "nothing was written") as progress:
        shared: dict[str, Any] = {"seed": seed, "device": device, "progress": progress}
        if video:
            tracked = demonstration.run_video(model or _OF_CLIPS, output, **given(num_clips=clips), **shared)
            made, metrics, meanings = tracked.video, tracked.metrics, _OF_TRACKS
            title = f"{count(tracked.num_clips, 'fresh clip')}, {tracked.seconds_per_frame:.2f} s per frame"
            lines = [
                f"Video: {made}   ({tracked.num_tracks} tracks; the clip on the left, predictions on the right)",
                "Next, your own: mask2former track CLIP.mp4 --output results --model coco-panoptic/swin-t",
            ]
        else:
            report = demonstration.run(model or DEFAULT_MODEL, output, **given(num_scenes=scenes), **shared)
            made, metrics, meanings = report.sheet, report.metrics, _OF_IMAGES
            title = f"{count(report.num_scenes, 'fresh scene')}, {report.seconds_per_scene:.2f} s each"
            lines = [
                f"Contact sheet: {made}",
                "Next, your own images: mask2former predict IMAGES --output results --model coco-panoptic/swin-t",
                "(photographs; --model nuclei: cells under microscopes; all: mask2former models)",
            ]
    console.print(_table(title, metrics, meanings))
    for line in lines:
        say(line)
    if show:
        show_file(made)


def _table(title: str, metrics: Mapping[str, float], meanings: Mapping[str, str]) -> Table:
    """The main metrics and their meanings."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("%", justify="right")
    table.add_column("what it says")
    for name, meaning in meanings.items():
        table.add_row(name.split("/")[1], f"{metrics[name]:.1f}", meaning)
    return table
