"""Basic tools for painting: the pixel grid, noise, colours and distances to simple shapes.

Colours are float32 RGB in 0..1 and coverages are soft masks in 0..1, so borders look the same at every size. Classes
and scenes are not known here.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

__all__ = [
    "Array",
    "Raster",
    "any_color",
    "box",
    "disc",
    "ellipse",
    "gable",
    "hsv",
    "mix",
    "noise_sampler",
    "round_box",
]

Array = np.ndarray


@dataclass
class Raster:
    """The pixel grid of one frame."""

    height: int
    width: int
    unit: float
    camera: float  # shift to the left, as a share of the width


# Noise and colour


@cache
def _noise_tiles() -> dict[str, Image.Image]:
    """Two 512 x 512 tiles of zero mean and unit variance: ``fine`` (one scale, 2 px) and ``cloudy`` (fractal)."""
    rng = np.random.Generator(np.random.PCG64(20220411))

    def octave(cells: int) -> Array:
        values = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
        return np.asarray(values.resize((512, 512), Image.Resampling.BICUBIC))

    def tile(values: Array) -> Image.Image:
        return Image.fromarray(((values - values.mean()) / values.std()).astype(np.float32))

    return {"fine": tile(octave(256)), "cloudy": tile(sum((octave(2**k) * 0.62**k for k in range(3, 9)), np.zeros(())))}


def noise_sampler(
    kind: str, start: tuple[float, float], scale: tuple[float, float], window: tuple[float, float, float, float]
) -> Callable[[int, int], Array]:
    """Sampler of a noise tile over ``window`` (x0, y0, x1, y1), with ``scale`` tile pixels per unit of the window.

    ``start`` in [0, 1) chooses the position in the tile. Sampling is area-averaged, so it looks the same at every size.
    """
    tile = _noise_tiles()[kind]
    spans = []
    for axis in (0, 1):
        low, high = window[axis], window[axis + 2]
        step = min(scale[axis], 500.0 / (high - low))
        free = 510.0 - step * (high - low)
        begin = (start[axis] * 510.0 + step * low) % free if free > 0 else 0.0
        spans.append((begin, begin + step * (high - low)))
    area = (spans[0][0], spans[1][0], spans[0][1], spans[1][1])
    return lambda height, width: np.asarray(tile.resize((width, height), Image.Resampling.BILINEAR, box=area))


def hsv(hue: float, saturation: float, value: float) -> Array:
    """RGB in 0..1, shape (3, 1, 1)."""
    rgb = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))
    return np.array(rgb, np.float32)[:, None, None]


def any_color(a: float, b: float, c: float) -> Array:
    """A paint colour from three numbers in [0, 1): any hue, mostly saturated, seldom dark."""
    return hsv(a, 0.25 + 0.7 * b, 0.45 + 0.5 * c)


def mix(rgb: Array, color: Array, coverage: Array) -> None:
    """Paint ``color`` over ``rgb`` (3, h, w) with the opacity ``coverage`` (h, w), in place."""
    rgb += coverage * (color - rgb)


# Shapes: distances are negative inside, in the units of x and y


def disc(x: Array, y: Array, radius: float) -> Array:
    """Distance to a circle around the origin."""
    return np.sqrt(x * x + y * y) - radius


def ellipse(x: Array, y: Array, a: float, b: float) -> Array:
    """Distance to an ellipse of half axes a and b, with exact sign and approximate size."""
    return (np.sqrt((x / a) ** 2 + (y / b) ** 2) - 1.0) * min(a, b)


def box(x: Array, y: Array, half_width: float | Array, half_height: float) -> Array:
    """Distance to an upright box; beyond a corner, the larger of the distances along the two axes."""
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def round_box(x: Array, y: Array, half_width: float, half_height: float, radius: float) -> Array:
    """Distance to an upright box with corners of ``radius``."""
    qx = np.maximum(np.abs(x) - (half_width - radius), 0.0)
    qy = np.maximum(np.abs(y) - (half_height - radius), 0.0)
    return np.sqrt(qx * qx + qy * qy) - radius


def gable(x: Array, y: Array, top: float, bottom: float, half_width: float) -> Array:
    """Triangle with the tip at (0, top) and the base from -half_width to half_width at ``bottom``."""
    height = bottom - top
    norm = math.hypot(height, half_width)
    return np.maximum((np.abs(x) * height - (y - top) * half_width) / norm, y - bottom)
