"""The directory of a new or resumed run: ``run.yaml`` records the run, and no files of another run remain."""

from __future__ import annotations

from pathlib import Path

import yaml

from mask2former.config import RunConfig
from mask2former.files import leftovers_note, write_whole

__all__ = ["prepare_directory"]


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
    head = f"# Given in Python, whatever is below: {', '.join(objects)}\n" if objects else ""
    text = head + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_whole(directory / "run.yaml", lambda file: file.write_text(text, encoding="utf-8"), durable=True)
    if not resume:
        _clear(directory, config.model.init)
    return notes


def _clear(directory: Path, init: str | None) -> None:
    """Remove files of another run, which could pass for results of this one if it stops; its initial model is kept."""
    checkpoints_of_it = [directory / "checkpoints" / name for name in ("last.ckpt", "best.ckpt")]
    model = directory / "model.safetensors"
    is_start = init is not None and Path(init).resolve() == model.resolve()
    stale = [*checkpoints_of_it, model] if checkpoints_of_it[0].exists() and not is_start else checkpoints_of_it
    patterns = ("checkpoints/best-before-step-*.ckpt", f"images/step-{'[0-9]' * 7}.png", "failed-step-[0-9]*.pt")
    stale += [path for pattern in patterns for path in directory.glob(pattern)]
    for path in stale:
        path.unlink(missing_ok=True)
