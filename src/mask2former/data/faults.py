"""Faults of a data set: one ends training, but whoever checks a data set wants to know them all.

A reader calls :func:`fault` where the rest of its files can be read without what is wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

from mask2former.errors import UserError

__all__ = ["Fault", "collected_faults", "fault"]


class Fault(NamedTuple):
    """What is wrong, and with how many entries of a file."""

    message: str
    entries: int = 1


_collected: ContextVar[list[Fault] | None] = ContextVar("faults", default=None)


def fault(message: str, entries: int = 1) -> None:
    """Tell what is wrong with so many entries; the caller then goes on without them, should this return.

    Raises:
        UserError: with the message, unless faults are collected.
    """
    faults = _collected.get()
    if faults is None:
        raise UserError(message)
    faults.append(Fault(message, entries))


@contextlib.contextmanager
def collected_faults() -> Iterator[list[Fault]]:
    """Inside, faults gather in the list; what makes reading on impossible is raised all the same."""
    faults: list[Fault] = []
    token = _collected.set(faults)
    try:
        yield faults
    finally:
        _collected.reset(token)
