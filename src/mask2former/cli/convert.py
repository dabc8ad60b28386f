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
    from typing import get_args

    from mask2former.checkpoints import convert as conversion
    from mask2former.config import Task
    from mask2former.errors import UserError

    targets: dict[str, conversion.Target] = {name: name for name in conversion.TARGETS}
    target = targets.get(to)
    if target is None:
        raise UserError(f"--to {to}: no such layout; expected one of {', '.join(targets)}")
    asked = [name for entry in task or () for name in entry.split(",")]
    tasks = [name for name in get_args(Task) if name in asked]
    if unknown := sorted(set(asked) - set(tasks)):
        raise UserError(f"--task {unknown[0]}: no such task; expected {', '.join(get_args(Task))}")
    with stoppable(lambda: "nothing was written"):
        done = conversion.convert(source, output, target, recipe, tasks, verify=verify)
    say(f"Found: {done.source}")
    for note in done.notes:
        say(f"note: {note}")
    say(f"{done.path} written ({to}); {'; '.join(done.checks)}")
