"""Writes ``last.ckpt`` and ``best.ckpt``, which are always complete files, even if the run is interrupted."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.trainer.states import TrainerFn

from mask2former.checkpoints.restricted_pickle import check_archive
from mask2former.documents import check_regular
from mask2former.errors import UserError
from mask2former.files import write_whole
from mask2former.text import printable, quoted
from mask2former.training.metrics_log import MetricsLog
from mask2former.training.time_limit import TimeLimit

__all__ = [
    "Best",
    "KeepCheckpoints",
    "Patience",
    "WholeFiles",
    "at_step",
    "best_of",
    "damaged",
    "date_after",
    "figure",
    "figures",
    "loaded",
    "plain",
    "put_in_place",
]

_ASIDE = "best-before-step-"  # followed by the step of resuming after which metrics are not comparable


@dataclass(frozen=True)
class Best:
    """The checkpoint of the best validation.

    Attributes:
        path: path of the file.
        value: the monitor for its weights.
        step: number of steps for which its weights were trained.
        start: the monitor before the first step; None if it was not measured.
        threshold: threshold of the highest F1 in this validation; None if there was none.
    """

    path: Path
    value: float
    step: int
    start: float | None
    threshold: float | None


@contextlib.contextmanager
def loaded(path: Path, advice: str | None = None, *, device: str = "meta") -> Iterator[dict[str, Any]]:
    """The content of a checkpoint, for a block that reads the expected entries from it.

    Args:
        path: path of the file.
        advice: what to do if it is damaged; None: see :func:`damaged`.
        device: for the tensors; ``meta`` does not read them.

    Raises:
        UserError: the file is empty, truncated, or lacks entries that the block reads; or the system cannot read it.
    """
    try:
        if check_regular(path, "checkpoint") == 0:
            raise ValueError("it is empty")
        check_archive(path)
        yield torch.load(path, map_location=device, weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # which a wrong offset causes
            raise UserError(
                f"cannot resume: {path} cannot be read ({error.strerror}), which says nothing about its content; "
                "remove the cause and resume again"
            ) from error
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise damaged(path, reason, advice) from error


def damaged(path: Path, reason: str, advice: str | None = None) -> UserError:
    """The error for a checkpoint from which a run cannot be resumed.

    Args:
        path: path of the file, in a folder of the run's directory.
        reason: what is wrong with it.
        advice: what to do; None: start over, or restore the file. It names no option, because ablations have none for
            it.
    """
    remedy = advice or f"restore it from a copy, or delete '{path.parents[1]}' and start that run over"
    return UserError(f"cannot resume: {path} is damaged ({printable(reason, 150)}); {remedy}")


def figure(value: Any) -> float | None:
    """A metric in a checkpoint, or None if it was not measured.

    Raises:
        ValueError: it is not a number.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"found {quoted(value)} where a number was expected")
    return value


def figures(value: Any) -> dict[str, float]:
    """Metrics by name in a checkpoint.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"found {quoted(value)} where numbers by name were expected")
    return {name: found for name, one in value.items() if (found := figure(one)) is not None}


def best_of(folder: Path, is_comparable: Callable[[dict[str, Any]], bool]) -> Best | None:
    """The best of ``best.ckpt`` and of files put aside earlier, among those measured as required now.

    Its metric is read from the file that has the weights, so the two always belong together.

    Args:
        folder: folder of the checkpoints.
        is_comparable: whether the metrics of a checkpoint can be compared, given its content (tensors on ``meta``).

    Raises:
        UserError: a file is damaged.
    """
    found: list[Best] = []
    for path in (folder / "best.ckpt", *sorted(folder.glob(f"{_ASIDE}*.ckpt"))):
        if not path.is_file():
            continue
        advice = "restore the file from a copy, or delete it to start the search for the best validation over"
        with loaded(path, advice) as state:
            kept = state["callbacks"]["KeepCheckpoints"]
            value, step, start = float(kept["best_value"]), int(state["global_step"]), figure(kept.get("start_value"))
            if is_comparable(state):
                found.append(Best(path, value, step, start, figure(state.get("instance_threshold"))))
    return max(found, key=lambda one: one.value, default=None)  # among equal ones the first: best.ckpt


def put_in_place(folder: Path, best: Best | None, step: int) -> Path | None:
    """Make ``best`` the file ``best.ckpt``; nothing is overwritten.

    Args:
        folder: folder of the checkpoints.
        best: result of :func:`best_of`; None puts ``best.ckpt`` aside.
        step: step from which the run is resumed.

    Returns:
        The new path of the previous ``best.ckpt``; None if it stayed, or if there was none.
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


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints directly to their path, in pieces.

    Lightning's own class creates a copy in memory, and another one in the folder for temporary files.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        # An open file, because torch would write a path's name into the checkpoint; buffered for small pieces.
        with open(path, "wb", buffering=1 << 20) as stream:
            try:
                torch.save(checkpoint, stream)
            except RuntimeError as error:  # torch's version of a file error, for instance of a full disk
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from error
                raise


class KeepCheckpoints(lightning.Callback):
    """Writes the latest state every few steps, and the best one after each validation.

    ``last.ckpt`` is written once the row of its step is in the table: before the validation of this step, if there is
    one, and again after it. The first version records that the validation is due, so a run that is killed during the
    validation repeats it.

    Lightning's own callback writes in place, so if it is killed while writing, no complete file is left.

    Args:
        folder: folder of both files.
        interval: steps between two writes of ``last.ckpt``.
        monitor: name of the metric that decides which is best; larger is better.
        table: table of the run; checkpoints record its number of rows.
        best: for a resumed run, what is in ``best.ckpt``; the metrics in ``last.ckpt`` may belong to other weights.
        start_value: for a resumed run, the monitor before its first step.
        step: for a resumed run, the step of ``last.ckpt``.
        is_due: whether the validation of this step still has to be done.
        limit: time limit, after which the run is stopped with a checkpoint of the last step.

    Attributes:
        best_value: monitor of the best validation so far.
        best_step: number of steps before that validation.
        start_value: monitor of the validation before the first step; None if there was none.
    """

    def __init__(
        self,
        folder: Path,
        interval: int,
        monitor: str,
        table: MetricsLog,
        *,
        best: Best | None = None,
        start_value: float | None = None,
        step: int = 0,
        is_due: bool = False,
        limit: TimeLimit | None = None,
    ) -> None:
        self.last = folder / "last.ckpt"
        self.best = folder / "best.ckpt"
        self.interval = interval
        self.monitor = monitor
        self.table = table
        self.best_value, self.best_step = (best.value, best.step) if best is not None else (-math.inf, 0)
        self.start_value = start_value
        self.limit = limit
        self._is_due = is_due
        self._written = -1 if is_due else step  # step of the last.ckpt that is complete

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_value": self.best_value,
            "best_step": self.best_step,
            "start_value": self.start_value,
            "validation_due": self._is_due,
            "num_rows": self.table.num_rows,
        }

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Always if there is a time limit, which may end the validation.
        is_turn = self._is_turn(trainer) or (self.limit is not None and self._is_new(trainer))
        if trainer.state.fn == TrainerFn.FITTING and is_turn and not self._is_due:
            self._is_due = True
            self._write_last(trainer)

    def on_validation_batch_start(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        if self.limit is not None and self.limit.is_over(trainer):
            self.limit.stop(trainer)

    def on_train_batch_start(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        is_over = self.limit is not None and self.limit.is_over(trainer)
        if self._is_turn(trainer) or (is_over and self._is_new(trainer)):  # for the previous step
            self._write_last(trainer)
        if self.limit is not None and is_over:
            self.limit.stop(trainer)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._written != trainer.global_step:
            self._write_last(trainer)

    def _is_new(self, trainer: lightning.Trainer) -> bool:
        return 0 < trainer.global_step != self._written

    def _is_turn(self, trainer: lightning.Trainer) -> bool:
        return self._is_new(trainer) and (
            trainer.global_step % self.interval == 0 or trainer.global_step >= trainer.max_steps
        )

    def _write_last(self, trainer: lightning.Trainer) -> None:
        self._write(trainer, self.last)
        if trainer.is_global_zero:  # otherwise this run would count as finished, with the model of an earlier end
            date_after(self.last, self.last.parents[1] / "model.safetensors")
        self._written = -1 if self._is_due else trainer.global_step

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._is_due = False
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None and trainer.state.fn == TrainerFn.VALIDATING:  # before the first step
            self.start_value = float(value)
        if value is not None and float(value) > self.best_value:
            self.best_value, self.best_step = float(value), trainer.global_step
            self._write(trainer, self.best)

    def _write(self, trainer: lightning.Trainer, path: Path) -> None:
        if trainer.is_global_zero:
            self.table.sync()
            write_whole(path, lambda file: trainer.save_checkpoint(file, weights_only=False), durable=True)
        else:
            trainer.save_checkpoint(path, weights_only=False)  # this rank takes part, but writes nothing


def date_after(path: Path, other: Path) -> None:
    """Date a file that was written after another one accordingly, even if the clock was set back in between."""
    with contextlib.suppress(OSError):  # there is no other file, or the file system keeps its own dates
        if path.stat().st_mtime <= (before := other.stat().st_mtime):
            os.utime(path, (before + 1, before + 1))


def at_step(loops: dict[str, Any], step: int) -> dict[str, Any]:
    """Lightning's loop state as it is after ``step`` steps, independent of interruptions.

    With this state, Lightning resumes with the next step, and leaves the validation of this step to our code.
    """
    told = {
        "epoch_loop.batch_progress": {"ready": step, "started": step, "processed": step, "completed": max(step - 1, 0)},
        "epoch_loop.manual_optimization.optim_step_progress": {"ready": step, "completed": step},
        "epoch_progress": {"ready": 1, "started": 1, "processed": 0, "completed": 0},
    }

    def set_to(part: Any, numbers: dict[str, int]) -> Any:
        if isinstance(part, dict):
            return {
                name: numbers.get(name, 0) if _is_count(value) else set_to(value, numbers)
                for name, value in part.items()
            }
        return False if isinstance(part, bool) else part

    fit = {name: set_to(part, told.get(name, {})) for name, part in loops["fit_loop"].items()}
    fit["epoch_loop.state_dict"] = {
        **loops["fit_loop"]["epoch_loop.state_dict"],
        "_batches_that_stepped": max(step - 1, 0),
    }
    return {**{name: set_to(part, {}) for name, part in loops.items()}, "fit_loop": fit}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """Copies containers and makes equal strings one object, so that equal content is written as equal bytes.

    Pickle writes each object only once, and values read from a file are not the same objects.
    """
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return sys.intern(value) if type(value) is str else value


class Patience(EarlyStopping):
    """Stops after a number of validations without a better monitor; a resumed run may change that number.

    Lightning's own class uses the number in the checkpoint.

    Args:
        monitor: name of the metric; larger is better.
        patience: the number of validations.
        starts_over: for a resumed run, whether to count from here.
    """

    def __init__(self, monitor: str, patience: int, *, starts_over: bool = False) -> None:
        super().__init__(monitor, mode="max", patience=patience, check_finite=False)
        self._starts_over = starts_over

    @property
    def state_key(self) -> str:
        return super().state_key.replace(type(self).__name__, "EarlyStopping")  # the name written by 0.1.0

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._starts_over:
            super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """A run that was killed after it had stopped must not take another step."""
        trainer.should_stop = self.wait_count >= self.patience

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """A validation that could not measure the monitor does not count; Lightning has the value of an earlier one."""
        if self.monitor in pl_module.measured:
            super().on_validation_end(trainer, pl_module)

    def begin_at(self, value: float) -> None:
        """Set the value that the first validation has to exceed."""
        self.best_score = torch.tensor(value)
