"""Run files and training: ``mask2former recipe`` and ``mask2former train``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mask2former.cli.names import complete_run_recipe
from mask2former.cli.shared import fetch_weights, training_shown
from mask2former.cli.terminal import make_console, say, say_document
from mask2former.training import need_lightning

__all__ = ["find_lr", "recipe", "train"]

_RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="A run file; 'mask2former recipe NAME' prints one.")]
_Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY.SUB=VALUE", help="Settings that override those of the file.")
]


def train(
    run: _RunFile,
    overrides: _Overrides = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Continue from the last checkpoint in this run directory.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing run in the output directory.")
    ] = False,
) -> None:
    """Train a model from a run file."""
    from mask2former.files import check_folder
    from mask2former.training.run_file import read_run

    config = read_run(run, overrides or [], resume=resume)
    check_folder(Path(config.output))
    need_lightning()
    if config.model.init is not None and resume is None:
        fetch_weights(make_console(), config.model.init)
    from mask2former.training.run import train as train_model

    def stopped() -> str:
        if (Path(config.output) / "checkpoints" / "last.ckpt").exists():
            folder = Path(config.output)
            again = shlex.join(["mask2former", "train", str(folder / "run.yaml"), "--resume", str(folder)])
            return f"the last checkpoint is in {config.output}; to continue: {again}"
        every = config.trainer.checkpoint_interval
        return f"no checkpoint had been written yet (one is written every {every} steps); start again without --resume"

    with training_shown(make_console(), stopped) as progress:
        result = train_model(config, resume=resume is not None, overwrite=overwrite, progress=progress)
    from mask2former.training.cluster import is_first

    if is_first():
        for line in str(result).splitlines():
            say(line)


def find_lr(
    run: _RunFile,
    overrides: _Overrides = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Where to draw the curve (.png, .svg or .pdf); the numbers go into a JSON file beside it.",
        ),
    ] = Path("learning-rates.png"),
    lowest: Annotated[float, typer.Option(help="Learning rate of the first step.")] = 1e-7,
    highest: Annotated[float, typer.Option(help="Learning rate of the last step.")] = 1e-1,
    steps: Annotated[int, typer.Option(help="Number of training steps; fewer if the loss diverges.")] = 100,
) -> None:
    """Find a learning rate: train for some steps with an increasing rate, and plot the loss."""
    from mask2former.data.sources import files_named_in
    from mask2former.inference.opening import model_files
    from mask2former.training.find_lr import check_output, check_search
    from mask2former.training.find_lr import find_lr as find
    from mask2former.training.run_file import read_run

    config = read_run(run, overrides or [])
    check_search(config, lowest, highest, steps)
    start = [] if config.model.init is None else model_files(config.model.init)
    check_output(output, [run, *files_named_in(config.model_dump(mode="json")), *start])
    need_lightning()
    if config.model.init is not None:
        fetch_weights(make_console(), config.model.init)
    with training_shown(make_console(), lambda: "nothing was written") as progress:
        found = find(config, lowest=lowest, highest=highest, steps=steps, progress=progress)
    curve, numbers = found.save(output)
    best = (
        f"the loss does not fall at any rate; try lower rates (--lowest below {lowest:g}) or more steps, for a curve "
        f"with less noise (--steps above {steps}), and check the data (mask2former check-data)"
        if found.suggested is None
        else (f"the loss falls most steeply at {found.suggested:.2g} (the run has optim.lr={config.optim.lr:g})")
    )
    say(f"{len(found.rates)} steps up to a rate of {found.rates[-1]:.2g}: {best}; {curve}, {numbers}")


def recipe(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Name of the recipe; without it, all names are listed.",
            autocompletion=complete_run_recipe,
        ),
    ] = None,
) -> None:
    """Print the complete run file of a recipe, which you can redirect into a file and edit."""
    if name is None:
        from mask2former.recipes import run_recipes

        say_document("\n".join(run_recipes()))
        return
    from mask2former.training.run_file import run_file

    say_document(run_file(name))
