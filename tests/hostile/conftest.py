"""Attacks run in separate processes with limits of time and memory, so that a successful one does no harm."""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest


class Outcome(NamedTuple):
    """How a function ended.

    Attributes:
        kind: ``returned``, or the type of what it raised.
        message: what it raised, as text; else what it returned.
        seconds: how long it took.
    """

    kind: str
    message: str
    seconds: float


class Limited(Protocol):
    """Runs a function in a copy of this process."""

    def __call__(self, function: Callable[[], object], *, seconds: float = 10, megabytes: int = 500) -> Outcome: ...


@pytest.fixture
def limited() -> Limited:
    """Run a function with this much more memory than is used now; a signal or a timeout fails the test."""
    return _limited


def _limited(function: Callable[[], object], *, seconds: float = 10, megabytes: int = 500) -> Outcome:
    reader, writer = os.pipe()
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of newer Pythons, about threads
        child = os.fork()
    if child == 0:
        os.close(reader)
        _run(function, writer, megabytes)
    os.close(writer)
    received = b""
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, seconds - (time.monotonic() - began)))
        part = os.read(reader, 1 << 16) if ready else None
        if not part:
            break
        received += part
    os.close(reader)
    if part is None:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    took = time.monotonic() - began
    assert part is not None, f"still running after {took:.1f} s"
    assert not os.WIFSIGNALED(status), f"ended by {signal.Signals(os.WTERMSIG(status)).name} after {took:.1f} s"
    kind, _, message = received.decode(errors="replace").partition("\n")
    return Outcome(kind, message, took)


def _run(function: Callable[[], object], writer: int, megabytes: int) -> None:
    import torch

    gc.freeze()  # else a collection writes to all memory of the parent, and so copies it
    try:
        torch.set_num_threads(1)  # a fork does not have the parent's threads
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = used + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        # An eighth of the usual stack, so that a recursion in C overflows it at an eighth of the depth.
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))
        report = f"returned\n{function()!s:.3000}"
    except BaseException as error:
        report = f"{type(error).__name__}\n{error!s:.3000}"
    try:
        os.write(writer, report.encode(errors="replace"))
    finally:
        os._exit(0)
