"""Random exposure: images darker or brighter by a factor, relative to their own brightest values.

A microscope's exposure and gain differ from image to image, so one image may use a tenth of the range of bytes and the
next all of it. Here, factors are chosen so that bright values do not exceed the range, and changes of brightness are in
proportion to it: published colour jitter adds or subtracts up to 32 everywhere, which would blacken a dark image.

Knows arrays only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mask2former.config.augmentation import check_exposure
from mask2former.data.transforms.color_jitter import ColorJitter
from mask2former.data.transforms.geometry import Change

__all__ = ["Exposure", "draw_exposure", "white_of"]

# Share of the values of an image that are at most its white. Brighter ones are defects: a small object of 40 pixels is
# 0.06 % of an image of 256x256.
_WHITE = 0.9998


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
        """Changes of parts of an image: to this exposure, then ``color``, the brightness of a jitter in proportion."""
        white = self.measured or white_of(image)
        target = self.white or white
        every = np.arange(256)
        table = np.clip(np.rint(every * (target / white)), 0, 255).astype(np.uint8)
        if isinstance(color, ColorJitter) and color.brightness is not None:
            color = replace(color, brightness=color.brightness * target / 255)
        return (lambda part: table[part]) if color is None else (lambda part: color(table[part]))


def draw_exposure(rng: np.random.Generator, low: float, high: float) -> Exposure:
    """Half of the time an exposure whose white is ``low`` to ``high`` of 255 (its logarithm is uniform).

    Raises:
        UserError: these are not two ascending shares from 0.01 to 1.
    """
    check_exposure(low, high)
    share = low * (high / low) ** rng.random()
    return Exposure(255 * share if rng.random() < 0.5 else None)


def white_of(image: UInt8[np.ndarray, "H W C"]) -> int:
    """The value, at least 1, that 99.98 % of all values of all channels do not exceed."""
    counts = Image.fromarray(image.reshape(len(image), -1)).histogram()  # ten times as fast as numpy's
    return max(1, int(np.searchsorted(np.cumsum(counts), _WHITE * image.size)))
