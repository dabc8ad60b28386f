"""Which sample is used when: a pure function of seed and step, so that resuming needs no state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

import numpy as np
from jaxtyping import Bool, Int64

__all__ = ["Draw", "StepSampler"]


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of one step: its index, and the seed of its augmentation."""

    index: int
    seed: int


class StepSampler:
    """Endless draws for one rank, one list per optimizer step.

    Every epoch is a fresh permutation shared by all ranks; rank r takes every world-size-th draw.

    With ``groups``, samples are drawn in units from one group, the micro-batches of a step: each group runs through its
    own permutations, and the units of an epoch are those that are full by its end, in random order. The remainder of a
    group begins its next unit, so every sample is used once per pass over its group. Rank r takes every world-size-th
    unit.

    What a step draws depends on neither ranks nor ``micro``, only on ``unit``: a run that is resumed with other values
    keeps it. A micro-batch is then a part of a unit, or several units, which may be of both groups.

    Args:
        length: of the data set.
        batch_size: draws per step over all ranks.
        seed: of the permutations and of the augmentation of every draw.
        rank: of this process, from 0.
        world_size: number of ranks.
        first_step: where to start when resuming.
        groups: of every sample, for instance which images are wider than high; None: no grouping.
        micro: samples per micro-batch; divides ``batch_size`` over the ranks.
        unit: samples per unit; divides ``batch_size``. None: ``micro``.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        first_step: int = 0,
        groups: Bool[np.ndarray, " length"] | None = None,
        micro: int = 1,
        unit: int | None = None,
    ) -> None:
        assert length > 0
        assert batch_size % (world_size * micro) == 0
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.first_step = first_step
        self._members = None if groups is None else [np.flatnonzero(groups == kind) for kind in (False, True)]
        self.unit = (unit or micro) if groups is not None else 1
        assert batch_size % self.unit == 0
        self._chunk = gcd(self.unit, micro)
        self._orders: dict[tuple[int, int, int | None], np.ndarray] = {}  # those of the epochs in use

    def __iter__(self) -> Iterator[list[Draw]]:
        step = self.first_step
        while True:
            yield self.draws(step)
            step += 1

    def draws(self, step: int) -> list[Draw]:
        """The draws of this rank at one step, micro-batch after micro-batch."""
        per_step = self.batch_size // self._chunk
        chunks = range(step * per_step + self.rank, (step + 1) * per_step, self.world_size)
        positions = [chunk * self._chunk + index for chunk in chunks for index in range(self._chunk)]
        return [Draw(self._index(position), self._augmentation_seed(position)) for position in positions]

    def _index(self, position: int) -> int:
        if self._members is None:
            epoch, index = divmod(position, self.length)
            return int(self._order(self.length, epoch)[index])
        unit, index = divmod(position, self.unit)
        kind, number = self._unit(unit, self._members)
        members = self._members[kind]
        epoch, index = divmod(number * self.unit + index, len(members))
        return int(members[self._order(len(members), epoch, kind)[index]])

    def _unit(self, unit: int, members: list[Int64[np.ndarray, " _"]]) -> tuple[int, int]:
        """Group, and index within it, of one unit of the run."""

        def full(epochs: int) -> list[int]:
            """Number of units of each group that are full after this many epochs."""
            return [epochs * len(group) // self.unit for group in members]

        epoch = unit * self.unit // self.length
        while sum(full(epoch + 1)) <= unit:  # the remainder makes an epoch end slightly late
            epoch += 1
        begin, end = full(epoch), full(epoch + 1)
        order = self._order(sum(end) - sum(begin), epoch, len(members))
        index, first = int(order[unit - sum(begin)]), end[0] - begin[0]
        return (0, begin[0] + index) if index < first else (1, begin[1] + index - first)

    def _order(self, length: int, epoch: int, stream: int | None = None) -> Int64[np.ndarray, " length"]:
        """The permutation of one epoch."""
        key = (length, epoch, stream)
        if key not in self._orders:
            if len(self._orders) >= 8:  # two epochs of each stream
                self._orders.clear()
            entropy = [self.seed, epoch] if stream is None else [self.seed, 3, stream, epoch]
            self._orders[key] = np.random.default_rng(entropy).permutation(length)
        return self._orders[key]

    def _augmentation_seed(self, position: int) -> int:
        return int(np.random.SeedSequence([self.seed, 1, position]).generate_state(1, np.uint64)[0] >> 1)
