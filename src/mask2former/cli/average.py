"""One model from several training runs: ``mask2former average``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mask2former.cli.shared import ModelTasks, Recipe, stoppable, tasks_of
from mask2former.cli.terminal import say

__all__ = ["average"]

_ALIKE = 0.9  # cosine of weights; below it, a note says that the models may be unrelated


def average(
    sources: Annotated[list[str], typer.Argument(metavar="MODEL", help="Two or more models.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A new .safetensors file or folder.")],
    recipe: Recipe = None,
    tasks: ModelTasks = None,
) -> None:
    """Average the weights of several models that were trained from the same initial weights."""
    from mask2former.checkpoints.average import average_files

    with stoppable(lambda: "nothing was written"):
        alike = average_files(sources, output, recipe, tasks_of(tasks))
    if alike < _ALIKE:
        say(
            f"note: the weights have little in common (cosine {alike:.2f}); averaging models that started "
            "from different weights rarely works, so evaluate the result"
        )
    say(f"{output} written: the mean of {len(sources)} models (cosine of their weights at least {alike:.3f})")
