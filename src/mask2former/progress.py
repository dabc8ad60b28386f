"""How a long call reports its progress. Nothing is drawn here; the caller decides what to do with the reports."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Protocol

__all__ = ["DOWNLOADING", "DetailedProgress", "Progress", "silent", "tell_tiles", "tiles_told"]

_tiles: ContextVar[Callable[[int, int], None] | None] = ContextVar("_tiles", default=None)

Progress = Callable[[str, int, int | None], None]
"""Called with the step, the amount done, and the total amount; None: unknown."""


class DetailedProgress(Protocol):
    """A :data:`Progress` that also receives figures to show beside the amount, for instance a loss."""

    def __call__(self, step: str, done: int, total: int | None, detail: str | None = None) -> None:
        """``detail`` None leaves the figures unchanged."""
        ...


DOWNLOADING = "downloading"
"""The step whose amounts are bytes."""


def silent(step: str, done: int, total: int | None) -> None:
    """Report nothing."""


@contextlib.contextmanager
def tiles_told(progress: Progress, step: str, num_done: Callable[[], int], num_images: int) -> Iterator[None]:
    """During the block, also report the tiles of images that have many tiles.

    Such an image takes minutes, during which the number of finished images does not change; and only a loop deep inside
    a predictor knows about its tiles.

    Args:
        progress: receives the reports.
        step: the step that includes the tiles.
        num_done: returns the current number of finished images.
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
    """Report the number of finished tiles of one image to the listener in this thread, if there is one."""
    tell = _tiles.get()
    if tell is not None:
        tell(done, total)
