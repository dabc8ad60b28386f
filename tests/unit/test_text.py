"""External text is shown in one line, shortened, and in bounded time, whatever it contains."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from mask2former.text import (
    clock,
    close_names,
    count,
    did_you_mean,
    listed,
    percent,
    printable,
    quoted,
    shortened,
    terminal_line,
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("a\nb\r\tc\x0bd\u2028e", "a b c d e"),
        ("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m"),
        ("\x1b]0;title\x07", "\ufffd]0;title\ufffd"),
        ("\u202eevil", "\ufffdevil"),
        ("\ud800", "\ufffd"),
        ("\x9b31m", "\ufffd31m"),
        ("[/red]", "[/red]"),
        ("straße 猫", "straße 猫"),
        ("", ""),
    ],
)
def test_lines_cannot_move_the_cursor(text: str, line: str) -> None:
    assert printable(text) == line
    printable(text).encode()


def test_lines_are_cut() -> None:
    assert printable("a" * 1_000_000, 10) == "a" * 9 + "\N{HORIZONTAL ELLIPSIS}"
    assert printable(" " * 1_000_000 + "a", 10) == ""
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "ab\N{HORIZONTAL ELLIPSIS}"


def test_names_are_listed() -> None:
    assert listed(["a", "b\n", "\x1b"], 3) == "a, b, \ufffd"
    assert listed(("a", "b", 3), 2) == "a, b and 1 more"
    assert listed({"a": 1, "b": 2}, 0) == " and 2 more"
    assert listed([1, 2.5, ["c"]], None) == "1, 2.5, ['c']"
    assert listed([], 3) == ""
    assert listed(["a"], show=quoted) == "'a'"
    assert len(listed(["x" * 1_000_000] * 1000)) < 3000


def test_names_that_somebody_may_have_meant() -> None:
    known = ["max_steps", "max_hours", "BF16"]
    assert close_names("max_step", known) == ["max_steps"]
    assert did_you_mean("bf-16", known) == "did you mean BF16?"  # in the spelling that is known
    assert did_you_mean("colour", known) == did_you_mean(3, known) == did_you_mean("x" * 1_000_000, known) == ""


def test_lines_for_a_terminal_are_short_and_plain() -> None:
    assert terminal_line("a  b\x1b[31m") == "a  b\ufffd[31m"
    assert len(terminal_line("w" * 1_000_000)) == 501


@pytest.mark.parametrize("value", [None, True, 7, -3, 1.5, "it's", b"x", [1, "a"], (1, 2), {"a": [1]}, [], {}, set()])
def test_small_values_are_shown_as_python_does(value: Any) -> None:
    assert quoted(value) == (repr(value) if value != set() else "{}")


def _nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def _doubled() -> Any:
    value: Any = ["x"]
    for _ in range(60):
        value = [value, value]
    return value


def _itself() -> Any:
    value: Any = {}
    value["me"] = [value]
    return value


class _Hostile:
    def __repr__(self) -> str:
        raise ValueError("no")


class _Wordy:
    def __repr__(self) -> str:
        return "\x1b" + "w" * 1_000_000


HOSTILE = {
    "nested": lambda: _nested(100_000),
    "doubled": _doubled,
    "itself": _itself,
    "digits": lambda: 10**1_000_000,
    "negative digits": lambda: -(10**100_000),
    "text": lambda: "\x1b" * 1_000_000,
    "key": lambda: {"k" * 1_000_000: 1},
    "many": lambda: list(range(1_000_000)),
    "dictionary": lambda: dict.fromkeys(range(100_000)),
    "array": lambda: np.zeros((1000, 1000)),
    "meta": lambda: torch.empty(10**6, 10**6, device="meta"),
    "no repr": _Hostile,
    "long repr": _Wordy,
    "surrogate": lambda: ["\ud800", {"\udfff": 1}],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_any_value_is_quoted_in_bounded_time_and_room(name: str) -> None:
    value = HOSTILE[name]()
    began = time.process_time()
    shown = quoted(value, 60)
    assert time.process_time() - began < 0.5
    assert len(shown) <= 60
    assert shown.isprintable()
    shown.encode()


def test_counted_nouns_have_their_plural() -> None:
    assert [count(1, "image"), count(0, "image"), count(2, "class")] == ["1 image", "0 images", "2 classes"]


def test_shares_and_times() -> None:
    assert [percent(share) for share in (0.0, 0.00012345, 0.125, 1.0)] == ["0 %", "0.0123 %", "12.5 %", "100 %"]
    assert [clock(seconds) for seconds in (0, 59.6, 3723, 360_000)] == ["0:00:00", "0:01:00", "1:02:03", "100:00:00"]
