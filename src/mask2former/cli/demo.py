"""Seeing it work: ``mask2former demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mask2former.cli.shared import (
    DEFAULT_MODEL,
    Device,
    make_console,
    progress_bar,
    show_file,
    stoppable,
)

__all__ = ["demo"]


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the contact sheet.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Other numbers draw other scenes.")] = 0,
    scenes: Annotated[int, typer.Option(min=1, max=10_000, help="How many scenes are measured.")] = 50,
    model: Annotated[str, typer.Option(help="A model trained on scenes: packaged name or file.")] = DEFAULT_MODEL,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the picture when done.")] = True,
    device: Device = "auto",
) -> None:
    """Draw scenes that the packaged model has never seen, segment and measure them, and show the result."""
    from mask2former import demo as demonstration

    console = make_console()
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
    print(f"Contact sheet: {report.sheet}")
    print(f"Next, your own pictures: mask2former predict PICTURES --output results   (model: {DEFAULT_MODEL})")
    print("For photographs, give a trained model: --model FILE [--recipe NAME]; see: mask2former models")
    if show:
        show_file(report.sheet)
