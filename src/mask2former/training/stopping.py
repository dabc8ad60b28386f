"""How training ends early: by Ctrl-C, by SIGTERM, or because one of its processes has died."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import torch

from mask2former.config import RunConfig
from mask2former.dataset_tools.requirements import batch_size_per_device
from mask2former.memory import is_lack_of_memory
from mask2former.text import count, printable
from mask2former.training.checkpointing import damaged
from mask2former.training.cluster import Rank

__all__ = ["STOPPING", "Stopping", "died_reading", "explained", "is_lost_connection"]


# SLURM sends the last one before the end if requested (--signal=USR1@120); by default it would kill the process.
STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Stopping(lightning.Callback):
    """Handles all ways to stop alike: the first signal raises ``KeyboardInterrupt``, later ones have no effect.

    At SIGTERM, Lightning waits for the end of a step, and ranks wait for each other. Errors that an interrupt causes
    elsewhere (such as in a data loader whose processes also got the signal) are ignored. If an interrupt was lost, for
    instance in a destructor, the next batch raises it again.
    """

    def __init__(self) -> None:
        self.is_wanted = False
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals during the block; signals that are ignored remain ignored."""
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in STOPPING}
            self._before = {number: old for number, old in handlers.items() if old not in (signal.SIG_IGN, None)}
        try:
            self._listen()
            yield
        except BaseException as error:
            if self.is_wanted and not isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _listen(self) -> None:
        for number in self._before:
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.is_wanted or os.getpid() != self._process:  # processes that read samples end with this one
            return
        self.is_wanted = True
        if callable(before := self._before[signal.Signals(number)]):
            before(number, frame)
        raise KeyboardInterrupt

    def on_train_start(self, *args: Any, **kwargs: Any) -> None:
        self._listen()  # replaces handlers set by Lightning

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        if self.is_wanted:
            raise KeyboardInterrupt

    def on_validation_start(self, *args: Any, **kwargs: Any) -> None:
        self._listen()

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:
        if self.is_wanted:
            raise KeyboardInterrupt


@contextlib.contextmanager
def explained(
    trainer: lightning.Trainer, config: RunConfig, last: Path | None, rank: Rank | None = None
) -> Iterator[None]:
    """Exceptions that end training in the block are replaced by errors that state the cause and a remedy.

    Args:
        trainer: runs in the block.
        config: settings of the complete run.
        last: the checkpoint from which the run is resumed.
        rank: the rank of this process.

    Raises:
        UserError: the weights in the checkpoint do not match the model.
        KeyboardInterrupt: the run was stopped.
        MemoryError: the device or the machine has too little memory.
        ChildProcessError: a process that reads samples died of another cause, or another rank has ended.
        OSError: a process that reads samples could not be started, or there are too many open files.
    """
    try:
        yield
    except SystemExit as stop:  # Lightning turns Ctrl-C into an exit, and ignores further ones until Stopping ends
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from stop
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as raised:
        error = _first(raised)
        if "Too many open files" in str(error):
            advice = "raise their limit (ulimit -n), or lower data.num_workers"
            raise OSError(errno.EMFILE, f"too many open files; {advice}") from raised
        if isinstance(error, OSError) and error.filename is None:
            reason = f"a data loading process could not be started ({error.strerror}); lower data.num_workers"
            raise OSError(error.errno, reason) from raised
        if (how := died_reading(error)) is not None:
            raise _death(how) from error
        if rank is not None and rank.world_size > 1 and is_lost_connection(error):
            raise ChildProcessError(
                f"{rank}, after step {trainer.global_step}: another rank of this run has ended or stopped "
                f"responding ({printable(' '.join(str(error).split()), 200)}); see its own output for the "
                "reason"
            ) from error
        if last is not None and str(error).startswith("Error(s) in loading state_dict"):
            raise damaged(last, str(error)) from error
        if not is_lack_of_memory(error):
            if error is raised:
                raise
            raise error from None
        raise MemoryError(
            f"out of memory with {count(batch_size_per_device(config), 'image')} in one pass; try a smaller "
            "data.batch_size_per_device (the total batch size stays the same), "
            "trainer.gradient_checkpointing=true, or smaller images in data.dataset"
        ) from error


def _first(error: BaseException) -> BaseException:
    """Lightning cleans up after loaders that could not be started, and fails; what came before is the cause."""
    before = error.__context__
    return before if before is not None and "iter(combined_loader)" in str(error) else error


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error is about the connections between ranks; the errors of gloo have no type of their own."""
    return isinstance(error, torch.distributed.DistError) or bool(re.search(r"\bgloo[/:]", str(error)))


def died_reading(error: BaseException) -> str | None:
    """The signal that ended a process that reads samples, in torch's words; None for other errors."""
    found = re.match(
        r"DataLoader worker \(pid.*?\) (?:is killed by signal: (\w[\w ]*)|exited unexpectedly(?! with))", str(error)
    )
    return None if found is None else (found[1] or "Killed").strip()


def _death(how: str) -> BaseException:
    """The meaning of a signal that ended a process that reads samples."""
    if how == "Terminated":
        return KeyboardInterrupt()  # the request to stop reached this process first
    if how == "Killed":
        return MemoryError(
            "a data loading process was killed, most likely because the machine ran out of memory; try a "
            "lower data.num_workers, or smaller images in data.dataset"
        )
    if how == "Bus error":
        return MemoryError(
            "a data loading process ran out of shared memory; provide more (docker run --shm-size), or "
            "set data.num_workers=0"
        )
    return ChildProcessError(
        f"a data loading process died ({how.lower()}); run with data.num_workers=0 to find the file that it was reading"
    )
