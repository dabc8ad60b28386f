"""The result of a run at its end; for a finished run, read from its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mask2former import checkpoints
from mask2former.config import RunConfig
from mask2former.text import listed, printable
from mask2former.training.checkpointing import Best, best_of
from mask2former.training.cluster import say_once
from mask2former.training.metrics_log import validations
from mask2former.training.resume import Comparison, LastState

__all__ = ["TrainingResult", "finished", "how_it_ended"]


@dataclass(frozen=True)
class TrainingResult:
    """The files of a run, and its validation metrics.

    Attributes:
        directory: of the run.
        model: the weights file.
        monitor: name of the metric that determines the best validation.
        metrics: of the last validation, percent.
        start: the monitor before the first step; None if it was not measured.
        best: the best value of the monitor, and the number of steps before it; None if nothing was measured.
        is_average: whether ``model`` contains averaged weights, which are those of the last step, not the best ones.
        instance_threshold: the value stored with the model, if it was chosen on the validation data.
        class_thresholds: likewise, for single classes by name.
    """

    directory: Path
    model: Path
    monitor: str
    metrics: dict[str, float]
    start: float | None = None
    best: tuple[float, int] | None = None
    is_average: bool = False
    instance_threshold: float | None = None
    class_thresholds: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"Model: {self.model} ({self._of_model()}). Checkpoints, metrics.csv, images and run.yaml: {self.directory}"
        ]
        last = self.metrics.get(self.monitor)
        if self.best is not None and last is not None:
            value, step = self.best
            when = f"best {value:.1f} (step {step}), last {last:.1f}"
            lines.append(f"{self.monitor} " + (when if self.start is None else f"started at {self.start:.1f}, {when}"))
        if self.instance_threshold is not None:
            lines.append(
                f"Score threshold of instances: {self.instance_threshold:g}, which gave the highest F1 on the "
                "validation data (evaluation.choose_threshold)"
            )
        if self.class_thresholds:
            shown = listed(list(self.class_thresholds.items()), show=lambda one: f"{printable(one[0], 80)} {one[1]:g}")
            lines.append(f"Score thresholds of single classes, chosen in the same way: {shown}")
        if self.start is not None and self.best is not None and self.best[1] == 0:
            holds = "the averaged weights of the last step" if self.is_average else "the initial weights"
            lines.append(
                f"warning: no validation was better than the initial model, so {self.model.name} holds {holds}; "
                "try a lower optim.lr, more trainer.max_steps or more training data"
            )
        return "\n".join(lines)

    def _of_model(self) -> str:
        last = self.metrics.get(self.monitor)
        if self.best is not None and not self.is_average:
            return f"{self.monitor} {self.best[0]:.1f}"
        return f"{self.monitor} {'not measured' if last is None else f'{last:.1f}'}"


def finished(past: LastState, change: Comparison, config: RunConfig) -> TrainingResult | None:
    """The result of a run that has nothing left to do, from its files, with a sentence about it; None if it continues.

    Args:
        past: its last state.
        change: what differs now.
        config: the current settings, complete.
    """
    directory = past.path.parents[1]
    model = directory / "model.safetensors"
    end = how_it_ended(past, config, model)
    if end is None:
        return None
    best = _best_at_the_end(past)
    if best is not None and best.step > past.step:  # of a run that went on from here
        return None
    say_once(f"{directory} is finished: {end}; nothing was changed")
    if change.changes:
        ignored = ", ".join(change.changes)
        say_once(f"note: the run is finished, so these changed settings were ignored: {ignored}")
    return _result_of(past, best, model)


def how_it_ended(past: LastState, config: RunConfig, model: Path) -> str | None:
    """Why there is nothing left to do; None if there is."""
    if past.validation_due:
        return None
    if not model.is_file() or model.stat().st_mtime < past.path.stat().st_mtime:
        return None  # interrupted before its end
    steps, patience = config.trainer.max_steps, config.evaluation.patience
    if past.step >= steps:
        return f"{past.step} of {steps} steps are done (raise trainer.max_steps to continue)"
    if patience is not None and past.waited >= patience:
        return (
            f"it stopped at step {past.step} after {past.waited} validations without improvement (raise "
            "evaluation.patience, or set it to null, to continue)"
        )
    return None


def _best_at_the_end(past: LastState) -> Best | None:
    """The best validation as the run was measured, whatever the current settings are."""
    count = None if past.num_samples is None else past.num_samples[1]
    return best_of(past.path.parent, lambda state: past.is_comparable(state, past.config, count, past.validation))


def _result_of(past: LastState, best: Best | None, model: Path) -> TrainingResult:
    """Of a run that is finished, from its files."""
    config, directory = past.config, past.path.parents[1]
    measured = validations(directory / "metrics.csv", past.step)
    chosen = config.evaluation.choose_threshold and best is not None and best.threshold is not None
    stored = checkpoints.open_checkpoint(model).info.inference if chosen else None
    return TrainingResult(
        directory,
        model,
        config.evaluation.monitor,
        measured[-1] if measured else {},
        past.start,
        None if best is None else (best.value, best.step),
        is_average=config.optim.ema_decay > 0,
        instance_threshold=None if stored is None else stored.instance_threshold,
        class_thresholds={} if stored is None else stored.class_thresholds,
    )
