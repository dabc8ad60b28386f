"""What the readers of JSON annotation files share: reading, class lists, and naming what is wrong. Knows no pixels."""

from __future__ import annotations

import math
import mmap
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int64

from mask2former import limits
from mask2former.data.faults import fault
from mask2former.documents import check_regular, parse_json, read_bytes, read_text
from mask2former.errors import UserError
from mask2former.media.archives import File, find_file
from mask2former.structures.categories import Categories, check_count
from mask2former.text import listed, quoted, shown

Location = str | os.PathLike[str]
"""Where a file or folder is."""

__all__ = [
    "Location",
    "categories_in",
    "check_unique",
    "entry_id",
    "flag",
    "found_file",
    "groups_in",
    "ids_of",
    "is_encodable",
    "is_name",
    "mentions",
    "number",
    "polygons_of",
    "read_annotations",
    "read_lines",
    "repeated",
    "rows_with",
    "same_categories",
    "sides",
    "some",
    "stated_sides",
    "stuff_remark",
    "tell_unlisted",
]

Value = TypeVar("Value", bound=Hashable)

_NAMED = 5  # how many offenders a message lists
_NUMBERS = frozenset((int, float))
_FLAGS = {"0": False, "1": True, "false": False, "true": True}


def found_file(path: str | os.PathLike[str] | File) -> File:
    """A path as a file, which may be in an archive; a missing file is reported when it is read."""
    return (find_file(path) or Path(path)) if isinstance(path, str | os.PathLike) else path


def read_annotations(file: File, keys: Sequence[str], form: str) -> dict[str, Any]:
    """The object in a JSON file that has these lists of objects.

    Raises:
        UserError: no such file, no JSON, or something else in it.
    """
    text = read_bytes(file, "annotation file", limits.JSON_BYTES)
    # Of keys that are there twice JSON keeps the last, and a list with it. Looking at each object costs time.
    twice = any(text.count(f'"{key}"'.encode()) > 1 for key in keys)
    content = parse_json(text, f"the annotation file '{file}'", without_repeats(file) if twice else None)
    del text
    if not isinstance(content, dict) or any(not isinstance(content.get(key), list) for key in keys):
        raise UserError(f"'{file}' is not in {form} format: expected an object with the lists {tuple(keys)}")
    for key in keys:
        for index, entry in enumerate(content[key]):
            if not isinstance(entry, dict):
                raise UserError(f"'{file}': {key}[{index}] is {quoted(entry, 60)}; expected an object")
    return content


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a list of names, without blanks around them and without empty lines; ``what`` it is, for errors."""
    return [line.strip() for line in read_text(path, what).splitlines() if line.strip()]


def mentions(path: str | os.PathLike[str], *words: str) -> bool:
    """Whether all words are somewhere in a file. It is searched, not parsed, and may be of any size."""
    try:
        check_regular(Path(path), "annotation file")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(word.encode()) >= 0 for word in words)
    except (OSError, ValueError):  # readers say what is wrong with it
        return False


def without_repeats(file: File) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """What refuses an object of JSON with a key that occurs twice, for :func:`~mask2former.documents.parse_json`."""

    def of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice, *_ = repeated(key for key, _ in pairs)
            raise UserError(
                f"'{file}' has the key {quoted(twice)} twice in one object, of which only one would be read; remove one"
            )
        return found

    return of


def categories_in(content: dict[str, Any], file: File) -> Categories:
    """The class list of a file, in its order.

    Raises:
        UserError: entries without a whole number as id or a name, or with an ``isthing`` that is neither 0 nor 1.
    """
    try:
        check_count(len(content["categories"]))
        return Categories.from_dict({"categories": [_category(entry) for entry in content["categories"]]})
    except UserError as error:
        raise UserError(f"'{file}': {error}") from error


def _category(entry: dict[str, Any]) -> dict[str, Any]:
    if isinstance(entry.get("id"), bool) or not isinstance(entry.get("id"), int) or entry_id(entry["id"]) is None:
        raise UserError(f"category {quoted(entry)} has no whole number as its 'id'")
    if "name" in entry:
        name = entry["name"]
        if not is_name(name):
            raise UserError(f"category {entry['id']} has {quoted(name, 40)} as its name; expected text")
    if entry.get("isthing") is None:
        return {key: value for key, value in entry.items() if key != "isthing"}
    thing = flag(entry["isthing"])
    if thing is None:
        raise UserError(f"category {entry['id']} has {quoted(entry['isthing'], 40)} as 'isthing'; expected 0 or 1")
    return {**entry, "isthing": int(thing)}


def is_name(value: Any) -> bool:
    """Whether a value can be the name of a class: text, or a number that a tool did not quote."""
    if isinstance(value, str):
        return bool(value.strip())
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))


def stuff_remark(stuff: Sequence[str], file: object) -> str:
    """What a user should know about classes with ``isthing`` 0 where objects are annotated."""
    return (
        f"'{file}': categories {some(stuff)} have 'isthing' 0: their objects are learned, but instances of stuff are "
        "neither predicted nor measured; set it to 1, or remove it"
    )


def same_categories(expected: Categories, got: Categories, first: object, file: object) -> None:
    """Refuse files of one data set with different classes.

    Raises:
        UserError: they differ in an id or a name.
    """
    wanted, given = ({item.id: item.name for item in categories} for categories in (expected, got))
    differing = [number for number in wanted.keys() | given.keys() if wanted.get(number) != given.get(number)]
    if differing:
        number = min(differing)
        one, other = (quoted(names.get(number, "absent")) for names in (wanted, given))
        raise UserError(
            f"'{first}' and '{file}' have different categories: id {number} is {one} in the first and {other} in the "
            "second; files of one data set must agree"
        )


def repeated(values: Iterable[Value]) -> list[Value]:
    """Those that occur more than once, in the order of their first occurrence."""
    return [value for value, count in Counter(values).items() if count > 1]


def check_unique(ids: Iterable[Any], kind: str, file: File, of: str = "") -> None:
    """Refuse ids of a kind of entries that occur twice, or that are neither numbers nor text.

    ``of`` is what the entries belong to, if not to the file as a whole.
    """
    of = of and f" of {of}"
    try:
        twice = repeated(ids)
    except TypeError as error:
        raise UserError(f"'{file}': the id of one {kind}{of} is neither a number nor text") from error
    if twice:
        fault(f"'{file}': {kind} ids{of} must be unique; given more than once: {some(twice)}", len(twice))


def entry_id(value: Any) -> int | str | None:
    """The id of an image, a video or an object, including one that a tool wrote as 7.0; None for anything else.

    Ids become part of results and their file names, so it is also None for text that is not valid UTF-8 or is longer
    than any real id.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str):
        return value if len(value) <= limits.ID_CHARACTERS and is_encodable(value) else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if value.bit_length() <= limits.ID_BITS else None


def is_encodable(text: str) -> bool:
    """Whether text can be written as UTF-8; JSON can spell halves of characters, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def number(value: Any) -> float | None:
    """A number of JSON, or None for anything else (also for true and false, and beyond floating-point numbers)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def flag(value: Any) -> bool | None:
    """A yes or no in JSON (``iscrowd``, ``isthing``): 0, 1, true or false, also as text; no if the value is absent.

    None for anything else: Python treats any other text as true, including "no".
    """
    if value is None:
        return False
    if isinstance(value, str):
        return _FLAGS.get(value.strip().lower())
    return bool(value) if isinstance(value, (int, float)) and value in (0, 1) else None


def polygons_of(segmentation: list[Any]) -> tuple[list[list[float]], bool]:
    """The polygons of a segmentation as x, y, x, y, ..., and whether some were lists of pairs [x, y].

    A single polygon need not be in a list.

    Raises:
        UserError: something else, or coordinates that are NaN or farther away than any pixel.
    """
    polygons, in_pairs = segmentation, False
    if type(polygons[0]) in _NUMBERS or (len(polygons) > 2 and all(map(_is_pair, polygons))):
        polygons = [polygons]
    found = []
    for polygon in polygons:
        if isinstance(polygon, list) and polygon and all(map(_is_pair, polygon)):
            polygon, in_pairs = [value for pair in polygon for value in pair], True
        if not isinstance(polygon, list):
            raise UserError(f"expected pixels x, y, x, y, ... for each polygon, got {quoted(polygon, 60)}")
        if not _NUMBERS.issuperset(map(type, polygon)):
            other = next(value for value in polygon if type(value) not in _NUMBERS)
            raise UserError(f"expected pixels x, y, x, y, ... for each polygon, got {quoted(other, 60)} among them")
        if len(polygon) % 2:
            raise UserError(f"expected pixels x, y, x, y, ... for each polygon, got {len(polygon)} numbers")
        if not math.isfinite(sum(polygon)) or max(map(abs, polygon), default=0) > limits.CORNER:
            raise UserError(
                f"expected pixels x, y, x, y, ... for each polygon, got {max(polygon, key=_oddness):.6g} among them"
            )
        found.append(polygon)
    return found, in_pairs


def _oddness(value: float) -> float:
    """How far a number is from being a coordinate."""
    return abs(value) if math.isfinite(value) else math.inf


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and type(value[0]) in _NUMBERS and type(value[1]) in _NUMBERS


def ids_of(entry: Mapping[str, Any], key: str, name: Any, file: File) -> tuple[int | str, Any] | None:
    """The ids of the image or video of an annotation, which is under ``key``, and of its category.

    None, after reporting it, where one of them is missing.
    """
    owner, category = entry_id(entry.get(key)), entry_id(entry.get("category_id"))
    if owner is not None and category is not None:
        return owner, category
    fault(
        f"'{file}': annotation {shown(name)} needs {'an' if key == 'image_id' else 'a'} '{key}' and a 'category_id', "
        f"whole numbers or text; got {quoted(entry.get(key), 40)} and {quoted(entry.get('category_id'), 40)}"
    )
    return None


def tell_unlisted(names: Sequence[Any], key: str, file: File) -> None:
    """Refuse annotations whose image, video or category is not in the list ``key`` of their file."""
    if names:
        fault(
            f"'{file}': the {key} of annotations {some(names)} are not listed in '{key}'; ids must match exactly, and "
            "text does not match a number",
            len(names),
        )


def stated_sides(entry: Mapping[str, Any], what: str, file: File) -> tuple[int, int] | None:
    """As :func:`sides`, but anything else is reported; ``what`` is the image."""
    size = sides(entry)
    if size is None:
        fault(f"'{file}': 'height' and 'width' of {what} are not positive whole numbers, or are too large")
    return size


def rows_with(counts: Int64[np.ndarray, " I"], source: object, *, filter_empty: bool) -> Int64[np.ndarray, " R"]:
    """Which images are used: all of them or, with ``filter_empty``, those with objects.

    Raises:
        UserError: there are none.
    """
    rows = np.flatnonzero(counts > 0) if filter_empty else np.arange(len(counts))
    if not len(rows):
        raise UserError(f"'{source}' has no images{' with objects; set filter_empty: false' if filter_empty else ''}")
    return rows


def sides(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """``height`` and ``width`` of an image, 0 where the file does not say; None for anything but sizes of images."""
    values = [number(entry.get(key, 0)) for key in ("height", "width")]
    if any(value is None or not 0 <= value <= limits.SIDE or value % 1 for value in values):
        return None
    height, width = int(values[0] or 0), int(values[1] or 0)
    return (height, width) if height * width <= limits.IMAGE_PIXELS else None


def some(offenders: Sequence[Any]) -> str:
    """``3 (a, b, c)``: the count and the first few."""
    return f"{len(offenders)} ({listed(offenders, _NAMED)})"


def groups_in(file: File, key: str) -> dict[int | str, str]:
    """The values of the images of an annotation file under ``key``, by image id: the modality, the site, the camera.

    Raises:
        UserError: as :func:`read_annotations`, or an image has no such key.
    """
    images = read_annotations(file, ["images"], "COCO")["images"]
    ids = [entry_id(entry.get("id")) for entry in images]
    check_unique(ids, "image", file)
    if None in ids:
        raise UserError(f"'{file}': an image has an id that is neither a number nor text")
    without = [entry for entry in images if not isinstance(entry.get(key), str | int | float)]
    if without:
        names = sorted({name for entry in images for name in entry} - {"id", "file_name", "height", "width", key})
        raise UserError(
            f"'{file}': {len(without)} of {len(images)} images have no name or number under '{key}'; their other "
            f"keys: {listed(names, 20) or 'none'}"
        )
    return {number: str(entry[key]) for number, entry in zip(ids, images, strict=True) if number is not None}
