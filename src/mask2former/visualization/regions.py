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

    ``group`` (the class) keeps colours of a class together: its members vary a little around ``color``, or over all
    hues where nothing else is in the image, so that neighbours differ. ``score`` in 0..1 is printed when given. Stuff
    (``is_thing`` False) is filled flat, without an outline. A thing with an ``identity``, the number of a track, has
    the colour of that number instead, whatever else is in the image; one with a ``variant``, its number among the
    tracks of its class in a clip, has the colour of that number wherever it lies, and is counted where it is seen.
    ``is_safe`` keeps to colours that colour-blind people can tell apart.
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
    """A mask cropped to its box: ``mask`` lies at ``window`` of the canvas; ``index`` is that of its region."""

    index: int
    window: Window
    mask: Bool[np.ndarray, "h w"]
    area: int


def ranks(groups: Iterable[int]) -> list[int]:
    """The number of each among those of its group, from 0: its :attr:`Region.variant`."""
    seen, found = Counter[int](), []
    for group in groups:
        found.append(seen[group])
        seen[group] += 1
    return found
