"""Values of any type as bytes: which values become 0 and 255, given by numbers, by a rule, or inferred."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Shaped, UInt8

from mask2former.errors import UserError
from mask2former.notes import note, noted_as_one
from mask2former.pixels.bands import Bands
from mask2former.text import percent, quoted
from mask2former.value_range import Range, ValueRange, ValueRule, as_value_range, ranges_of_bands

__all__ = [
    "DEPTHS",
    "CommonRange",
    "bands_to_bytes",
    "black_and_white",
    "by_percentiles",
    "check_ranges",
    "checked_range",
    "common_range",
    "from_integers",
    "note_clipped",
    "opaque_value",
    "scaled",
    "to_bytes",
]

CommonRange = Range | ValueRule
"""The values that become 0 and 255 in all bands, or the rule that determines them for each image."""

DEPTHS = (8, 10, 12, 14)  # bit depths of cameras and converters that write 16-bit files
_FULL = (255, 1023, 4095, 16383, 32767, 65535)  # the opaque value in images of these depths
_OVERSHOOT = 0.1  # share of the range beyond 0..1 or 0..255: what resampling adds around edges
_ROUNDING = 0.002  # likewise: what half precision adds
_FEW = 0.15  # share of the values that may overshoot
_PERCENTILES = (0.5, 99.5)  # of the values of an image that become 0 and 255 by the rule of this name
_NOTED = 0.01  # share of clipped values from which a note is given


def to_bytes(array: np.ndarray, name: str, value_range: CommonRange | None, example: str) -> UInt8[np.ndarray, ...]:
    """Values of an array as bytes.

    Args:
        array: of any shape.
        name: subject of messages.
        value_range: the values that become 0 and 255, for values that are not bytes.
        example: what the array is called in notes.

    Raises:
        UserError: they have a type or values that no rule covers.
    """
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(array.dtype, np.floating):
        return _from_floats(array, name, value_range, example)
    if array.dtype == np.uint16 or (value_range not in (None, "auto") and array.dtype.kind in "iu"):
        return from_integers(array, f"the {name}", value_range, example)
    hint = " (integers of other types with value_range)" if array.dtype.kind in "iu" else ""
    raise UserError(f"the {name} has type {array.dtype}; expected uint8, uint16, bool or float{hint}")


def checked_range(value_range: object) -> ValueRange | None:
    """The range, ranges of bands or rule given by a caller; None: the range of each image is inferred from its values.

    Raises:
        UserError: it is none of these.
    """
    try:
        return as_value_range(value_range)
    except ValueError as error:
        raise UserError(f"value_range is {quoted(value_range, 100)}; {error}") from error


def common_range(value_range: ValueRange | None) -> CommonRange | None:
    """The range or rule for an image that is read as colours, which share it.

    Raises:
        UserError: there is one per band.
    """
    if (ranges := ranges_of_bands(value_range)) is not None:
        raise UserError(
            f"value_range has {_ranges(len(ranges))}, one per band, but the image is read as red, green and blue; set "
            "bands to the same number, or give one range for all"
        )
    return value_range  # pyright: ignore[reportReturnType]  (no ranges of bands)


def check_ranges(value_range: ValueRange | None, bands: Bands) -> None:
    """Refuse ranges of bands whose number differs from that of the bands.

    Raises:
        UserError: the message has both numbers.
    """
    count = bands if isinstance(bands, int) else len(bands)
    if (ranges := ranges_of_bands(value_range)) is not None and len(ranges) != count:
        raise UserError(
            f"value_range has {_ranges(len(ranges))}, one per band, but {count} "
            f"band{' is' if count == 1 else 's are'} read; give the same number of both, in the same order, or one "
            "range for all"
        )


def _ranges(count: int) -> str:
    return f"{count} range{'s' * (count != 1)}"


def bands_to_bytes(
    values: Shaped[np.ndarray, "H W C"],
    value_range: ValueRange | None,
    convert: Callable[[np.ndarray, CommonRange | None, str], UInt8[np.ndarray, ...]],
    example: str,
    stated: int | None = None,
) -> UInt8[np.ndarray, "H W C"]:
    """Bands as bytes, each with its own range, or all with one.

    A band with only the values for opaque and transparent becomes 255 and 0 in any range, and does not take part in an
    inferred one, which it would widen. Other bands that are dark beside bands with larger values are noted.

    Args:
        values: of bands.
        value_range: the values that become 0 and 255.
        convert: turns values into bytes by a range; notes refer to them by the given text.
        example: what the image is called in notes.
        stated: the number of bits given in the file.
    """
    count = values.shape[2]
    if (ranges := ranges_of_bands(value_range)) is not None:
        with noted_as_one():
            parts = [
                convert(values[..., band : band + 1], span, f"{example}, band {band + 1} of those that are used")
                for band, span in enumerate(ranges)
            ]
        return np.concatenate(parts, axis=2)
    common = common_range(value_range)
    if common not in (None, "auto") or values.dtype == np.uint8 or values.dtype.kind not in "iuf":
        return convert(values, common, example)
    masks = [band for band in range(count) if _is_mask(values[..., band])]
    others = [band for band in range(count) if band not in masks]
    if not masks or not others:
        pixels = convert(values, common, example)
    else:
        pixels = np.where(values > 0, np.uint8(255), np.uint8(0))
        pixels[..., others] = convert(values[..., others], common, example)
    if stated is None or values[..., others].max(initial=0) >= 2**stated:
        _note_uneven(values, pixels, example)
    return pixels


def _is_mask(values: np.ndarray) -> bool:
    """Whether values are only the smallest and largest of their type, like those of opaque or transparent alpha."""
    if values.dtype.kind != "u" or values.max() != (full := np.iinfo(values.dtype).max):
        return False
    return bool(((values == 0) | (values == full)).all())


def _note_uneven(values: np.ndarray, pixels: UInt8[np.ndarray, "H W C"], example: str) -> None:
    """Note bands that are dark in an inferred range that others fill."""
    tops, shown = values.max(axis=(0, 1)), pixels.max(axis=(0, 1))
    dark = [band for band in range(len(tops)) if tops[band] > 0 and shown[band] < 64 <= shown.max()]
    if dark:
        several = ", ".join(f"band {band + 1} up to {tops[band]:.6g}" for band in dark[:4])
        note(
            "images with bands whose values stay in the lowest quarter of the range that is inferred for all bands "
            "together (set value_range, if needed to one range per band)",
            f"'{example}' ({several}{', ...' if len(dark) > 4 else ''}; the largest is {tops.max():.6g})",
        )


def black_and_white(
    values: np.ndarray, value_range: CommonRange | None, name: str, example: str, bits: int | None = None
) -> Range | None:
    """What becomes 0 and 255 by a rule; None: values are bytes, or the range is inferred from them.

    Args:
        values: of the colours, without alpha.
        value_range: the numbers themselves, or a rule.
        name: subject of messages.
        example: what the image is called in notes.
        bits: number of bits of the values, where fewer than those of their type.

    Raises:
        UserError: floats, which have no full range.
    """
    if not isinstance(value_range, str):
        return value_range
    if value_range == "auto" or values.dtype == np.uint8 or values.dtype.kind not in "iuf":
        return None
    if value_range == "full":
        if values.dtype.kind == "f":
            raise UserError(
                f"the {name} contains floats, which have no full range; set value_range to percentile or to the "
                "values of black and white"
            )
        span = np.iinfo(values.dtype)
        return (0, 2**bits - 1) if bits else (float(span.min), float(span.max))
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        return None  # which is refused
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    note(
        f"images whose percentiles {_PERCENTILES[0]:g} and {_PERCENTILES[1]:g} are used as black and white",
        f"'{example}' ({low:.4g} to {high:.4g})",
    )
    return (low, high) if low < high else (low, low + 1)


def opaque_value(colors: np.ndarray, alpha: np.ndarray, value_range: Range | None, example: str) -> float | None:
    """The alpha that means opaque, where alpha has its own range; None: that of the colours."""
    kind = alpha.dtype.kind
    most = float(alpha.max()) if kind in "iuf" else np.nan
    if not np.isfinite(most):
        return None  # which to_bytes refuses, booleans aside
    if kind == "f":
        if value_range is not None:
            return max(value_range[1], most) if most > 255 else 255.0 if most > 2 else 1.0
        if not (0 < most <= 1 + _ROUNDING and colors.max() > 1 + _OVERSHOOT):
            return None
        note("float images with alpha within 0..1 but colours beyond, read as opaque at 1", f"'{example}'")
        return 1.0
    if alpha.dtype == np.uint16:
        opaque = most if most in _FULL and most >= colors.max() else 65535.0
    elif value_range is None or alpha.dtype == np.uint8:
        return None  # bytes; to_bytes refuses other types without value_range
    else:
        opaque = float(next((full for full in _FULL if most <= full), np.iinfo(alpha.dtype).max))
    if opaque < np.iinfo(alpha.dtype).max:
        note(
            "images whose alpha uses part of the range of its type, read as opaque at the largest value of 8, 10, "
            "12, 14, 15 or 16 bits",
            f"'{example}' ({opaque:g})",
        )
    return opaque


def by_percentiles(
    values: Shaped[np.ndarray, "H W C"], name: str, missing: np.ndarray | None = None
) -> UInt8[np.ndarray, "H W C"]:
    """Each band by its own percentiles, since bands may contain different quantities in different units."""
    if values.dtype == np.uint8:
        return values
    pixels, spans = np.zeros(values.shape, np.uint8), []
    for band in range(values.shape[2]):
        plane = values[..., band]
        hidden = None if missing is None else missing[..., band] if missing.ndim == 3 else missing
        known = plane if hidden is None else plane[~hidden]
        if not known.size:
            continue
        low, high = (float(value) for value in np.percentile(known, _PERCENTILES))
        if not (math.isfinite(low) and math.isfinite(high) and np.isfinite(known).all()):
            raise UserError(f"'{name}' contains NaN or infinite values in band {band + 1} of those used")
        spans.append(f"{low:.4g} to {high:.4g}")
        pixels[..., band] = scaled(np.nan_to_num(plane), (low, high if low < high else low + 1))
    note(
        f"images whose percentiles {_PERCENTILES[0]:g} and {_PERCENTILES[1]:g} of each band are used as black and "
        "white",
        f"'{name}' ({', '.join(spans[:4])}{', ...' if len(spans) > 4 else ''})",
    )
    return pixels


def _from_floats(array: np.ndarray, name: str, value_range: CommonRange | None, example: str) -> UInt8[np.ndarray, ...]:
    low, high = float(array.min()), float(array.max())
    if not np.isfinite(low) or not np.isfinite(high):  # min and max propagate NaN
        raise UserError(f"the {name} contains values that are not finite (NaN or infinity)")
    if (span := black_and_white(array, value_range, name, example)) is not None:
        if not isinstance(value_range, str):
            note_clipped(array, span, example)
        return scaled(array, span)
    for top in (1.0, 255.0):
        if low < -_OVERSHOOT * top or high > (1 + _OVERSHOOT) * top:
            continue
        least, most = -_ROUNDING * top, (1 + _ROUNDING) * top
        beyond = 0 if least <= low <= high <= most else np.count_nonzero((array < least) | (array > most))
        if beyond <= _FEW * array.size and (top == 1 or _are_bytes(array)):
            if beyond > _NOTED * array.size:
                note(
                    f"float images with values beyond 0..{top:g}, clipped as the overshoot of resampling",
                    f"'{example}' ({percent(beyond / array.size)}, {low:.4g} to {high:.4g})",
                )
            if top == 1 and 0 < high < 2 / 255:
                note("float images whose values, read as 0..1, are all black", f"'{example}' (up to {high:.2g})")
            return scaled(array, (0.0, top))
    middle = float(np.median(array))
    raise UserError(
        f"the {name} contains floats from {low:.4g} to {high:.4g}, half of them up to {middle:.4g}; expected 0..1 or "
        "0..255 (not normalised: the model does that itself), or the values of black and white as "
        "value_range=(black, white)"
    )


def _are_bytes(array: np.ndarray) -> bool:
    """Whether values beyond 1 are in 0..255: all whole, or mostly above the range 0..1, apart from zeros."""
    if np.array_equal(np.rint(array), array):
        return True
    return 2 * int(np.count_nonzero(array > 1 + _OVERSHOOT)) >= int(np.count_nonzero(array))


def from_integers(
    values: np.ndarray,
    name: str,
    value_range: CommonRange | None,
    example: str,
    stated: int | None = None,
    depth: int | None = None,
) -> UInt8[np.ndarray, ...]:
    """Integers as bytes; without a range, of up to 16 bits.

    Args:
        values: of any type of integers.
        name: subject of messages.
        value_range: the values that become 0 and 255.
        example: what the image is called in notes.
        stated: the number of bits given in the file.
        depth: number of bits of the full range; None: those of the type.
    """
    low, high = int(values.min()), int(values.max())
    if (span := black_and_white(values, value_range, name, example, depth)) is not None:
        if not isinstance(value_range, str):
            note_clipped(values, span, example)
        return scaled(values, span)
    if low < 0 or high > 65535:
        raise UserError(
            f"{name} contains integers with values {low}..{high}; expected 8 or 16 bit, 0..65535, or the values of "
            "black and white as value_range=(black, white)"
        )
    if stated is not None and high < 2**stated:
        return scaled(values, (0, 2**stated - 1))
    signed = {np.dtype(np.int8): 7, np.dtype(np.int16): 15}.get(values.dtype)
    depths = (*(bits for bits in DEPTHS if signed is None or bits < signed), signed or 16)
    bits = next((bits for bits in depths if high < 2**bits), 16)
    if bits < 16 and high:
        limit = 2**bits - 1
        note(
            f"{'signed' if signed else '16-bit'} images whose values stay below {limit + 1}, read as {bits} bits, "
            f"0..{limit} (if their camera has another range, or to read all its images in the same way, set "
            "value_range)",
            f"'{example}' (up to {high})",
        )
        return scaled(values, (0, limit))
    if high and np.count_nonzero(values > 4095) < 0.001 * values.size:
        note(
            "16-bit images that are nearly black because 99.9 % of their values are in the lowest "
            "sixteenth of the range (value_range=(black, white) brightens them)",
            f"'{example}' (up to {high})",
        )
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # full range to full range: 65535 = 257 * 255


def scaled(values: np.ndarray, value_range: Range) -> UInt8[np.ndarray, ...]:
    """The range as 0..255, rounded to nearest and clipped at both ends."""
    low, high = value_range
    if values.dtype in (np.uint8, np.uint16):  # by a lookup table, which is faster than arithmetic
        every = np.arange(np.iinfo(values.dtype).max + 1)
        return scaled(every, value_range)[values]
    wide = (values.astype(np.float64) - low) * (255 / (high - low)) if low or high != 255 else values
    return np.rint(np.clip(wide, 0, 255)).astype(np.uint8)


def note_clipped(values: np.ndarray, value_range: Range, example: str) -> None:
    """Note values outside a range, if there are more than a few."""
    share = np.count_nonzero((values < value_range[0]) | (values > value_range[1])) / values.size
    if share > _NOTED:
        note("images with values outside value_range, which are clipped", f"'{example}' ({percent(share)})")
