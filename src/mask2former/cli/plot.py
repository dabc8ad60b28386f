"""Curves of training: ``mask2former plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mask2former.cli.terminal import say
from mask2former.text import count

__all__ = ["plot"]


def plot(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run directories of finished or running trainings.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The image file: .png, .svg or .pdf.")] = Path(
        "runs.png"
    ),
    over: Annotated[Literal["steps", "hours"], typer.Option(help="What the horizontal axis shows.")] = "steps",
) -> None:
    """Plot the losses, learning rate and metrics of one or more training runs."""
    from mask2former.evaluation.curves import plot_runs

    plot_runs(runs, output, over)
    say(f"Curves of {count(len(runs), 'run')}: {output}")
