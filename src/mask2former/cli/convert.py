"""Checkpoints of other code bases to our format and back: ``mask2former convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mask2former.cli.shared import ModelTasks, Recipe, Weights, stoppable, tasks_of
from mask2former.cli.terminal import say

__all__ = ["convert"]


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN",
            help="A checkpoint of this package, the original code, transformers, mmdetection, mmsegmentation or "
            "sssegmentation; a backbone of torchvision, timm, Swin, MoCo, DINO or detectron2; or the name of a model.",
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="A new file or folder.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", help="Format to write: ours, original, huggingface, mmdet, mmseg or ssseg.", metavar="LAYOUT"
        ),
    ] = "ours",
    recipe: Recipe = None,
    tasks: ModelTasks = None,
    weights: Weights = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Compare the logits with those of transformers, when converting from or to its format.",
        ),
    ] = True,
) -> None:
    """Convert a checkpoint to another format and verify the result."""
    from mask2former.checkpoints.convert import convert as convert_checkpoint

    with stoppable(lambda: "nothing was written"):
        done = convert_checkpoint(
            source,
            output,
            to,  # pyright: ignore[reportArgumentType]  (checked by the library)
            recipe,
            tasks_of(tasks),
            weights=weights,
            verify=verify,
        )
    say(f"Found: {done.source}")
    for note in done.notes:
        say(f"note: {note}")
    say(f"{done.path} written ({to}); {'; '.join(done.checks)}")
