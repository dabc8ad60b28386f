"""Keeping ``last.ckpt`` and ``best.ckpt``: whole files or none, whatever interrupts the run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.trainer.states import TrainerFn

from mask2former.atomic import write_whole

__all__ = ["KeepCheckpoints", "Patience"]


class KeepCheckpoints(lightning.Callback):
    """Writes the newest state every few steps and the best one after each validation.

    Lightning's own callback writes in place, so a kill while it writes leaves neither the old nor the new file.

    Args:
        folder: of both files.
        every: steps between two writes of ``last.ckpt``.
        monitor: name of the metric that decides what is best; larger is better.
        afresh: where a run goes on, do not compare with what was measured before.

    Attributes:
        best_value, best_step: of the best validation so far, and the steps before it.
        start_value: of the validation before the first step; None where there was none.
    """

    def __init__(self, folder: Path, every: int, monitor: str, *, afresh: bool = False) -> None:
        self.last = folder / "last.ckpt"
        self.best = folder / "best.ckpt"
        self.every = every
        self.monitor = monitor
        self.best_value = -math.inf
        self.best_step = 0
        self.start_value: float | None = None
        self._afresh = afresh
        self._last_step = -1  # of what is in last.ckpt

    def state_dict(self) -> dict[str, Any]:
        return {"best_value": self.best_value, "best_step": self.best_step, "start_value": self.start_value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._afresh:
            return
        self._take(state_dict)
        if self.best.is_file():  # may be of a validation just after the state was written, which is not repeated
            best = torch.load(self.best, map_location="meta", weights_only=True)["callbacks"][self.state_key]
            if float(best["best_value"]) > self.best_value:
                self._take(best)

    def _take(self, state: dict[str, Any]) -> None:
        self.best_value = float(state["best_value"])
        self.best_step = int(state.get("best_step", 0))  # 0.1.0 did not write the other two
        self.start_value = state.get("start_value")

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step >= (trainer.max_steps or 0):
            self._write(trainer, self.last)
            self._last_step = trainer.global_step

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._last_step != trainer.global_step:  # stopped early
            self._write(trainer, self.last)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None and trainer.state.fn == TrainerFn.VALIDATING:  # before the first step
            self.start_value = float(value)
        if value is not None and float(value) > self.best_value:
            self.best_value, self.best_step = float(value), trainer.global_step
            self._write(trainer, self.best)

    def _write(self, trainer: lightning.Trainer, path: Path) -> None:
        if trainer.is_global_zero:
            write_whole(path, lambda file: trainer.save_checkpoint(file, weights_only=False))
        else:
            trainer.save_checkpoint(path, weights_only=False)  # takes part, but writes nothing


class Patience(EarlyStopping):
    """Stops after so many validations without a better monitor, also where a run goes on with another number.

    Lightning's own takes the number that is in the checkpoint.

    Args:
        monitor: name of the metric; larger is better.
        patience: the number.
        afresh: where a run goes on, count from here.
    """

    def __init__(self, monitor: str, patience: int, *, afresh: bool = False) -> None:
        super().__init__(monitor, mode="max", patience=patience, check_finite=False)
        self._afresh = afresh

    @property
    def state_key(self) -> str:
        return super().state_key.replace(type(self).__name__, "EarlyStopping")  # as 0.1.0 wrote it

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._afresh:
            super().load_state_dict({**state_dict, "patience": self.patience})

    def begin_at(self, value: float) -> None:
        """What the first validation has to pass."""
        self.best_score = torch.tensor(value)
