"""Checkpoints of other code bases to ours and back: ``mask2former convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mask2former.cli.shared import Recipe, stoppable
from mask2former.cli.terminal import say

__all__ = ["convert"]


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="A file or folder: ours, original, transformers, mmdetection, mmsegmentation, sssegmentation, or a "
            "backbone of torchvision, timm, Swin, MoCo, DINO or detectron2. Or the name of a model.",
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="What to write; must not be there yet.")],
    to: Annotated[
        str, typer.Option("--to", help="ours, original, huggingface, mmdet, mmseg or ssseg.", metavar="LAYOUT")
    ] = "ours",
    recipe: Recipe = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", "-t", help="What it was trained for, if no recipe fits; can be repeated."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare logits with transformers, where it is involved.")
    ] = True,
) -> None:
    """Convert a checkpoint: say what it is, write it in another layout, and verify it."""
    from mask2former.checkpoints.convert import convert as convert_checkpoint

    tasks = [name for entry in task or () for name in entry.split(",")]
    with stoppable(lambda: "nothing was written"):
        done = convert_checkpoint(source, output, to, recipe, tasks, verify=verify)  # pyright: ignore[reportArgumentType]  (checked there)
    say(f"Found: {done.source}")
    for note in done.notes:
        say(f"note: {note}")
    say(f"{done.path} written ({to}); {'; '.join(done.checks)}")
