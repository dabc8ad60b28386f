"""The setting ``value_range``: which values of images become 0 and 255."""

from __future__ import annotations

import contextlib
import math
from typing import Any, Literal

__all__ = ["Range", "ValueRange", "ValueRule", "as_value_range", "ranges_of_bands"]

Range = tuple[float, float]
"""The values that become 0 and 255."""
ValueRule = Literal["auto", "full", "percentile"]
ValueRange = Range | tuple[Range, ...] | ValueRule
"""One range, or one for each band that is read; or the rule by which each image gets its range. See
:func:`mask2former.media.images.read_image`."""


def as_value_range(value: Any) -> Range | tuple[Range, ...] | Literal["full", "percentile"] | None:
    """A setting as it is kept; None, which ``auto`` stands for: each image gets its range from its file and values.

    Args:
        value: two numbers, a list of pairs of numbers, or the name of a rule.

    Raises:
        ValueError: anything else; the message says what is expected.
    """
    if value is None or (isinstance(value, str) and value == "auto"):
        return None
    if isinstance(value, str) and value in ("full", "percentile"):
        return value  # pyright: ignore[reportReturnType]  (one of these)
    with contextlib.suppress(TypeError, ValueError):
        return _range(value)
    with contextlib.suppress(TypeError, ValueError):
        if ranges := tuple(_range(pair) for pair in value):
            return ranges
    raise ValueError(
        "expected two rising numbers, black and white, or a list of such pairs, one for each band, or auto, full or "
        "percentile"
    )


def _range(pair: Any) -> Range:
    if isinstance(pair, str):
        raise TypeError
    black, white = (float(number) for number in pair)
    if not -math.inf < black < white < math.inf:
        raise ValueError
    return black, white


def ranges_of_bands(value_range: ValueRange | None) -> tuple[Range, ...] | None:
    """The ranges where each band has its own; None: there is one, or a rule, for all."""
    if value_range is None or isinstance(value_range, str) or not isinstance(value_range[0], tuple):
        return None
    return value_range  # pyright: ignore[reportReturnType]  (no pair of numbers)
