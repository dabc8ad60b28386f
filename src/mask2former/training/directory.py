"""The directory of a new or resumed run: ``run.yaml`` records the run, and no files of another run remain."""

from __future__ import annotations

from pathlib import Path

import yaml

from mask2former.config import RunConfig
from mask2former.errors import OptionError
from mask2former.files import leftovers_note, write_whole
from mask2former.text import listed

__all__ = ["check_vacant", "prepare_directory"]


def check_vacant(directory: Path, init: str | None = None) -> None:
    """Reject a directory with checkpoints or a model that a new run would replace.

    A run that ended before its first ``last.ckpt`` does not count: it cannot be resumed, and starts over.

    Args:
        directory: of the new run.
        init: the model that it starts from, which may be in the directory.

    Raises:
        UserError: there is a run, the model of one without checkpoints, or a best checkpoint of another one.
    """
    last, best = _checkpoints(directory)
    if last.exists():
        raise OptionError(
            lambda name: (
                f"'{directory}' already contains a run; continue it with {name('resume')}, replace it "
                f"with {name('overwrite')}, or choose another output"
            )
        )
    model, is_run = directory / "model.safetensors", (directory / "run.yaml").exists()
    if (is_run and model.exists() and not _is_same(init, model)) or (best.exists() and not is_run):
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
    last, best = _checkpoints(directory)
    model, had_last = directory / "model.safetensors", last.exists()
    is_result = (had_last or (directory / "run.yaml").exists()) and not _is_same(init, model)
    stale = [last, best, model] if is_result else [last, best]
    patterns = ("checkpoints/best-before-step-*.ckpt", f"images/step-{'[0-9]' * 7}.png", "failed-step-[0-9]*.pt")
    stale += [path for pattern in patterns for path in directory.glob(pattern)]
    removed = [path for path in stale if path.exists()]
    for path in removed:
        path.unlink()
    if had_last or not removed:  # a run that could be resumed is only replaced with --overwrite
        return []
    names = [path.relative_to(directory).as_posix() for path in removed]
    return [f"removed files of a run that had no last.ckpt from '{directory}': {listed(names)}"]


def _is_same(init: str | None, model: Path) -> bool:
    return init is not None and Path(init).resolve() == model.resolve()
