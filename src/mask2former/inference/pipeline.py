"""Items through three stages: read ahead in threads, processed together, finished in threads.

So network, disk and encoding overlap. Results come in item order, and only a few items are in memory. Knows no images,
models or files.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mask2former.errors import UserError
from mask2former.memory import is_lack_of_memory
from mask2former.notes import Note, collect_notes, is_collecting, note

__all__ = ["Failure", "Ready", "Stages", "pipelined"]

_MOST_THREADS = 4
_AHEAD = 2  # times a batch: how far items are looked for that can share one

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")
_Called = TypeVar("_Called")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Ready(Generic[_Result]):
    """Returned by reading if there is nothing left to do.

    Attributes:
        result: of the item.
        key: see :attr:`Stages.key`. The item counts in the batch that it would have been in, so that the others are
            called together with the same ones, and results have the same bits, whatever is there already.
        load: what would have been read, with a key: for such a batch.
    """

    result: _Result
    key: Hashable = None
    load: Callable[[], Any] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Replaces a result: the error that a stage raised."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Stages(Generic[_Item, _Read, _Called, _Result]):
    """How each item is processed.

    Attributes:
        read: in a thread.
        key: items with equal keys may share a call; None: this one is called alone.
        call: for one or more items, in the thread of whoever asks for results.
        finish: of what ``read`` and ``call`` have given, in a thread.
        deliver: of what ``finish`` has given, in a thread: what is seen from outside, such as writing files. Not before
            all earlier results were taken, so that whoever stops or fails has left nothing that nobody heard of.
    """

    read: Callable[[_Item], _Read | Ready[_Result]]
    key: Callable[[_Read], Hashable]
    call: Callable[[Sequence[_Read]], Sequence[_Called]]
    finish: Callable[[_Item, _Read, _Called], Any]
    deliver: Callable[[_Item, Any], _Result] | None = None


def pipelined(
    items: Iterable[_Item], stages: Stages[_Item, Any, Any, _Result], batch_size: int = 1
) -> Generator[tuple[_Item, _Result | Failure], None, None]:
    """The items with their results, in order.

    Which items share a call depends on their keys and order alone, not on time: the first that waits, with those like
    it among the next twice ``batch_size``. Where a shared call fails, or memory runs out, everything else is finished
    first, and the items are done one by one; so an item fails for reasons of its own only.

    Args:
        items: taken a few ahead, in the thread of the caller. What they raise comes after the results before it.
        stages: what is done with each.
        batch_size: the largest number of items that share a call.

    Raises:
        UserError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    return _pipelined(items, stages, batch_size)


def _pipelined(
    items: Iterable[_Item], stages: Stages[_Item, Any, Any, _Result], batch_size: int
) -> Generator[tuple[_Item, _Result | Failure], None, None]:
    num_threads = min(_MOST_THREADS, os.cpu_count() or 1)
    ahead = _AHEAD * batch_size if batch_size > 1 else 1
    most = ahead + batch_size - 1 + num_threads
    source, broken, is_more = iter(items), None, True
    queue = deque[_Entry[_Item]]()  # in order; called ones may stand behind others
    pool = ThreadPoolExecutor(num_threads, "mask2former")
    try:
        while True:
            head = queue[0] if queue else None
            if head is not None and head.is_called and not head.is_delivered and head.work.done():
                head.deliver(stages)
            waiting = [entry for entry in queue if not entry.is_called]
            has_room = len(queue) < most or not queue[0].is_called
            if is_more and len(waiting) < ahead and has_room:
                try:
                    queue.append(_Entry(next(source), pool, stages))
                except StopIteration:
                    is_more = False
                except Exception as error:  # raised when those before it are done
                    broken, is_more = error, False
            elif head is not None and head.is_delivered and head.work.done():
                queue.popleft()
                yield _outcome(head, queue, stages)
            elif waiting and (len(waiting) >= ahead or not is_more):
                _call(waiting, stages, batch_size)
            elif head is not None:
                wait([head.work])
            else:
                break
    finally:  # also after Ctrl-C: waits for what has begun, since files are to be whole
        pool.shutdown(cancel_futures=True)
    if broken is not None:
        raise broken


class _Entry(Generic[_Item]):
    """An item on its way; what it notes is told when its result is."""

    def __init__(self, item: _Item, pool: ThreadPoolExecutor, stages: Stages[_Item, Any, Any, Any]) -> None:
        self.item = item
        self.notes: list[Note] = []
        self.is_called = False
        self.is_delivered = False
        self.is_redone = False
        self._pool = pool
        self._context = copy_context()  # of the caller: threads have none of their own
        self.work: Future[Any] = self._submit(stages.read, item)

    def _submit(self, step: Callable[..., Any], *args: Any) -> Future[Any]:
        return self._pool.submit(_in_context, self._context, self.notes, step, args)

    @property
    def value(self) -> Any:
        """What the stage has given that it is in: waits for it."""
        return self.work.result()

    def key(self, stages: Stages[_Item, Any, Any, Any]) -> Hashable:
        if isinstance(self.value, Failure):
            return None
        return self.value.key if isinstance(self.value, Ready) else stages.key(self.value)

    def finish(self, stages: Stages[_Item, Any, Any, Any], called: Any) -> None:
        self.work = self._submit(stages.finish, self.item, self.value, called)

    def deliver(self, stages: Stages[_Item, Any, Any, Any]) -> None:
        self.is_delivered = True
        if stages.deliver is not None and not isinstance(self.value, Ready | Failure):
            self.work = self._submit(stages.deliver, self.item, self.value)

    def fail(self, error: Exception) -> None:
        self.work = Future()
        self.work.set_result(Failure(error))


def _in_context(context: Context, notes: list[Note], step: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """The result of a step, or its failure."""

    def noting() -> Any:
        if not is_collecting():
            return step(*args)
        with collect_notes() as found:
            try:
                return step(*args)
            finally:
                notes.extend(found)

    try:
        return context.run(noting)
    except Exception as error:  # whatever it is, whoever takes the results knows what it means
        return Failure(error)


def _call(waiting: Sequence[_Entry[_Item]], stages: Stages[_Item, Any, Any, Any], batch_size: int) -> None:
    """Process the first waiting item, together with those like it."""
    group = [waiting[0]]
    if batch_size > 1 and (key := waiting[0].key(stages)) is not None:
        like = (entry for entry in waiting[1:] if entry.key(stages) == key)
        group += [entry for entry, _ in zip(like, range(batch_size - 1), strict=False)]
    todo = [entry for entry in group if not isinstance(entry.value, Ready | Failure)]
    for entry in group:
        entry.is_called = True
    if not todo:
        return
    try:
        called = stages.call([entry.value.load() if entry not in todo else entry.value for entry in group])
    except Exception as error:  # as above
        for entry in todo:
            entry.is_redone = len(group) > 1
            entry.fail(error)
        return
    for entry, mine in zip(group, called, strict=True):
        if entry in todo:
            entry.finish(stages, mine)


def _outcome(
    entry: _Entry[_Item], others: Iterable[_Entry[_Item]], stages: Stages[_Item, Any, Any, _Result]
) -> tuple[_Item, _Result | Failure]:
    """The result of the first item of the queue; where others may have been in its way, once more without them."""
    found, notes = entry.value, entry.notes
    if isinstance(found, Failure) and (entry.is_redone or is_lack_of_memory(found.error)):
        wait([other.work for other in others])
        found, notes = _alone(entry.item, stages), []
    for each in notes:
        note(*each)
    return entry.item, found.result if isinstance(found, Ready) else found


def _alone(item: _Item, stages: Stages[_Item, Any, Any, _Result]) -> _Result | Ready[_Result] | Failure:
    try:
        read = stages.read(item)
        if isinstance(read, Ready):
            return read
        finished = stages.finish(item, read, *stages.call([read]))
        return finished if stages.deliver is None else stages.deliver(item, finished)
    except Exception as error:  # as above
        return Failure(error)
