"""One pickle for each thing that is refused, by the module that knows arrays and plain containers only."""

from __future__ import annotations

import codecs
import io
import pickle
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import pytest

from mask2former import limits
from mask2former.errors import UserError
from mask2former.pickles import Array, Budget, Door, PickleRefused, Unpickler

FLOAT = np.dtype("<f4")
RECONSTRUCT = np.zeros(1).__reduce__()[0]
ARRAY = (np.ndarray, (0,), b"b")
FROM_BUFFER = np.zeros((2, 2)).__reduce_ex__(5)[0]  # pyright: ignore[reportIndexIssue]
LONG = 10**5000


class Asks:
    """Is pickled as a call, optionally with a state."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def load(data: bytes, budget: Budget | None = None) -> Any:
    return Unpickler(io.BytesIO(data), len(data), budget or Budget(len(data))).load()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (OrderedDict([("a", 1), ("b", 2)]), {"a": 1, "b": 2}),
        (Asks(OrderedDict, ([("a", 1)],)), {"a": 1}),
        (Counter("aab"), {"a": 2, "b": 1}),
        ({1, 2}, {1, 2}),
        (frozenset((1, 2)), {1, 2}),
        (Asks(frozenset, ([1, 2],)), {1, 2}),
        (Asks(bytearray, ("ab", "latin-1")), bytearray(b"ab")),
        (bytearray(b"abc"), bytearray(b"abc")),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_plain_containers_come_back(protocol: int, values: Any, expected: Any) -> None:
    assert load(pickle.dumps(values, protocol)) == expected


def test_an_array_of_objects_is_a_list_of_what_it_holds() -> None:
    found = load(pickle.dumps(np.array(["a", 2], dtype=object)))
    assert isinstance(found, Array)
    assert found.array == ["a", 2]


@pytest.mark.parametrize(
    ("asks", "words"),
    [
        (Asks(np.dtype, ("f4", False, True), (3, "<", ("x",), None, None, -1, -1, 0)), "a numpy record type"),
        (Asks(np.dtype, ("V8",)), r"numpy\.dtype\('V8'\)"),
        (Asks(FROM_BUFFER, (b"1234", "f4", (1,), "C")), "without a plain type"),
        (Asks(FROM_BUFFER, ([1], FLOAT, (1,), "C")), "an array of objects"),
        (Asks(FROM_BUFFER, (b"1234", FLOAT, (1,), "Z")), "the array order 'Z'"),
        (Asks(str, ([],)), "a list as text"),
        (Asks(codecs.encode, ("ab", "utf-8")), "the encoding 'utf-8'"),
        (Asks(getattr, ("a", "join")), "getattr"),
        (Asks(print, ("a",)), "print"),
    ],
)
def test_what_asks_for_more_is_refused_by_name(asks: Asks, words: str) -> None:
    with pytest.raises(PickleRefused, match=words):
        load(pickle.dumps(asks, 4))


@pytest.mark.parametrize(
    ("asks", "words"),
    [
        (Asks(RECONSTRUCT, ARRAY, (1, (3,), np.dtype("O"), False, [1, 2])), "without its objects"),
        (Asks(RECONSTRUCT, ARRAY, (1, (-1,), FLOAT, False, b"1234")), "an array of invalid sizes"),
        (Asks(RECONSTRUCT, ARRAY, (1, "ab", FLOAT, False, b"1234")), "an array of an invalid shape"),
        ({LONG: 1}, "too many digits as a key"),
        (Asks(OrderedDict, ([((), 1)],)), "a tuple as a key"),
        (Asks(str, (LONG,)), "too many digits as text"),
    ],
)
def test_what_makes_no_sense_is_damaged(asks: Any, words: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=words):
        load(pickle.dumps(asks, 4))


@pytest.mark.parametrize(
    ("opcodes", "words"),
    [
        (b"](K\x01\x90.", "a change of a list"),  # items added to a list, as to a set
        (b"cbuiltins\nint\n(K\x01e.", "a change of a function"),
        (b"X\x01\0\0\0a)R.", "a call of a str"),
        (b"cbuiltins\nint\n)\x81.", "an object of another kind"),
        (b"cbuiltins\nint\n}b.", "a change of a function"),
    ],
)
def test_opcodes_change_and_call_nothing_else(opcodes: bytes, words: str) -> None:
    with pytest.raises(PickleRefused, match=words):
        load(b"\x80\x04" + opcodes)


def test_nothing_outside_of_the_file_is_read() -> None:
    with pytest.raises(pickle.UnpicklingError, match="outside of the file"):
        load(b"\x80\x04K\x01Q.")
    with pytest.raises(EOFError):
        load(b"\x80\x04B\xff\0\0\0ab.")  # more bytes than there are


def test_a_door_cannot_be_changed() -> None:
    door: Any = Door(int)
    with pytest.raises(PickleRefused, match="a change of a function"):
        door._function = print
    assert door("3") == 3


def test_steps_and_copies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(list(range(100)), 2)
    monkeypatch.setattr(limits, "PICKLE_STEPS", 50)
    with pytest.raises(UserError, match="more than 50 steps"):
        load(data)
    monkeypatch.undo()
    budget = Budget(1)
    budget.bytes = 10
    with pytest.raises(UserError, match=f"over {limits.PICKLE_SHARING} times its size"):
        load(pickle.dumps(Asks(str, ("a" * 20,)), 4), budget)
    for kind in (list, tuple, set, frozenset):  # a character takes as much as a pointer
        for protocol in (2, 4):
            budget = Budget(1)
            budget.bytes = 100
            with pytest.raises(UserError, match=f"over {limits.PICKLE_SHARING} times its size"):
                load(pickle.dumps(Asks(kind, ("a" * 20,)), protocol), budget)
