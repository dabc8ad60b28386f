"""Words of our messages: external text (names, paths, licenses, values from files) made safe and short, and numbers.

Numbers are counts, shares and times. Every message, table and line that contains external text uses this module.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Any

__all__ = [
    "clock",
    "close_names",
    "count",
    "did_you_mean",
    "listed",
    "percent",
    "printable",
    "quoted",
    "shortened",
    "shown",
    "terminal_line",
]

_LINE = 10_000  # characters of a line; our longest one lists ten paths
_LONG_WORD = re.compile(r"(\S{500})\S+")  # not a path, or none that anyone reads to the end
_ENTRIES = 6  # entries of a container that are quoted
_DEPTH = 3  # of containers in containers
_DIGITS = 40
_LONGEST_NAME = 200  # characters that are compared with known names


def printable(text: str, most: int | None = None, *, spaces: bool = False) -> str:
    """Text as one line that cannot move the cursor or change colours, at most ``most`` characters long.

    Args:
        text: the text to show; nonprintable characters, including lone surrogates, become U+FFFD.
        most: longer text ends with an ellipsis.
        spaces: keep sequences of spaces, which align columns; otherwise any white space becomes one space.
    """
    line = text if most is None else text[: 4 * most]
    line = line.replace("\n", " ") if spaces else " ".join(line.split())
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
    return line if most is None else shortened(line, most)


def shortened(text: str, most: int) -> str:
    """``text``, or its beginning and an ellipsis if it is longer than ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def terminal_line(text: str) -> str:
    """Text as one line for a terminal, keeping spaces: for any output that contains external text."""
    return _LONG_WORD.sub("\\1\N{HORIZONTAL ELLIPSIS}", printable(text, _LINE, spaces=True))


def quoted(value: Any, most: int = 80) -> str:
    """Like ``repr`` of a value from a file, but in bounded time and length for any value.

    For a list that contains itself, sixty lists that each contain the last one twice, or a number of a million digits,
    ``repr`` fails or exhausts memory.
    """
    return printable(_bounded(value, most, _DEPTH), most)


def shown(value: Any, most: int = 300) -> str:
    """A name or an id in a sentence: text without quotes, other values as :func:`quoted` shows them."""
    return printable(value, most) if isinstance(value, str) else quoted(value, most)


def listed(values: Collection[Any], most: int | None = 8, *, show: Callable[[Any], str] = shown) -> str:
    """``a, b, c and 5 more``: the first of several names or ids, each made safe to show.

    Args:
        values: the names or ids.
        most: how many of them are listed; None: all.
        show: returns a phrase for each.
    """
    more = 0 if most is None else len(values) - most
    return ", ".join(show(value) for value in islice(values, most)) + (f" and {more} more" if more > 0 else "")


def count(number: int, noun: str) -> str:
    """``1 image``, ``2 images``, ``3 classes``."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {noun if number == 1 else plural}"


def percent(share: float) -> str:
    """A share, 0 to 1, with three digits: ``12.5 %``."""
    return f"{100 * share:.3g} %"


def clock(seconds: float) -> str:
    """A time as hours, minutes and seconds: ``1:02:03``."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def close_names(name: str, known: Iterable[str]) -> list[str]:
    """At most three known names that may have been meant, the closest first, ignoring case."""
    folded: dict[str, str] = {}
    for one in known:
        folded.setdefault(one.casefold(), one)
    return [folded[one] for one in difflib.get_close_matches(name.casefold()[:_LONGEST_NAME], folded, n=3)]


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """``did you mean bf16 or fp16?``, or empty if no known name is close to the given one."""
    close = close_names(name, known) if isinstance(name, str) else []
    return f"did you mean {' or '.join(close)}?" if close else ""


def _bounded(value: Any, room: int, depth: int) -> str:
    if isinstance(value, (str, bytes)):
        return repr(value[: room + 1])
    if isinstance(value, bool):
        return repr(value)
    if isinstance(value, int):
        large = value.bit_length() > _DIGITS * 3.32
        return f"<a number of about {int(value.bit_length() * 0.30103) + 1} digits>" if large else repr(value)
    if isinstance(value, dict):
        pairs = (f"{_bounded(key, room, depth - 1)}: {_bounded(item, room, depth - 1)}" for key, item in value.items())
        return "{" + _some(pairs, len(value), depth) + "}"
    if isinstance(value, (list, tuple, set, frozenset)):
        left, right = {list: "[]", tuple: "()"}.get(type(value), "{}")
        return left + _some((_bounded(item, room, depth - 1) for item in value), len(value), depth) + right
    if (shape := getattr(value, "shape", None)) is not None:  # arrays and tensors, including those on "meta"
        return f"<{type(value).__name__} of shape {tuple(shape)}>"
    try:
        return repr(value)
    except Exception:  # an external class can raise anything, but its type can be named
        return f"<{type(value).__name__}>"


def _some(entries: Iterable[str], count: int, depth: int) -> str:
    if not count or depth <= 0:
        return "..." if count else ""
    return ", ".join(islice(entries, _ENTRIES)) + (", ..." if count > _ENTRIES else "")
