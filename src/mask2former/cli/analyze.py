"""What is inside a model, and what it costs: ``mask2former analyze``."""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer

from mask2former import limits
from mask2former.cli.names import complete_model
from mask2former.cli.shared import Recipe, count
from mask2former.cli.terminal import say, say_document
from mask2former.errors import UserError
from mask2former.text import listed, quoted

__all__ = ["analyze", "flops"]

analyze = typer.Typer(
    help="Analyze a model: what its parts cost.",
    epilog="Example: mask2former analyze flops coco-instance/r50",
    rich_markup_mode="rich",
)
_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def flops(
    model: Annotated[
        str,
        typer.Argument(
            help="Model: a name (see: mask2former models), a recipe of an ablation, file, folder, or hf://owner/name.",
            autocompletion=complete_model,
        ),
    ],
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HxW",
            help="Height and width of the input in pixels, for example 800x1216; can be repeated, for the mean.",
            show_default="sizes that reproduce the paper",
        ),
    ] = None,
    frames: Annotated[int, typer.Option(min=1, max=limits.CLIP_FRAMES, help="Frames of a clip.")] = 1,
    depth: Annotated[int, typer.Option(min=0, max=20, help="How deep the table of modules goes.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print all modules and operators as JSON.")] = False,
    recipe: Recipe = None,
) -> None:
    """Count the multiply-adds and parameters of a model, per module; nothing is computed.

    Of published models nothing is downloaded. The last line is what the published code computes for the same input,
    which is what the paper reports: it computes all masks at full resolution after every layer.
    """
    from mask2former.analysis import count_flops, paper_sizes, skeleton

    sizes = [_size_of(text) for text in size or ()]
    network = skeleton(model, recipe)
    cost = count_flops(network, sizes or paper_sizes(network), frames)
    if as_json:
        say_document(json.dumps({"model": model, **cost.to_dict()}, indent=1))
        return
    rows = [row for row in cost.modules if not row.name or row.name.count(".") < depth]
    names = [_indented(row.name) for row in rows]
    widest = max(map(len, names))
    say(f"{'module':<{widest}}  {'parameters':>13}  {'G multiply-adds':>15}")
    for name, row in zip(names, rows, strict=True):
        say(f"{name:<{widest}}  {row.parameters:>13,}  {row.multiply_adds / 1e9:>15.2f}")
    shown = {f"{height}x{width}": None for height, width in cost.sizes}
    mean = f"mean of {count(len(cost.sizes), 'image')} of " if len(cost.sizes) > 1 else ""
    say(f"Input: {mean}{listed(list(shown), 5)} pixels, padded{f', {frames} frames' if frames > 1 else ''}.")
    if cost.published is not None:
        say(f"As the paper counts, with the masks of the published code: {cost.published / 1e9:.1f} G.")


def _size_of(text: str) -> tuple[int, int]:
    found = _SIZE.fullmatch(text)
    height, width = (int(side) for side in found.groups()) if found else (0, 0)
    if not height or not width:
        raise UserError(f"--size: expected height and width in pixels like 800x1216, got {quoted(text)}")
    return height, width


def _indented(name: str) -> str:
    """The last part of a name, below the others."""
    depth, leaf = name.count("."), name.rpartition(".")[2]
    return f"  {'  ' * depth}{leaf}" if name else "model"
