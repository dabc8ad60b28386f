"""Things that a user should know but that stop nothing: noted where they are found, then counted and shown together.

They are found deep inside data sets, predictors and worker processes; commands collect them with
:func:`collect_notes`. Without a collector, the first note of each kind is logged as a warning.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import NamedTuple

__all__ = ["Note", "collect_notes", "counted", "is_collecting", "note", "noted_as_one", "sentences"]

_logger = logging.getLogger("mask2former")
_collected: ContextVar[list[Note] | None] = ContextVar("_collected", default=None)
_logged: set[str] = set()
_EXAMPLES = 3  # of a message, in a sentence


class Note(NamedTuple):
    """One observation.

    Attributes:
        message: its kind, as a plural phrase: ``images with several pages, of which only the first is read``.
        example: where it was found, with details: ``'a.tif' (12 pages)``.
    """

    message: str
    example: str


@contextlib.contextmanager
def collect_notes() -> Iterator[list[Note]]:
    """Collect the notes of everything inside the block, in their order; the innermost collector receives them.

    Notes of other threads and processes are not included. Collected notes are not logged later.
    """
    found: list[Note] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)
        _logged.update(message for message, _ in found)


def is_collecting() -> bool:
    """Whether notes are collected, so that a closer inspection is worth its time."""
    return _collected.get() is not None


def note(message: str, example: str) -> None:
    """Add a note to the collector, or log the first one of each kind in this process (but not in its workers)."""
    found = _collected.get()
    if found is not None:
        found.append(Note(message, example))
    elif message not in _logged and multiprocessing.parent_process() is None:
        _logged.add(message)
        _logger.warning("%s: %s", message, example)


@contextlib.contextmanager
def noted_as_one(told: set[str] | None = None) -> Iterator[None]:
    """Add at most one note of each kind for everything inside the block, such as bands or parts of one image.

    Args:
        told: if it handles one part of an image, the kinds that other parts have already noted, which are not noted
            again; kinds of this part are added.
    """
    found: list[Note] = []
    token = _collected.set(found)
    try:
        yield
    finally:
        _collected.reset(token)
        for message, examples in counted(found).items():
            if told is None:
                note(message, ", ".join(examples))
            elif message not in told:
                told.add(message)
                note(message, f"{', '.join(examples)} in the first part concerned")


def counted(notes: Iterable[Note]) -> dict[str, list[str]]:
    """The examples of every message; each example is listed once."""
    found: dict[str, dict[str, None]] = {}
    for message, example in notes:
        found.setdefault(message, {})[example] = None
    return {message: list(examples) for message, examples in found.items()}


def sentences(notes: Iterable[Note]) -> list[str]:
    """One line for each message, with the count and up to three examples."""
    lines = []
    for message, examples in counted(notes).items():
        more = len(examples) - _EXAMPLES
        listed = "; ".join(examples[:_EXAMPLES]) + (f"; and {more} more" if more > 0 else "")
        lines.append(f"{message} ({len(examples)}): {listed}")
    return lines
