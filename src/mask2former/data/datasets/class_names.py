"""Names files: the classes of label maps and their numbers on the maps, in the forms in which people write them.

A class that is lost or shifted here would be learned wrongly without any sign of it, so whatever could be read in two
ways is refused, with advice on how to write it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mask2former import limits
from mask2former.data.datasets.annotation_files import repeated, some
from mask2former.data.label_maps import ColorTable
from mask2former.documents import parse_csv, parse_json, parse_yaml, read_text
from mask2former.errors import UserError
from mask2former.structures.categories import Categories, color_of
from mask2former.text import printable, quoted

__all__ = ["read_color_table", "read_names"]

_LARGEST = 65535
_NUMBERED = re.compile(r"(\d+)(?:\s*[:=,;]\s*|[.)]?\s+)(\S.*)")
# Only the first of several spaces is examined: examining each of a thousand would take a million steps.
_NUMBERED_BEHIND = re.compile(r"(\S.*?)(?<=\S)(\s*[:=,;]\s*|\s+)(\d+)")
_BULLET = re.compile(r"[-*+\u2022]\s+(?=\S)")
_OTHER_COMMENT = re.compile(r"//|/\*|;|%|--|\[|\{|<!")  # of other languages, or the start of other formats
_BEHIND = re.compile(r"\s(#(?!\d)|//)")
# CVAT's labelmap.txt: name:color_rgb:parts:actions
_COLOURED = re.compile(r"([^:]+):((?:\d+,\d+,\d+)?):([^:]*):([^:]*)")
_COLOUR_BEFORE = re.compile(r"(\d{1,3})\s+(\d{1,3})\s+(\d{1,3})\s+(\S.*)")  # CamVid's label_colors.txt
_HEADING = re.compile(
    r"\W*((id|index|number)\W+)?(class|label|categor|name)(y|es|s|ies)?([_ ]?names?)?(\W+(id|index|number))?\W*",
    re.IGNORECASE,
)
_RGB = (("r", "g", "b"), ("red", "green", "blue"))  # columns of CSV
_PACKAGED = ("pascal_voc",)
_LISTS = ("names", "classes", "categories", "labels", "id2label")


def read_color_table(path: str | os.PathLike[str]) -> ColorTable:
    """Class numbers by the colours that a names file gives the classes, for label maps that are drawn in these colours.

    Raises:
        UserError: as :func:`read_names`; a class has no colour, or two share one.
    """
    if _packaged(path) is not None:
        classes = read_names(path, by_color=True)
        return ColorTable({item.color: item.id for item in classes}, os.fspath(path))
    entries = _read_entries(Path(path), [])
    if without := [entry["name"] for entry in entries if entry.get("color") is None]:
        raise UserError(
            f"'{path}' gives no colour for the classes {some(without)}, but the label maps are read by colour; use, "
            "for instance, CSV with the columns name, r, g, b"
        )
    numbers: dict[tuple[int, int, int], int] = {}
    for category in _categories(entries, Path(path), by_color=True):
        if numbers.setdefault(category.color, category.id) != category.id:
            raise UserError(
                f"'{path}' gives the colour {quoted(category.color)} to two classes; give each class a different one"
            )
    return ColorTable(numbers, os.fspath(path))


def _packaged(path: str | os.PathLike[str]) -> str | None:
    return name if (name := os.fspath(path)) in _PACKAGED and not os.path.exists(name) else None


def read_names(path: str | os.PathLike[str], notes: list[str] | None = None, *, by_color: bool = False) -> Categories:
    """The classes of a names file, in file order; the id of a class is its number on the label maps.

    Text (``.txt``): one name per line, numbered from 0, or number and name on every line (``0 road`` or ``road: 0``);
    lines that begin with ``#`` are comments; ``labelmap.txt`` of CVAT. JSON and YAML: a list of names, a mapping of
    number to name (or the reverse), or a list of mappings with ``id``, ``name`` and optionally ``color``. CSV: two
    columns, number and name, or columns named ``id`` and ``name``, and optionally ``r``, ``g`` and ``b``. Text may also
    have colour and name on every line (``64 128 64 Animal``, as CamVid).

    Args:
        path: the file; or ``pascal_voc``, the 21 classes of VOC, where 0 is the background.
        notes: receives a sentence about what was skipped.
        by_color: the label maps are drawn in colours, so classes without numbers are counted from 0.

    Raises:
        UserError: the file is missing, has none of these forms, gives a number or a name twice, or can be read in two
            ways.
    """
    if (table := _packaged(path)) is not None:
        return Categories.load(table)
    file = Path(path)
    skipped: list[str] = []
    categories = _categories(_read_entries(file, skipped), file, by_color=by_color)
    if skipped and notes is not None:
        first = categories[0]
        notes.append(
            f"'{file}': skipped comment lines: {some(skipped)}; the first class is {first.id} {quoted(first.name)}"
        )
    return categories


def _read_entries(file: Path, skipped: list[str]) -> list[dict[str, Any]]:
    """Mappings with ``id`` and ``name``, and optionally ``color``."""
    text = read_text(file, "names file", limits.YAML_BYTES, hint="check the path")
    with _one_sentence(file):
        return _entries(text, file.suffix.lower(), skipped)


def _categories(entries: list[dict[str, Any]], file: Path, *, by_color: bool) -> Categories:
    with _one_sentence(file):
        if entries and all(entry["id"] is None for entry in entries):
            if not by_color:
                raise ValueError(
                    "it gives no class numbers; add them ('id'), or if the label maps are drawn in its colours, set "
                    "dataset.encoding: colors"
                )
            entries = [{**entry, "id": number} for number, entry in enumerate(entries)]
        if any(not 0 <= entry["id"] <= _LARGEST for entry in entries):
            raise ValueError(f"class numbers must be 0 to {_LARGEST}")
        if twice := repeated(entry["name"] for entry in entries):
            raise ValueError(f"names must be unique, but {some(sorted(twice))} are not")
        return Categories.from_dict({"categories": entries})


@contextlib.contextmanager
def _one_sentence(file: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise UserError(
            f"'{file}' is not a list of class names: {printable(str(error), 400)}; expected one name per line "
            "(.txt), or number and name (.txt, .json, .yaml, .csv)"
        ) from error


def _entries(text: str, suffix: str, skipped: list[str]) -> list[dict[str, Any]]:
    """Mappings with ``id`` and ``name``."""
    if suffix == ".csv":
        return _from_csv(text)
    if suffix in (".json", ".yaml", ".yml"):
        return _from_content(_content(text, suffix))
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    skipped += [line for _, line in lines if line.startswith("#")]
    given = _names_in([(number, line) for number, line in lines if line and not line.startswith("#")])
    fields = [match for _, line in given if (match := _COLOURED.fullmatch(line))]
    if given and len(fields) == len(given):
        return [
            _entry(number, match[1], [int(value) for value in match[2].split(",")] if match[2] else None)
            for number, match in enumerate(fields)
        ]
    before = [match for _, line in given if (match := _COLOUR_BEFORE.fullmatch(line))]
    if given and len(before) == len(given):
        return [_entry(None, match[4], [int(match[at]) for at in (1, 2, 3)]) for match in before]
    return [_entry(number, name) for number, name in _from_lines(lines, given)]


def _entry(number: int | None, name: Any, color: Sequence[int] | None = None) -> dict[str, Any]:
    """A class; its number is None where the file gives none, and so is its colour."""
    return {"id": number, "name": _name(name), "isthing": 0, "color": color}


def _names_in(given: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Lines without list bullets.

    Raises:
        ValueError: a line contains something that is hardly part of a name, and would be learned as a class or as its
            name.
    """
    bare = [(number, _BULLET.sub("", line, count=1)) for number, line in given]
    has_bullet = [line != name for (_, line), (_, name) in zip(given, bare, strict=True)]
    if any(has_bullet) and not all(has_bullet):
        number, line = given[has_bullet.index(True)]
        raise ValueError(
            f"its line {number}, {quoted(line)}, begins with a bullet but others do not; remove all bullets"
        )
    for number, line in bare:
        if _OTHER_COMMENT.match(line):
            raise ValueError(f"its line {number}, {quoted(line)}, does not look like a name; begin comments with '#'")
        if _BEHIND.search(line):
            raise ValueError(
                f"its line {number}, {quoted(line)}, seems to end in a comment, which would be part of the name; "
                "delete it"
            )
    return bare


def _from_lines(lines: Iterable[tuple[int, str]], given: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Number and name of each class: as written on the lines, or else in counting order."""
    numbered = [match for _, line in given if (match := _NUMBERED.fullmatch(line))]
    if given and len(numbered) == len(given):
        return [(int(match[1]), match[2]) for match in numbered]
    behind = [match for _, line in given if (match := _NUMBERED_BEHIND.fullmatch(line))]
    if given and len(behind) == len(given):
        # Names that differ only in their numbers ('grade 1', 'grade 2') are names; other names do not need such numbers
        # to be distinct.
        if all(match[2].strip() or "\t" in match[2] for match in behind):
            return [(int(match[3]), match[1]) for match in behind]
        if len({match[1] for match in behind}) == len(behind):
            first = behind[0]
            raise ValueError(
                f"its lines end in numbers ({quoted(first[0])}): if these are the class numbers, write them in front "
                f"({quoted(f'{first[3]} {first[1]}')}); if they belong to the names, number all lines "
                f"({quoted(f'0 {first[0]}')})"
            )
    if given and _HEADING.fullmatch(given[0][1]):
        raise ValueError(
            f"its line {given[0][0]}, {quoted(given[0][1])}, looks like a heading and would be class 0; delete it, or "
            "number all lines ('0 road')"
        )
    if 2 * len(numbered) > len(given):
        number, line = next((number, line) for number, line in given if not _NUMBERED.fullmatch(line))
        raise ValueError(f"its line {number}, {quoted(line)}, has no number but others do; number all lines or none")
    # Among unnumbered lines, whether a line without a name counts would be a guess.
    for number, line in lines:
        if given and given[0][0] < number < given[-1][0] and (not line or line.startswith("#")):
            what = f"a comment ({quoted(line)})" if line else "empty"
            raise ValueError(
                f"its line {number} is {what}, not a name, so the numbers of the classes below it are ambiguous; "
                "delete it, or number all lines ('0 road')"
            )
    return list(enumerate(line for _, line in given))


def _content(text: str, suffix: str) -> Any:
    if suffix == ".json":
        return parse_json(text, "it", lambda pairs: dict(_unique(pairs)))
    return parse_yaml(text, "it")


def _unique(pairs: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """A JSON parser would keep only the last of two entries with the same key."""
    found, seen = list(pairs), set[Hashable]()
    for key, _ in found:
        if isinstance(key, Hashable) and key in seen:
            raise ValueError(f"it contains {quoted(key)} more than once")
        seen.add(key)
    return found


def _from_content(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, Mapping):
        content = next((content[key] for key in _LISTS if isinstance(content.get(key), (Mapping, list))), content)
    if isinstance(content, list) and content and all(isinstance(entry, Mapping) for entry in content):
        numbered = any("id" in entry for entry in content)
        return [
            _entry(_number(entry["id"]) if numbered else None, entry["name"], color_of(entry.get("color")))
            for entry in content
        ]
    if isinstance(content, Mapping):
        pairs = list(content.items())
        if pairs and all(isinstance(value, int) and not _is_number(key) for key, value in pairs):
            pairs = [(number, name) for name, number in pairs]
        pairs = [(_number(number), name) for number, name in pairs]
    elif isinstance(content, list):
        pairs = list(enumerate(content))
    else:
        raise ValueError(f"it contains {type(content).__name__}")
    return [_entry(number, name) for number, name in pairs]


def _is_number(value: Any) -> bool:
    return str(value).strip().lstrip("-").isdigit()


def _number(value: Any) -> int:
    known = isinstance(value, (int, float)) or (isinstance(value, str) and _is_number(value))
    if isinstance(value, bool) or not known or int(value) != float(value):
        raise ValueError(f"{quoted(value)} is not a class number")
    return int(value)


def _name(value: Any) -> str:
    if isinstance(value, bool):
        raise ValueError("YAML reads yes, no, on and off as true and false; put such names in quotes")
    if not isinstance(value, (str, int, float)) or not str(value).strip():
        raise ValueError(f"{quoted(value)} is not a name")
    name = str(value).strip()
    if not name.isprintable():
        raise ValueError(f"the name {quoted(name)} contains invisible characters; type it again")
    return name


def _from_csv(text: str) -> list[dict[str, Any]]:
    rows = [[cell.strip() for cell in row] for row in parse_csv(text, "it") if any(map(str.strip, row))]
    if not rows:
        raise ValueError("it is empty")
    header = [cell.lower() for cell in rows[0]]
    number, name = 0, 1
    color: list[int] = []
    has_header = not _is_number(rows[0][0])
    if has_header:
        color = next(([header.index(part) for part in parts] for parts in _RGB if set(parts) <= set(header)), [])
        if "name" not in header or ("id" not in header and not color):
            raise ValueError(f"its columns are {quoted(rows[0])}, not 'id' and 'name', or 'name', 'r', 'g' and 'b'")
        number, name, rows = header.index("id") if "id" in header else -1, header.index("name"), rows[1:]
    if any(len(row) <= max(number, name, *color) for row in rows):
        raise ValueError("a row has too few columns")
    if not has_header and len(rows[0]) > 2 and all(_is_number(row[name]) for row in rows):
        raise ValueError("its second column contains numbers, not names; add a header line with 'id' and 'name'")
    return [
        _entry(int(row[number]) if number >= 0 else None, row[name], [_number(row[at]) for at in color] or None)
        for row in rows
    ]
