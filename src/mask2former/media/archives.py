"""Files and folders that may be in a zip archive: as if each archive were unpacked at its location.

Nothing is ever unpacked to disk. An archive opens its file once per process, so objects of this module can be pickled
and inherited by forked workers. Knows nothing of images or annotations.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

from mask2former import limits
from mask2former.documents import check_regular
from mask2former.errors import UserError
from mask2former.limits import check_limit
from mask2former.media.folders import list_folder, walk_folder
from mask2former.notes import note
from mask2former.text import printable, quoted

__all__ = ["Archive", "ArchivedFile", "File", "Folder", "find_file", "find_folder", "leads_outside", "open_folder"]

_OUTSIDE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")
# Control characters, line separators, marks that change the writing direction, and unpaired surrogates.
_UNSHOWN = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ENTRY = b"PK\1\2"  # begins an entry of the directory


class _Zip(zipfile.ZipFile):
    """A zip file whose directory is examined before it becomes objects: for a hostile one, gigabytes of them."""

    def __init__(self, path: Path) -> None:
        self._name = path
        self._stream = _Bounded(path)
        try:
            super().__init__(self._stream)
        except BaseException:
            self._stream.close()
            raise
        self._stream.name_of_archive = ""  # files are read in pieces from here on

    def close(self) -> None:
        super().close()
        self._stream.close()


class _Bounded(io.BufferedReader):
    """The file of an archive. Until it is open, whatever is read at once is at most its directory."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.name_of_archive = str(path)

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.name_of_archive:
            return super().read(size)
        subject, advice = f"the archive '{self.name_of_archive}' has", "unpack it"
        if size is not None:
            check_limit(f"{subject} too many bytes of directory:", size, limits.ARCHIVE_DIRECTORY_BYTES, advice)
        content = super().read(size)
        check_limit(f"{subject} too many files:", content.count(_ENTRY), limits.ARCHIVE_FILES, advice)
        return content


class Archive:
    """A zip file, by the names of the files in it.

    Raises:
        UserError: it is missing, damaged or not a zip file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._opened: tuple[int, _Zip] | None = None

    def __reduce__(self) -> tuple[type[Archive], tuple[Path]]:
        return Archive, (self.path,)

    def __str__(self) -> str:
        return str(self.path)

    def _zip(self) -> _Zip:
        """Opened in this process: one inherited through a fork would share its file position with the parent."""
        if self._opened is None or self._opened[0] != os.getpid():
            check_regular(self.path, "archive")
            try:
                self._opened = os.getpid(), _Zip(self.path)
            except UserError:
                raise
            except Exception as error:  # a hostile directory also raises errors other than BadZipFile
                reason = printable(str(error), 200)
                raise UserError(f"the archive '{self.path}' cannot be read: {reason}") from error
        return self._opened[1]

    @cached_property
    def names(self) -> frozenset[str]:
        """Files in it, with ``/`` between folders.

        Names that lead out of the folder that it would be unpacked to, and names that cannot be displayed or are not
        valid paths, do not belong to a data set: they are skipped, which is noted.
        """
        names = [name for name in self._zip().namelist() if not name.endswith("/")]
        kept = frozenset(name for name in names if _is_inside(name))
        if len(kept) < len(names) and (left := [name for name in names if name not in kept]):
            example = f"'{self.path}' ({len(left)}, for instance '{printable(left[0], 80)}')"
            note(
                "archives with file names that lead out of them or cannot be displayed; these files are skipped",
                example,
            )
        return kept

    @cached_property
    def leaves(self) -> dict[str, frozenset[str]]:
        """Names without folders of the files in each folder that has any."""
        found: dict[str, list[str]] = {}
        for name in self.names:
            parent, _, leaf = name.rpartition("/")
            found.setdefault(parent, []).append(leaf)
        return {parent: frozenset(leaves) for parent, leaves in found.items()}

    @property
    def is_empty(self) -> bool:
        """Whether it has no entry at all, not even a folder or a name that is skipped."""
        return not self._zip().namelist()

    @cached_property
    def folders(self) -> frozenset[str]:
        """Folders in it, including those without their own entry; ``""`` is the archive itself."""
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
            UserError: it does not exist, is damaged, encrypted or much too large, or expands suspiciously.
        """
        entry = self._entry(name)
        check_limit(
            f"'{self.path}/{name}' has too many bytes:", entry.file_size, limits.ARCHIVED_BYTES, "is it the right file?"
        )
        if entry.file_size > limits.ARCHIVED_BYTES_UNCHECKED:
            growth = entry.file_size // max(1, entry.compress_size)
            check_limit(
                f"'{self.path}/{name}' would be unpacked to {entry.file_size:,} bytes from "
                f"{entry.compress_size:,} in its archive, a growth factor of",
                growth,
                limits.ARCHIVE_GROWTH,
                "unpack it if you trust it",
            )
        try:
            return self._zip().read(entry)
        except MemoryError as error:
            raise UserError(
                f"'{self.path}/{name}', of {entry.file_size:,} bytes, does not fit into the memory of this machine"
            ) from error
        # zipfile reports damage in many ways: OSError, EOFError, RuntimeError, zlib.error, ...
        except Exception as error:
            reason = printable(str(error), 200)
            raise UserError(f"'{self.path}/{name}' cannot be read from its archive: {reason}") from error

    def num_bytes(self, name: str) -> int:
        """The size of a file as given in the directory, which reading never exceeds.

        Raises:
            UserError: it does not exist.
        """
        return self._entry(name).file_size

    def _entry(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._zip().getinfo(name)
        except KeyError as error:
            raise UserError(f"the archive '{self.path}' has no file '{printable(name, 200)}'") from error


def _is_inside(name: str) -> bool:
    """Whether a name in an archive is a displayable path below the folder that it is unpacked to."""
    if ".." in name and ".." in name.replace("\\", "/").split("/"):
        return False
    return _OUTSIDE.match(name) is None and _UNSHOWN.search(name) is None


@lru_cache(maxsize=32)
def _archive(path: Path, modified: int, size: int) -> Archive:
    return Archive(path)


def _open_archive(path: Path) -> Archive:
    """The archive at a path; the same object for every call, until the file changes."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"the archive '{path}' cannot be read: {error.strerror}") from error
    return _archive(path, status.st_mtime_ns, status.st_size)


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """A file in an archive; its methods that readers use are named as in :class:`pathlib.Path`."""

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

    @property
    def num_bytes(self) -> int:
        return self.archive.num_bytes(self.inner)

    def read_bytes(self) -> bytes:
        return self.archive.read(self.inner)


File = Path | ArchivedFile


def leads_outside(name: str, folder: str | os.PathLike[str]) -> bool:
    """Whether a name given in an annotation file leads out of the folder that it is relative to.

    Absolute names do, unless they lead into the folder, and so do names with more ``..`` than folders before them.
    Links count as their own names: whoever put them into the folder decides where they lead. Where the folder itself is
    reached through links, absolute names may use its name or its real location.
    """
    if not (".." in name or ":" in name or name.startswith(("/", "\\"))):
        return False  # most names; asking for the working directory takes longer than everything else
    top = os.path.abspath(folder)
    target = os.path.normpath(os.path.join(top, name))
    if target.startswith(os.path.join(top, "")):
        return False
    parent = os.path.join(os.path.realpath(os.path.dirname(target)), "")
    return not (os.path.isabs(name) and parent.startswith(os.path.join(os.path.realpath(top), "")))


@dataclass(frozen=True)
class Folder:
    """A folder on disk or, with an archive, the folder ``inner`` of that.

    Attributes:
        allow_outside: names may lead out of it. Otherwise the files that they lead to count as missing, and reading
            them is an error.
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
            raise UserError(f"{quoted(name)} leads out of the folder '{self}'; set allow_outside=true to read it")
        if self.archive is None:
            return self.path / name
        return ArchivedFile(self.archive, str(PurePosixPath(self.inner) / name))

    def leads_outside(self, name: str) -> bool:
        """Whether a name is refused because it leads out of the folder; see :func:`leads_outside`."""
        return not self.allow_outside and leads_outside(name, self.path)

    def exists(self, name: str) -> bool:
        """Whether a file exists; each folder is listed once, which is much faster than checking files one by one."""
        if self.leads_outside(name):
            return False
        if self.archive is not None:
            return str(PurePosixPath(self.inner) / name) in self.archive.names
        parent, leaf = os.path.split(os.path.join(self.path, name))
        # Some file systems accept other spellings of names (case, accents), so only "yes" is final.
        return leaf in self._in(parent) or os.path.isfile(os.path.join(parent, leaf))

    def beside(self, name: str) -> frozenset[str]:
        """Names without folders of what is in the folder of a file, which need not exist; each folder is listed once.

        Of archives, files only.
        """
        if self.leads_outside(name):
            return frozenset()
        if self.archive is not None:
            return self.archive.leaves.get(str(PurePosixPath(self.inner) / name).rpartition("/")[0], frozenset())
        return self._in(os.path.dirname(os.path.join(self.path, name)))

    def _in(self, parent: str) -> frozenset[str]:
        if parent not in self._listed:
            try:
                self._listed[parent] = frozenset(os.listdir(parent))
            except (OSError, ValueError):  # ValueError: characters that no file name can have
                self._listed[parent] = frozenset()
        return self._listed[parent]

    def names(self, suffixes: Sequence[str]) -> list[str]:
        """Files below it at any depth with these suffixes, sorted, with ``/`` between folders; no hidden ones."""
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
        # The real path of each folder, after those that lead to it from the top.
        real: dict[str, tuple[str, ...]] = {str(self.path): (os.path.realpath(self.path),)}
        through_links = 0
        for parent, folders, leaves in walk_folder(self.path, follow_links=True):
            above, inner = real.pop(parent), []
            for name in folders:
                target = os.path.join(above[-1], name)
                if os.path.islink(target):
                    target = os.path.realpath(target)
                    if target in above:  # it leads back
                        continue
                    # Links to folders of links multiply: thirty folders with two each yield a thousand million paths.
                    through_links += 1
                    what, advice = f"'{self.path}' has too many links to folders:", "name the intended folders directly"
                    check_limit(what, through_links, limits.LINKED_FOLDERS, advice)
                real[os.path.join(parent, name)] = (*above, target)
                inner.append(name)
            folders[:] = inner
            below = os.path.relpath(parent, self.path).replace(os.sep, "/")
            yield from (leaf if below == "." else f"{below}/{leaf}" for leaf in leaves)


def _archives_beside(path: Path, root: Path | None) -> Iterator[tuple[Archive, str]]:
    """Archives that may contain a path, nearest first, with its name in them."""
    for parent in path.parents:
        inner = path.relative_to(parent).as_posix()
        if parent.suffix.lower() == ".zip" and parent.is_file():
            yield _open_archive(parent), inner
        elif parent.is_dir():
            zips = [file for file in list_folder(parent, skip_unreadable=True) if file.name.endswith(".zip")]
            zips.sort(key=lambda file: (not file.stem.startswith(path.stem), file.name))
            yield from ((_open_archive(file), inner) for file in zips if file.is_file())
        if parent == root or (root is None and parent.exists()):
            return


def find_folder(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Folder | None:
    """The folder, even if it is in an archive that would create it when unpacked at its location.

    Args:
        path: of the folder; ``photos.zip`` and ``photos.zip/train`` are folders in an archive.
        root: archives are looked for in the folders from ``path`` up to this one; None: in the nearest one only.
    """
    given = Path(path)
    if given.is_dir():
        return Folder(given)
    if given.suffix.lower() == ".zip" and given.is_file():
        archive = _open_archive(given)
        tops = {name.split("/", 1)[0] for name in archive.names if not name.startswith(("__MACOSX/", "."))}
        only = tops.pop() if len(tops) == 1 else ""
        return Folder(given, archive, only if only in archive.folders else "")
    for archive, inner in _archives_beside(given, None if root is None else Path(root)):
        if inner in archive.folders:
            return Folder(given, archive, inner)
    return None


def find_file(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> File | None:
    """The file, even if it is in an archive; see :func:`find_folder`."""
    given = Path(path)
    if given.is_file():
        return given
    for archive, inner in _archives_beside(given, None if root is None else Path(root)):
        if inner in archive.names:
            return ArchivedFile(archive, inner)
    return None


def open_folder(
    path: str | os.PathLike[str] | Folder, what: str = "image folder", *, allow_outside: bool = False
) -> Folder:
    """The folder at a path; names in it may lead out of it only with ``allow_outside``.

    Raises:
        UserError: the folder does not exist, and no archive would create it.
    """
    found = path if isinstance(path, Folder) else find_folder(path)
    if found is None:
        raise UserError(f"there is no {what} '{path}'; check the path")
    return replace(found, allow_outside=True) if allow_outside else found
