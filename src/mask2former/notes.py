"""What a user should know although nothing stops: told where it is noticed, counted and shown by whoever runs the job.

Reading happens deep inside data sets, predictors and worker processes; commands collect what it notices with
:func:`collect_notes`. Where nobody collects, the first note of each kind is logged as a warning. Knows no subject.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import NamedTuple

__all__ = ["Note", "collect_notes", "counted", "is_collecting", "note", "noted_as_one", "percent", "sentences"]

_logger = logging.getLogger("mask2former")
_collected: ContextVar[list[Note] | None] = ContextVar("_collected", default=None)
_logged: set[str] = set()


class Note(NamedTuple):
    """One observation.

    Attributes:
        message: its kind, as a phrase about several: ``images with several pages, of which only the first is read``.
        example: what it was noticed on, with details: ``'a.tif' (12 pages)``.
    """

    message: str
    example: str


@contextlib.contextmanager
def collect_notes() -> Iterator[list[Note]]:
    """The notes of everything that is done inside, in the order in which they come; the innermost collector gets them.

    Notes of other threads and processes are not among them. What somebody has collected is not logged later.
    """
    found: list[Note] = []
    token = _collected.set(found)
    try:
        yield found
    finally:
        _collected.reset(token)
        _logged.update(message for message, _ in found)


def is_collecting() -> bool:
    """Whether somebody collects, so that looking closer is worth its time."""
    return _collected.get() is not None


def note(message: str, example: str) -> None:
    """Tell whoever collects; without a collector, log the first of each kind in this process (not in its workers)."""
    found = _collected.get()
    if found is not None:
        found.append(Note(message, example))
    elif message not in _logged and multiprocessing.parent_process() is None:
        _logged.add(message)
        _logger.warning("%s: %s", message, example)


@contextlib.contextmanager
def noted_as_one(told: set[str] | None = None) -> Iterator[None]:
    """Tell at most one note of each kind about what is done inside: bands and parts of an image are no images.

    Args:
        told: where it is one part of an image: the kinds that other parts have told, to which those of this one are
            added. These are not told again.
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
    """The examples of every message; one that is noted several times is listed once."""
    found: dict[str, dict[str, None]] = {}
    for message, example in notes:
        found.setdefault(message, {})[example] = None
    return {message: list(examples) for message, examples in found.items()}


def sentences(notes: Iterable[Note], most: int = 3) -> list[str]:
    """One line for each message, with the count and up to ``most`` examples."""
    lines = []
    for message, examples in counted(notes).items():
        more = len(examples) - most
        listed = "; ".join(examples[:most]) + (f"; and {more} more" if more > 0 else "")
        lines.append(f"{message} ({len(examples)}): {listed}")
    return lines


def percent(share: float) -> str:
    """A share, 0 to 1, as the example of a note gives it."""
    return f"{100 * share:.3g} %"
