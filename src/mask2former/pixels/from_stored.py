"""What readers other than Pillow return, as bytes: red, green and blue, or bands."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from mask2former.pixels.bands import Bands, chosen_bands
from mask2former.pixels.colors import grey_to_rgb
from mask2former.pixels.exif import TURNS, Exif
from mask2former.pixels.from_arrays import rgb_of_array
from mask2former.pixels.missing import blackened, note_missing
from mask2former.pixels.stored import Stored, StoredImage
from mask2former.pixels.to_bytes import (
    CommonRange,
    bands_to_bytes,
    black_and_white,
    by_percentiles,
    check_ranges,
    common_range,
    from_integers,
    to_bytes,
)
from mask2former.value_range import ValueRange, ranges_of_bands

__all__ = ["bands_of_stored", "rgb_of_stored"]


def rgb_of_stored(
    image: StoredImage, name: str = "image", *, value_range: ValueRange | None = None, exif: Exif = "apply"
) -> UInt8[np.ndarray, "H W 3"]:
    """The image as RGB in 0..255, upright and contiguous; see :func:`mask2former.media.images.read_image`.

    Raises:
        UserError: it is damaged, or contains values that no rule covers; the message names it.
    """
    common = common_range(value_range)
    stored = image.read(None)
    named = f"'{name}'"
    note_missing(stored.missing, name)
    values, known = _known_values(stored, name, common)
    common = common_range(known)
    if stored.has_alpha:
        hidden = values[..., -1] == 0
        if hidden.any() and not hidden.all():  # invisible pixels must not decide how many bits there are
            most = values[~hidden][:, :-1].max()
            values = np.where(hidden[..., None], np.minimum(values, most), values)
        colors = np.broadcast_to(values[..., :-1], (*values.shape[:2], 3))
        pixels = rgb_of_array(np.dstack([colors, values[..., -1]]), named, value_range=common, example=name)
    else:
        pixels = _to_bytes(values, stored.bits, name, common)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = grey_to_rgb(pixels.reshape(values.shape[:2]))
    return _as_seen(image, stored, pixels, exif)


def bands_of_stored(
    image: StoredImage,
    bands: Bands,
    name: str = "image",
    *,
    value_range: ValueRange | None = None,
    exif: Exif = "apply",
) -> UInt8[np.ndarray, "H W C"]:
    """Bands of the image in 0..255, upright and contiguous; see :func:`mask2former.media.images.read_image`.

    Raises:
        UserError: it is damaged, has other bands, or contains values that no rule covers; the message names it.
    """
    check_ranges(value_range, bands)
    stored = image.read(bands)
    stored = replace(stored, values=chosen_bands(stored.values, bands, f"'{name}'"))
    if stored.missing is not None and stored.missing.ndim == 3:
        stored = replace(stored, missing=chosen_bands(stored.missing, bands, f"'{name}'"))
    note_missing(stored.missing, name)
    if value_range == "percentile":
        pixels = by_percentiles(stored.values, name, stored.missing)
    else:
        values, value_range = _known_values(stored, name, value_range)
        pixels = bands_to_bytes(
            values, value_range, lambda part, span, of: _to_bytes(part, stored.bits, of, span), name, stored.bits
        )
    return _as_seen(image, stored, pixels, exif)


def _known_values(stored: Stored, name: str, value_range: ValueRange | None) -> tuple[np.ndarray, ValueRange | None]:
    """The values, with missing ones replaced, and the values that become 0 and 255, as far as known at this point."""
    values, missing = stored.values, stored.missing
    if value_range in (None, "auto") and stored.value_range is not None:
        value_range = stored.value_range
        values = np.clip(values, *value_range)
    if value_range == "full" and stored.full is not None:
        value_range = stored.full
    if missing is not None and missing.any():
        hidden = missing if missing.ndim == values.ndim else np.broadcast_to(missing[..., None], values.shape)
        known = values[~hidden]
        if known.size and ranges_of_bands(value_range) is None:
            value_range = black_and_white(known, common_range(value_range), f"'{name}'", name, stored.bits)
        span = common_range(value_range) if ranges_of_bands(value_range) is None else None
        values = _filled(values, hidden, span[0] if isinstance(span, tuple) else None)
    return values, value_range


def _filled(values: np.ndarray, missing: np.ndarray, black: float | None) -> np.ndarray:
    """Missing values replaced, band by band, by the smallest value that is not clipped."""
    if values.ndim == 3:
        bands = range(values.shape[2])
        return np.stack([_filled(values[..., band], missing[..., band], black) for band in bands], axis=2)
    known = values[~missing]
    known = known if black is None or not (known >= black).any() else known[known >= black]
    return np.where(missing, known.min() if known.size else 0, values)


def _to_bytes(
    values: np.ndarray, bits: int | None, name: str, value_range: CommonRange | None
) -> UInt8[np.ndarray, ...]:
    """Values as bytes; integers of a file may have any type, and the number of bits that the file gives."""
    if values.dtype.kind in "iu" and values.dtype != np.uint8:
        return from_integers(values, f"'{name}'", value_range, name, bits, bits)
    return to_bytes(values, f"'{name}'", value_range, name)


def _as_seen(
    image: StoredImage, stored: Stored, pixels: UInt8[np.ndarray, "_h _w C"], exif: Exif
) -> UInt8[np.ndarray, "H W C"]:
    """Upright and contiguous, with white as the largest value, and black where there is none."""
    pixels = blackened(255 - pixels if stored.white_is_0 else pixels, stored.missing)
    if exif == "apply" and image.orientation > 1:
        pixels = TURNS[image.orientation](pixels)
    return np.ascontiguousarray(pixels)
