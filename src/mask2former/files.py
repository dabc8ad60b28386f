"""Files and folders that are there whole or not at all. Knows nothing of what is in them.

What killed runs have left of them is removed by the next one that writes into the same folder. What is there decides
how a file is written: a regular file is replaced, of a link the file that it points to, and into a device or a pipe the
finished bytes are copied.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from mask2former.errors import UserError

__all__ = [
    "TEMPORARY",
    "check_apart",
    "check_file",
    "check_folder",
    "discard",
    "folder_lock",
    "leftovers_note",
    "location_of",
    "remove_leftovers",
    "reserved",
    "take_lock",
    "whole_file",
    "whole_folder",
    "write_whole",
]

TEMPORARY = ".m2f-"  # begins temporary names; eight random letters follow, whatever the length of the final name
_ATTEMPTS = 100  # at a temporary name
_swept: set[Path] = set()  # folders in which this process has removed what killed runs have left
_IN_THE_WAY = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


def write_whole(path: Path, write: Callable[[Path], object], *, durable: bool = False) -> None:
    """Let ``write`` fill a temporary file, then put it where ``path`` says; see :func:`whole_file`.

    Raises:
        UserError: the path cannot be written; an old file there is as it was.
        OSError: something else went wrong, for instance a full disk; likewise.
    """
    with whole_file(path, durable=durable) as temporary:
        write(temporary)


@contextlib.contextmanager
def whole_file(path: Path, *, suffix: str = ".tmp", durable: bool = False) -> Iterator[Path]:
    """A temporary file for the block to fill; where it ends well the file takes its place, else nothing changes.

    The temporary file lies in a folder beside the final one, so that nobody sees half a file and nothing is copied.
    Missing folders are made. The file gets the permissions of the caller's umask, whatever the block does. Links are
    followed. A device, or a pipe that somebody reads, is opened at once, and the bytes are copied into it at the end.

    Args:
        path: where it goes.
        suffix: of the temporary name, for writers that look at it; torch wants one.
        durable: also survives a power cut: the bytes are on the disk before the name is. Costs milliseconds.

    Raises:
        UserError: the path cannot be written; an old file there is as it was.
        OSError: something else went wrong, for instance a full disk; the error names ``path``.
    """
    with contextlib.ExitStack() as stack:
        try:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            special = _is_special(path)
            target = path if special else Path(os.path.realpath(path))  # what a link points to; it need not exist
            if not special:
                target.parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.gettempdir()) if special else target.parent
            # In a folder of its own, where also stays what the writer puts beside it, as safetensors does.
            temporary = stack.enter_context(_temporary(folder)) / f"file{suffix}"
            temporary.touch()
        except _IN_THE_WAY as error:
            raise _refusal(path, error) from error
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise _refusal(path, error) from error
            raise OSError(error.errno, error.strerror, str(path)) from error
        try:
            with reserved(path) as stream:
                mode = temporary.stat().st_mode & 0o777  # some writers, safetensors for one, write for the owner only
                yield temporary
                if stream is not None:
                    with temporary.open("rb") as content:
                        shutil.copyfileobj(content, stream)
                    return
                temporary.chmod(mode)
                if durable:
                    _sync(temporary)
                temporary.replace(target)
                if durable:
                    _sync(target.parent)
        except OSError as error:
            if error.filename not in (None, str(temporary), temporary):  # of another file that the block has opened
                raise
            if isinstance(error, _IN_THE_WAY):
                raise _refusal(path, error) from error
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder for the block to fill; where it ends well it becomes ``path``, else nothing changes.

    Args:
        path: where it goes; an empty folder may be there.

    Raises:
        UserError: the path cannot be written, or there is something else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path.parent) as temporary:
            yield temporary
            temporary.replace(path)
    except OSError as error:
        raise _refusal(path, error) from error


class _DiscardedError(Exception):
    """What the blocks of discarded files see."""


def discard(stack: contextlib.ExitStack) -> None:
    """Leave what ``stack`` has entered as if a block had failed, but raise nothing: its whole files do not appear.

    For writers that are open for long: an error of somebody else in their block says nothing about their file.
    """
    stack.__exit__(_DiscardedError, _DiscardedError(), None)


def leftovers_note(folders: Iterable[Path]) -> list[str]:
    """:func:`remove_leftovers` of several folders, and a sentence with the count where there were some."""
    removed = sum(map(remove_leftovers, set(folders)))
    return [f"temporary files that killed runs had left were removed ({removed})"] if removed else []


def remove_leftovers(folder: Path) -> int:
    """Remove temporary files and folders in ``folder`` whose writers were killed; how many there were.

    What is being written is locked by its writer, in whatever container, and stays. Without locks all stays.
    """
    removed = 0
    try:
        names = [entry.path for entry in os.scandir(folder) if entry.name.startswith(TEMPORARY)]
    except OSError:
        return 0
    for name in names:
        with contextlib.suppress(OSError), _locked(name, non_overlapping=True):
            _remove(name)
            removed += 1
    return removed


def _remove(name: str | os.PathLike[str]) -> None:
    if os.path.isdir(name) and not os.path.islink(name):
        shutil.rmtree(name)
    else:
        os.unlink(name)


def _refusal(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write '{path}': {error.strerror or error}; choose another path")


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A new folder, locked as long as this process lives, which tells others that somebody still writes in it.

    The first one in a folder removes what killed runs have left there, whichever command they were.
    """
    if folder not in _swept:
        _swept.add(folder)
        remove_leftovers(folder)
    with contextlib.ExitStack() as stack:
        for _ in range(_ATTEMPTS):
            temporary = folder / f"{TEMPORARY}{secrets.token_hex(4)}"
            temporary.mkdir()
            stack.callback(_forget, temporary)
            try:
                stack.enter_context(_locked(temporary, non_overlapping=False))
            except FileNotFoundError:  # another run found it before it was locked
                continue
            break
        else:
            raise OSError(errno.EBUSY, "temporary files are removed as soon as they are made", str(folder))
        yield temporary


def _forget(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone after a success
        _remove(path)


@contextlib.contextmanager
def _locked(path: str | os.PathLike[str], *, non_overlapping: bool) -> Iterator[None]:
    """A file or folder that is there and locked.

    Raises:
        FileNotFoundError: it is gone, perhaps while this waited.
        OSError: somebody else has it, or there are no locks; with ``non_overlapping``, else nothing is locked then.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders, and does not rename what is open
        if non_overlapping:
            raise
        yield
        return
    try:
        if not take_lock(descriptor, shared=not non_overlapping, wait=not non_overlapping) and non_overlapping:
            raise OSError(errno.EAGAIN, "somebody else has it, or there are no locks", str(path))
        os.stat(path)
        yield
    finally:
        os.close(descriptor)


def take_lock(file: IO[bytes] | int, *, shared: bool = False, wait: bool = False) -> bool | None:
    """Lock an open file for this process until it is closed, if only by the end of the process.

    Args:
        file: the file, or its descriptor.
        shared: others may hold it likewise.
        wait: until nobody else has it.

    Returns:
        True: it is locked. False: somebody else has it. None: this system or file system has no such locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows, which does not remove or rename a file that somebody has open
        return None
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


@contextlib.contextmanager
def reserved(path: Path) -> Iterator[IO[bytes] | None]:
    """A device or pipe, open for writing, so that who reads a pipe waits until the block ends; None for other paths.

    Raises:
        UserError: a pipe that nobody reads, which would be waited for without end, or no permission.
    """
    if not _is_special(path):
        yield None
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            what = "pipe that nobody reads" if stat.S_ISFIFO(path.stat().st_mode) else "socket or absent device"
            raise UserError(f"cannot write '{path}': it is a {what}; choose another path") from error
        raise _refusal(path, error) from error
    os.set_blocking(descriptor, True)
    with open(descriptor, "wb") as stream:
        yield stream


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- paths -----------------------------------------------------------------------------------------------------------


def check_apart(path: Path, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """That a file to write is not one of those that are read.

    Raises:
        UserError: it is, however it is spelled.
    """
    target = location_of(path)
    for entry in inputs:
        if os.path.exists(entry) and location_of(Path(entry)) == target:
            raise UserError(f"'{path}' is an input and would be overwritten; choose another file to write")


def location_of(path: Path) -> str:
    """Where a file is; names that differ in case only are one file on some systems."""
    return str(path.resolve()).casefold()


def check_file(path: Path) -> None:
    """That a file can be written there later.

    Raises:
        UserError: it is a folder, or it or its folder cannot be written.
    """
    if path.is_dir():
        raise UserError(f"'{path}' is a folder; expected the name of a file to write")
    if not path.exists() or path.is_file():
        check_folder(Path(os.path.realpath(path)).parent)  # links are followed
    elif not os.access(path, os.W_OK):
        raise UserError(f"cannot write to '{path}': no permission; choose another path")


def check_folder(folder: Path) -> None:
    """That a folder can be made or written there later.

    Raises:
        UserError: a file is in the way, or there is no permission.
    """
    existing = folder.absolute()
    while not existing.exists():
        if existing.is_symlink():
            raise UserError(f"cannot write to '{folder}': '{existing}' is a broken link; choose another folder")
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(f"cannot write to '{folder}': '{existing}' is a file; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to '{folder}': no permission for '{existing}'; choose another folder")


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """One process at a time is in the block, of all that ask for this folder; it is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":  # where folders cannot be opened
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        take_lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)
