"""Label maps beside pictures, anybody's: two trees of folders and a file with the names of the classes.

A label map is a PNG (or TIFF, BMP) whose pixels are class numbers; that of ``a/X.jpg`` is ``a/X.png``. Every number is
a class of the names file or is declared as ignored; any other is an error, so nothing is lost unseen.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from jaxtyping import Int32

from mask2former.config import Task
from mask2former.data.annotated import Annotated
from mask2former.data.archives import File, Folder, open_folder
from mask2former.data.datasets.annotation_files import some
from mask2former.data.datasets.reader import Reader, annotated_labels
from mask2former.data.images import IMAGE_SUFFIXES, note_passed_over
from mask2former.data.label_maps import read_label_map, remap, runs_of
from mask2former.errors import RequestError
from mask2former.structures.categories import Categories
from mask2former.structures.truths import Truth

__all__ = ["LabelFolder", "read_names"]

_LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
_LARGEST = 65535

Location = str | os.PathLike[str]


def read_names(path: Location) -> Categories:
    """The classes of a names file, in its order; the id of a class is its number on the label maps.

    Text (``.txt``): a name per line, numbered from 0. JSON and YAML: a list of names, a mapping of number to name, or a
    list of mappings with ``id``, ``name`` and perhaps ``color``. CSV: two columns, number and name, or columns called
    ``id`` and ``name``.

    Raises:
        RequestError: the file is missing, in no such form, or gives a number or a name twice.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"the names file '{file}' cannot be read: {error}") from error
    try:
        entries = _entries(text, file.suffix.lower())
        numbers = [entry["id"] for entry in entries]
        if any(isinstance(value, bool) or not 0 <= value <= _LARGEST for value in numbers):
            raise ValueError(f"class numbers must be 0 to {_LARGEST}")
        names = [entry["name"] for entry in entries]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"names must be unique, {some(sorted(twice))} are not")
        ignore = 255 if len(entries) <= 255 else _LARGEST
        return Categories.from_dict({"categories": entries, "ignore_label": ignore})
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise RequestError(
            f"'{file}' is no list of class names: {error}; expected a name per line (.txt), or number and name "
            "(.json, .yaml, .csv)"
        ) from error


def _entries(text: str, suffix: str) -> list[dict[str, Any]]:
    """Mappings with ``id`` and ``name``."""
    import yaml

    if suffix == ".csv":
        return _from_csv(text)
    if suffix in (".json", ".yaml", ".yml"):
        try:
            content = json.loads(text) if suffix == ".json" else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"it is not YAML: {error}") from error
        if isinstance(content, Mapping) and isinstance(content.get("names"), (Mapping, list)):
            content = content["names"]
        if isinstance(content, Mapping):
            pairs = [(int(number), name) for number, name in content.items()]
        elif isinstance(content, list) and content and all(isinstance(entry, Mapping) for entry in content):
            return [{**entry, "id": int(entry["id"]), "name": _name(entry["name"]), "isthing": 0} for entry in content]
        elif isinstance(content, list):
            pairs = list(enumerate(content))
        else:
            raise ValueError(f"it holds {type(content).__name__}")
    else:
        pairs = list(enumerate(line.strip() for line in text.rstrip().splitlines()))
    return [{"id": number, "name": _name(name), "isthing": 0} for number, name in pairs]


def _name(value: Any) -> str:
    if isinstance(value, bool):
        raise ValueError("YAML reads yes, no, on and off as true and false; put such names in quotes")
    if not isinstance(value, (str, int, float)) or not str(value).strip():
        raise ValueError(f"{value!r} is no name")
    return str(value).strip()


def _from_csv(text: str) -> list[dict[str, Any]]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if any(row)]
    if not rows:
        raise ValueError("it is empty")
    header = [cell.lower() for cell in rows[0]]
    columns = 0, 1
    if not rows[0][0].lstrip("-").isdigit():
        if "id" not in header or "name" not in header:
            raise ValueError(f"its columns are {rows[0]}, not 'id' and 'name'")
        columns, rows = (header.index("id"), header.index("name")), rows[1:]
    if any(len(row) <= max(columns) for row in rows):
        raise ValueError("a row has too few columns")
    return [{"id": int(row[columns[0]]), "name": _name(row[columns[1]]), "isthing": 0} for row in rows]


class LabelFolder(Reader):
    """Pictures with label maps, sorted by path; ``Sample.name`` is the path below the picture folder.

    Args:
        sources: pairs of picture folder and folder of label maps.
        categories: the classes, see :func:`read_names`.
        class_of: class indices of the numbers on the maps; None: these are the ids of the classes.
        ignore: numbers that are neither learned nor measured.
        label_suffix: what the names of label maps have before their ending, for instance ``_mask`` in ``X_mask.png``.
        unpaired: what to do about pictures without a label map, and the other way round.

    Attributes:
        notes: sentences about what was left out.

    Raises:
        RequestError: no such folders, nothing in them that belongs together, or a number that is a class and ignored.
    """

    tasks: tuple[Task, ...] = ("semantic",)

    def __init__(
        self,
        sources: Sequence[tuple[Location | Folder, Location | Folder]],
        categories: Categories,
        *,
        class_of: Mapping[int, int] | None = None,
        ignore: Sequence[int] = (255,),
        label_suffix: str = "",
        unpaired: Literal["error", "skip"] = "error",
    ) -> None:
        self.categories = categories
        self.notes: list[str] = []
        numbers = categories.index_of_id() if class_of is None else dict(class_of)
        if both := sorted(set(ignore) & set(numbers)):
            names = [categories[numbers[number]].name for number in both]
            raise RequestError(
                f"the label numbers {both} are classes ({', '.join(names)}) and ignored; take them out of one of both"
            )
        self._class_of = {**numbers, **dict.fromkeys(ignore, categories.ignore_label)}
        self._pairs: list[tuple[Folder, str, Folder, str]] = []
        for images, labels in sources:
            self._add(open_folder(images), open_folder(labels, "folder of label maps"), label_suffix, unpaired)

    def _add(self, images: Folder, labels: Folder, label_suffix: str, unpaired: Literal["error", "skip"]) -> None:
        note_passed_over(images)
        maps = _by_stem(labels, _LABEL_SUFFIXES, label_suffix)
        # X.jpg and X.png, or X_mask.png, may lie side by side.
        pictures = _by_stem(images, IMAGE_SUFFIXES, "", set(maps.values()) if str(images) == str(labels) else ())
        common = [stem for stem in pictures if stem in maps]
        if not common:
            found = [next(iter(names.values()), "nothing") for names in (pictures, maps)]
            raise RequestError(
                f"no picture of '{images}' (such as {found[0]}) has a label map in '{labels}' (such as {found[1]}); "
                "they must have one name but for the ending, or set label_suffix"
            )
        for place, names, others, what in (
            (images, pictures, maps, "pictures without a label map"),
            (labels, maps, pictures, "label maps without a picture"),
        ):
            if alone := [name for stem, name in names.items() if stem not in others]:
                if unpaired == "error":
                    raise RequestError(f"'{place}' has {what}: {some(alone)}; leave them out with unpaired=skip")
                self.notes.append(f"'{place}': left out {what}: {some(alone)}")
        self._pairs.extend((images, pictures[stem], labels, maps[stem]) for stem in common)

    def __len__(self) -> int:
        return len(self._pairs)

    def file(self, index: int) -> File:
        images, name, _, _ = self._pairs[index]
        return images / name

    def label_file(self, index: int) -> File:
        """Where the label map is."""
        _, _, labels, name = self._pairs[index]
        return labels / name

    def image_id(self, index: int) -> str:
        """The path below the picture folder, without the ending."""
        return str(PurePosixPath(self._pairs[index][1]).with_suffix(""))

    def annotated(self, index: int, *, with_ignored: bool = False) -> Annotated:
        classes = self._classes(index)
        image = self.image(index)
        self.check_size(index, classes.shape, image.shape[:2])
        name, image_id = self._pairs[index][1], self.image_id(index)
        return annotated_labels(image, classes, len(self.categories), name, image_id, with_ignored=with_ignored)

    def truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, Truth]:
        classes = self._classes(index)
        self.check_size(index, classes.shape)
        return {task: classes for task in tasks if task in self.tasks}

    def _classes(self, index: int) -> Int32[np.ndarray, "H W"]:
        """Class indices, and the ignore label of the categories.

        Raises:
            RequestError: the file is broken, or has numbers that are neither a class nor ignored.
        """
        file = self.label_file(index)
        numbers = read_label_map(file)
        if unknown := sorted(set(np.unique(runs_of(numbers)[0]).tolist()) - self._class_of.keys()):
            raise RequestError(
                f"'{file}' has the numbers {some(unknown)}, which are no classes; name them in the names file, or "
                "ignore them (dataset.ignore)"
            )
        return remap(numbers, self._class_of, self.categories.ignore_label)


def _by_stem(folder: Folder, suffixes: Sequence[str], ending: str, without: Collection[str] = ()) -> dict[str, str]:
    """Files by path without suffix and ``ending``.

    Raises:
        RequestError: two files of one stem.
    """
    found: dict[str, str] = {}
    for name in folder.names(suffixes):
        stem = str(PurePosixPath(name).with_suffix(""))
        if name in without or not stem.endswith(ending):
            continue
        stem = stem.removesuffix(ending)
        if stem in found:
            raise RequestError(f"'{folder}' has '{found[stem]}' and '{name}'; which of them is meant is not clear")
        found[stem] = name
    return found
