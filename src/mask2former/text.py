"""Words of strangers in our sentences: names, paths, licenses and values from files, made safe to show and short.

Every message, table and line that carries them goes through here on its way out. Knows no subject.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Any

__all__ = ["close_names", "did_you_mean", "listed", "printable", "quoted", "shortened", "shown", "terminal_line"]

_LINE = 10_000  # characters of a line; the longest of ours lists ten paths
_LONG_WORD = re.compile(r"(\S{500})\S+")  # no path, or none that anybody reads to its end
_ENTRIES = 6  # of a container that are quoted
_DEPTH = 3  # of containers in containers
_DIGITS = 40
_LONGEST_NAME = 200  # characters that are compared with known names


def printable(text: str, most: int | None = None, *, spaces: bool = False) -> str:
    """Text as one line that cannot move the cursor or change colours, at most ``most`` characters long.

    Args:
        text: what is shown; characters that do not print, lone surrogates among them, become U+FFFD.
        most: longer text ends in an ellipsis.
        spaces: keep several in a row, which set columns apart; else any white space is one.
    """
    line = text if most is None else text[: 4 * most]
    line = line.replace("\n", " ") if spaces else " ".join(line.split())
    line = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line)
    return line if most is None else shortened(line, most)


def shortened(text: str, most: int) -> str:
    """``text``, or its beginning and an ellipsis where it is longer than ``most`` characters."""
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def terminal_line(text: str) -> str:
    """Text as one line for a terminal, spaces kept: whatever is printed that others had a word in."""
    return _LONG_WORD.sub("\\1\N{HORIZONTAL ELLIPSIS}", printable(text, _LINE, spaces=True))


def quoted(value: Any, most: int = 80) -> str:
    """What ``repr`` would show of a value from a file, in bounded time and room whatever the value is.

    A list that holds itself, sixty lists that each hold the last one twice, a number of a million digits: ``repr`` of
    these fails or fills the memory.
    """
    return printable(_bounded(value, most, _DEPTH), most)


def shown(value: Any, most: int = 300) -> str:
    """A name or an id in a sentence: text without quotes, anything else as :func:`quoted` has it."""
    return printable(value, most) if isinstance(value, str) else quoted(value, most)


def listed(values: Collection[Any], most: int | None = 8, *, show: Callable[[Any], str] = shown) -> str:
    """``a, b, c and 5 more``: the first of several names or ids, each made safe to show.

    Args:
        values: what is listed.
        most: how many of them; None: all.
        show: makes a phrase of each.
    """
    more = 0 if most is None else len(values) - most
    return ", ".join(show(value) for value in islice(values, most)) + (f" and {more} more" if more > 0 else "")


def close_names(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Those of the known names that somebody may have meant, the closest first; case does not count."""
    folded: dict[str, str] = {}
    for one in known:
        folded.setdefault(one.casefold(), one)
    return [folded[one] for one in difflib.get_close_matches(name.casefold()[:_LONGEST_NAME], folded, n=most)]


def did_you_mean(name: Any, known: Iterable[str], most: int = 3) -> str:
    """``did you mean bf16 or fp16?``, or nothing where no known name is close to what was given."""
    close = close_names(name, known, most) if isinstance(name, str) else []
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
    if (shape := getattr(value, "shape", None)) is not None:  # arrays and tensors, also those on "meta"
        return f"<{type(value).__name__} of shape {tuple(shape)}>"
    try:
        return repr(value)
    except Exception:  # of a stranger's class: whatever it raises, the type can be named
        return f"<{type(value).__name__}>"


def _some(entries: Iterable[str], count: int, depth: int) -> str:
    if not count or depth <= 0:
        return "..." if count else ""
    return ", ".join(islice(entries, _ENTRIES)) + (", ..." if count > _ENTRIES else "")
