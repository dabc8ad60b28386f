"""Progress of a run during training: steps done and in total, rate, time left, losses, and each validation."""

from __future__ import annotations

import time
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from mask2former.data.clips import ClipSet
from mask2former.evaluation.cases import Cases
from mask2former.progress import DetailedProgress
from mask2former.text import clock, count
from mask2former.training.cluster import say_once

__all__ = ["StepProgress"]

_SILENCE = 60  # seconds of validation between two lines


class StepProgress(ProgressBar):
    """Reports every step to a progress bar or, without one, prints a line every few steps.

    Each validation ends with a line in both cases; without a bar, the first one also begins with a line, since nobody
    knows yet how long it takes. Only the first rank reports. This replaces Lightning's own bar.

    Args:
        steps: number of steps of the run.
        interval: steps between two lines, and between two readings of the losses, which have to wait for a GPU.
        monitor: name of the metric that is reported for each validation.
        tell: draws the bar; None: lines are printed.
    """

    def __init__(self, steps: int, interval: int, monitor: str, tell: DetailedProgress | None = None) -> None:
        super().__init__()
        self.steps, self.interval, self.monitor = steps, interval, monitor
        self._tell = tell
        self._is_on = True
        self._first = 0  # steps that were completed before this start
        self._began = self._validation_began = self._said = 0.0
        self._validating = 0.0  # seconds
        self._is_first_validation = True
        self._losses = ""  # formatted

    def enable(self) -> None:
        self._is_on = True

    def disable(self) -> None:
        self._is_on = False

    def on_train_start(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        self._first, self._began, self._validating = trainer.global_step, time.monotonic(), 0.0

    def on_train_batch_start(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        is_first = trainer.global_step == self._first  # not reported earlier: the messages of the run come first
        if self._tell is not None and self._is_on and is_first:
            self._tell("training", trainer.global_step, self.steps)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        step = trainer.global_step
        is_turn = self._is_on and (step % self.interval == 0 or step >= self.steps)
        if is_turn:
            self._losses = _losses(trainer)
        if self._tell is not None and self._is_on:
            self._tell("training", step, self.steps, self._losses)
        elif is_turn:
            seconds, done = time.monotonic() - self._began, max(1, step - self._first)
            rate = (seconds - self._validating) / done
            left = clock(seconds / done * (self.steps - step))  # includes future validations
            say_once(f"step {step} of {self.steps}: {self._losses}; {rate:.3g} s per step, {left} left")

    def on_validation_start(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        self._validation_began = self._said = time.monotonic()
        if self._tell is None and self._is_on and self._is_first_validation:
            cases: Cases = trainer.datamodule.validation_set  # pyright: ignore[reportAttributeAccessIssue]
            what = "clip" if isinstance(cases.samples, ClipSet) else "image"
            say_once(f"{_when(trainer)} begins: {count(len(cases), what)}")
        self._is_first_validation = False
        self._tell_validation(trainer, 0)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._tell_validation(trainer, batch_idx + 1)

    def _tell_validation(self, trainer: lightning.Trainer, done: int) -> None:
        if not self._is_on:
            return
        total = int(sum(trainer.num_val_batches))
        if self._tell is not None:
            self._tell("validating", done, total, "")
        elif time.monotonic() - self._said > _SILENCE:
            self._said = time.monotonic()
            say_once(f"{_when(trainer)}: {done} of {total}")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        seconds = time.monotonic() - self._validation_began
        self._validating += seconds
        if not self._is_on:
            return
        value = pl_module.measured.get(self.monitor)  # Lightning would return that of the previous validation
        measured = "not measured" if value is None else f"{value:.1f}"
        say_once(f"{_when(trainer)}: {self.monitor} {measured} ({clock(seconds)})")
        if self._tell is not None and trainer.state.fn == TrainerFn.FITTING:
            self._tell("training", trainer.global_step, self.steps, self._losses)


def _losses(trainer: lightning.Trainer) -> str:
    """``loss 5.21 (ce 1.1, mask 0.6, dice 0.85)``: the sum over all layers, and the terms of the last one."""
    shown = {name.removeprefix("loss_"): f"{float(value):.3g}" for name, value in trainer.progress_bar_metrics.items()}
    total = f"loss {shown.pop('loss')}" if "loss" in shown else ""
    terms = ", ".join(f"{name} {value}" for name, value in shown.items())
    return " ".join(part for part in (total, f"({terms})" if terms else "") if part)


def _when(trainer: lightning.Trainer) -> str:
    step = trainer.global_step
    return f"validation after step {step}" if step else "validation before the first step"
