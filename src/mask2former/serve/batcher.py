"""Items that wait for one worker and are passed to it in batches: those that are waiting and alike, the oldest first.

Nothing waits for a batch to fill: while the worker is busy, others arrive, so batches grow with the load automatically.
Knows no images, models or requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Batcher", "Called"]

_ItemT = TypeVar("_ItemT")
_ResultT = TypeVar("_ResultT")


class Called(NamedTuple, Generic[_ResultT]):
    """The outcome of an item.

    Attributes:
        result: returned by the worker.
        waited: seconds until its call began.
        took: duration of the call in seconds.
        batch_size: number of items in the call.
    """

    result: _ResultT
    waited: float
    took: float
    batch_size: int


@dataclass(eq=False, slots=True)
class _Job(Generic[_ItemT, _ResultT]):
    item: _ItemT
    key: Hashable
    done: asyncio.Future[Called[_ResultT]]
    since: float


class Batcher(Generic[_ItemT, _ResultT]):
    """Calls a function in its own thread, one call at a time. Used from one event loop.

    Args:
        function: from items to their results, in order.
        batch_size: maximum number of items per call.
        observe: called for every call: number of items, seconds.
    """

    def __init__(
        self,
        function: Callable[[Sequence[_ItemT]], Sequence[_ResultT]],
        batch_size: int,
        observe: Callable[[int, float], None] = lambda count, seconds: None,
    ) -> None:
        self._function, self._batch_size, self._observe = function, batch_size, observe
        self._waiting: deque[_Job[_ItemT, _ResultT]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "mask2former-network")
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start working; inside the event loop."""
        self._worker = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Stop after the current call; waiting items are cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        for job in self._waiting:
            job.done.cancel()
        self._waiting.clear()
        self._thread.shutdown(wait=False)

    async def __call__(self, item: _ItemT, key: Hashable) -> Called[_ResultT]:
        """The result of an item, when available. If this is cancelled while the item waits, it is never processed.

        Args:
            item: argument of the call.
            key: items with equal keys may share a call; None: this one is processed alone.

        Raises:
            Exception: whatever the function raises for this item alone.
        """
        loop = asyncio.get_running_loop()
        job = _Job(item, key, loop.create_future(), loop.time())
        self._waiting.append(job)
        self._arrived.set()
        try:
            return await job.done
        finally:
            if job.done.cancelled() and job in self._waiting:
                self._waiting.remove(job)

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            if group := self._next():
                await self._call(group)
            else:
                self._arrived.clear()

    def _next(self) -> list[_Job[_ItemT, _ResultT]]:
        if not self._waiting:
            return []
        head = self._waiting[0]
        group = [head]
        if head.key is not None:
            others = (job for job in list(self._waiting)[1:] if job.key == head.key)
            group += [job for job, _ in zip(others, range(self._batch_size - 1), strict=False)]
        for job in group:
            self._waiting.remove(job)
        return group

    async def _call(self, group: Sequence[_Job[_ItemT, _ResultT]]) -> None:
        """Process a group; if that fails, each item alone, so that an item fails only for its own reasons."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            results = await loop.run_in_executor(self._thread, self._function, [job.item for job in group])
            assert len(results) == len(group), (len(results), len(group))
        except asyncio.CancelledError:  # the end
            for job in group:
                job.done.cancel()
            raise
        except Exception as error:  # whatever it is, the receiver of the item knows what it means
            if len(group) == 1:
                if not group[0].done.done():
                    group[0].done.set_exception(error)
                return
            for job in group:
                if not job.done.done():
                    await self._call([job])
            return
        took = loop.time() - start
        self._observe(len(group), took)
        for job, result in zip(group, results, strict=True):
            if not job.done.done():
                job.done.set_result(Called(result, start - job.since, took, len(group)))
