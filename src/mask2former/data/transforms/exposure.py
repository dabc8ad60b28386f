"""Random exposure: images darker or brighter by a factor, relative to their own brightest values.

A microscope's exposure and gain differ from image to image, so one image may use a tenth of the range of bytes and the
next all of it. Here, factors are chosen so that bright values never exceed the range, and colours are changed while
the image uses all of it: published colour jitter subtracts up to 32 from every value, which would blacken a dark image.

Knows arrays only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

__all__ = ["Exposure", "draw_exposure", "white_of"]

_WHITE = 0.995  # share of the values of an image that are at most its white: brighter ones are highlights or defects

Change = Callable[[UInt8[np.ndarray, "H W C"]], UInt8[np.ndarray, "H W C"]]


@dataclass(frozen=True, slots=True)
class Exposure:
    """The exposure of one draw.

    Attributes:
        white: what :func:`white_of` the image becomes, in 1..255; all values are multiplied by the same factor, and
            those above 255 are clipped. None: as the image is.
        measured: what it is before, for all frames of a clip alike; None: each image is measured.
    """

    white: float | None = None
    measured: int | None = None

    def around(self, color: Change | None, image: UInt8[np.ndarray, "H W C"]) -> Change:
        """Changes of parts of an image: to the full range, then those of ``color``, then to this exposure."""
        white = self.measured or white_of(image)
        target = self.white or white
        if color is None:
            return _multiplied(target / white)
        to_full, to_target = _multiplied(255 / white), _multiplied(target / 255)
        return lambda part: to_target(color(to_full(part)))


def draw_exposure(rng: np.random.Generator, low: float, high: float) -> Exposure:
    """Half of the time an exposure whose white is ``low`` to ``high`` of 255 (its logarithm is uniform)."""
    share = low * (high / low) ** rng.random()
    return Exposure(255 * share if rng.random() < 0.5 else None)


def white_of(image: UInt8[np.ndarray, "H W C"]) -> int:
    """The value, at least 1, that 99.5 % of all values do not exceed."""
    counts = Image.fromarray(image.reshape(len(image), -1)).histogram()  # ten times as fast as numpy's
    return max(1, int(np.searchsorted(np.cumsum(counts), _WHITE * image.size)))


def _multiplied(factor: float) -> Change:
    table = np.clip(np.rint(np.arange(256) * factor), 0, 255).astype(np.uint8)
    return lambda part: table[part]
