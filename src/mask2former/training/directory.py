"""The directory of a run when it begins: nothing of another run stays, and ``run.yaml`` says what is done."""

from __future__ import annotations

from pathlib import Path

__all__ = ["about_objects", "clear"]


def clear(directory: Path, init: str | None) -> None:
    """Nothing of another run may pass for a result of this one, should it be stopped; what it starts from stays."""
    checkpoints_of_it = [directory / "checkpoints" / name for name in ("last.ckpt", "best.ckpt")]
    model = directory / "model.safetensors"
    is_start = init is not None and Path(init).resolve() == model.resolve()
    stale = [*checkpoints_of_it, model] if checkpoints_of_it[0].exists() and not is_start else checkpoints_of_it
    stale += (directory / "checkpoints").glob("best-before-step-*.ckpt")
    for path in stale:
        path.unlink(missing_ok=True)


def about_objects(names: list[str]) -> str:
    """The head of a run file that does not say all."""
    if not names:
        return ""
    return f"# Given in Python, whatever is below: {', '.join(names)}\n"
