"""``trainer.max_hours``: a run ends by itself, before the machine is taken away."""

from __future__ import annotations

import time
from typing import NoReturn

import lightning

from mask2former.training.cluster import say_once

__all__ = ["TimeLimit"]


class TimeLimit:
    """Checks whether the time of this start of a run is over.

    Args:
        hours: time limit, from now on.
    """

    def __init__(self, hours: float) -> None:
        self.hours = hours
        self._end = time.monotonic() + hours * 3600

    def is_over(self, trainer: lightning.Trainer) -> bool:
        """Whether it is over, as decided by the first rank; all ranks must call this."""
        return bool(trainer.strategy.broadcast(time.monotonic() >= self._end))

    def stop(self, trainer: lightning.Trainer) -> NoReturn:
        """End the run as if a user had stopped it."""
        say_once(f"trainer.max_hours {self.hours:g} reached after {trainer.global_step} steps")
        raise KeyboardInterrupt
