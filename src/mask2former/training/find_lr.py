"""A learning rate for a run: a short training run with a rising rate, and the loss at each rate.

Lightning's own finder sets the rate through a scheduler and an automatic step, neither of which is used here.

Reference: Smith, Cyclical Learning Rates for Training Neural Networks, WACV 2017.
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mask2former.config import RunConfig, changed
from mask2former.errors import OptionError, UserError
from mask2former.evaluation.curves import check_plot, plot_rates
from mask2former.files import check_outputs, write_whole
from mask2former.training import need_lightning

__all__ = ["LearningRates", "check_output", "check_search", "find_lr", "has_diverged"]

_SMOOTHING = 0.9  # weight of the past in the running mean of the losses
_LEAST_STEPS = 10  # that are needed to suggest a rate
_DIVERGED = 4.0  # times the lowest mean, above which no higher rate is tried


@dataclass(frozen=True)
class LearningRates:
    """The loss at rising learning rates.

    Attributes:
        rates: rate of each step, rising.
        losses: loss before each step.
        means: running mean of the losses, corrected for its start.
        suggested: the rate at which the running mean falls most steeply; None if it does not fall.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    means: tuple[float, ...]
    suggested: float | None

    @classmethod
    def of(cls, rates: Sequence[float], losses: Sequence[float]) -> LearningRates:
        """Find a rate in the measured losses.

        Raises:
            UserError: there are too few steps.
        """
        means = _running_means(losses)
        if len(losses) < _LEAST_STEPS:
            raise OptionError(
                lambda name: (
                    f"the loss diverged after {len(losses)} steps; start with a lower rate ({name('lowest')}), or "
                    f"take more steps ({name('steps')})"
                )
            )
        slopes = np.gradient(np.array(means), np.log(np.array(rates)))[_LEAST_STEPS // 2 :]
        steepest = _LEAST_STEPS // 2 + int(np.argmin(slopes))
        suggested = float(rates[steepest]) if slopes.min() < 0 else None
        return cls(tuple(rates), tuple(losses), tuple(means), suggested)

    def save(self, path: str | Path) -> tuple[Path, Path]:
        """Write a curve (PNG, SVG or PDF, by its suffix), and the numbers as JSON beside it; returns both paths."""
        path = Path(path)
        numbers = path.with_suffix(".json")
        values = {name: getattr(self, name) for name in ("suggested", "rates", "losses", "means")}
        write_whole(numbers, lambda file: file.write_text(json.dumps(values, indent=1), encoding="utf-8"))
        plot_rates(self.rates, self.losses, self.means, self.suggested, path)
        return path, numbers


def _running_means(losses: Sequence[float]) -> list[float]:
    means, mean = [], 0.0
    for count, loss in enumerate(losses, start=1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        means.append(mean / (1 - _SMOOTHING**count))
    return means


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether the running mean has risen so far above its lowest value that higher rates need not be tried."""
    means = _running_means(losses)
    return len(means) >= _LEAST_STEPS and means[-1] > _DIVERGED * min(means)


def find_lr(
    config: RunConfig, *, lowest: float = 1e-7, highest: float = 1e-1, steps: int = 100, **objects: Any
) -> LearningRates:
    """Train for some steps, each with a higher rate than the one before, and find where the loss falls most steeply.

    Training is that of the run (data, batch, precision, clipping, frozen parts), but without validation and without
    files in its directory; ``optim.lr`` and the schedule have no effect.

    Args:
        config: settings of the complete run.
        lowest: rate of the first step.
        highest: rate of the last step; the rates between are evenly spaced on a logarithmic scale.
        steps: maximum number of steps; fewer if the loss diverges.
        **objects: see :func:`~mask2former.training.run.train`; a model that is passed is trained.

    Raises:
        UserError: as of :func:`check_search` and ``train``; or the loss diverged too soon.
        MissingExtraError: Lightning is not installed.
    """
    check_search(config, lowest, highest, steps)
    need_lightning()
    from mask2former.training.rising_rate import RisingRate
    from mask2former.training.run import train

    rising = RisingRate(lowest, highest, steps, has_diverged)
    with tempfile.TemporaryDirectory(prefix="find-lr-") as folder:
        # It is stopped before its last step, of which it would write a checkpoint.
        settings = {"max_steps": steps + 1, "checkpoint_interval": steps + 2, "loggers": ("csv",), "max_hours": None}
        probe = changed(config, {"output": folder, **{f"trainer.{name}": value for name, value in settings.items()}})
        with contextlib.suppress(FloatingPointError):  # the loss has diverged
            train(probe, callbacks=[rising], **objects)
    count = len(rising.losses)
    return LearningRates.of(rising.rates[:count], rising.losses)


def check_search(config: RunConfig, lowest: float, highest: float, steps: int) -> None:
    """Refuse arguments of :func:`find_lr` with which there is nothing to find.

    Raises:
        UserError: rates that do not rise, too few steps, or a run of several processes.
    """
    if not 0 < lowest < highest < math.inf or steps < _LEAST_STEPS:
        raise OptionError(
            lambda name: (
                f"{name('lowest')} and {name('highest')} are {lowest:g} and {highest:g}, and {name('steps')} is "
                f"{steps}; expected ascending rates above 0 and at least {_LEAST_STEPS} steps"
            )
        )
    if config.trainer.num_nodes * config.trainer.devices > 1:
        raise UserError(
            "the search for a learning rate runs in a single process; set trainer.devices=1 "
            "(data.batch_size stays the same)"
        )


def check_output(path: Path, inputs: Iterable[str | Path] = ()) -> None:
    """Check that a curve and its numbers can be written later.

    Raises:
        UserError: the path has another suffix, cannot be written, or would replace an input.
        MissingExtraError: matplotlib is not installed.
    """
    check_plot(path)
    check_outputs([("output", path), ("output", path.with_suffix(".json"))], inputs)
