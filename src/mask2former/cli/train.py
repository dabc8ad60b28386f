"""Run files and training: ``mask2former recipe`` and ``mask2former train``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mask2former.cli.names import complete_run_recipe
from mask2former.cli.shared import FailedError, fetch_weights, stoppable
from mask2former.cli.terminal import make_console, say, say_document
from mask2former.errors import UserError
from mask2former.training import need_lightning

if TYPE_CHECKING:
    from mask2former.config import RunConfig

__all__ = ["recipe", "train"]


def train(
    run: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="A run file; mask2former recipe NAME prints one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY.SUB=VALUE", help="Settings that override those of the file.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Continue from the last checkpoint in this run directory.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing run in the output directory.")
    ] = False,
) -> None:
    """Train a model from a run file."""
    from mask2former.config import read_run_file

    values = read_run_file(run, overrides or [])
    if resume is not None:
        values["output"] = str(resume)

    config = _config(values, run, resume)
    need_lightning()
    from mask2former.files import check_folder

    check_folder(Path(config.output))
    if config.model.init is not None and resume is None:
        fetch_weights(make_console(), config.model.init)
    from mask2former.training.run import train as train_model

    # Lightning sets its log levels when it is imported; its tips and device lists would bury our messages.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)

    def stopped() -> str:
        if (Path(config.output) / "checkpoints" / "last.ckpt").exists():
            return f"the last checkpoint is in {config.output}; go on with --resume {config.output}"
        return f"there was no checkpoint yet (one every {config.trainer.checkpoint_interval} steps)"

    with stoppable(stopped):
        try:
            result = train_model(config, resume=resume is not None, overwrite=overwrite)
        except (MemoryError, FloatingPointError, ChildProcessError) as error:
            raise FailedError(str(error)) from error
    for line in str(result).splitlines():
        say(line)


def _config(values: dict[str, Any], run: Path, resume: Path | None) -> RunConfig:
    """The settings; some make sense only with those of the initial model, which is read for these alone."""
    from mask2former.config import RunConfig, parse

    try:
        return parse(RunConfig, values, str(run))
    except UserError:
        model = values.get("model")
        if not isinstance(model, dict) or not isinstance(model.get("init"), str):
            raise
    need_lightning()
    from mask2former.training.start import completed

    return parse(RunConfig, completed(values, resume), str(run))


def recipe(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Name of the recipe; without it, all names are listed.", autocompletion=complete_run_recipe
        ),
    ] = None,
) -> None:
    """Print the complete run file of a recipe, to redirect into a file and edit."""
    if name is None:
        from mask2former.recipes import run_recipes

        say_document("\n".join(run_recipes()))
        return
    from mask2former.training.run_file import run_file

    say_document(run_file(name))
