"""All ways to stop training have the same effect, and a second signal has none."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mask2former.config import RunConfig, parse
from mask2former.errors import UserError
from mask2former.training.cluster import Rank
from mask2former.training.stopping import Stopping, died_reading, explained, is_lost_connection

pytestmark = pytest.mark.usefixtures("default_signals")


def stopped_twice(number: signal.Signals) -> None:
    with Stopping().listening():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGINT)  # a second one, while the run ends
            raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Terminated. ") from None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_the_first_signal_counts_whatever_comes_of_it(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        stopped_twice(number)
    assert signal.getsignal(number) == before


def test_a_signal_that_was_swallowed_is_raised_at_the_next_batch() -> None:
    stopping = Stopping()
    with stopping.listening():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            stopping.on_train_batch_start()
        with pytest.raises(KeyboardInterrupt):
            stopping.on_validation_batch_start()


def test_the_handler_of_the_caller_hears_of_it() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(KeyboardInterrupt), Stopping().listening():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stopping().listening():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("message", "how"),
    [
        ("DataLoader worker (pid 71) is killed by signal: Terminated. ", "Terminated"),
        ("DataLoader worker (pid 71) is killed by signal: Killed. ", "Killed"),
        ("DataLoader worker (pid(s) 71, 72) exited unexpectedly", "Killed"),
        ("DataLoader worker (pid 71) is killed by signal: Bus error. It is possible that dataloader's", "Bus error"),
        ("DataLoader worker (pid 71) exited unexpectedly with exit code 1. Details are lost", None),
        ("mat1 and mat2 shapes cannot be multiplied", None),
    ],
)
def test_how_a_process_that_reads_died(message: str, how: str | None) -> None:
    assert died_reading(RuntimeError(message)) == how


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            RuntimeError(
                "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.1]:80"
            ),
            True,
        ),
        (torch.distributed.DistNetworkError("The client socket has timed out"), True),
        (torch.distributed.DistBackendError("NCCL error"), True),
        (RuntimeError("igloo/ice"), False),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
    ],
)
def test_a_lost_connection_is_told_from_other_errors(error: RuntimeError, *, expected: bool) -> None:
    assert is_lost_connection(error) == expected


READER = "DataLoader worker (pid 71) is killed by signal: {}. "


@pytest.mark.parametrize(
    ("raised", "expected", "words"),
    [
        (RuntimeError(READER.format("Terminated")), KeyboardInterrupt, "^$"),
        (RuntimeError(READER.format("Killed")), MemoryError, r"data\.num_workers"),
        (RuntimeError(READER.format("Bus error")), MemoryError, "--shm-size"),
        (RuntimeError(READER.format("Segmentation fault")), ChildProcessError, r"segmentation fault.*num_workers=0"),
        (
            RuntimeError("[pair.cc:534] gloo/transport: closed by peer"),
            ChildProcessError,
            r"rank 1 .*after step 7.*gloo",
        ),
        (
            RuntimeError("Error(s) in loading state_dict for X: size"),
            UserError,
            r"runs/x\.ckpt is damaged.*; restore it from a copy, or delete",
        ),
        (RuntimeError("mat1 and mat2 shapes"), RuntimeError, "^mat1 and mat2 shapes$"),
        (
            RuntimeError("Too many open files. Communication with the workers is no longer possible."),
            OSError,
            r"too many open files; raise their limit \(ulimit -n\)",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), MemoryError, r"with 4 images.*batch_size_per_device"),
        (SystemExit(1), KeyboardInterrupt, "^$"),
    ],
)
def test_what_ended_a_training_is_said_with_what_helps(
    raised: BaseException, expected: type[BaseException], words: str
) -> None:
    config = parse(RunConfig, {"data": {"batch_size": 4}}, "test")
    trainer: Any = SimpleNamespace(interrupted=True, global_step=7)
    with pytest.raises(expected, match=words), explained(trainer, config, Path("runs/x.ckpt"), Rank(1, 2)):
        raise raised


@pytest.mark.parametrize(
    ("first", "expected", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), OSError, r"too many open files; .*ulimit -n.*data\.num_workers"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), OSError, r"not be started \(Cannot all.*data\.num_workers"),
        (OSError(errno.EIO, "Input/output error", "a.csv"), OSError, r"Input/output error: 'a\.csv'$"),
        (UserError("a sentence"), UserError, "^a sentence$"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
        (None, RuntimeError, r"combined_loader"),
    ],
)
def test_loaders_that_cannot_be_started_are_not_hidden_by_what_follows(
    first: BaseException | None, expected: type[BaseException], words: str
) -> None:
    """Lightning then cleans up after loaders that do not exist, and fails in words of its own."""
    trainer: Any = SimpleNamespace(interrupted=False, global_step=0)

    def fit() -> None:
        try:
            if first is not None:
                raise first
        finally:
            raise RuntimeError("Please call `iter(combined_loader)` first.")

    with pytest.raises(expected, match=words), explained(trainer, parse(RunConfig, {}, "test"), None):
        fit()


def test_an_exit_that_nobody_asked_for_stays_one() -> None:
    trainer: Any = SimpleNamespace(interrupted=False)
    with pytest.raises(SystemExit), explained(trainer, parse(RunConfig, {}, "test"), None):
        raise SystemExit(3)
