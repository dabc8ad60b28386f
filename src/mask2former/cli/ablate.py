"""The paper's ablations on scenes or your own data: ``mask2former ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mask2former import limits
from mask2former.cli.shared import training_shown
from mask2former.cli.terminal import aligned, make_console, say
from mask2former.errors import FailedError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mask2former.training.ablate import AblationRow

__all__ = ["ablate"]

_MOST_SEEDS = 100


def ablate(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="'scenes' for the built-in scenes, which need no files, or your own run file."
        ),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY.SUB=VALUE", help="Settings that override those of the run.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for all training runs.")] = Path(
        "runs/ablations"
    ),
    row: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A row, for example attention-full; can be repeated.", show_default="all of the paper"
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=_MOST_SEEDS, help="Training runs per row.")] = 3,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=limits.INTEGER,
            help="Steps of each training run.",
            show_default="1000 for scenes, else those of the run",
        ),
    ] = None,
) -> None:
    """Train the paper's ablations with the same steps and seeds, and compare their metrics with the paper.

    Run the same command again to resume. A row is the last part of the name of a recipe that begins with ablation/
    (see: mask2former recipe), or mask-piloted, token-scaling, plain-vit or encoder-only.
    """
    from mask2former.files import check_folder
    from mask2former.training.ablate import ablate as ablate_run
    from mask2former.training.ablate import base_run, draw

    base = base_run(run, overrides or (), steps)
    check_folder(output)
    name = ""

    def tell(what: str, done: int, total: int) -> None:
        nonlocal name
        name = what
        say(f"[{done + 1} of {total}] {what}")

    stopped = "run the same command again to continue"
    with training_shown(make_console(), lambda: f"{name} was not finished; {stopped}" if name else stopped) as progress:
        try:
            table = ablate_run(base, output, row or (), seeds, tell, progress)
        except (MemoryError, FloatingPointError, ChildProcessError) as error:
            raise FailedError(f"{name}: {error}") from error
    for line in _lines(table):
        say(line)
    found, image = [output / "ablations.json"], output / "ablations.png"
    try:
        draw(table, image)
        found.append(image)
    except MissingExtraError as error:  # the training runs are done and their figures are saved
        say(f"{image} was not drawn: {error}")
    say(f"All figures: {', '.join(map(str, found))}")


def _lines(table: Sequence[AblationRow]) -> list[str]:
    """A line for each row: mean, range and difference from the baseline, and that difference in the paper."""
    from mask2former.training.ablate import METRICS

    base = table[0]
    measured = {title: name for title, name in METRICS.items() if base.spread(name) is not None}
    rows = [["", *(head for title in measured for head in (f"{title} (least to most)", "change", "paper"))]]
    for row in table:
        cells = [row.name]
        for title, name in measured.items():
            spread, plain = row.spread(name), base.spread(name)
            assert plain is not None
            shown = change = paper = ""
            if spread is not None:  # models that classify pixels have only mIoU
                shown = f"{spread[0]:.1f} ({spread[1]:.1f} to {spread[2]:.1f})"
            if row is not base and spread is not None:
                change = f"{spread[0] - plain[0]:+.1f}"
            if row is not base and title in row.paper:
                paper = f"{row.paper[title] - base.paper[title]:+.1f}"
            cells += [shown, change, paper]
        rows.append(cells)
    return aligned(rows)
