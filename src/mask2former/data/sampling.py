"""Which sample is seen when: a pure function of seed and step, so that resuming needs no state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["Draw", "StepSampler"]


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample of one step: its index, and the seed of its augmentation."""

    index: int
    seed: int


class StepSampler:
    """Endless draws for one rank, a list per optimizer step.

    Every epoch is a fresh permutation shared by all ranks; rank r takes every world-size-th draw.

    Args:
        length: of the data set.
        total_batch: draws per step over all ranks.
        first_step: where to begin, when resuming.
    """

    def __init__(
        self, length: int, total_batch: int, seed: int, *, rank: int = 0, world_size: int = 1, first_step: int = 0
    ) -> None:
        assert length > 0
        assert total_batch % world_size == 0
        self.length = length
        self.total_batch = total_batch
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.first_step = first_step
        self._permutation: tuple[int, np.ndarray] | None = None  # (epoch, order) of the epoch in use

    def __iter__(self) -> Iterator[list[Draw]]:
        step = self.first_step
        while True:
            yield self.draws(step)
            step += 1

    def draws(self, step: int) -> list[Draw]:
        """The draws of this rank at one step."""
        positions = range(step * self.total_batch + self.rank, (step + 1) * self.total_batch, self.world_size)
        return [Draw(self._index(position), self._augmentation_seed(position)) for position in positions]

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, self.length)
        if self._permutation is None or self._permutation[0] != epoch:
            self._permutation = (epoch, np.random.default_rng([self.seed, epoch]).permutation(self.length))
        return int(self._permutation[1][place])

    def _augmentation_seed(self, position: int) -> int:
        return int(np.random.SeedSequence([self.seed, 1, position]).generate_state(1, np.uint64)[0] >> 1)
