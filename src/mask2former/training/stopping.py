"""How a training ends before its time: by Ctrl-C, by SIGTERM, or because one of its processes has died."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import lightning

__all__ = ["Stopping", "died_reading"]


class Stopping(lightning.Callback):
    """Makes one thing of all ways to stop: the first signal raises ``KeyboardInterrupt``, later ones change nothing.

    Lightning waits for the end of a step at SIGTERM, and ranks for each other. What an interrupt raises elsewhere on
    its way (a data loader whose processes got the signal, too) does not count, and where it was swallowed, in a
    destructor for instance, the next batch raises it again.
    """

    def __init__(self) -> None:
        self.is_wanted = False
        self._before: dict[signal.Signals, Any] = {}
        self._process = os.getpid()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals as long as the block runs; those that are ignored stay so."""
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
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
        self._listen()  # Lightning has set its own

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        if self.is_wanted:
            raise KeyboardInterrupt

    def on_validation_start(self, *args: Any, **kwargs: Any) -> None:
        self._listen()

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:
        if self.is_wanted:
            raise KeyboardInterrupt


def died_reading(error: BaseException) -> str | None:
    """By which signal a process that reads samples was ended, as torch words it; None for any other error."""
    found = re.match(
        r"DataLoader worker \(pid.*?\) (?:is killed by signal: (\w[\w ]*)|exited unexpectedly(?! with))", str(error)
    )
    return None if found is None else (found[1] or "Killed").strip()
