"""Pixels that a file declares as having no value: which they are, and that they are shown black."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from mask2former.notes import note
from mask2former.text import percent

__all__ = ["blackened", "missing_values", "note_missing", "stated_nodata"]

_NODATA = 42113  # GDAL's tag


def stated_nodata(tag: Callable[[int], Any]) -> float | None:
    """The value that a TIFF declares as no value, perhaps NaN; None: it declares none.

    Integers of up to 20 digits stay integers, since floats cannot represent all of them.

    Args:
        tag: returns the value of a tag by its number, the first of several.
    """
    text = str(tag(_NODATA) or "").strip("\0 ")
    try:
        return int(text) if re.fullmatch(r"[+-]?[0-9]{1,20}", text) else float(text)
    except ValueError:
        return None


def missing_values(values: np.ndarray, nodata: float, *, by_band: bool = False) -> Bool[np.ndarray, ...]:
    """Where there is no value: (H, W), in all colours; or with ``by_band`` (H, W, C), for each band.

    Floats are compared as their type represents ``nodata``. Values beyond that type may be stored as infinity or as its
    last finite value.

    Args:
        values: (H, W) or (H, W, C), as stored.
        nodata: the value that means no value.
        by_band: whether values may be missing in single bands.
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


def note_missing(missing: Bool[np.ndarray, ...] | None, name: str) -> None:
    """Note pixels, or values of bands, that are shown black because they have no value, if there are any.

    Args:
        missing: where there is none; None: nowhere.
        name: the image.
    """
    if missing is not None and missing.any():
        share = percent(np.count_nonzero(missing) / missing.size)
        note("images with pixels declared in the file as having no value, shown black", f"'{name}' ({share})")


def blackened(pixels: UInt8[np.ndarray, "H W C"], missing: Bool[np.ndarray, ...] | None) -> UInt8[np.ndarray, "H W C"]:
    """The pixels, black where the value is missing."""
    if missing is None:
        return pixels
    return np.where(missing if missing.ndim == 3 else missing[..., None], np.uint8(0), pixels)
