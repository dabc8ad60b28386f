"""The content of folders without silent omissions: a folder that cannot be read is refused, or noted.

``Path.glob``, ``Path.rglob`` and ``os.walk`` silently pass over such folders, so that half a data set is mistaken for
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
        folder: must exist.
        skip_unreadable: note a folder that cannot be read, and return nothing.

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
    """A folder and the folders below it, as from ``os.walk``: the path, the names of folders and of files.

    Hidden folders are not entered. The caller may remove further names from the list of folders.

    Args:
        folder: where to start.
        follow_links: enter links to folders; the caller must exclude those that lead back.
        skip_unreadable: note folders that cannot be read, and continue.

    Raises:
        UserError: one of the folders cannot be read.
    """
    tell = _note if skip_unreadable else _refuse
    for parent, folders, leaves in os.walk(folder, onerror=tell, followlinks=follow_links):
        folders[:] = [name for name in folders if not is_passed_over(name)]
        yield parent, folders, leaves


def is_passed_over(name: str) -> bool:
    """Whether a folder contains no data, judging by its name: hidden ones, and what file systems keep at their top."""
    return name.startswith(".") or name == "lost+found"


def _note(error: OSError) -> None:
    note("folders that cannot be read", f"'{error.filename}' ({error.strerror})")


def _refuse(error: OSError) -> None:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        raise UserError(f"there is no folder '{error.filename}'; check the path") from error
    raise UserError(
        f"the folder '{error.filename}' cannot be read ({error.strerror}), so files in it would be missed; make it "
        "readable, or move it elsewhere"
    ) from error


def data_root(root: str | None) -> Path:
    """``root``, else the environment variable ``MASK2FORMER_DATA`` or ``DETECTRON2_DATASETS``, else ``datasets``."""
    given = root or next((value for name in _VARIABLES if (value := os.environ.get(name))), "datasets")
    return Path(given).expanduser()
