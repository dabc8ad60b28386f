"""Pixels of which a file says that they have no value: which they are, and that they are shown black."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from mask2former.notes import note, percent

__all__ = ["blackened", "missing_values", "note_missing", "stated_nodata"]

_NODATA = 42113  # the tag of GDAL


def stated_nodata(tag: Callable[[int], Any]) -> float | None:
    """The value that a TIFF says stands for none, perhaps NaN; None: it names no such value.

    Integers of up to 20 digits stay such, since floats do not tell all of them apart.

    Args:
        tag: gives the value of a tag by its number, the first of several.
    """
    text = str(tag(_NODATA) or "").strip("\0 ")
    try:
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else float(text)
    except ValueError:
        return None


def missing_values(values: np.ndarray, nodata: float, *, by_band: bool = False) -> Bool[np.ndarray, ...]:
    """Where there is no value: (H, W), in all colours; or with ``by_band`` (H, W, C) of such values.

    Floats are compared as their type holds ``nodata``. What is beyond that type may be stored as infinity or as its
    last finite value.

    Args:
        values: (H, W) or (H, W, C), as they are stored.
        nodata: what stands for none.
        by_band: whether each band may lack values by itself.
    """
    if values.dtype.kind != "f" or math.isnan(nodata):
        found = np.asarray(np.isnan(values) if math.isnan(nodata) else values == nodata)
    else:
        with np.errstate(over="ignore"):
            stored = np.asarray(nodata, np.float64).astype(values.dtype)
        found = np.asarray(values == stored)
        if math.isfinite(nodata) and np.isinf(stored):
            found |= values == np.copysign(np.finfo(values.dtype).max, stored)
    return found if found.ndim == 2 or by_band else np.all(found, axis=2)


def note_missing(missing: Bool[np.ndarray, ...], name: str) -> None:
    """Note pixels, or values of bands, that are shown black since there is no value, if there are any.

    Args:
        missing: where there is none.
        name: the image.
    """
    if missing.any():
        share = percent(np.count_nonzero(missing) / missing.size)
        note("images with pixels that have no value, as the file says, shown black", f"'{name}' ({share})")


def blackened(pixels: UInt8[np.ndarray, "H W C"], missing: Bool[np.ndarray, ...] | None) -> UInt8[np.ndarray, "H W C"]:
    """The pixels, black where the value is missing."""
    if missing is None:
        return pixels
    return np.where(missing if missing.ndim == 3 else missing[..., None], np.uint8(0), pixels)
