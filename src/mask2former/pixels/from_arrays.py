"""Arrays as bytes: red, green and blue, or bands."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mask2former import limits
from mask2former.errors import UserError
from mask2former.limits import check_limit
from mask2former.pixels.bands import Bands, chosen_bands
from mask2former.pixels.colors import grey_to_rgb, on_white
from mask2former.pixels.to_bytes import (
    bands_to_bytes,
    black_and_white,
    by_percentiles,
    check_ranges,
    common_range,
    opaque_value,
    scaled,
    to_bytes,
)
from mask2former.value_range import ValueRange

__all__ = ["ARRAY_HELP", "bands_of_array", "rgb_of_array"]

ARRAY_HELP = "expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"


def rgb_of_array(
    array: np.ndarray,
    name: str = "array",
    expected: str = ARRAY_HELP,
    *,
    value_range: ValueRange | None = None,
    example: str | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Channels-last values of any accepted type as RGB bytes; see :func:`mask2former.media.images.read_image`.

    Args:
        array: the values.
        name: what the array is called in messages.
        expected: the shapes that are accepted, for messages.
        value_range: the values that become 0 and 255, for values that are not bytes.
        example: what the array is called in notes.

    Raises:
        UserError: another shape or type, no pixels, masked values, or values that no rule covers.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "; channels come last in an array: transpose it with (1, 2, 0)"
        raise UserError(f"an {name} of shape {array.shape} is not an image: {expected}{hint}")
    array = _checked(array, name)
    common, opaque = common_range(value_range), None
    if array.ndim == 3 and array.shape[2] == 4:
        common = span = black_and_white(array[..., :3], common, name, example or name)
        opaque = opaque_value(array[..., :3], array[..., 3], span, example or name)
    if opaque is not None:
        colors = to_bytes(array[..., :3], name, common, example or name)
        pixels = np.concatenate([colors, scaled(array[..., 3:], (0.0, opaque))], axis=2)
    else:
        pixels = to_bytes(array, name, common, example or name)
    if pixels.ndim == 2:
        return grey_to_rgb(pixels)
    if pixels.shape[2] == 1:
        return grey_to_rgb(pixels[..., 0])
    if pixels.shape[2] == 4:
        return on_white(Image.fromarray(np.ascontiguousarray(pixels)), example or name)
    return np.array(pixels, order="C")  # a copy: the result never shares memory with the caller's array


def bands_of_array(
    array: np.ndarray,
    bands: Bands,
    name: str = "array",
    *,
    value_range: ValueRange | None = None,
    example: str | None = None,
) -> UInt8[np.ndarray, "H W C"]:
    """Bands of channels-last values in 0..255; see :func:`rgb_of_array`.

    Raises:
        UserError: as for :func:`rgb_of_array`, or it has other bands.
    """
    check_ranges(value_range, bands)
    if array.ndim not in (2, 3):
        raise UserError(f"an {name} of shape {array.shape} is not an image: expected (H, W) or (H, W, bands)")
    array = chosen_bands(_checked(array, name), bands, f"the {name} of shape {array.shape}")
    if value_range == "percentile" and array.dtype != np.uint8 and array.dtype.kind in "iuf":
        return np.ascontiguousarray(by_percentiles(array, example or name))
    pixels = bands_to_bytes(array, value_range, lambda part, span, of: to_bytes(part, name, span, of), example or name)
    return np.array(pixels, order="C")


def _checked(array: np.ndarray, name: str) -> np.ndarray:
    """An image as a plain array; refuses images without pixels, with too many pixels, or with masked values."""
    check_limit(
        f"the {name} has too many pixels:", array.shape[0] * array.shape[1], limits.ARRAY_PIXELS, "cut it into parts"
    )
    if not array.size:
        raise UserError(f"an {name} of shape {array.shape} has no pixels")
    if isinstance(array, np.ma.MaskedArray):
        if hidden := np.ma.count_masked(array):
            raise UserError(
                f"the {name} is a masked array with {hidden} of {array.size} values masked; expected a value for "
                "every pixel, which array.filled(value) provides"
            )
        return array.data
    return array
