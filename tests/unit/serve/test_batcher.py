"""Items in batches: which share a call, which are dropped, and what a failure means for the others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from mask2former.serve.batcher import Batcher, Called


class Worker:
    """Returns ``item * 10``; the first call waits until it is released, so that others queue up behind it."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.released = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.calls.append(list(items))
        self.released.wait(10)
        if 13 in items:
            raise ValueError(f"13 among {list(items)}")
        return [item * 10 for item in items]


def with_batcher(test: Callable[[Batcher[int, int], Worker], Awaitable[Any]], batch_size: int = 3) -> Worker:
    worker = Worker()

    async def run() -> None:
        batcher = Batcher[int, int](worker, batch_size)
        batcher.start()
        try:
            await test(batcher, worker)
        finally:
            worker.released.set()
            await batcher.stop()

    asyncio.run(run())
    return worker


async def queued(batcher: Batcher[int, int], items: dict[int, Any]) -> list[asyncio.Task[Called[int]]]:
    """Tasks for the items with their keys, in order: the first is in the worker, the others wait."""
    tasks = []
    for item, key in items.items():
        tasks.append(asyncio.create_task(batcher(item, key)))
        await asyncio.sleep(0.01)
    return tasks


def test_what_waits_and_is_alike_shares_a_call_the_oldest_first() -> None:
    async def test(batcher: Batcher[int, int], worker: Worker) -> None:
        tasks = await queued(batcher, {0: "a", 1: "a", 2: "b", 3: "a", 4: None, 5: "a", 6: "a", 7: None, 8: "b"})
        worker.released.set()
        called = await asyncio.gather(*tasks)
        assert [found.result for found in called] == [item * 10 for item in range(9)]
        assert [found.batch_size for found in called] == [1, 3, 2, 3, 1, 3, 1, 1, 2]
        assert all(found.waited >= 0 and found.took >= 0 for found in called)

    assert with_batcher(test).calls == [[0], [1, 3, 5], [2, 8], [4], [6], [7]]


def test_what_is_cancelled_while_it_waits_is_never_called() -> None:
    async def test(batcher: Batcher[int, int], worker: Worker) -> None:
        first, second, third = await queued(batcher, {0: "a", 1: "a", 2: "a"})
        first.cancel()  # already in the worker: nobody gets its result
        second.cancel()
        await asyncio.sleep(0.01)
        worker.released.set()
        assert (await third).result == 20
        with pytest.raises(asyncio.CancelledError):
            await second

    assert with_batcher(test).calls == [[0], [2]]


def test_an_item_fails_for_reasons_of_its_own_only() -> None:
    async def test(batcher: Batcher[int, int], worker: Worker) -> None:
        tasks = await queued(batcher, {0: "a", 12: "a", 13: "a", 14: "a"})
        worker.released.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [item.result for item in found if isinstance(item, Called)] == [0, 120, 140]
        assert str(found[2]) == "13 among [13]"

    assert with_batcher(test).calls == [[0], [12, 13, 14], [12], [13], [14]]


def test_what_waits_at_the_end_is_cancelled() -> None:
    waiting: list[asyncio.Task[Called[int]]] = []

    async def test(batcher: Batcher[int, int], worker: Worker) -> None:
        waiting.extend(await queued(batcher, {0: "a", 1: "b"}))

    worker = with_batcher(test)
    assert [task.cancelled() for task in waiting][1]
    assert worker.calls == [[0]]
