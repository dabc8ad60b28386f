"""All ways to stop a training are one, and a second signal is none."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from mask2former.training.stopping import Stopping, died_reading


def stopped_twice(number: signal.Signals) -> None:
    with Stopping().listening():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGINT)  # a second one, while the run ends
            raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Terminated. ") from None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
