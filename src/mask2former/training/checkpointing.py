"""Keeping ``last.ckpt`` and ``best.ckpt``: whole files or none, whatever interrupts the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.trainer.states import TrainerFn

from mask2former.atomic import write_whole
from mask2former.errors import RequestError

__all__ = ["Best", "KeepCheckpoints", "Patience", "best_of", "put_in_place"]

_ASIDE = "best-before-step-"  # and the step at which a run went on with figures that cannot be compared


@dataclass(frozen=True)
class Best:
    """The checkpoint of the best validation.

    Attributes:
        path: of the file.
        value, step: what was measured of its weights, and the steps they have seen.
        start: the figure before the first step; None where there was none.
        threshold: of the highest F1 in this validation; None where there was none.
    """

    path: Path
    value: float
    step: int
    start: float | None
    threshold: float | None


def best_of(folder: Path, is_comparable: Callable[[dict[str, Any]], bool]) -> Best | None:
    """The best of ``best.ckpt`` and of what was put aside before, among those that were measured as is wanted now.

    Its figure is read from the file that has the weights, so the two always belong together.

    Args:
        folder: of the checkpoints.
        is_comparable: whether the figures of a checkpoint can be compared, from its content (tensors on ``meta``).

    Raises:
        RequestError: a file is damaged.
    """
    found: list[Best] = []
    for path in (folder / "best.ckpt", *sorted(folder.glob(f"{_ASIDE}*.ckpt"))):
        if not path.is_file():
            continue
        try:
            state = torch.load(path, map_location="meta", weights_only=True)
            kept = state["callbacks"]["KeepCheckpoints"]
            value, step, start = float(kept["best_value"]), int(state["global_step"]), kept.get("start_value")
        except Exception as error:  # what a damaged file raises is as varied as the damage
            raise RequestError(
                f"cannot resume: {path} is damaged ({' '.join(str(error).split()):.150}); delete it, and the best "
                "validation is sought afresh, or put back a copy of the file"
            ) from error
        if is_comparable(state):
            found.append(Best(path, value, step, start, state.get("instance_threshold")))
    return max(found, key=lambda one: one.value, default=None)  # the first of equal ones: best.ckpt


def put_in_place(folder: Path, best: Best | None, step: int) -> Path | None:
    """Make ``best`` the file ``best.ckpt``; nothing is overwritten.

    Args:
        folder: of the checkpoints.
        best: as :func:`best_of` found it; None puts ``best.ckpt`` aside.
        step: at which the run goes on.

    Returns:
        Where the ``best.ckpt`` that was there is now; None where it stayed or there was none.
    """
    path, aside = folder / "best.ckpt", None
    if best is not None and best.path == path:
        return None
    if path.exists():
        aside, count = folder / f"{_ASIDE}{step}.ckpt", 1
        while aside.exists():
            count += 1
            aside = folder / f"{_ASIDE}{step}-{count}.ckpt"
        path.rename(aside)
    if best is not None:
        best.path.rename(path)
    return aside


class KeepCheckpoints(lightning.Callback):
    """Writes the newest state every few steps and the best one after each validation.

    Lightning's own callback writes in place, so a kill while it writes leaves neither the old nor the new file.

    Args:
        folder: of both files.
        every: steps between two writes of ``last.ckpt``.
        monitor: name of the metric that decides what is best; larger is better.
        best: where a run goes on, what is in ``best.ckpt``; the figures in ``last.ckpt`` may be of other weights.
        start_value: where a run goes on, the figure before its first step.

    Attributes:
        best_value, best_step: of the best validation so far, and the steps before it.
        start_value: of the validation before the first step; None where there was none.
    """

    def __init__(
        self, folder: Path, every: int, monitor: str, *, best: Best | None = None, start_value: float | None = None
    ) -> None:
        self.last = folder / "last.ckpt"
        self.best = folder / "best.ckpt"
        self.every = every
        self.monitor = monitor
        self.best_value, self.best_step = (best.value, best.step) if best is not None else (-math.inf, 0)
        self.start_value = start_value
        self._last_step = -1  # of what is in last.ckpt

    def state_dict(self) -> dict[str, Any]:
        return {"best_value": self.best_value, "best_step": self.best_step, "start_value": self.start_value}

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
