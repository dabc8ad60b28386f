"""Where the parts of a data set are, as users name them and as folders are called: shared by all formats."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mask2former.config import DataConfig, DatasetConfig, parse
from mask2former.errors import OptionError
from mask2former.media.folders import list_folder
from mask2former.text import listed

__all__ = [
    "IMAGE_FOLDERS",
    "NO_VALIDATION",
    "VALIDATION",
    "DataPaths",
    "held_out",
    "near",
    "others",
    "parsed",
    "refuse_paths",
]

IMAGE_FOLDERS = ("images", "imgs", "image", "img", "JPEGImages")
VALIDATION = ("val", "valid", "validation")
NO_VALIDATION = (
    "there is no validation data, so the training data is used instead and the metrics do not show how the model "
    "does on other images; give validation data (--validation, in Python DataPaths.validation)"
)


@dataclass(frozen=True, slots=True)
class DataPaths:
    """Locations that cannot be found from a path; None for those that can.

    Attributes:
        images: image folder.
        labels: folder of the label maps or panoptic PNGs.
        names: file with the names of the classes.
        validation: the validation data, of the same form as the path.
    """

    images: Path | None = None
    labels: Path | None = None
    names: Path | None = None
    validation: Path | None = None

    def given(self) -> set[str]:
        """The names of those that are not None."""
        return {field.name for field in fields(self) if getattr(self, field.name) is not None}


def refuse_paths(paths: DataPaths, source: str) -> None:
    """Refuse parts that were given for data that name all of their own parts.

    Raises:
        OptionError: some were given.
    """
    if given := paths.given():
        first = min(given)
        raise OptionError(
            lambda name: (
                f"{name(first)} is for data whose parts cannot be found from their path, but {source} names its own; "
                f"leave out {name(first)}, or change what it names"
            )
        )


def parsed(values: dict[str, Any], path: Path) -> DatasetConfig:
    """The configuration of a data set; an empty ``validation`` means the training data."""
    values = {**values, "validation": values.get("validation") or values["train"]}
    return parse(DataConfig, {"dataset": values}, str(path)).dataset


def others(path: Path) -> Iterator[Path]:
    """The validation path for a path that contains ``train`` or ``training``: in its name, or in a folder."""
    for pattern in (r"training", r"train"):
        for index in range(len(path.parts) - 1, -1, -1):
            part = path.parts[index]
            for other in VALIDATION:
                renamed = re.sub(pattern, other, part)
                if renamed != part:
                    yield Path(*path.parts[:index], renamed, *path.parts[index + 1 :])


def held_out(path: Path, suffixes: Sequence[str] = (), *, folders: bool = False) -> tuple[Path | None, list[str]]:
    """The validation data for training data with this path, and what to say where there is none.

    It has the path with ``val`` in place of ``train``; or it is the only file in that folder, whatever its name.

    Args:
        path: of the training data, a file or a folder.
        suffixes: of files of its format; empty: those with its own suffix.
        folders: whether a folder of several files is data as well; otherwise such a folder is noted.
    """
    is_same = Path.is_dir if path.is_dir() else Path.is_file
    if (found := next(filter(is_same, others(path)), None)) is not None or not path.is_file():
        return found, [] if found is not None else [NO_VALIDATION]
    for folder in filter(Path.is_dir, others(path.parent)):
        endings = tuple(suffixes or [path.suffix.lower()])
        entries = [entry for entry in list_folder(folder, skip_unreadable=True) if not entry.name.startswith(".")]
        files = [entry for entry in entries if entry.name.lower().endswith(endings)]
        if files and (folders or len(files) == 1):
            return (files[0] if len(files) == 1 else folder), []
        if files:
            names = listed([file.name for file in files], 5)
            note = f"'{folder}' is not used: it contains {len(files)} files ({names}), any of which may be the "
            return None, [f"{note}validation data", NO_VALIDATION]
    return None, [NO_VALIDATION]


def near(folder: Path | None) -> list[Path]:
    """Where validation files may be if a folder was given for the training files: beside it, or in it."""
    if folder is None:
        return []
    return [*[other for other in others(folder) if other.is_dir()][:1], folder]
