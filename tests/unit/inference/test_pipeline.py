from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from mask2former.errors import UserError
from mask2former.inference.pipeline import Failure, Ready, Stages, pipelined
from mask2former.memory import LackOfMemoryError
from mask2former.notes import collect_notes, note


def _stages(calls: list[list[Any]], **changes: Any) -> Stages[Any, Any, Any, Any]:
    """Stages that turn words into capitals; words of equal length share a call, and ``calls`` records the calls."""

    def call(words: Sequence[str]) -> list[str]:
        calls.append(list(words))
        return [word.upper() for word in words]

    return Stages(**{"read": str, "key": len, "call": call, "finish": lambda item, *seen: seen, **changes})


WORDS = ["one", "two", "three", "six", "seven", "four", "ten", "five", "eight"]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 20])
def test_results_come_in_order_and_batches_hold_what_is_alike(batch_size: int) -> None:
    calls: list[list[str]] = []
    found = list(pipelined(iter(WORDS), _stages(calls), batch_size))
    assert found == [(word, (word, word.upper())) for word in WORDS]
    assert sorted(word for batch in calls for word in batch) == sorted(WORDS)
    assert all(len({len(word) for word in batch}) == 1 for batch in calls)
    assert max(map(len, calls)) == min(batch_size, 4)
    if batch_size == 3:
        assert calls[0] == ["one", "two", "six"]


@pytest.mark.parametrize("slow", ["read", "finish"])
def test_batches_do_not_depend_on_time(slow: str) -> None:
    calls: list[list[list[str]]] = [[], []]
    pauses = {word: 0.01 * (position % 3) for position, word in enumerate(WORDS)}

    def read(word: str) -> str:
        time.sleep(pauses[word] * (slow == "read"))
        return word

    def finish(word: str, *seen: str) -> tuple[str, ...]:
        time.sleep(pauses[word] * (slow == "finish"))
        return seen

    for made, changes in zip(calls, ({}, {"read": read, "finish": finish}), strict=True):
        assert len(list(pipelined(WORDS * 2, _stages(made, **changes), 2))) == 2 * len(WORDS)
    assert calls[0] == calls[1]


def test_what_is_ready_counts_in_its_batch() -> None:
    everything: list[list[str]] = []
    rest: list[list[str]] = []

    def read(word: str) -> str | Ready[str]:
        return Ready("there", len(word), lambda: word) if word in ("one", "seven", "five", "four") else word

    list(pipelined(WORDS, _stages(everything), 2))
    found = dict(pipelined(WORDS, _stages(rest, read=read), 2))
    assert found["one"] == found["four"] == "there"
    assert found["two"] == ("two", "TWO")
    assert rest == [batch for batch in everything if set(batch) - {"one", "seven", "five", "four"}]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("stage", ["read", "call", "finish"])
def test_who_fails_fails_alone(stage: str, batch_size: int) -> None:
    def fail(word: str) -> None:
        if word == "six":
            raise ValueError(word)

    def read(word: str) -> str:
        fail(word if stage == "read" else "")
        return word

    def call(words: Sequence[str]) -> list[str]:
        for word in words:
            fail(word if stage == "call" else "")
        return list(words)

    def finish(word: str, *seen: str) -> str:
        fail(word if stage == "finish" else "")
        return word

    found = dict(pipelined(WORDS, _stages([], read=read, call=call, finish=finish), batch_size))
    failure = found.pop("six")
    assert isinstance(failure, Failure)
    assert str(failure.error) == "six"
    assert found == {word: word for word in WORDS if word != "six"}


@pytest.mark.parametrize("error", [MemoryError(), LackOfMemoryError("too large")])
@pytest.mark.parametrize("stage", ["read", "call", "finish", "deliver"])
def test_where_memory_runs_out_the_item_is_done_again_without_others(stage: str, error: Exception) -> None:
    tried = []

    def meet(here: str, word: str) -> None:
        if (here, word) == (stage, "three"):
            tried.append(word)
            if len(tried) == 1:
                raise error

    def read(word: str) -> str:
        meet("read", word)
        return word

    def call(words: Sequence[str]) -> list[str]:
        meet("call", words[0])
        return list(words)

    def finish(word: str, *seen: str) -> str:
        meet("finish", word)
        return word

    def deliver(word: str, result: str) -> str:
        meet("deliver", word)
        return result

    found = dict(pipelined(WORDS, _stages([], read=read, call=call, finish=finish, deliver=deliver)))
    assert found == {word: word for word in WORDS}
    assert len(tried) == 2


def test_what_the_items_raise_comes_after_the_results_before_it() -> None:
    def items() -> Iterator[str]:
        yield "one"
        yield "two"
        raise KeyError("gone")

    found = pipelined(items(), _stages([]), 4)
    assert [next(found)[0], next(found)[0]] == ["one", "two"]
    with pytest.raises(KeyError):
        next(found)


def test_notes_reach_the_caller_in_order() -> None:
    def read(word: str) -> str:
        time.sleep(0.005 * (word == "one"))
        note("read", word)
        return word

    def finish(word: str, *seen: str) -> str:
        note("written", word)
        return word

    with collect_notes() as notes:
        list(pipelined(WORDS, _stages([], read=read, finish=finish)))
    assert notes == [pair for word in WORDS for pair in (("read", word), ("written", word))]


def test_what_can_be_seen_is_what_was_taken() -> None:
    seen = []

    def deliver(word: str, result: str) -> str:
        seen.append(word)
        return result

    found = pipelined(WORDS, _stages([], finish=lambda word, *_: word, deliver=deliver), 2)
    for number, (word, result) in enumerate(found, start=1):
        assert word == result
        assert seen == WORDS[:number]
    found = pipelined(WORDS, _stages([], finish=lambda word, *_: word, deliver=deliver), 2)
    next(found)
    found.close()  # pyright: ignore[reportAttributeAccessIssue]  (a generator)
    assert seen == [*WORDS, "one"]


def test_few_items_are_on_their_way_and_stopping_finishes_what_has_begun() -> None:
    begun, ended = [], []

    def finish(word: str, *seen: str) -> str:
        begun.append(word)
        time.sleep(0.01)
        ended.append(word)
        return word

    taken = []

    def items() -> Iterator[str]:
        for word in WORDS * 9:
            taken.append(word)
            yield word

    found = pipelined(items(), _stages([], finish=finish))
    next(found)
    assert len(taken) <= 6
    found.close()  # pyright: ignore[reportAttributeAccessIssue]  (a generator)
    assert sorted(begun) == sorted(ended)  # several at once
    assert len(taken) <= 6
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mask2former")]


def test_a_batch_has_an_item() -> None:
    with pytest.raises(UserError, match="batch_size must be at least 1, got 0"):
        pipelined([], _stages([]), 0)
