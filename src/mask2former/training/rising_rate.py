"""The callback of :mod:`.find_lr`: sets a rising learning rate during training, and records the losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightning
import torch

from mask2former.training.progress import StepProgress

__all__ = ["RisingRate"]


class RisingRate(lightning.Callback):
    """Sets the rate of each step, and stops training if the loss has diverged or all steps were taken.

    Args:
        lowest: rate of the first step.
        highest: rate of the last step; the rates between are evenly spaced on a logarithmic scale.
        steps: maximum number of steps; fewer if the loss diverges.
        has_diverged: whether to stop, given the losses so far.

    Attributes:
        rates: rate of each step so far.
        losses: loss before each of these steps.
    """

    def __init__(
        self, lowest: float, highest: float, steps: int, has_diverged: Callable[[Sequence[float]], bool]
    ) -> None:
        self._lowest, self._highest, self._steps = lowest, highest, steps
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._has_diverged = has_diverged

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        trainer.limit_val_batches = 0
        if isinstance(bar := trainer.progress_bar_callback, StepProgress):
            bar.steps = self._steps  # the run has one step more, of which it would write a checkpoint

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        share = len(self.rates) / (self._steps - 1)
        self.rates.append(self._lowest * (self._highest / self._lowest) ** share)
        for group in optimizer.param_groups:
            group["lr"] = self.rates[-1] * group["lr_multiplier"]

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["loss"]))
        if len(self.losses) == self._steps or self._has_diverged(self.losses):
            trainer.should_stop = True
