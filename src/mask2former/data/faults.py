"""Faults of a data set: a single one stops training, but checking a data set should report all of them.

A reader calls :func:`fault` where it can read the rest of its files without the faulty part.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

from mask2former.errors import UserError

__all__ = ["Fault", "collected_faults", "fault", "left_out_by"]


class Fault(NamedTuple):
    """What is wrong, and how many entries of a file are affected."""

    message: str
    entries: int = 1


_collected: ContextVar[list[Fault] | None] = ContextVar("faults", default=None)


def fault(message: str, entries: int = 1) -> None:
    """Report a fault of this many entries; if this returns, the caller continues without them.

    Raises:
        UserError: with the message, unless faults are collected.
    """
    faults = _collected.get()
    if faults is None:
        raise UserError(message)
    faults.append(Fault(message, entries))


def left_out_by(setting: str) -> str:
    """The end of a message about what a setting of data sets leaves out. Only run files have it, and it says so."""
    return (
        f"leave them out with {setting}=skip in 'dataset' of a run file (check-data --suggest RUN.yaml writes one, "
        "evaluate --data RUN.yaml reads it)"
    )


@contextlib.contextmanager
def collected_faults() -> Iterator[list[Fault]]:
    """Inside, faults are collected in the list; whatever makes further reading impossible is still raised."""
    faults: list[Fault] = []
    token = _collected.set(faults)
    try:
        yield faults
    finally:
        _collected.reset(token)
