"""A learning rate for a run: a short training whose rate rises, and the loss at each rate.

Lightning's own finder sets the rate through a scheduler and an automatic step, of which this training has neither.

Reference: Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch

from mask2former.config import RunConfig
from mask2former.errors import UserError
from mask2former.evaluation.curves import check_plot, plot_rates
from mask2former.files import check_file, write_whole
from mask2former.training.run import train

__all__ = ["LearningRates", "check_output", "find_lr"]

_SMOOTHING = 0.9  # of the mean of the losses
_DIVERGED = 4.0  # times the lowest mean, above which no higher rate is tried
_LEAST = 10  # steps without which there is nothing to read off


@dataclass(frozen=True)
class LearningRates:
    """What a rising learning rate did to the loss.

    Attributes:
        rates: of each step, rising.
        losses: before the step was taken.
        means: their running mean, of which the start is not too small.
        suggested: where it falls most steeply; None where it does not fall.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    means: tuple[float, ...]
    suggested: float | None

    @classmethod
    def of(cls, rates: Sequence[float], losses: Sequence[float]) -> LearningRates:
        """Read off what was measured.

        Raises:
            UserError: it is too little.
        """
        means, mean = [], 0.0
        for count, loss in enumerate(losses, start=1):
            mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
            means.append(mean / (1 - _SMOOTHING**count))
        if len(losses) < _LEAST:
            raise UserError(f"the loss diverged after {len(losses)} steps; start with a lower rate, or use more steps")
        slopes = np.gradient(np.array(means), np.log(np.array(rates)))[_LEAST // 2 :]
        steepest = _LEAST // 2 + int(np.argmin(slopes))
        suggested = float(rates[steepest]) if slopes.min() < 0 else None
        return cls(tuple(rates), tuple(losses), tuple(means), suggested)

    def save(self, path: Path) -> tuple[Path, Path]:
        """Write a curve (PNG, SVG or PDF, by its suffix), and beside it the numbers as JSON; returns both paths."""
        numbers = path.with_suffix(".json")
        values = {name: getattr(self, name) for name in ("suggested", "rates", "losses", "means")}
        write_whole(numbers, lambda file: file.write_text(json.dumps(values, indent=1), encoding="utf-8"))
        plot_rates(self.rates, self.losses, self.means, self.suggested, path)
        return path, numbers


class _Rising(lightning.Callback):
    """Sets the rate of each step, and stops the training where the loss has diverged or all steps were taken."""

    def __init__(self, lowest: float, highest: float, steps: int) -> None:
        self._lowest, self._highest, self._steps = lowest, highest, steps
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._mean = 0.0
        self._best = math.inf

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        trainer.limit_val_batches = 0

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        share = len(self.rates) / (self._steps - 1)
        self.rates.append(self._lowest * (self._highest / self._lowest) ** share)
        for group in optimizer.param_groups:
            group["lr"] = self.rates[-1] * group["lr_multiplier"]

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["loss"]))
        self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * self.losses[-1]
        mean = self._mean / (1 - _SMOOTHING ** len(self.losses))
        self._best = min(self._best, mean)
        if len(self.losses) == self._steps or (len(self.losses) >= _LEAST and mean > _DIVERGED * self._best):
            trainer.should_stop = True


def find_lr(
    config: RunConfig, *, lowest: float = 1e-7, highest: float = 1e-1, steps: int = 100, **objects: Any
) -> LearningRates:
    """Train for some steps, each with a higher rate than the one before, and see where the loss falls most steeply.

    It is the training of the run (data, batch, precision, clipping, frozen parts) without validation and without a
    trace in its directory; ``optim.lr`` and the schedule do not matter.

    Args:
        config: the whole run.
        lowest: rate of the first step.
        highest: rate of the last step; those between are spread evenly over the logarithm.
        steps: at most so many; fewer where the loss diverges.
        **objects: as of :func:`~mask2former.training.run.train`; a model that is given is trained.

    Raises:
        UserError: as of ``train``; rates that do not rise, or too few steps.
    """
    if not 0 < lowest < highest < math.inf or steps < _LEAST:
        raise UserError(
            f"expected ascending rates above 0 and at least {_LEAST} steps; got {lowest:g} to {highest:g} in {steps} "
            "steps"
        )
    if config.trainer.num_nodes * config.trainer.devices > 1:
        raise UserError(
            "the search for a learning rate runs in a single process; set trainer.devices=1 "
            "(data.batch_size stays the same)"
        )
    rising = _Rising(lowest, highest, steps)
    with tempfile.TemporaryDirectory(prefix="find-lr-") as folder:
        trainer = {"max_steps": steps + 1, "checkpoint_interval": steps + 2, "loggers": ("csv",), "max_hours": None}
        probe = config.model_copy(
            update={"output": folder, "trainer": config.trainer.model_copy(update=trainer)}
        )  # stopped before its last step
        with contextlib.suppress(FloatingPointError):  # it has diverged
            train(probe, callbacks=[rising], **objects)
    count = len(rising.losses)
    return LearningRates.of(rising.rates[:count], rising.losses)


def check_output(path: Path) -> None:
    """That a curve and its numbers can be written there later.

    Raises:
        UserError: a file of another kind, or at a path that cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    check_plot(path)
    check_file(path.with_suffix(".json"))
