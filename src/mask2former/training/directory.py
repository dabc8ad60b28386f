"""The directory of a new or resumed run: ``run.yaml`` records the run, and no files of another run remain."""

from __future__ import annotations

from pathlib import Path

import yaml

from mask2former.checkpoints import is_name
from mask2former.checkpoints.hub import files_of_folder
from mask2former.config import RunConfig
from mask2former.errors import OptionError, UserError
from mask2former.files import leftovers_note, write_whole
from mask2former.text import listed

__all__ = ["check_vacant", "prepare_directory"]


def check_vacant(directory: Path, init: str | None = None, *, overwrite: bool = False) -> None:
    """Reject a directory with checkpoints or a model that a new run would replace.

    A run that ended before its first ``last.ckpt`` does not count: it cannot be resumed, and starts over.

    Args:
        directory: of the new run.
        init: the model that it starts from: ``model.safetensors`` may be in the directory, and is kept until the end.
        overwrite: whether another run may be replaced.

    Raises:
        UserError: there is a run, the model of one without checkpoints, or a best checkpoint of another one; or the
            run would start from a file that it removes, or from its directory without a model.
    """
    if not overwrite:
        _check_replaced(directory, init)
    if taken := next((path for path in _stale(directory, init) if _is_named(init, path)), None):
        raise UserError(
            f"model.init names '{taken}', which a new run in '{directory}' removes; move it, or choose another output"
        )
    if _is_named(init, directory) and not files_of_folder(directory):
        raise UserError(
            f"model.init names '{directory}', the output directory of this run, which contains no model; name "
            "another model, or choose another output"
        )


def _check_replaced(directory: Path, init: str | None) -> None:
    last, best = _checkpoints(directory)
    if last.exists():
        raise OptionError(
            lambda name: (
                f"'{directory}' already contains a run; continue it with {name('resume')}, replace it "
                f"with {name('overwrite')}, or choose another output"
            )
        )
    model, is_run = directory / "model.safetensors", (directory / "run.yaml").exists()
    if (is_run and model.exists() and not _is_start(init, model)) or (best.exists() and not is_run):
        result, why = (model, "checkpoints") if is_run else (best, "run.yaml and last.ckpt")
        raise OptionError(
            lambda name: (
                f"'{result}' is of an earlier run, whose {why} are gone; move it, replace it with "
                f"{name('overwrite')}, or choose another output"
            )
        )


def prepare_directory(config: RunConfig, objects: list[str], *, resume: bool) -> list[str]:
    """Create the directory of a run, write ``run.yaml``, and remove files of another run unless this one is resumed.

    Args:
        config: the run, including its directory.
        objects: names of objects that were passed in Python instead of settings.
        resume: whether the run is resumed.

    Returns:
        Sentences for the user.
    """
    directory = Path(config.output)
    directory.mkdir(parents=True, exist_ok=True)
    notes = leftovers_note((directory, directory / "checkpoints", directory / "images"))
    if not resume:
        notes += _clear(directory, config.model.init)
    head = f"# Given in Python, whatever is below: {', '.join(objects)}\n" if objects else ""
    text = head + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_whole(directory / "run.yaml", lambda file: file.write_text(text, encoding="utf-8"), durable=True)
    return notes


def _checkpoints(directory: Path) -> tuple[Path, Path]:
    return directory / "checkpoints" / "last.ckpt", directory / "checkpoints" / "best.ckpt"


def _clear(directory: Path, init: str | None) -> list[str]:
    """Remove files of another run, which could pass for results of this one if it stops; its initial model is kept."""
    had_last, removed = _checkpoints(directory)[0].exists(), _stale(directory, init)
    for path in removed:
        path.unlink()
    if had_last or not removed:  # a run that could be resumed is only replaced with --overwrite
        return []
    names = [path.relative_to(directory).as_posix() for path in removed]
    return [f"removed files of a run that had no last.ckpt from '{directory}': {listed(names)}"]


def _stale(directory: Path, init: str | None) -> list[Path]:
    """Files of another run in a directory, except the model with which the new one starts."""
    last, best = _checkpoints(directory)
    model = directory / "model.safetensors"
    is_result = (last.exists() or (directory / "run.yaml").exists()) and not _is_start(init, model)
    patterns = ("checkpoints/best-before-step-*.ckpt", f"images/step-{'[0-9]' * 7}.png", "failed-step-[0-9]*.pt")
    found = [last, best, *([model] if is_result else []), *(path for one in patterns for path in directory.glob(one))]
    return [path for path in found if path.exists()]


def _is_start(init: str | None, model: Path) -> bool:
    """Whether ``model.init`` names this file, or its folder."""
    return _is_named(init, model) or _is_named(init, model.parent)


def _is_named(init: str | None, path: Path) -> bool:
    """Whether ``model.init`` names this file or folder; names of known models come before those of files."""
    return init is not None and not is_name(init) and Path(init).resolve() == path.resolve()
