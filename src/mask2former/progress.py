"""How a call that takes minutes says how far it is. Draws nothing; whoever calls decides what becomes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Protocol

__all__ = ["DOWNLOADING", "DetailedProgress", "Progress", "clock", "silent", "tell_tiles", "tiles_told"]

_tiles: ContextVar[Callable[[int, int], None] | None] = ContextVar("_tiles", default=None)

Progress = Callable[[str, int, int | None], None]
"""Told the step, how much of it is done, and of how much; None: unknown."""


class DetailedProgress(Protocol):
    """A :data:`Progress` that is also told figures to show beside the amount, for instance a loss."""

    def __call__(self, step: str, done: int, total: int | None, detail: str | None = None) -> None:
        """``detail`` None leaves the figures as they were."""
        ...


DOWNLOADING = "downloading"
"""The step whose amounts are bytes."""


def silent(step: str, done: int, total: int | None) -> None:
    """Say nothing."""


@contextlib.contextmanager
def tiles_told(progress: Progress, step: str, num_done: Callable[[], int], num_images: int) -> Iterator[None]:
    """Have the tiles of images that have many told, too, as long as the block runs.

    Such an image takes minutes, for which the images that are done say nothing; and its tiles are known to a loop deep
    inside a predictor only.

    Args:
        progress: is told.
        step: of which the tiles are.
        num_done: gives the images that are done by now.
        num_images: of the step.
    """

    def tell(done: int, total: int) -> None:
        images = f" ({num_done()} of {num_images} images done)" if num_images > 1 else ""
        progress(f"{step}, tiles{images}", done, total)

    token = _tiles.set(tell)
    try:
        yield
    finally:
        _tiles.reset(token)


def tell_tiles(done: int, total: int) -> None:
    """Tell whoever wants to know, in this thread, how many tiles of one image are done."""
    tell = _tiles.get()
    if tell is not None:
        tell(done, total)


def clock(seconds: float) -> str:
    """A time as hours, minutes and seconds: ``1:02:03``."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
