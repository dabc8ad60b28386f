"""The bands of an image that a model uses."""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped

from mask2former import limits
from mask2former.errors import UserError
from mask2former.limits import check_limit
from mask2former.text import printable

__all__ = ["Bands", "chosen_bands"]

Bands = int | tuple[int, ...]
"""All bands of an image, which must have this many; or some, by their numbers from 1, in this order."""


def chosen_bands(values: Shaped[np.ndarray, "H W *N"], bands: Bands, name: str) -> Shaped[np.ndarray, "H W C"]:
    """The bands that a model uses, out of all bands of an image.

    Args:
        values: of one band, or with bands last.
        bands: how many bands there must be, or the numbers of those to use.
        name: of the image, for messages.

    Raises:
        UserError: it has more or fewer bands, or lacks some of them.
    """
    numbers = bands if isinstance(bands, tuple) else (bands,)
    if not numbers or not all(type(number) is int and number >= 1 for number in numbers):
        raise UserError(
            "bands must be band numbers, from 1, or the number of bands of the images, got "
            f"{printable(repr(bands), 60)}"
        )
    values = values[..., None] if values.ndim == 2 else values
    count = values.shape[2]
    has = f"{name} has {count} band{'s' * (count != 1)}"
    if isinstance(bands, int):
        if count < bands:
            raise UserError(
                f"{has}, but the model expects {bands}; use images with as many bands as its training images"
            )
        if count > bands:
            raise UserError(
                f"{has}, but the model expects {bands}; choose {bands} by their numbers (--bands, in Python and in "
                "runs the inference setting bands)"
            )
        return values
    if max(bands) > count:
        raise UserError(
            f"{has}, but band {max(bands)} is requested; choose bands that it has (--bands, in Python and in runs the "
            "inference setting bands), or leave the image out"
        )
    if bands == tuple(range(1, count + 1)):
        return values
    size = values[..., 0].nbytes * len(bands)
    check_limit(f"{name} has too many bytes in the bands that are read:", size, limits.IMAGE_BYTES, "cut it into parts")
    return values[..., [number - 1 for number in bands]]
