"""Where a bulk run writes: a folder, or a URL that fsspec opens. Files appear completely or not at all."""

from __future__ import annotations

import contextlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from mask2former.errors import FailedError, UserError
from mask2former.extras import need
from mask2former.files import check_folder, remove_leftovers, take_lock, write_whole
from mask2former.text import printable

__all__ = ["Store", "is_url", "local_path", "open_store", "opened_url"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LOCK = ".lock"


def is_url(name: str) -> bool:
    """Whether this is something for fsspec to open; ``file://`` is local."""
    return _URL.match(name) is not None and not name.lower().startswith("file:")


def local_path(name: str | os.PathLike[str]) -> Path:
    """The absolute path of a local name or ``file://`` URL.

    Raises:
        UserError: an empty name, which would mean the working folder, or a ``file://`` URL on another host.
    """
    text = os.fspath(name)
    if text.lower().startswith("file://"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise UserError(f"'{text}' is on another host, '{parts.netloc}'; expected three slashes: file:///folder")
        text = unquote(parts.path)
    if not text:
        raise UserError(
            f"'{os.fspath(name)}' names neither a file nor a folder; give a path ('.' is the working folder)"
        )
    return Path(os.path.abspath(text))


def opened_url(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there.

    Raises:
        UserError: fsspec does not know the protocol, or lacks the package for it.
    """
    need("ray", "fsspec", to="open URLs")
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except Exception as error:  # whatever the package for a protocol raises: ImportError, ValueError, its own
        raise UserError(f"'{url}' cannot be opened by fsspec: {printable(str(error), 200)}") from error


class Store(ABC):
    """Named files below one location.

    Attributes:
        name: of the location, for messages.
        address: how other processes and machines open it.
    """

    name: str
    address: str

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file completely; an existing one is replaced.

        Raises:
            FailedError: it cannot be written.
        """

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """A file to read.

        Raises:
            OSError: it does not exist, or cannot be read.
            FailedError: access to a URL failed, which says nothing about the file.
        """

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none if the folder does not exist.

        Raises:
            UserError: it cannot be listed.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, which may be gone.

        Raises:
            OSError: it cannot be removed.
            FailedError: access to a URL failed.
        """

    @abstractmethod
    def for_arrow(self) -> tuple[str, Any]:
        """The path and file system for pyarrow."""

    def clear(self, folder: str, start: str) -> None:
        """Remove the files in a folder whose names begin with ``start``, and the folder if it is then empty.

        The folder need not exist.
        """
        for name in self.names(folder):
            if name.startswith(start):
                self.remove(f"{folder}/{name}")

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if it does not exist."""
        try:
            with self.open(name) as file:
                return file.read()
        except FileNotFoundError:
            return None

    def path(self, name: str) -> str:
        """What a user calls a file."""
        return f"{self.name.rstrip('/')}/{name}"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Only one run at a time is in the block, where locks exist.

        Raises:
            UserError: another run holds the lock.
        """
        yield


class _Folder(Store):
    def __init__(self, path: Path, name: str) -> None:
        self.name, self.address = name, str(path)
        self._path = path

    def write(self, name: str, content: bytes) -> None:
        try:
            write_whole(self._path / name, lambda file: file.write_bytes(content))
        except (OSError, UserError) as error:  # whatever is in the way now is in the way of all shards
            raise FailedError(str(error)) from error

    def open(self, name: str) -> BinaryIO:
        return (self._path / name).open("rb")

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(os.listdir(self._path / folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(
                f"'{self.path(folder)}' cannot be listed: {error.strerror}; choose another output"
            ) from error

    def remove(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    def clear(self, folder: str, start: str) -> None:
        remove_leftovers(self._path / folder)
        super().clear(folder, start)
        with contextlib.suppress(OSError):  # not empty, or gone
            (self._path / folder).rmdir()

    def for_arrow(self) -> tuple[str, Any]:
        return str(self._path), None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        self._path.mkdir(parents=True, exist_ok=True)
        with (self._path / _LOCK).open("wb") as file:
            if take_lock(file) is False:
                raise UserError(f"another run is writing to '{self.name}'; wait for it, or choose another output")
            yield


class _Remote(Store):
    def __init__(self, url: str) -> None:
        self.name = self.address = url
        self._files, self._root = opened_url(url)

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def write(self, name: str, content: bytes) -> None:
        with self._access("write", name):
            self._files.makedirs(self._files._parent(self._at(name)), exist_ok=True)
            self._files.pipe_file(self._at(name), content)  # one request, so complete or not at all

    def open(self, name: str) -> BinaryIO:
        with self._access("read", name):
            return self._files.open(self._at(name), "rb")

    def read(self, name: str) -> bytes | None:
        with self._access("read", name):  # what is opened may be fetched only now
            return super().read(name)

    def names(self, folder: str) -> list[str]:
        self._files.invalidate_cache()
        try:
            found = self._files.ls(self._at(folder), detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:  # whatever the package for a protocol raises
            raise UserError(f"'{self.path(folder)}' cannot be listed: {printable(str(error), 200)}") from error
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._access("remove", name):
            self._files.rm_file(self._at(name))

    @contextlib.contextmanager
    def _access(self, what: str, name: str) -> Iterator[None]:
        """Replaces whatever the package for a protocol raises, except that a file does not exist.

        Raises:
            FailedError: the block failed.
        """
        try:
            yield
        except (FileNotFoundError, FailedError):
            raise
        except Exception as error:
            reason = printable(str(error) or type(error).__name__, 200)
            raise FailedError(f"cannot {what} '{self.path(name)}': {reason}") from error

    def for_arrow(self) -> tuple[str, Any]:
        return self._root, self._files


def open_store(output: str | os.PathLike[str]) -> Store:
    """The location given as an output; nothing is written yet.

    Raises:
        UserError: an empty name, a folder that cannot be written, or a URL that fsspec does not open.
    """
    name = os.fspath(output)
    if is_url(name):
        return _Remote(name)
    path = local_path(name)
    check_folder(path)
    return _Folder(path, name)
