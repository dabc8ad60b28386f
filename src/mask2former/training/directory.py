"""The directory of a run when it starts or continues: ``run.yaml`` has its settings, nothing of another run stays."""

from __future__ import annotations

from pathlib import Path

import yaml

from mask2former.config import RunConfig
from mask2former.files import leftovers_note, write_whole

__all__ = ["prepare_directory"]


def prepare_directory(config: RunConfig, objects: list[str], *, resume: bool) -> list[str]:
    """Create the directory of a run, write ``run.yaml``, and remove what another run left, unless this continues it.

    Args:
        config: the run, including its directory.
        objects: names of what was given in Python instead of settings.
        resume: whether the run continues.

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
    """Nothing of another run may pass for a result of this one if it is stopped; its initial model stays."""
    checkpoints_of_it = [directory / "checkpoints" / name for name in ("last.ckpt", "best.ckpt")]
    model = directory / "model.safetensors"
    is_start = init is not None and Path(init).resolve() == model.resolve()
    stale = [*checkpoints_of_it, model] if checkpoints_of_it[0].exists() and not is_start else checkpoints_of_it
    stale += (directory / "checkpoints").glob("best-before-step-*.ckpt")
    for path in stale:
        path.unlink(missing_ok=True)
