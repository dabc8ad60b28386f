"""The elements of overlays: how a region is shown, and its mask cropped to its box."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

__all__ = ["Color", "Crop", "Region", "Window", "ranks"]

Color = tuple[int, int, int]  # RGB in 0..255
Window = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True, slots=True)
class Region:
    """How one mask is shown.

    ``group`` (the class) keeps the colours of a class together: its members vary a little around ``color``, or over all
    hues if there is no other class in the image, so that neighbours differ. ``score`` in 0..1 is printed if given.
    Stuff (``is_thing`` False) is filled flat, without an outline. A thing with an ``identity``, the number of a track,
    has the colour of that number instead, whatever else is in the image. A thing with a ``variant``, its number among
    the tracks of its class in a clip, has the colour of that number wherever it is, and is counted only where it is
    visible. ``is_safe`` restricts the choice to colours that colour-blind people can distinguish.
    """

    name: str
    color: Color
    score: float | None = None
    group: int = 0
    is_thing: bool = True
    identity: int | None = None
    variant: int | None = None
    is_safe: bool = False


@dataclass(frozen=True, slots=True)
class Crop:
    """A mask cropped to its box: ``mask`` is located at ``window`` of the canvas; ``index`` is that of its region."""

    index: int
    window: Window
    mask: Bool[np.ndarray, "h w"]
    area: int


def ranks(groups: Iterable[int]) -> list[int]:
    """The number of each item within its group, from 0; used as :attr:`Region.variant`."""
    seen, found = Counter[int](), []
    for group in groups:
        found.append(seen[group])
        seen[group] += 1
    return found
