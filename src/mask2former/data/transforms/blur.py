"""Random blur: images out of focus. Knows arrays only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import ImageFilter

from mask2former.data.transforms.sizes import by_pillow
from mask2former.errors import UserError

__all__ = ["Blur", "draw_blur"]


@dataclass(frozen=True, slots=True)
class Blur:
    """The blur of one draw: of Gaussian shape, with edges extended.

    Attributes:
        sigma: standard deviation in pixels, up to 100; 0: none.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0 <= self.sigma <= 100:  # Pillow crashes at NaN
            raise UserError(f"the standard deviation of a blur must be from 0 to 100 pixels, got {self.sigma}")

    def __call__(self, image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W C"]:
        """The blurred image; the input stays unchanged."""
        blur = ImageFilter.GaussianBlur(self.sigma)
        return by_pillow(image, lambda part: part.filter(blur)) if self.sigma else image


def draw_blur(rng: np.random.Generator, most: float) -> Blur:
    """Half of the time a standard deviation of up to ``most`` pixels (uniform)."""
    sigma = most * rng.random()
    return Blur(sigma if rng.random() < 0.5 else 0.0)
