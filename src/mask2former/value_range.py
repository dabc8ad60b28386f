"""The setting ``value_range``: which values of images become 0 and 255."""

from __future__ import annotations

import contextlib
import math
import re
from numbers import Real
from typing import Any, Literal

__all__ = ["Range", "ValueRange", "ValueRule", "as_value_range", "ranges_of_bands"]

Range = tuple[float, float]
"""The values that become 0 and 255."""
ValueRule = Literal["auto", "full", "percentile"]
ValueRange = Range | tuple[Range, ...] | ValueRule
"""One range, or one for each band that is read; or the rule that gives each image its range. See
:func:`mask2former.media.images.read_image`."""


def as_value_range(value: Any) -> Range | tuple[Range, ...] | Literal["full", "percentile"] | None:
    """The normalised form of a setting; None, also for ``auto``: each image gets its range from its file and values.

    Args:
        value: two numbers, a list of pairs of numbers, or the name of a rule. Numbers may be text, such as ``1e3``,
            which YAML does not read as a number.

    Raises:
        ValueError: the value is anything else; the message states what is expected.
    """
    if value is None or (isinstance(value, str) and value == "auto"):
        return None
    if isinstance(value, str) and value in ("full", "percentile"):
        return value  # pyright: ignore[reportReturnType]  (one of these words)
    with contextlib.suppress(ValueError):
        return _range(value)
    with contextlib.suppress(ValueError):
        if ranges := tuple(_range(pair) for pair in _listed(value)):
            return ranges
    raise ValueError(
        "expected two ascending numbers, black and white, or a list of such pairs, one per band, or auto, full or "
        "percentile"
    )


def _listed(value: Any) -> list[Any] | tuple[Any, ...]:
    """The entries of a list, tuple, array or tensor; sets, bytes and mappings have no order, or other numbers."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, list | tuple):
        raise ValueError
    return value


def _range(pair: Any) -> Range:
    black, white = (_number(number) for number in _listed(pair))
    # Values are divided by the width of the range.
    if not (black < white and 0 < 255 / (white - black) < math.inf):
        raise ValueError
    return black, white


def _number(value: Any) -> float:
    """A number, or its plain text; Python would also read booleans, ``1_000`` and ``nan`` as numbers."""
    value = value.tolist() if hasattr(value, "tolist") else value
    is_text = isinstance(value, str) and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", value, re.ASCII | re.I)
    if not is_text and (isinstance(value, bool) or not isinstance(value, Real)):
        raise ValueError
    with contextlib.suppress(OverflowError):
        if math.isfinite(number := float(value)):
            return number
    raise ValueError


def ranges_of_bands(value_range: ValueRange | None) -> tuple[Range, ...] | None:
    """The ranges if each band has its own; None: all share one range or rule."""
    if value_range is None or isinstance(value_range, str) or not isinstance(value_range[0], tuple):
        return None
    return value_range  # pyright: ignore[reportReturnType]  (not a pair of numbers)
