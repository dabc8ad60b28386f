"""Allows one training run at a time in a directory, whatever it does there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import weakref
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from mask2former.errors import UserError
from mask2former.text import printable
from mask2former.training.cluster import is_first

__all__ = ["LOCK", "check_links", "locked"]

LOCK = ".training"  # in the directory of the run, while it is running
_WRITTEN = (LOCK, "*.yaml", "*.csv", "*.safetensors", "*.pt", "checkpoints/*.ckpt", "images/*")  # by training
_IS_TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)  # other errors: the file system has no locks
_held: weakref.WeakSet[IO[str]] = weakref.WeakSet()


def check_links(directory: Path) -> None:
    """Reject files of a run that are links to files elsewhere, which training would overwrite.

    Run directories are shared, and archives preserve links. Linked folders (``checkpoints`` on another disk) are fine.

    Raises:
        UserError: there is such a link.
    """
    for pattern in _WRITTEN:
        for path in sorted(directory.glob(pattern)):
            if path.is_symlink() and not path.is_dir():
                target = Path(os.path.realpath(path))
                if not target.is_relative_to(os.path.realpath(path.parent)):
                    raise UserError(
                        f"'{path}' is a link to '{target}', outside its folder, and training would overwrite that "
                        "file; replace the link with a copy of the file, or delete the link"
                    )


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[list[str]]:
    """Keep other training runs out of a directory for the duration of the block.

    It is a lock of the kernel (``flock``), which ends with the process in any case. The file records its owner. If
    there are several ranks, only the first one locks. The directory is created, and removed if the block leaves it
    empty.

    Args:
        directory: directory of the run.

    Returns:
        Sentences for the user: whose lock was taken over, or that there is none.

    Raises:
        UserError: another training run holds the lock; the message names its process.
    """
    if not is_first():
        yield []
        return
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOCK
    try:
        stream = _taken(path)
    except _NoFileError as error:  # a read-only path is still useful, for instance for a finished run
        is_usable = os.access(directory, os.W_OK)
        yield [f"{directory} is not locked, so another training run could write to it, too ({error})"] * is_usable
        return
    _held.add(stream)
    try:
        before = _owner(stream)
        try:
            stream.truncate(0)
            stream.write(json.dumps(_myself()))
            stream.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        yield (
            [f"an earlier training run ({before}) was killed; its lock on {directory} was taken over"] if before else []
        )
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        _held.discard(stream)
        with contextlib.suppress(OSError):  # of a full disk, where the content could not be written
            stream.close()
        if is_new:
            with contextlib.suppress(OSError):  # not empty
                directory.rmdir()


class _NoFileError(Exception):
    """The file of a lock cannot be written."""


def _taken(path: Path) -> IO[str]:
    """The open file, locked."""
    while True:
        try:
            stream = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise _NoFileError(f"{path}: {error.strerror}") from error
        try:
            _lock(stream)
            if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                return stream
        except FileNotFoundError:
            pass
        except OSError as error:
            owner = _owner(stream)
            if error.errno in _IS_TAKEN:
                stream.close()
                who = f" ({owner})" if owner else ""
                raise UserError(
                    f"{path.parent} is in use by another training run{who}; wait until it ends, stop it, or "
                    "choose another output directory"
                ) from error
            if owner:  # a file system without locks: only the file shows that there is an owner
                stream.close()
                raise UserError(
                    f"{path.parent} is in use by another training run ({owner}), or was when that run was killed; "
                    f"if it is no longer running, delete {path}"
                ) from error
            return stream
        stream.close()  # the previous owner has just removed the file


def _lock(stream: IO[str]) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        stream.seek(1 << 30)  # far behind the text, which other processes read
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _myself() -> dict[str, Any]:
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    return {"host": socket.gethostname(), "process": os.getpid(), "since": now}


def _owner(stream: IO[str]) -> str:
    """Description of the process that wrote the file; empty if there is none."""
    stream.seek(0)
    try:
        holder = json.loads(stream.read(4096) or "null")
        return "" if holder is None else printable("process {process} on {host}, since {since}".format(**holder), 200)
    except (ValueError, LookupError, TypeError, OSError):
        return "an unknown process"


def _leave_to_parent() -> None:
    """Processes that read samples inherit the file, and would keep the lock after their parent was killed."""
    for stream in list(_held):
        with contextlib.suppress(OSError), open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), stream.fileno(), inheritable=False)  # the descriptor is still in use


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
