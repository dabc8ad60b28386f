"""Working files that can be read at any moment, with names that show what they are: ``clip.partial.jsonl``.

A process that runs for hours writes what is finished into one of these; the final file appears at the end, and the
working file is removed. After a kill or on a full disk it stays. The next run keeps it as ``clip.earlier.jsonl`` until
it is complete itself. Knows nothing of the content.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import IO

from mask2former.documents import check_regular
from mask2former.errors import UserError
from mask2former.files import take_lock

__all__ = ["WorkingFile"]

_NAME_BYTES = 255  # what usual file systems permit


class WorkingFile:
    """The working file of a final one: beside it, or beside the file that it links to.

    Args:
        final: where the finished file goes.
        suffix: of the working file, with its dot.
    """

    def __init__(self, final: Path, suffix: str) -> None:
        target = Path(os.path.realpath(final)) if final.is_symlink() else final
        folder = target.parent if target.is_file() or not target.exists() else Path(tempfile.gettempdir())  # of devices
        self.path, self.earlier = _named(folder, target.stem, suffix)
        self._lock: IO[bytes] | None = None

    def open(self) -> None:
        """Create the file, empty; what a killed run left is kept as :attr:`earlier`, the larger of two.

        Raises:
            UserError: another run is writing it, or it is a folder, a pipe or a device.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            check_regular(self.path, "working file")
        with open(self.path, "ab") as before:
            self._take(before)
            size = os.fstat(before.fileno()).st_size
            if size and (not self.earlier.exists() or self.earlier.stat().st_size < size):
                self.path.replace(self.earlier)
            else:
                self.path.unlink()
        self._lock = self.path.open("wb")
        self._take(self._lock)

    def _take(self, stream: IO[bytes]) -> None:
        if take_lock(stream) is False:
            raise UserError(f"another run is writing '{self.path}'; wait until it is done, or choose another output")

    def release(self) -> None:
        """Stop writing; the file stays, unless it is empty."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        with contextlib.suppress(OSError):
            if not self.path.stat().st_size:
                self.path.unlink()

    def remove(self, *, earlier: bool) -> None:
        """Remove the file, once the final file has all of it; with ``earlier``, also what killed runs had left."""
        for path in (self.path, self.earlier) if earlier else (self.path,):
            path.unlink(missing_ok=True)
        self.release()

    def left(self) -> Path | None:
        """What killed runs have left, before :meth:`open`: the larger file."""
        found = [path for path in (self.path, self.earlier) if path.is_file() and path.stat().st_size]
        return max(found, key=lambda path: path.stat().st_size, default=None)


def _named(folder: Path, stem: str, suffix: str) -> tuple[Path, Path]:
    """Names that fit the file system, however long the stem is."""
    endings = f".partial{suffix}", f".earlier{suffix}"
    short = os.fsdecode(os.fsencode(stem)[: _NAME_BYTES - max(map(len, endings))])
    return folder / (short + endings[0]), folder / (short + endings[1])
