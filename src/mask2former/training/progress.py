"""The bar that a run shows: steps done of all, rate, time left, and the losses of the last layer."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

__all__ = ["StepProgressBar"]


class StepProgressBar(TQDMProgressBar):
    """Lightning's bar over the steps of the run, which has one epoch without end; also when it goes on.

    Args:
        steps: of the run.
        refresh_rate: steps between two updates of the bar.
    """

    def __init__(self, steps: int, refresh_rate: int) -> None:
        super().__init__(refresh_rate)
        self.steps = steps

    def init_train_tqdm(self) -> Tqdm:
        bar = super().init_train_tqdm()
        bar.reset(total=self.steps)
        bar.initial = bar.n = self.trainer.global_step  # the rate is that of what was done since
        return bar

    def on_train_epoch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        """Lightning's would count from zero to an unknown number."""
