"""What lies in a folder, where nothing is left out without a word: one that cannot be read is refused, or noted.

``Path.glob``, ``Path.rglob`` and ``os.walk`` pass over such folders in silence, and half a data set is then taken for
all of it. Knows nothing of archives or images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mask2former.errors import UserError
from mask2former.notes import note

__all__ = ["data_root", "is_passed_over", "list_folder", "walk_folder"]

_VARIABLES = ("MASK2FORMER_DATA", "DETECTRON2_DATASETS")


def list_folder(folder: Path, *, skip_unreadable: bool = False) -> list[Path]:
    """What is in a folder, sorted.

    Args:
        folder: there must be one.
        skip_unreadable: note a folder that cannot be read, and list nothing.

    Raises:
        UserError: it is missing or cannot be read.
    """
    try:
        return sorted(Path(entry) for entry in os.scandir(folder))
    except OSError as error:
        (_note if skip_unreadable else _refuse)(error)
        return []


def walk_folder(
    folder: Path, *, follow_links: bool = False, skip_unreadable: bool = False
) -> Iterator[tuple[str, list[str], list[str]]]:
    """A folder and the folders below it, as ``os.walk`` tells them: the path, the names of folders and of files.

    Hidden folders are not entered. The caller may take more names out of the list of folders.

    Args:
        folder: where to start.
        follow_links: enter links to folders; who asks for this leaves out those that lead back.
        skip_unreadable: note folders that cannot be read, and go on.

    Raises:
        UserError: one of the folders cannot be read.
    """
    tell = _note if skip_unreadable else _refuse
    for parent, folders, leaves in os.walk(folder, onerror=tell, followlinks=follow_links):
        folders[:] = [name for name in folders if not is_passed_over(name)]
        yield parent, folders, leaves


def is_passed_over(name: str) -> bool:
    """Whether a folder holds no data by its name: hidden ones, and what file systems keep at their top."""
    return name.startswith(".") or name == "lost+found"


def _note(error: OSError) -> None:
    note("folders that cannot be read", f"'{error.filename}' ({error.strerror})")


def _refuse(error: OSError) -> None:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        raise UserError(f"there is no folder '{error.filename}'; check the path") from error
    raise UserError(
        f"the folder '{error.filename}' cannot be read ({error.strerror}), so that files would be left out; make it "
        "readable, or move it elsewhere"
    ) from error


def data_root(root: str | None) -> Path:
    """``root``, else what the environment names (``MASK2FORMER_DATA``, ``DETECTRON2_DATASETS``), else ``datasets``."""
    given = root or next((value for name in _VARIABLES if (value := os.environ.get(name))), "datasets")
    return Path(given).expanduser()
