"""Keeping ``last.ckpt`` and ``best.ckpt``: whole files or none, whatever interrupts the run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning
import torch

from mask2former.atomic import write_whole

__all__ = ["KeepCheckpoints"]


class KeepCheckpoints(lightning.Callback):
    """Writes the newest state every few steps and the best one after each validation.

    Lightning's own callback writes in place, so a kill while it writes leaves neither the old nor the new file.

    Args:
        folder: of both files.
        every: steps between two writes of ``last.ckpt``.
        monitor: name of the metric that decides what is best; larger is better.
    """

    def __init__(self, folder: Path, every: int, monitor: str) -> None:
        self.last = folder / "last.ckpt"
        self.best = folder / "best.ckpt"
        self.every = every
        self.monitor = monitor
        self.best_value = -math.inf
        self._last_step = -1  # of what is in last.ckpt

    def state_dict(self) -> dict[str, Any]:
        return {"best_value": self.best_value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_value = float(state_dict["best_value"])
        if self.best.is_file():  # may be of a validation just after the state was written, which is not repeated
            best = torch.load(self.best, map_location="meta", weights_only=True)
            self.best_value = max(self.best_value, float(best["callbacks"][self.state_key]["best_value"]))

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step >= (trainer.max_steps or 0):
            self._write(trainer, self.last)
            self._last_step = trainer.global_step

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._last_step != trainer.global_step:  # stopped early
            self._write(trainer, self.last)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None and float(value) > self.best_value:
            self.best_value = float(value)
            self._write(trainer, self.best)

    def _write(self, trainer: lightning.Trainer, path: Path) -> None:
        if trainer.is_global_zero:
            write_whole(path, lambda file: trainer.save_checkpoint(file, weights_only=False))
        else:
            trainer.save_checkpoint(path, weights_only=False)  # takes part, but writes nothing
