"""Requests to stop: Ctrl-C, a closed terminal, and the signal that service managers and job queues send first.

All of them raise ``KeyboardInterrupt`` in the main thread, so every command ends in the same way. This module imports
little, since it must be active before anything slow is imported.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

__all__ = ["ending", "exit_at_once", "leave_threads", "postponed", "raised", "received"]

_NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_Handler = Callable[[int, FrameType | None], object]

_is_framed = False
_received = 0


def received() -> int:
    """The signal that requested this program to stop, or 0.

    If an import is interrupted in compiled code, any other exception can result; this shows that a signal is behind it.
    """
    return _received


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Signals raise ``KeyboardInterrupt``; signals that the parent process ignores remain ignored."""
    global _is_framed, _received
    _is_framed, _received = True, 0
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        global _received
        if os.getpid() != process and number != signal.SIGINT:  # a forked worker ends as by default
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        _received = number
        raise KeyboardInterrupt

    with _handled(stop):
        try:
            yield
        finally:
            _is_framed = False


@contextlib.contextmanager
def postponed() -> Iterator[Callable[[], bool]]:
    """A function that returns whether a signal came, so that work can be finished; a second signal acts as usual."""

    def remember(number: int, frame: FrameType | None) -> None:
        global _received
        _received = number if _is_framed else 0
        came.append(number)
        for each, handler in outside.items():
            signal.signal(each, handler)

    came: list[int] = []
    with _handled(remember) as outside:
        yield lambda: bool(came)


@contextlib.contextmanager
def ending(
    say: Callable[[], object], code: int, numbers: Sequence[int] = _NUMBERS, grace: float = 2.0
) -> Iterator[None]:
    """For compiled code that waits, in which Python's handlers do not run: a signal ends the process anyway.

    Args:
        say: called from another thread before the process ends.
        code: exit code of the process.
        numbers: the signals that end it, if they have a Python handler.
        grace: seconds after a signal in which handlers can leave the block themselves.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows signal handlers only there
        yield
        return
    import socket  # imported here, since this module is imported before everything else

    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    is_left = threading.Event()

    def watch() -> None:
        while number := ours.recv(1):  # empty when the block has ended
            if number[0] in numbers and not is_left.wait(grace):
                say()
                os._exit(code)

    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, name="mask2former-ending", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_left.set()
        signal.set_wakeup_fd(before)
        theirs.close()
        thread.join()
        ours.close()


def leave_threads(code: int, grace: float = 2.0) -> None:
    """From now on, threads that are still at work delay the end of this program by ``grace`` seconds at most.

    For compiled code whose result nobody needs any more, since it cannot be stopped. What libraries do at exit comes
    later and is not limited. Does nothing where a command is called from Python.

    Args:
        code: exit code of the process if threads are left.
        grace: seconds in which they can end themselves.
    """
    if _is_framed:
        timer = threading.Timer(grace, os._exit, (code,))
        timer.daemon = True
        timer.start()
        atexit.register(timer.cancel)  # such functions are called after threads have been waited for


def exit_at_once(code: int) -> None:
    """From now on a signal ends the process with ``code``: for imports before the work, and for the end after it."""
    if threading.current_thread() is threading.main_thread():
        for number in _NUMBERS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: os._exit(code))


@contextlib.contextmanager
def _handled(handler: _Handler) -> Iterator[dict[int, _Handler | int | None]]:
    """Set ``handler`` for all signals that are not ignored; yields the previous handlers."""
    before: dict[int, _Handler | int | None] = {}
    if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
        for number in _NUMBERS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, handler)
    try:
        yield before
    finally:
        for number, old in before.items():
            signal.signal(number, old)
