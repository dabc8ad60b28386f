"""The EXIF orientation of images, and how they are turned by it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps

from mask2former.pixels.decoder_warnings import without_warnings
from mask2former.pixels.stored import StoredImage

__all__ = ["TURNS", "Exif", "orientation", "turned"]

Exif = Literal["apply", "ignore"]

_FLIP = Image.Transpose
_BACK = {  # from upright to what was stored, by orientation
    2: _FLIP.FLIP_LEFT_RIGHT,
    3: _FLIP.ROTATE_180,
    4: _FLIP.FLIP_TOP_BOTTOM,
    5: _FLIP.TRANSPOSE,
    6: _FLIP.ROTATE_90,
    7: _FLIP.TRANSVERSE,
    8: _FLIP.ROTATE_270,
}
TURNS: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {  # from what is stored to upright
    2: np.fliplr,
    3: lambda array: array[::-1, ::-1],
    4: np.flipud,
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: np.rot90(array, -1),
    7: lambda array: array[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


def orientation(image: Image.Image | StoredImage) -> int:
    """The EXIF orientation, 1 to 8; unreadable EXIF data count as none, which is 1."""
    if isinstance(image, StoredImage):
        return image.orientation
    with without_warnings():
        try:
            value = image.getexif().get(ExifTags.Base.Orientation)
        except Exception:  # a broken metadata block says nothing about the pixels
            return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turned(image: Image.Image, turn: int, exif: Exif) -> Image.Image:
    """A decoded image upright, or as it is stored."""
    if image.format == "TIFF":  # decoding has already turned it upright
        return image if exif == "apply" or turn == 1 else image.transpose(_BACK[turn])
    if exif == "apply" and orientation(image) != 1:  # otherwise exif_transpose would copy it
        with without_warnings(), contextlib.suppress(Exception):  # as in orientation()
            return ImageOps.exif_transpose(image)
    return image
