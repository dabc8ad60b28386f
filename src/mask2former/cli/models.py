"""What can be loaded and what a file holds: ``mask2former models`` and ``mask2former inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mask2former.cli.names import complete_model
from mask2former.cli.shared import ModelTasks, Recipe, Weights, fetch_weights, stoppable, tasks_of
from mask2former.cli.terminal import make_console, say, say_document

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["inspect_checkpoint", "models"]

_WIDE = 130  # columns of a terminal from which on all columns are shown; also where the output is none


def models(
    task: Annotated[
        Literal["panoptic", "instance", "semantic", "video"] | None,
        typer.Option("--task", "-t", help="Only models for this task."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only models trained on this data: coco, cityscapes, ade20k, ...")
    ] = None,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="Only models whose license permits commercial use.")
    ] = False,
    cached: Annotated[bool, typer.Option("--cached", help="Only models that need no download.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all details as JSON.")] = False,
) -> None:
    """List the models that can be loaded by name: tasks, published metrics, size, and whether they are cached."""
    from mask2former.checkpoints.describe import known_models

    rows = known_models(task, data, commercial=commercial, cached=cached)
    if as_json:
        import json

        say_document(json.dumps(rows, indent=1))
        return
    from mask2former.checkpoints.download import cache_folder

    console = make_console()
    if not console.is_terminal:
        console.width = _WIDE
    console.print(_table(rows, is_wide=console.width >= _WIDE))
    for license in {entry["license"]["name"]: entry["license"] for entry in rows}.values():
        terms = "also for commercial use" if license["commercial"] else "not for commercial use"
        say(f"{license['name']}: {terms} ({license['url']})", console=console, style="bold")
    say(f"Load one with --model NAME; x: it is here, others are downloaded once into {cache_folder()}.")
    say("Also for --model: a file or folder of your own, and hf://owner/name for the Hugging Face hub.")


def _table(rows: list[dict[str, Any]], *, is_wide: bool) -> Table:
    """One line for each model; what the name says too is left out of a narrow one."""
    from rich.table import Table

    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("task", no_wrap=True)
    if is_wide:
        table.add_column("trained on", no_wrap=True)
        table.add_column("backbone", no_wrap=True)
        table.add_column("queries", justify="right")
    table.add_column("published, %")
    table.add_column("MB", justify="right")
    table.add_column("here")
    for row in rows:
        metrics = {name: value for name, value in row["metrics"].items() if is_wide or "(" not in name}
        numbers = (", " if is_wide else " ").join(f"{name} {value:.1f}" for name, value in metrics.items())
        details = (row["dataset"], row["backbone"], str(row["queries"])) if is_wide else ()
        size, is_here = f"{row['num_bytes'] / 1e6:.0f}", "" if row["path"] is None else "x"
        table.add_row(row["name"], row["task"].partition(" ")[0], *details, numbers, size, is_here)
    return table


def inspect_checkpoint(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Model: a name (see: mask2former models), file, folder, or hf://owner/name.",
            autocompletion=complete_model,
        ),
    ],
    recipe: Recipe = None,
    tasks: ModelTasks = None,
    weights: Weights = None,
) -> None:
    """Describe a checkpoint: format, architecture, settings, classes, size, and matching recipes."""
    from mask2former.checkpoints.describe import describe_checkpoint

    fetch_weights(make_console(), checkpoint)
    with stoppable(lambda: "nothing was changed"):
        details = describe_checkpoint(checkpoint, recipe, tasks_of(tasks), weights)
    width = max(len(name) for name in details)
    for name, value in details.items():
        say(f"{name:<{width}}  {value}")
