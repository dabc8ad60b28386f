"""Files and folders that are written completely or not at all, whatever their content.

Remains of killed runs are removed by the next run that writes into the same folder. How a file is written depends on
what exists at its path: a regular file is replaced; for a link, its target is replaced; and for a device or a pipe, the
finished bytes are copied into it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from mask2former.errors import OptionError, UserError

__all__ = [
    "TEMPORARY",
    "check_file",
    "check_folder",
    "check_outputs",
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

TEMPORARY = ".m2f-"  # prefix of temporary names; eight random letters follow, whatever the length of the final name
_ATTEMPTS = 100  # to find a temporary name
_swept: set[Path] = set()  # folders from which this process has removed the remains of killed runs
_IN_THE_WAY = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


def write_whole(path: Path, write: Callable[[Path], object], *, durable: bool = False) -> None:
    """Let ``write`` fill a temporary file, then move it to ``path``; see :func:`whole_file`.

    Raises:
        UserError: the path cannot be written; an existing file has not changed.
        OSError: another error occurred, for instance a full disk; an existing file has not changed.
    """
    with whole_file(path, durable=durable) as temporary:
        write(temporary)


@contextlib.contextmanager
def whole_file(path: Path, *, suffix: str = ".tmp", durable: bool = False) -> Iterator[Path]:
    """A temporary file for the block to fill; if the block succeeds it is moved to ``path``, else nothing changes.

    The temporary file is in a folder beside the final one, so incomplete files are never visible and nothing is copied.
    Missing folders are created. The file gets the permissions of the caller's umask, whatever the block does. Links are
    followed. A device, or a pipe with a reader, is opened at once, and the bytes are copied into it at the end.

    Args:
        path: the final path.
        suffix: of the temporary name, for writers that depend on it, such as torch.
        durable: whether the file also survives a power failure: its bytes reach the disk before its name. Takes
            milliseconds.

    Raises:
        UserError: the path cannot be written; an existing file has not changed.
        OSError: another error occurred, for instance a full disk; the error names ``path``.
    """
    with contextlib.ExitStack() as stack:
        try:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            special = _is_special(path)
            target = path if special else Path(os.path.realpath(path))  # the target of a link, which need not exist
            if not special:
                target.parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.gettempdir()) if special else target.parent
            # In a folder of its own, which also holds other files of the writer, such as those of safetensors.
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
                mode = temporary.stat().st_mode & 0o777  # some writers, such as safetensors, grant only owner access
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
            if error.filename not in (None, str(temporary), temporary):  # about another file that the block opened
                raise
            if isinstance(error, _IN_THE_WAY):
                raise _refusal(path, error) from error
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder for the block to fill; if the block succeeds it becomes ``path``, else nothing changes.

    Args:
        path: the final path, which may be an empty folder.

    Raises:
        UserError: the path cannot be written, or something else exists there.
        OSError: about another file that the block opened.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path.parent) as temporary:
            yield temporary
            temporary.replace(path)
    except OSError as error:
        if temporary is not None and error.filename is not None:
            about = Path(os.path.abspath(os.fsdecode(error.filename)))
            if Path(os.path.abspath(temporary)) not in (about, *about.parents):
                raise
        raise _refusal(path, error) from error


class _DiscardedError(Exception):
    """Raised inside the blocks of discarded files."""


def discard(stack: contextlib.ExitStack) -> None:
    """Close the contexts in ``stack`` as if a block had failed, but raise nothing, so their files are not created.

    This is for writers that are open for a long time: an unrelated error in their block does not concern their file.
    Neither does closing it matter, which writes what is left: on a full disk that fails, too, and its error would
    replace the one that is being handled.
    """
    with contextlib.suppress(OSError, UserError):
        stack.__exit__(_DiscardedError, _DiscardedError(), None)


def leftovers_note(folders: Iterable[Path]) -> list[str]:
    """Call :func:`remove_leftovers` for several folders; returns a sentence with the count if there were any."""
    removed = sum(map(remove_leftovers, set(folders)))
    return [f"temporary files that killed runs had left were removed ({removed})"] if removed else []


def remove_leftovers(folder: Path) -> int:
    """Remove temporary files and folders in ``folder`` whose writers were killed; returns their number.

    Files in progress are locked by their writers, even in other containers, and are kept. Without locks all are kept.
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
    """A new folder, locked while this process lives, which shows others that it is still in use.

    The first one in a folder removes the remains of killed runs, whichever command they ran.
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
            except FileNotFoundError:  # another run removed it before it was locked
                continue
            break
        else:
            raise OSError(errno.EBUSY, "temporary files are removed as soon as they are made", str(folder))
        yield temporary


def _forget(path: Path) -> None:
    with contextlib.suppress(OSError):  # it no longer exists after a success
        _remove(path)


@contextlib.contextmanager
def _locked(path: str | os.PathLike[str], *, non_overlapping: bool) -> Iterator[None]:
    """An existing file or folder, locked.

    Raises:
        FileNotFoundError: it no longer exists, perhaps since this call started to wait.
        OSError: it is locked by another process, or locks are not available. This applies only with
            ``non_overlapping``; otherwise nothing is locked in this case.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows neither opens folders nor renames open files
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
    """Lock an open file for this process until it is closed, at the latest by the end of the process.

    Args:
        file: the file, or its descriptor.
        shared: others may hold a shared lock as well.
        wait: wait until no other process holds the lock.

    Returns:
        True: it is locked. False: another process holds the lock. None: the system or file system has no such locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows, which neither removes nor renames open files
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
    """A device or pipe, open for writing so that a pipe's reader waits until the block ends; None for other paths.

    Raises:
        UserError: a pipe has no reader, for which opening it would wait forever, or there is no permission.
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


def check_outputs(
    files: Iterable[tuple[str, Path]],
    inputs: Iterable[str | os.PathLike[str]] = (),
    folders: Iterable[tuple[str, Path]] = (),
) -> None:
    """Check, before any work, that the outputs of a call can be written later without replacing each other or an input.

    Args:
        files: the files to write, each with the name of the argument that determines it.
        inputs: files and folders that the call reads; names of something else, such as a published model, are ignored.
        folders: folders to write into, likewise. They are only compared with the others; files may be in them.

    Raises:
        UserError: a file cannot be written, an output is an input, regardless of spelling, or two outputs are the same.
    """
    files, folders = list(files), list(folders)
    for _, path in files:
        check_file(path)
    outputs = [(name, path, location_of(path)) for name, path in (*files, *folders)]
    paths = {location: path for _, path, location in outputs}
    for entry in inputs if paths else ():
        if os.path.exists(entry) and (path := paths.get(location_of(Path(entry)))) is not None:
            raise UserError(f"'{path}' is an input and would be overwritten; choose another file to write")
    for (first, path, location), (second, other, another) in itertools.permutations(outputs, 2):
        if location == another:
            raise OptionError(
                lambda name, first=first, second=second, path=path: (
                    f"{name(first)} and {name(second)} would both write '{path}'; choose two different files"
                )
            )
        if (first, path) in files and location in map(str, Path(another).parents):
            raise OptionError(
                lambda name, first=first, second=second, path=path, other=other: (
                    f"{name(second)} '{other}' would be inside '{path}', which is the file of {name(first)}; choose "
                    "another path for one of them"
                )
            )


def location_of(path: Path) -> str:
    """The location of a file; on some systems, names that differ only in case are the same file."""
    return str(path.resolve()).casefold()


def check_file(path: Path) -> None:
    """Check that a file can be written later.

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
    """Check that a folder can be created or written later.

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
    """Allow one process at a time in the block for this folder, which is created if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":  # folders cannot be opened
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        take_lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)
