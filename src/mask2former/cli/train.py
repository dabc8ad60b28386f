"""Run files and training: ``mask2former recipe`` and ``mask2former train``."""

from __future__ import annotations

import inspect
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from mask2former.cli.shared import (
    need_lightning,
    read_run_file,
    stoppable,
)
from mask2former.errors import RequestError

__all__ = ["recipe", "train"]


def train(
    run: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="A run file; mask2former recipe NAME prints one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY.SUB=VALUE", help="Settings that replace those of the file.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on from the last checkpoint in this run directory.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Use a directory that holds another run.")] = False,
) -> None:
    """Train a model as a run file says."""
    values = read_run_file(run, overrides or [])
    if resume is not None:
        values["output"] = str(resume)

    from mask2former.config import RunConfig, parse

    config = parse(RunConfig, values, str(run))
    need_lightning()
    from mask2former.inference.files import check_folder

    check_folder(Path(config.output))
    from mask2former.training.run import train as train_model

    # Ours is the process here: its tips and device lists would bury what we say. Importing it has set its levels.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)

    def stopped() -> str:
        if (Path(config.output) / "checkpoints" / "last.ckpt").exists():
            return f"the last checkpoint is in {config.output}; go on with --resume {config.output}"
        return f"there was no checkpoint yet (one every {config.trainer.checkpoint_every} steps)"

    with stoppable(stopped):
        result = train_model(config, resume=resume is not None, overwrite=overwrite)
    print(result)


def recipe(
    name: Annotated[str | None, typer.Argument(help="Without it, the names are listed.")] = None,
) -> None:
    """Print the complete run file of a recipe, to be redirected into a file and edited."""
    from mask2former.recipes import run_recipes

    runs = run_recipes()
    if name is None:
        print("\n".join(sorted(runs)))
        return
    if name not in runs:
        raise RequestError(f"no run recipe '{name}'; there are: {', '.join(sorted(runs))}")
    import yaml

    for line in inspect.cleandoc(runs[name].__doc__ or "").splitlines():
        print(f"# {line}".rstrip())
    sys.stdout.write(yaml.safe_dump(runs[name]().model_dump(mode="json"), sort_keys=False))
