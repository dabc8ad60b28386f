"""The bands of an image that a model sees."""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped

from mask2former import limits
from mask2former.errors import UserError
from mask2former.limits import check_limit
from mask2former.text import printable

__all__ = ["Bands", "chosen_bands"]

Bands = int | tuple[int, ...]
"""All bands of an image, which must be so many; or some, by their numbers from 1, in this order."""


def chosen_bands(values: Shaped[np.ndarray, "H W *N"], bands: Bands, name: str) -> Shaped[np.ndarray, "H W C"]:
    """The bands that a model sees, of all that an image has.

    Args:
        values: of one band, or with the bands last.
        bands: all of them or some.
        name: the image, in messages.

    Raises:
        UserError: it has more or fewer, or not those.
    """
    numbers = bands if isinstance(bands, tuple) else (bands,)
    if not numbers or not all(type(number) is int and number >= 1 for number in numbers):
        raise UserError(
            f"bands must be numbers of bands, from 1, or how many bands images have, got {printable(repr(bands), 60)}"
        )
    values = values[..., None] if values.ndim == 2 else values
    count = values.shape[2]
    has = f"{name} has {count} band{'s' * (count != 1)}"
    if isinstance(bands, int):
        if count < bands:
            raise UserError(f"{has}, and the model takes {bands}; give it images with as many as those of its training")
        if count > bands:
            raise UserError(
                f"{has}, and the model takes {bands}; choose {bands} by their numbers (--bands, in Python and in runs "
                "the inference setting bands)"
            )
        return values
    if max(bands) > count:
        raise UserError(
            f"{has}, and band {max(bands)} is to be read; name bands that it has (--bands, in Python and in runs the "
            "inference setting bands), or leave the image out"
        )
    if bands == tuple(range(1, count + 1)):
        return values
    size = values[..., 0].nbytes * len(bands)
    check_limit(f"{name} has bytes in the bands that are read:", size, limits.IMAGE_BYTES, "cut it into parts")
    return values[..., [number - 1 for number in bands]]
