"""Models as files of other runtimes: ``mask2former export``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from mask2former.cli.shared import Recipe, working
from mask2former.cli.terminal import make_console, say
from mask2former.errors import UserError
from mask2former.text import quoted

__all__ = ["export"]


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model: a name, file, folder, or hf://owner/name.")],
    output: Annotated[Path, typer.Argument(metavar="FILE", help="What to write: NAME.onnx or NAME.xml (OpenVINO).")],
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Height and width in pixels that images must fit into, and are padded to.",
            show_default="any size",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Images in one call; 0: any number.")] = 1,
    frames: Annotated[
        int | None, typer.Option(help="Frames of a clip.", show_default="8 for models of clips, else images")
    ] = None,
    recipe: Recipe = None,
) -> None:
    """Write a model as an ONNX or OpenVINO file, and compare the two.

    The file runs wherever its runtime does, without PyTorch, and here: mask2former predict --model NAME.onnx.
    """
    from mask2former.export import export as export_model

    with working(make_console(), lambda: "nothing was written") as progress:
        done = export_model(
            model,
            output,
            size=None if size is None else _size(size),
            batch=batch or None,
            frames=frames,
            recipe=recipe,
            progress=progress,
        )
    say(
        f"{done.path} written ({done.num_bytes / 1e6:,.1f} MB): logits are those of the model within "
        f"{done.difference:.0e} of the largest"
    )


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,7})x([0-9]{1,7})", text)
    if match is None:
        raise UserError(f"--size {quoted(text)}: expected height and width in pixels, for example 800x1333")
    return int(match[1]), int(match[2])
