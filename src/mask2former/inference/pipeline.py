"""Items in three stages: read ahead in threads, called together, finished afterwards in threads.

So network, disk and encoding overlap. Results have the order of the items, only a few of which are in memory. Images,
models and files are not known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mask2former.errors import UserError
from mask2former.memory import is_lack_of_memory
from mask2former.notes import Note, collect_notes, is_collecting, note
from mask2former.processors import num_processors

__all__ = ["Failure", "Ready", "Stages", "pipelined"]

_MOST_THREADS = 4
_AHEAD = 2  # times the batch size: how many next items are searched for those that can share a batch

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")
_Called = TypeVar("_Called")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Ready(Generic[_Result]):
    """Returned by ``read`` if an item needs no further work.

    Attributes:
        result: the result of the item.
        key: see :attr:`Stages.key`. The item takes its usual position in a batch, so that the other items are
            called in the same combination, and results have the same bits, whatever has already been done.
        load: reads the input after all, if there is a key: for such a batch.
    """

    result: _Result
    key: Hashable = None
    load: Callable[[], Any] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Takes the place of a result: the exception of a stage."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Stages(Generic[_Item, _Read, _Called, _Result]):
    """How each item is processed.

    Attributes:
        read: reads an item; runs in a thread.
        key: items with equal keys may share a call; None: the item is called alone.
        call: processes one or more items, in the thread that consumes the results.
        finish: processes the outputs of ``read`` and ``call``, in a thread.
        deliver: makes the output of ``finish`` visible outside, such as by writing files, in a thread. It waits until
            all earlier results have been consumed, so a consumer that stops or fails leaves nothing unreported.
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

    Which items share a call depends only on their keys and order, not on time: the first waiting item, and those with
    the same key among the next twice ``batch_size``. If a shared call fails, or memory runs out, everything else is
    finished first, and the items are called one by one, so an item only fails for reasons of its own.

    Args:
        items: taken a few ahead, in the thread of the caller. Their exceptions follow the results before them.
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
    num_threads = min(_MOST_THREADS, num_processors())
    ahead = _AHEAD * batch_size if batch_size > 1 else 1
    most = ahead + batch_size - 1 + num_threads
    source, broken, is_more = iter(items), None, True
    queue = deque[_Entry[_Item]]()  # in order; called ones may be behind others
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
                except Exception as error:  # raised once the items before it are done
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
    finally:  # also after Ctrl-C: waits for work in progress, so that files are complete
        pool.shutdown(cancel_futures=True)
    if broken is not None:
        raise broken


class _Entry(Generic[_Item]):
    """An item in progress; its notes are issued with its result."""

    def __init__(self, item: _Item, pool: ThreadPoolExecutor, stages: Stages[_Item, Any, Any, Any]) -> None:
        self.item = item
        self.notes: list[Note] = []
        self.is_called = False
        self.is_delivered = False
        self.is_redone = False
        self._pool = pool
        self._context = copy_context()  # of the caller, since threads start without one
        self.work: Future[Any] = self._submit(stages.read, item)

    def _submit(self, step: Callable[..., Any], *args: Any) -> Future[Any]:
        return self._pool.submit(_in_context, self._context, self.notes, step, args)

    @property
    def value(self) -> Any:
        """The output of the current stage; waits for it."""
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
    """The output of a step, or its failure."""

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
    except Exception as error:  # the consumer of the results decides what it means
        return Failure(error)


def _call(waiting: Sequence[_Entry[_Item]], stages: Stages[_Item, Any, Any, Any], batch_size: int) -> None:
    """Call the first waiting item, together with those that may share its call."""
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
    except Exception as error:  # see above
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
    """The result of the first item in the queue, retried alone if other items may have caused its failure."""
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
    except Exception as error:  # see above
        return Failure(error)
