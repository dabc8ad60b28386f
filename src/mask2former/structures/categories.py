"""Classes of a data set: names, data-set ids, thing or stuff, colours. The class index is the position.

The tables of the published data sets are JSON files beside this one. The number of classes is ``len(categories)`` and
is never a setting anywhere else.
"""

from __future__ import annotations

import colorsys
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, overload

from mask2former import limits
from mask2former.errors import UserError
from mask2former.text import listed, printable, quoted

__all__ = ["Categories", "Category", "check_count", "color_of"]

_IGNORED = 255  # where nothing else is given
_LARGEST_LABEL = 65535  # in label maps, which have up to 16 bits


@dataclass(frozen=True, slots=True)
class Category:
    """One class. ``id`` is the data set's own number, ``color`` is RGB in 0..255."""

    id: int
    name: str
    is_thing: bool
    color: tuple[int, int, int]


def _spread_color(index: int) -> tuple[int, int, int]:
    """A colour that differs from those of neighbouring indices (golden-ratio hues)."""
    red, green, blue = colorsys.hsv_to_rgb((0.13 + index * 0.618033988749895) % 1.0, 0.65, 0.62 + 0.3 * (index % 2))
    return round(255 * red), round(255 * green), round(255 * blue)


def color_of(value: Any) -> list[int] | None:
    """A colour as three numbers, from these or from text such as ``#80c0ff`` or ``128, 192, 255``; None stays None.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return list(bytes.fromhex(value[1:]))
    if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*[, ]\s*\d+\s*[, ]\s*\d+\s*", value):
        return [int(part) for part in re.findall(r"\d+", value)]
    if value is None or (isinstance(value, list) and len(value) == 3 and all(type(part) is int for part in value)):
        return value
    raise ValueError(f"{quoted(value)} is not a colour; expected three numbers from 0 to 255, or text such as #80c0ff")


def check_count(count: int) -> None:
    """Refuse a class list that is too long, if possible before it is created.

    Raises:
        UserError: more than ``limits.CLASSES``.
    """
    limits.check_limit("the class list has too many classes:", count, limits.CLASSES, "is it the right file?")


def _name(value: Any) -> str:
    """The name of a class as text that can be shown and written to files.

    Raises:
        ValueError: it is neither text nor a number, has no letter, is too long, or contains half a character.
    """
    name = str(value) if isinstance(value, str | int | float) else ""
    if not name.strip():
        raise ValueError(f"{quoted(value)} is not a valid class name")
    limits.check_limit(
        f"the class name {quoted(name, 40)} has too many characters:", len(name), limits.NAME_CHARACTERS, "shorten it"
    )
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the class name {quoted(name)} contains half a character (a surrogate)") from error
    return name


def _whole(value: Any) -> int:
    """A whole number, also as text.

    Raises:
        ValueError: it is something else, for instance a fraction, which ``int`` would cut off.
    """
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{quoted(value)} is not a whole number")
    return int(value)


@dataclass(frozen=True)
class Categories(Sequence[Category]):
    """An ordered class list; ``categories[class_index]`` is a :class:`Category`.

    Attributes:
        items: the classes.
        ignore_label: value of "no class" in label maps, 0..65535; with more than 255 classes, 255 becomes 65535.

    Raises:
        UserError: two categories have the same id, there are no categories or more than ``limits.CLASSES``, or the
            ignore label is out of range.
    """

    items: tuple[Category, ...]
    ignore_label: int = _IGNORED

    def __post_init__(self) -> None:
        if not self.items:
            raise UserError("a class list needs at least one category")
        check_count(len(self.items))
        counts = Counter(item.id for item in self.items)
        if len(counts) < len(self.items):
            twice = sorted(number for number, count in counts.items() if count > 1)
            raise UserError(f"category ids must be unique; given more than once: {quoted(twice)}")
        if not 0 <= self.ignore_label <= _LARGEST_LABEL:
            raise UserError(f"the ignore label is {quoted(self.ignore_label)}; expected 0 to {_LARGEST_LABEL}")
        if self.ignore_label == _IGNORED < len(self.items):
            object.__setattr__(self, "ignore_label", _LARGEST_LABEL)  # it is frozen
        elif self.ignore_label < len(self.items):
            raise UserError(
                f"the ignore label is {self.ignore_label}, the index of the class "
                f"{quoted(self.items[self.ignore_label].name)}; expected {len(self.items)} to {_LARGEST_LABEL}"
            )

    @overload
    def __getitem__(self, index: int) -> Category: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Category, ...]: ...
    def __getitem__(self, index: int | slice) -> Category | tuple[Category, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Category]:
        return iter(self.items)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.items)

    @property
    def thing_indices(self) -> tuple[int, ...]:
        """Class indices of things, ascending."""
        return tuple(index for index, item in enumerate(self.items) if item.is_thing)

    @property
    def stuff_indices(self) -> tuple[int, ...]:
        """Class indices of stuff, ascending."""
        return tuple(index for index, item in enumerate(self.items) if not item.is_thing)

    def things(self) -> Categories:
        """Only the things, in the same order (Cityscapes instance models have these classes).

        Raises:
            UserError: there are none.
        """
        return Categories(tuple(item for item in self.items if item.is_thing), self.ignore_label)

    def index_of_id(self) -> dict[int, int]:
        """Data-set id to class index."""
        return {item.id: index for index, item in enumerate(self.items)}

    def indices(self, classes: str | int | Iterable[str | int]) -> set[int]:
        """The indices of classes given by name or by index; ids of a data set are not accepted.

        A name that several classes share stands for all of them.

        Raises:
            UserError: the class does not exist; the message lists those that do.
        """
        found: set[int] = set()
        for given in (classes,) if isinstance(classes, str | int) else classes:
            if isinstance(given, str):
                matching = {index for index, name in enumerate(self.names) if name == given}
            else:
                matching = {int(given)} & set(range(len(self))) if not isinstance(given, bool) else set()
            if not matching:
                last = len(self) - 1
                what = "no class" if isinstance(given, str) else f"no class with the index (0 to {last})"
                raise UserError(f"the model has {what} {quoted(given)}; it has: {listed(self.names)}")
            found |= matching
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; :meth:`from_dict` reads it back."""
        return {"ignore_label": self.ignore_label, "categories": [asdict(item) for item in self.items]}

    @classmethod
    def from_dict(cls, values: Any) -> Categories:
        """From :meth:`to_dict`, or from a table with ``categories`` of ``id``, ``name``, ``isthing`` and ``color``.

        A colour may also be text (``#80c0ff``). A missing colour is derived from the position; a missing ``isthing``
        means thing.

        Raises:
            UserError: the value has another form.
        """
        try:
            items = []
            check_count(len(values["categories"]))
            for index, entry in enumerate(values["categories"]):
                given = entry.get("color")
                color = (color_of(given) if isinstance(given, str) else given) or _spread_color(index)
                red, green, blue = (int(channel) for channel in color)
                if [red, green, blue] != list(color) or not 0 <= min(red, green, blue) <= max(red, green, blue) <= 255:
                    raise ValueError(f"the colour {quoted(list(color))} is not within 0..255, in whole numbers")
                name, is_thing = entry["name"], entry.get("is_thing", entry.get("isthing", 1))
                if is_thing not in (0, 1):  # true and false are equal to them; "0" would be true
                    raise ValueError(f"'isthing' of {quoted(name)} is {quoted(is_thing)}; expected 0 or 1")
                items.append(Category(_whole(entry["id"]), _name(name), bool(is_thing), (red, green, blue)))
            return cls(tuple(items), _whole(values.get("ignore_label", _IGNORED)))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                "not a class table: expected {'categories': [{'id', 'name', ...}]}, failed at "
                f"{type(error).__name__}: {printable(str(error), 200)}"
            ) from error

    @classmethod
    def from_names(cls, names: Sequence[str], things: Sequence[str] | None = None) -> Categories:
        """Ids 0, 1, ... with generated colours; all are things unless ``things`` names those that are."""
        counted = None if things is None else frozenset(things)
        return cls(
            tuple(
                Category(index, name, counted is None or name in counted, _spread_color(index))
                for index, name in enumerate(names)
            )
        )

    @classmethod
    def load(cls, table: str) -> Categories:
        """One of the packaged tables, for instance ``coco_panoptic``.

        Raises:
            UserError: there is no such table; the message lists those that exist.
        """
        folder = resources.files("mask2former.structures").joinpath("categories")
        file = folder.joinpath(f"{table}.json")
        if not file.is_file():
            known = sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".json"))
            raise UserError(f"there is no class table '{table}'; expected one of {', '.join(known)}")
        return cls.from_dict(json.loads(file.read_text(encoding="utf-8")))
