"""Random fields of zero mean and unit variance, from which backgrounds and the insides of nuclei are made."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

__all__ = ["Array", "blurred", "clouds", "fibres"]

Array = np.ndarray
_MARGIN = 4  # pixels that a field is drawn larger, so that no border of its grid is visible


def blurred(values: Array, sigma: float) -> Array:
    """Gaussian blur of (H, W) or (H, W, C), with ``sigma`` in pixels."""
    from scipy import ndimage  # takes a while to import

    return ndimage.gaussian_filter(values, (sigma, sigma, 0)[: values.ndim])


def _unit(values: Array) -> Array:
    deviation = float(values.std())
    return ((values - values.mean()) / (deviation if deviation > 0 else 1.0)).astype(np.float32)


def clouds(rng: np.random.Generator, size_hw: tuple[int, int], count: float, octaves: int = 3) -> Array:
    """Smooth noise (H, W), about ``count`` blobs along the longer side; each octave halves their size and height."""
    height, width = size_hw
    field = np.zeros(size_hw, np.float32)
    for octave in range(octaves):
        blobs = max(2.0, count * 2**octave)
        rows, columns = (max(2, round(blobs * side / max(size_hw))) + 3 for side in size_hw)
        grid = Image.fromarray(rng.standard_normal((rows, columns)).astype(np.float32))
        large = (width + 2 * _MARGIN, height + 2 * _MARGIN)
        smooth = np.asarray(grid.resize(large, Image.Resampling.BICUBIC, box=(1, 1, columns - 1, rows - 1)))
        field += 0.5**octave * smooth[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
        if blobs > max(size_hw):  # finer ones than pixels
            break
    return _unit(field)


def fibres(rng: np.random.Generator, size_hw: tuple[int, int], period: float) -> Array:
    """Bent, broken lines (H, W) that are ``period`` pixels apart."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]].astype(np.float32)
    angle = rng.uniform(0.0, math.pi)
    across = x * math.cos(angle) + y * math.sin(angle) + period * clouds(rng, size_hw, 3, 2)
    lines = np.sin(2.0 * math.pi * across / period + 1.5 * clouds(rng, size_hw, 12, 2))
    strength = np.maximum(0.5 + clouds(rng, size_hw, 5), 0.0)
    return _unit(lines * strength + 0.7 * clouds(rng, size_hw, 40, 2))
