"""Seeing it work: ``mask2former demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mask2former import limits
from mask2former.cli.shared import DEFAULT_MODEL, Device, show_file, stoppable
from mask2former.cli.terminal import make_console, progress_bar, say

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["demo"]


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, max=limits.SEED, help="Random seed: which scenes are drawn.")] = 0,
    scenes: Annotated[int, typer.Option(min=1, max=10_000, help="Number of scenes to measure.")] = 50,
    video: Annotated[bool, typer.Option("--video", help="Track objects through a video instead.")] = False,
    clips: Annotated[int, typer.Option(min=1, max=10_000, help="With --video: number of clips to measure.")] = 20,
    model: Annotated[str, typer.Option(help="A model trained on drawn scenes: its name or file.")] = DEFAULT_MODEL,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the result when done.")] = True,
    device: Device = "auto",
) -> None:
    """Segment freshly drawn scenes with a packaged model, measure the predictions and show them."""
    from mask2former import demo as demonstration

    console = make_console()
    if video:
        _video(console, output, seed, clips, model, show, device)
        return
    with stoppable(lambda: "nothing was written"), progress_bar(console) as progress:
        bar = progress.add_task("loading the model", total=None)
        report = demonstration.run(
            model,
            output,
            seed=seed,
            num_scenes=scenes,
            device=device,
            progress=lambda step, done, total: progress.update(bar, description=step, completed=done, total=total),
        )
    console.print(demonstration.table(report))
    say(f"Contact sheet: {report.sheet}")
    say("Next, your own images: mask2former predict IMAGES --output results --model coco-panoptic/swin-t")
    say("(photographs; --model nuclei: cells under microscopes; all: mask2former models)")
    if show:
        show_file(report.sheet)


def _video(console: Console, output: Path, seed: int, clips: int, model: str, show: bool, device: str) -> None:
    from mask2former import demo as demonstration

    with stoppable(lambda: "nothing was measured to the end"), progress_bar(console) as progress:
        bar = progress.add_task("loading the model", total=None)
        report = demonstration.run_video(
            model,
            output,
            seed=seed,
            num_clips=clips,
            device=device,
            progress=lambda step, done, total: progress.update(bar, description=step, completed=done, total=total),
        )
    console.print(demonstration.video_table(report))
    say(f"Video: {report.video}   ({report.num_tracks} tracks; the clip on the left, what was found on the right)")
    say("Next, your own: mask2former track CLIP.mp4 --output results --model coco-panoptic/swin-t")
    if show:
        show_file(report.video)
