"""Where a run is resumed, and what happens to its best validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mask2former.config import RunConfig
from mask2former.training.checkpointing import Best, Patience, best_of, put_in_place
from mask2former.training.metrics_log import validations
from mask2former.training.resume import Comparison, LastState

__all__ = ["ResumePoint", "patience_of", "put_best_in_place", "resume_point"]


@dataclass(frozen=True)
class ResumePoint:
    """The point at which a run is resumed; by default its beginning.

    Attributes:
        step: optimizer steps that were taken before.
        num_rows: rows of the table of metrics, if known.
        is_due: whether the validation of this step was interrupted and is repeated.
        measured_anew: whether metrics before and after cannot be compared.
        best: the best of the validations that were measured as required now.
        start_value: the monitor before the first step; None if it was not measured, or measured differently.
    """

    step: int = 0
    num_rows: int | None = None
    is_due: bool = False
    measured_anew: bool = False
    best: Best | None = None
    start_value: float | None = None


def resume_point(
    past: LastState, change: Comparison, config: RunConfig, num_validation: int, validation: str
) -> ResumePoint:
    """Where the run with the last state ``past`` is resumed with ``config``. Files are read, but not changed.

    Args:
        past: the state from which it is resumed.
        change: what is different now.
        config: the new settings, complete.
        num_validation: current number of samples of the validation data; 0 if nothing is measured.
        validation: their digest.

    Raises:
        UserError: a checkpoint of the best validation is damaged.
    """
    folder = past.path.parent
    best = best_of(folder, lambda state: past.is_comparable(state, config, num_validation, validation))
    start = _start_value(past, change, config.evaluation.monitor, folder.parent / "metrics.csv")
    if start is None and best is not None:
        start = best.start
    is_due = past.validation_due and num_validation > 0
    return ResumePoint(past.step, past.num_rows, is_due, change.measured_anew, best, start)


def patience_of(config: RunConfig, point: ResumePoint) -> Patience | None:
    """The callback for ``evaluation.patience``; validations have to be better than the best one so far."""
    if config.evaluation.patience is None:
        return None
    patience = Patience(config.evaluation.monitor, config.evaluation.patience, starts_over=point.measured_anew)
    if point.best is not None:  # the state in the checkpoint replaces it, if there is one
        patience.begin_at(point.best.value)
    return patience


def put_best_in_place(past: LastState, point: ResumePoint, config: RunConfig) -> list[str]:
    """Make the best comparable validation ``best.ckpt``; returns sentences about the other ones."""
    monitor, best = config.evaluation.monitor, point.best
    aside = put_in_place(past.path.parent, best, point.step)
    notes = []
    if aside is not None:
        notes.append(f"best.ckpt was measured with other settings and has been renamed to {aside.name}")
    if best is not None and (point.measured_anew or best.path.name != "best.ckpt"):
        notes.append(
            f"{best.path.name} was measured with the current settings: the best is {monitor} "
            f"{best.value:.1f} at step {best.step}"
        )
    if best is None and past.has_best and not point.measured_anew:
        notes.append(
            f"the checkpoint of the best {monitor} no longer exists: the search for the best validation starts over"
        )
    if past.start is not None and point.start_value is None:
        notes.append("the metric before the first step was measured with other settings and is no longer reported")
    if point.is_due:
        notes.append(f"the validation after step {point.step} was interrupted and is repeated")
    elif point.step >= config.trainer.max_steps:
        notes.append(f"all {point.step} steps had been completed; only model.safetensors was missing")
    return notes


def _start_value(past: LastState, change: Comparison, monitor: str, table: Path) -> float | None:
    """The monitor before the first step, as measured now; if only the monitor changes, it is read from the table."""
    if past.start is None or not change.measured_anew:
        return past.start
    measured = validations(table, past.step)
    return measured[0].get(monitor) if measured and change.measured_otherwise == ("evaluation.monitor",) else None
