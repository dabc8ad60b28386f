from __future__ import annotations

import threading
import time

from mask2former.bulk.reading import as_read
from mask2former.errors import UserError


def test_items_come_in_their_order_with_what_reading_gave_or_raised() -> None:
    def read(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        if number == 5:
            raise OSError("broken")
        return number * number

    found = list(as_read(range(12), read, at_once=4))
    assert [item for item, _ in found] == list(range(12))
    assert [value for item, value in found if item != 5] == [item * item for item in range(12) if item != 5]
    assert isinstance(found[5][1], OSError)


def test_a_slow_one_lets_the_others_pass_and_one_without_end_is_given_up() -> None:
    released, taken = threading.Event(), list[int]()

    def read(number: int) -> int:
        if number == 1:
            released.wait()  # until item 39 was yielded
        if number == 2:
            threading.Event().wait(20)  # longer than the test
        return number

    started = time.monotonic()
    for item, value in as_read(range(40), read, at_once=4, patience=0.05, limit=1.5):
        taken.append(item)
        if item == 2:
            assert isinstance(value, UserError)
            assert str(value).startswith("'2' was not read within 1.5 s")
        else:
            assert value == item
        if item == 39:
            released.set()
    assert taken == [0, *range(3, 40), 1, 2]
    assert time.monotonic() - started < 10


def test_only_so_many_are_read_ahead() -> None:
    begun: list[int] = []

    def read(number: int) -> int:
        begun.append(number)
        return number

    found = as_read(range(100), read, at_once=3)
    next(found)
    time.sleep(0.05)
    assert len(begun) == 3
