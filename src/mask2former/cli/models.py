"""What can be loaded and what a file holds: ``mask2former models`` and ``mask2former inspect``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mask2former.cli.names import complete_model
from mask2former.cli.shared import Recipe, fetch_weights, stoppable
from mask2former.cli.terminal import make_console, say, say_document
from mask2former.errors import RequestError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["inspect_checkpoint", "models"]

_LEARNED_FROM = {"nuclei": "nuclei, DSB 2018"}  # of the packaged models, those that started from drawn scenes
_WIDE = 130  # columns of a terminal from which on all facts are shown; also where the output is none


def models(
    task: Annotated[
        Literal["panoptic", "instance", "semantic", "video"] | None,
        typer.Option("--task", "-t", help="What it was trained for."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="What it was trained on: coco, cityscapes, ade20k, ...")
    ] = None,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="Only weights that may be used commercially.")
    ] = False,
    cached: Annotated[bool, typer.Option("--cached", help="Only what needs no download.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All facts, as JSON.")] = False,
) -> None:
    """List the models that load by name: tasks, scores, size, and whether they are cached."""
    known = _packaged() + _published()
    families = sorted({_family(entry) for entry in known})
    if data is not None and data not in families:
        raise RequestError(f"no models of data '{data}'; there are: {', '.join(families)}")
    rows = [
        entry
        for entry in known
        if (task is None or entry["task"].startswith(task))
        and data in (None, _family(entry))
        and (entry["licence"]["commercial"] or not commercial)
        and (entry["path"] is not None or not cached)
    ]
    if as_json:
        import json

        say_document(json.dumps(rows, indent=1))
        return
    from mask2former.checkpoints.download import cache_folder

    console = make_console()
    if not console.is_terminal:
        console.width = _WIDE
    console.print(_table(rows, is_wide=console.width >= _WIDE))
    for licence in {entry["licence"]["name"]: entry["licence"] for entry in rows}.values():
        terms = "also for commercial use" if licence["commercial"] else "not for commercial use"
        say(f"{licence['name']}: {terms} ({licence['url']})", console=console, style="bold")
    say(f"Load one with --model NAME; x: it is here, others are downloaded once into {cache_folder()}.")
    say("Also for --model: a file or folder of your own, and hf://owner/name for the Hugging Face hub.")


def _family(entry: dict[str, Any]) -> str:
    """``coco`` of ``coco-panoptic/r50``."""
    return re.split("[-/]", entry["name"])[0]


def _packaged() -> list[dict[str, Any]]:
    """Facts of the models that come with the package, under its own licence."""
    from mask2former import checkpoints

    rows = []
    for name in checkpoints.packaged_names():
        opened = checkpoints.open_checkpoint(name)
        architecture = opened.info.known_architecture
        backbone = architecture.backbone
        rows.append(
            {
                "name": name,
                "task": opened.info.inference.default_task,
                "dataset": _LEARNED_FROM.get(name, "drawn scenes"),
                "backbone": backbone.model if backbone.name == "timm" else "Swin",
                "pretraining": "drawn scenes" if name in _LEARNED_FROM else "none",
                "queries": architecture.transformer_decoder.num_queries,
                "metrics": dict(opened.info.metrics),
                "licence": {"name": "MIT", "url": "https://opensource.org/license/mit", "commercial": True},
                "num_bytes": Path(opened.source).stat().st_size,
                "path": opened.source,
                "url": None,
            }
        )
    return rows


def _published() -> list[dict[str, Any]]:
    from dataclasses import asdict

    from mask2former import checkpoints

    rows = []
    for entry in checkpoints.current_zoo().values():
        row = {key: value for key, value in asdict(entry).items() if key not in ("file", "md5_prefix")}
        is_here = entry.path.is_file()
        size = entry.path.stat().st_size if is_here else entry.num_bytes
        rows.append({**row, "num_bytes": size, "path": str(entry.path) if is_here else None})
    return rows


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
        facts = (row["dataset"], row["backbone"], str(row["queries"])) if is_wide else ()
        size, is_here = f"{row['num_bytes'] / 1e6:.0f}", "" if row["path"] is None else "x"
        table.add_row(row["name"], row["task"].partition(" ")[0], *facts, numbers, size, is_here)
    return table


def inspect_checkpoint(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Name (see: mask2former models), file, folder, or hf://owner/name.", autocompletion=complete_model
        ),
    ],
    recipe: Recipe = None,
) -> None:
    """Say what a checkpoint is: format, architecture, settings, classes, size, and the recipes it fits."""
    from mask2former.inference.facts import checkpoint_facts

    fetch_weights(make_console(), checkpoint)
    with stoppable(lambda: "nothing was changed"):
        facts = checkpoint_facts(checkpoint, recipe)
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        say(f"{name:<{width}}  {value}")
