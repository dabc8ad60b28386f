"""Results that are written for as long as a video lasts: what their writers share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from mask2former.files import discard
from mask2former.results_io.partial import WorkingFile
from mask2former.structures.tracks import TrackedFrame

__all__ = ["FrameWriter", "finishing", "naming"]


class FrameWriter(Protocol):
    """The interface of all writers: frames in temporal order, inside a ``with`` block."""

    path: Path

    def __enter__(self) -> Self: ...

    def add(self, frame: TrackedFrame) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Operating system errors that name no file are reported for this one."""
    try:
        yield
    except OSError as error:
        if error.filename:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextlib.contextmanager
def finishing(
    working: WorkingFile, final: contextlib.ExitStack, kind: type[BaseException] | None, complete: bool
) -> Iterator[None]:
    """Create the final file in the block; then remove the working file and, if the run is complete, earlier ones.

    If that fails the working file stays, the final one is as it was before the run, and an error that already ends the
    run is not replaced.
    """
    try:
        try:
            yield
        except BaseException:
            discard(final)
            raise
        final.close()
    except BaseException as failure:
        working.release()
        if kind is None or not isinstance(failure, Exception):  # otherwise an error already ends the run
            raise
    else:
        working.remove(earlier=complete and kind is None)
