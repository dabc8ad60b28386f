"""Runs one function over many jobs in several processes, in order and stoppable. Knows nothing about the jobs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import TypeVar

from mask2former.errors import FailedError

__all__ = ["map_in_processes"]

Job = TypeVar("Job")
Result = TypeVar("Result")

_LARGEST_CHUNK = 16  # jobs that are sent together; more would make progress jumpy
_FEW = 40  # with fewer jobs, they are done before processes have started


def map_in_processes(
    work: Callable[[Job], Result], jobs: Sequence[Job], num_workers: int
) -> Generator[Result, None, None]:
    """``work(job)`` for each job, in the order of the jobs, as results become available.

    Ctrl-C and closing the iterator end it after the jobs in progress. Workers are fresh processes (no fork: the caller
    has threads), so ``work`` must be importable, or a ``partial`` of an importable function. They end with this
    process, even if it is killed.

    With ``num_workers`` up to 1, or few jobs, everything runs in this process.

    Raises:
        FailedError: a process was killed or could not begin; otherwise what ``work`` raises.
    """
    if num_workers <= 1 or len(jobs) <= _FEW:
        yield from map(work, jobs)
        return
    chunk = max(1, min(_LARGEST_CHUNK, len(jobs) // (4 * num_workers)))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(num_workers, len(jobs)), context, initializer=_begin_worker)
    try:
        with _interrupts_held_back():
            results = pool.map(work, jobs, chunksize=chunk)
        yield from results
    except BrokenProcessPool as error:
        raise FailedError(
            "one of the processes ended before its work was done: memory may have run out (use fewer: --workers, in "
            "Python num_workers), or, in a script, this call is not under if __name__ == '__main__'"
        ) from error
    finally:  # also for a Ctrl-C that was held back, which arrives before anybody reads results
        # Once: leaving the pool as a context would shut it down again and undo the cancelling.
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held_back() -> Generator[None, None, None]:
    """Delay Ctrl-C until afterwards, and never deliver it to processes that are started inside.

    They inherit that this thread blocks it. Before :func:`_begin_worker` they spend about a second importing, and would
    die with a traceback. In this process another thread may receive the signal, in which case Python calls the handler
    in the main thread; that is delayed, too.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handler = signal.getsignal(signal.SIGINT)
    is_handled = callable(handler) and threading.current_thread() is threading.main_thread()
    if is_handled:
        signal.signal(signal.SIGINT, lambda *given: came.append(given))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if is_handled:
            signal.signal(signal.SIGINT, handler)
    if came and callable(handler):
        handler(*came[0])


def _begin_worker() -> None:
    """Leave stopping to the parent, and exit when the parent is gone, in the middle of a job if necessary."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()  # waits for the pipe that the parent keeps open as long as it lives
        os._exit(1)  # files appear completely or not at all, so there is nothing to clean up

    threading.Thread(target=leave, name="leave with the parent", daemon=True).start()
