"""Results that are written for as long as a video lasts: what their writers share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

from mask2former.files import discard, whole_file
from mask2former.results_io.partial import WorkingFile
from mask2former.structures.tracks import TrackedFrame

__all__ = ["FrameWriter", "GrowingDocument", "finishing", "naming"]


class FrameWriter(Protocol):
    """The interface of all writers: frames in temporal order, inside a ``with`` block."""

    path: Path

    def __enter__(self) -> Self: ...

    def add(self, frame: TrackedFrame) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


class GrowingDocument:
    """A text file that is created at the end of its block, unless the block fails before any frame."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.count = 0  # frames
        self._stack = contextlib.ExitStack()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(whole_file(self.path))
            self._file = stack.enter_context(temporary.open("wb"))
            self._stack = stack.pop_all()
        return self

    def _write(self, text: str) -> None:
        assert self._file is not None, "used outside its with block"
        self._file.write(text.encode())

    def _end(self, finished: bool) -> None:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        if kind is not None and not self.count:
            discard(self._stack)
        else:
            with self._stack:
                self._end(kind is None)
        self._file = None


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
    except Exception:  # raised again, unless another error already ends the run
        working.release()
        if kind is None:
            raise
    except BaseException:
        working.release()
        raise
    else:
        working.remove(earlier=complete and kind is None)
