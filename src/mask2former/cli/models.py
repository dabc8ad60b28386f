"""Available models and the contents of files: ``mask2former models`` and ``mask2former inspect``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mask2former.cli.names import complete_model
from mask2former.cli.shared import (
    ModelArgument,
    ModelTasks,
    Recipe,
    Weights,
    fetch_weights,
    renamed,
    stoppable,
    tasks_of,
)
from mask2former.cli.terminal import aligned, make_console, say, say_document
from mask2former.errors import UserError
from mask2former.text import printable

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["inspect_checkpoint", "models"]

_WIDE = 110  # columns of a terminal from which all columns are shown; also used if the output is not a terminal
_CELL = 60  # characters of a cell, in tables with text from files
_TEXTS = ("name", "backbone", "published, %", "here")  # columns that are aligned to the left
_TERMS = {
    True: "also for commercial use",
    False: "not for commercial use",
    None: "ask the authors before commercial use",
}


def models(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Describe this model in detail instead of listing all.",
            autocompletion=complete_model,
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        Literal["panoptic", "instance", "semantic", "video"] | None,
        typer.Option("--task", "-t", help="Only models for this task."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only models trained on this data set: coco, cityscapes, ade20k, ..."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME", help="The former name of --dataset.", hidden=True)
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only models from this publisher: official, mmdet, mmseg, ssseg, packaged."),
    ] = None,
    commercial: Annotated[
        bool,
        typer.Option("--commercial", help="Only models whose license is stated and permits commercial use."),
    ] = False,
    cached: Annotated[bool, typer.Option("--cached", help="Only models that need no download.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all details as JSON.")] = False,
) -> None:
    """List the models that can be loaded by name: provider, license, published metrics, size, and which are cached.

    With a NAME, print everything about that model, such as its address and how its settings differ from the official
    ones.
    """
    from mask2former.checkpoints.describe import describe_model, known_models

    dataset = renamed("--data", data, "--dataset", dataset)
    if name is not None and (task or dataset or provider or commercial or cached):
        raise UserError(f"'{name}' is a single model; leave out the options that select several")
    if name is not None:
        model = describe_model(name)
        if as_json:
            _say_json(model)
        else:
            _say_pairs(_details(model))
        return
    rows = known_models(task, dataset, provider=provider, commercial=commercial, cached=cached)
    if as_json:
        _say_json(rows)
        return
    from mask2former.checkpoints.download import cache_folder

    console = make_console()
    if not console.is_terminal:
        console.width = _WIDE
    if not rows:
        say("No model fits all of these options.", console=console)
        return
    _say_table(console, rows)
    for license in {row["license"]["name"]: row["license"] for row in rows}.values():
        say(f"{license['name']}: {_TERMS[license['commercial']]} ({license['url']})", console=console, style="bold")
    say(
        f"Load a model with --model NAME. x: already on this machine; others are downloaded once into {cache_folder()}."
    )
    say(
        "Details of one model: mask2former models NAME. Metrics are percentages as published; AP is "
        "mask AP; -: not published."
    )
    say("Also for --model: a file or folder of your own, and hf://owner/name for the Hugging Face hub.")


def _say_json(values: object) -> None:
    import json

    say_document(json.dumps(values, indent=1))


def _say_table(console: Console, rows: list[dict[str, Any]]) -> None:
    """A heading for each provider and data set, and one line for each model; columns are aligned across all of them."""
    from itertools import groupby

    is_wide = console.width >= _WIDE
    titles = ["name", *(["backbone", "queries"] if is_wide else []), "published, %", "MB", "here"]
    cells = [[printable(cell, _CELL) for cell in _cells(row, is_wide=is_wide)] for row in rows]
    head, *lines = aligned([titles, *cells], [index for index, title in enumerate(titles) if title in _TEXTS])
    say(head, console=console, style="bold")
    for heading, group in groupby(zip(rows, lines, strict=True), key=lambda pair: _heading(pair[0])):
        say(heading, console=console, style="bold")
        for _, line in group:
            say(line, console=console)


def _heading(row: dict[str, Any]) -> str:
    license = row["license"]
    return f"{row['provider']}: {row['dataset']} (license {license['name']}, {_TERMS[license['commercial']]})"


def _cells(row: dict[str, Any], *, is_wide: bool) -> list[str]:
    """The cells of one line; a narrow table leaves out those without room."""
    metrics = {name: value for name, value in row["metrics"].items() if is_wide or "(" not in name}
    numbers = (", " if is_wide else " ").join(f"{name} {_as_printed(value)}" for name, value in metrics.items())
    details = [row["backbone"], str(row["queries"])] if is_wide else []
    size, is_here = f"{row['num_bytes'] / 1e6:.0f}", "" if row["path"] is None else "x"
    return [row["name"], *details, numbers or "-", size, is_here]


def _as_printed(value: float) -> str:
    """The number with one or two decimals, as published."""
    return str(round(float(value), 2))


def _details(model: dict[str, Any]) -> list[tuple[str, str]]:
    license, is_here = model["license"], model["path"] is not None
    metrics = ", ".join(f"{name} {_as_printed(value)}" for name, value in model["metrics"].items())
    of = "file" if is_here else "arrays; the file is a little larger"
    details = {
        "name": model["name"],
        "published by": f"{model['published_by']} ({model['provider']})",
        "task": f"{model['task']} segmentation, {model['dataset']}",
        "backbone": f"{model['backbone']}, pretrained on: {model['pretraining']}",
        "queries": str(model["queries"]),
        "published, %": metrics or "none",
        "source": model["source"] or "",
        "note": model["note"],
        "license": f"{license['name']}: {_TERMS[license['commercial']]} ({license['url']})",
        "size": f"{model['num_bytes'] / 1e6:.0f} MB ({of})",
        "here": model["path"] or "no; it is downloaded when it is first used",
        "address": model["url"] or "",
        "verified by": model["checksum"]
        or ("" if model["url"] is None else "nothing published; its SHA-256 is recorded at the first download"),
    }
    if model["settings"] is not None:
        unlike = [f"{key} {own} (official: {official})" for key, (own, official) in model["settings"].items()]
        details["settings"] = ", ".join(unlike) or "as the official model of this data set, task and backbone"
    known = [(title, value) for title, value in details.items() if value]
    titles = ("differs there", *("" for _ in model["deviations"]))
    return known + list(zip(titles, model["deviations"], strict=False))


def _say_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    width = max(len(title) for title, _ in pairs)
    for title, value in pairs:
        say(f"{title:<{width}}  {value}")


def inspect_checkpoint(
    checkpoint: ModelArgument,
    recipe: Recipe = None,
    tasks: ModelTasks = None,
    weights: Weights = None,
) -> None:
    """Describe a checkpoint: format, architecture, settings, classes, size, and matching recipes."""
    from mask2former.checkpoints.describe import describe_checkpoint

    fetch_weights(make_console(), checkpoint)
    with stoppable(lambda: "nothing was changed"):
        details = describe_checkpoint(checkpoint, recipe, tasks_of(tasks), weights)
    _say_pairs(list(details.items()))
