"""Files and folders that may lie in a zip archive: as if each archive were unpacked where it lies.

Nothing is ever unpacked to disk. An archive opens its file once per process, so objects of this module may be pickled
and may be inherited by forked workers. Knows nothing of pictures or annotations.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

from mask2former.errors import RequestError
from mask2former.notes import note
from mask2former.text import quoted

__all__ = ["Archive", "ArchivedFile", "File", "Folder", "find_file", "find_folder", "leads_outside", "open_folder"]

_LARGEST = 8 << 30  # bytes of one file in an archive; more is no annotation or picture


class Archive:
    """A zip file, by the names of the files in it.

    Raises:
        RequestError: it is missing, damaged or no zip file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __reduce__(self) -> tuple[type[Archive], tuple[Path]]:
        return Archive, (self.path,)

    def __str__(self) -> str:
        return str(self.path)

    def _zip(self) -> zipfile.ZipFile:
        """Opened in this process: one that a fork inherits would share its place in the file with the parent."""
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = os.getpid(), zipfile.ZipFile(self.path)
            except (OSError, zipfile.BadZipFile) as error:
                raise RequestError(f"the archive '{self.path}' cannot be read: {error}") from error
        return self._opened[1]

    @cached_property
    def names(self) -> frozenset[str]:
        """Files in it, with ``/`` between folders."""
        return frozenset(name for name in self._zip().namelist() if not name.endswith("/"))

    @cached_property
    def folders(self) -> frozenset[str]:
        """Folders in it, also those without an entry of their own; ``""`` is the archive itself."""
        found = {""}
        for name in self.names:
            parent = name.rpartition("/")[0]
            while parent not in found:
                found.add(parent)
                parent = parent.rpartition("/")[0]
        return frozenset(found)

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            RequestError: it is not there, damaged, encrypted or much too large.
        """
        try:
            entry = self._zip().getinfo(name)
            if entry.file_size > _LARGEST:
                raise RequestError(f"'{self.path}/{name}' would be {entry.file_size} bytes; unpack and check it")
            return self._zip().read(entry)
        except KeyError as error:
            raise RequestError(f"the archive '{self.path}' has no file '{name}'") from error
        except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
            raise RequestError(f"'{self.path}/{name}' cannot be read from its archive: {error}") from error


@lru_cache(maxsize=32)
def _archive(path: Path, modified: int, size: int) -> Archive:
    return Archive(path)


def _open_archive(path: Path) -> Archive:
    """The archive at a path; one object however often it is asked for, until the file changes."""
    try:
        facts = path.stat()
    except OSError as error:
        raise RequestError(f"the archive '{path}' cannot be read: {error.strerror}") from error
    return _archive(path, facts.st_mtime_ns, facts.st_size)


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """A file in an archive; what readers use of it is spelled as for a :class:`pathlib.Path`."""

    archive: Archive
    inner: str

    def __str__(self) -> str:
        return f"{self.archive.path}/{self.inner}"

    @property
    def name(self) -> str:
        return PurePosixPath(self.inner).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self.inner).stem

    def is_file(self) -> bool:
        return self.inner in self.archive.names

    def read_bytes(self) -> bytes:
        return self.archive.read(self.inner)


File = Path | ArchivedFile


def leads_outside(name: str, folder: str | os.PathLike[str]) -> bool:
    """Whether a name that a file of annotations gives leads out of the folder that it is relative to.

    Absolute names do, unless they lead into the folder, and so do those with more ``..`` than folders before them.
    Links count as what they are called: who put them into the folder decides what they lead to.
    """
    if not (".." in name or ":" in name or name.startswith(("/", "\\"))):
        return False  # most names; asking for the folder of the process takes longer than all else
    top = os.path.abspath(folder)
    place = os.path.normpath(os.path.join(top, name))
    return not place.startswith(os.path.join(top, ""))


@dataclass(frozen=True)
class Folder:
    """A folder on disk or, with an archive, the folder ``inner`` of that.

    Attributes:
        allow_outside: names may lead out of it. Otherwise what they lead to is as if it were not there, and asking for
            it is an error.
    """

    path: Path
    archive: Archive | None = None
    inner: str = ""
    allow_outside: bool = False
    _listed: dict[str, frozenset[str]] = field(default_factory=dict, repr=False, compare=False)

    def __str__(self) -> str:
        return str(self.path) if self.archive is None else f"{self.archive.path}/{self.inner}".rstrip("/")

    def __truediv__(self, name: str) -> File:
        if self.leads_outside(name):
            raise RequestError(f"{quoted(name)} leads out of the folder '{self}'; set allow_outside=true to read it")
        if self.archive is None:
            return self.path / name
        return ArchivedFile(self.archive, str(PurePosixPath(self.inner) / name))

    def leads_outside(self, name: str) -> bool:
        """Whether a name is refused because it leads out of the folder; see :func:`leads_outside`."""
        return not self.allow_outside and leads_outside(name, self.path)

    def exists(self, name: str) -> bool:
        """Whether a file is there; each folder is listed once, which is much faster than asking file by file."""
        if self.leads_outside(name):
            return False
        if self.archive is not None:
            return str(PurePosixPath(self.inner) / name) in self.archive.names
        parent, leaf = os.path.split(os.path.join(self.path, name))
        if parent not in self._listed:
            try:
                self._listed[parent] = frozenset(os.listdir(parent))
            except (OSError, ValueError):  # ValueError: characters that no file name can have
                self._listed[parent] = frozenset()
        # Some file systems take names in another spelling (case, accents), so only "yes" is final.
        return leaf in self._listed[parent] or os.path.isfile(os.path.join(parent, leaf))

    def names(self, suffixes: Sequence[str]) -> list[str]:
        """Files below it at any depth that end so, sorted, with ``/`` between folders; hidden ones are passed over."""
        return sorted(
            name
            for name in self._all()
            if name.lower().endswith(tuple(suffixes)) and not any(part.startswith(".") for part in name.split("/"))
        )

    def _all(self) -> Iterator[str]:
        if self.archive is not None:
            start = f"{self.inner}/" if self.inner else ""
            yield from (name[len(start) :] for name in self.archive.names if name.startswith(start))
            return
        for parent, folders, leaves in os.walk(self.path, followlinks=True, onerror=note_unreadable):
            folders[:] = [name for name in folders if not _leads_back(os.path.join(parent, name), self.path)]
            below = os.path.relpath(parent, self.path).replace(os.sep, "/")
            yield from (leaf if below == "." else f"{below}/{leaf}" for leaf in leaves)


def note_unreadable(error: OSError) -> None:
    """What ``os.walk`` tells of a folder that it passes over."""
    note("folders that cannot be read", f"'{error.filename}' ({error.strerror})")


def _leads_back(folder: str, top: Path) -> bool:
    """Whether a link leads to one of the folders that lead to it, from ``top`` down."""
    if not os.path.islink(folder):
        return False
    target, above = os.path.realpath(folder), Path(folder).parent
    return any(os.path.realpath(place) == target for place in (above, *above.parents) if place.is_relative_to(top))


def _archives_beside(path: Path, root: Path | None) -> Iterator[tuple[Archive, str]]:
    """Archives in which a path may lie, nearest first, with the name it would have there."""
    for parent in path.parents:
        inner = path.relative_to(parent).as_posix()
        if parent.suffix.lower() == ".zip" and parent.is_file():
            yield _open_archive(parent), inner
        elif parent.is_dir():
            zips = sorted(parent.glob("*.zip"), key=lambda file: (not file.stem.startswith(path.stem), file.name))
            yield from ((_open_archive(file), inner) for file in zips if file.is_file())
        if parent == root or (root is None and parent.exists()):
            return


def find_folder(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Folder | None:
    """The folder, also if it lies in an archive that would make it when unpacked where it is.

    Args:
        path: of the folder; ``photos.zip`` and ``photos.zip/train`` are folders in an archive.
        root: archives are looked for in the folders from ``path`` up to this one; None: in the nearest one only.
    """
    place = Path(path)
    if place.is_dir():
        return Folder(place)
    if place.suffix.lower() == ".zip" and place.is_file():
        archive = _open_archive(place)
        tops = {name.split("/", 1)[0] for name in archive.names if not name.startswith(("__MACOSX/", "."))}
        only = tops.pop() if len(tops) == 1 else ""
        return Folder(place, archive, only if only in archive.folders else "")
    for archive, inner in _archives_beside(place, None if root is None else Path(root)):
        if inner in archive.folders:
            return Folder(place, archive, inner)
    return None


def find_file(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> File | None:
    """The file, also if it lies in an archive; see :func:`find_folder`."""
    place = Path(path)
    if place.is_file():
        return place
    for archive, inner in _archives_beside(place, None if root is None else Path(root)):
        if inner in archive.names:
            return ArchivedFile(archive, inner)
    return None


def open_folder(
    path: str | os.PathLike[str] | Folder, what: str = "picture folder", *, allow_outside: bool = False
) -> Folder:
    """The folder at a path; names in it may lead out of it only with ``allow_outside``.

    Raises:
        RequestError: there is none, and no archive that would make it.
    """
    found = path if isinstance(path, Folder) else find_folder(path)
    if found is None:
        raise RequestError(f"there is no {what} '{path}'; check the path")
    return replace(found, allow_outside=True) if allow_outside else found
