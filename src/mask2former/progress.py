"""How a call that takes minutes says how far it is. Draws nothing; whoever calls decides what becomes of it."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["DOWNLOADING", "Progress", "silent"]

Progress = Callable[[str, int, int | None], None]
"""Told the step, how much of it is done, and of how much; None: unknown."""

DOWNLOADING = "downloading"
"""The step whose amounts are bytes."""


def silent(step: str, done: int, total: int | None) -> None:
    """Say nothing."""
