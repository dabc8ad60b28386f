"""What is inside nuclei: the same texture for all of an image, and grains or holes of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mask2former.scenes.cells.nuclei import Nucleus
from mask2former.scenes.cells.textures import Array, clouds

__all__ = ["chromatin"]


def chromatin(
    rng: np.random.Generator, size_hw: tuple[int, int], diameter: float, contrast: float, grains: float, holes: float
) -> Callable[[Nucleus], Array]:
    """A function that gives the factors (h, w) by which the brightness or dye of a nucleus varies.

    Args:
        rng: source of all random numbers.
        size_hw: height and width of the image in pixels.
        diameter: of the median nucleus, in pixels.
        contrast: standard deviation of the common texture.
        grains: mean number of brighter spots in a nucleus.
        holes: mean number of darker ones (nucleoli).
    """
    mottled = clouds(rng, size_hw, max(size_hw) / (diameter * rng.uniform(0.1, 0.4)))

    def inside(nucleus: Nucleus) -> Array:
        factors = 1.0 + contrast * mottled[nucleus.box]
        rows, columns = np.nonzero(nucleus.depth > 0.25)
        for mean, sign in ((grains, 1.0), (holes, -1.0)):
            for _ in range(rng.poisson(mean) if len(rows) else 0):
                spot = rng.integers(len(rows))
                sigma = nucleus.radius * rng.uniform(0.08, 0.2)
                y, x = np.ogrid[: factors.shape[0], : factors.shape[1]]
                bump = np.exp(-((y - rows[spot]) ** 2 + (x - columns[spot]) ** 2) / (2.0 * sigma * sigma))
                factors = factors * (1.0 + sign * rng.uniform(0.3, 0.7) * bump)
        return np.clip(factors, 0.1, 3.0)

    return inside
