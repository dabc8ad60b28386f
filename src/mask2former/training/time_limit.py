"""``trainer.max_hours``: a run ends by itself, before a time limit of the machine ends it."""

from __future__ import annotations

import time
from typing import NoReturn

import lightning

from mask2former.training.cluster import say_once

__all__ = ["TimeLimit"]


class TimeLimit:
    """Shows when the time of this start of a run is over.

    Args:
        hours: from now on.
    """

    def __init__(self, hours: float) -> None:
        self.hours = hours
        self._end = time.monotonic() + hours * 3600

    def is_over(self, trainer: lightning.Trainer) -> bool:
        """Whether it is over; the first rank decides for all ranks, so all of them must call it."""
        return bool(trainer.strategy.broadcast(time.monotonic() >= self._end))

    def stop(self, trainer: lightning.Trainer) -> NoReturn:
        """End the run as if it had been interrupted."""
        say_once(f"trainer.max_hours {self.hours:g} reached after {trainer.global_step} steps")
        raise KeyboardInterrupt
