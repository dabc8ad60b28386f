"""Files read ahead in threads; slow ones do not delay the others. Knows no images."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Generic, TypeVar

from mask2former.errors import UserError

__all__ = ["as_read"]

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")


class _Reading(Generic[_Item, _Read]):
    """An item that a thread reads; one that never ends is abandoned, and does not keep the process alive."""

    def __init__(self, item: _Item, read: Callable[[_Item], _Read]) -> None:
        self.item = item
        self.started = time.monotonic()
        self.future: Future[_Read] = Future()
        threading.Thread(target=self._run, args=(read,), daemon=True, name="mask2former-read").start()

    def _run(self, read: Callable[[_Item], _Read]) -> None:
        try:
            self.future.set_result(read(self.item))
        except Exception as error:  # whatever it is, the receiver of the item knows what it means
            self.future.set_exception(error)

    @property
    def age(self) -> float:
        return time.monotonic() - self.started


def as_read(
    items: Iterable[_Item],
    read: Callable[[_Item], _Read],
    *,
    at_once: int = 8,
    patience: float = 2.0,
    limit: float = 60.0,
) -> Iterator[tuple[_Item, _Read | Exception]]:
    """The items with what was read, in order, except that a slow one lets those behind it pass.

    Args:
        items: fetched as threads become free.
        read: called in threads.
        at_once: maximum number that are being read or wait to be fetched.
        patience: seconds for which the others wait for one.
        limit: seconds after which an item is abandoned.

    Returns:
        Every item with its value, with the error raised by reading it, or with a :class:`UserError` if it was
        abandoned.
    """
    source, waiting = iter(items), list[_Reading[_Item, _Read]]()
    is_more = True
    while True:
        while is_more and len(waiting) < at_once:
            try:
                waiting.append(_Reading(next(source), read))
            except StopIteration:
                is_more = False
        if not waiting:
            return
        front: list[_Reading[_Item, _Read]] = []  # not read yet; the last one may still be waited for
        found = None
        for reading in waiting:
            if reading.future.done() or reading.age >= limit:
                found = reading
                break
            front.append(reading)
            if reading.age < patience:
                break
        if found is not None:
            waiting.remove(found)
            yield found.item, _value_of(found, limit)
            continue
        due = min((patience if reading.age < patience else limit) - reading.age for reading in front)
        wait([reading.future for reading in front], timeout=max(0.0, due), return_when=FIRST_COMPLETED)


def _value_of(reading: _Reading[_Item, _Read], limit: float) -> _Read | Exception:
    if not reading.future.done():
        return UserError(f"'{reading.item}' was not read within {limit:g} s; check its storage, or allow more time")
    error = reading.future.exception()
    return error if isinstance(error, Exception) else reading.future.result()
