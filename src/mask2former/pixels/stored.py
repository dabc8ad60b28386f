"""What readers other than Pillow return for an image file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mask2former.pixels.bands import Bands
from mask2former.value_range import Range

__all__ = ["Stored", "StoredImage"]


@dataclass(frozen=True, slots=True)
class Stored:
    """The values of an image file, as read by a reader other than Pillow.

    Attributes:
        values: (H, W) or (H, W, C), not rotated yet; C is 1 or 3, or with alpha 2 or 4.
        bits: number of bits that the file gives for the values; None: as many as their type.
        has_alpha: the last channel is alpha, and colours are not premultiplied by it.
        white_is_0: the smallest value is white.
        missing: (H, W), true where the file declares that there is no value.
        value_range: what the file declares as black and white, for values without a configured range.
        full: the smallest and largest possible value; None: those of ``bits`` or of the type.
    """

    values: np.ndarray
    bits: int | None = None
    has_alpha: bool = False
    white_is_0: bool = False
    missing: np.ndarray | None = None
    value_range: Range | None = None
    full: Range | None = None


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An open image file of a reader other than Pillow, not decoded yet.

    Attributes:
        size: width and height as stored, as in Pillow.
        orientation: as EXIF counts them, 1 to 8.
        num_pages: counts the pages, up to :data:`mask2former.limits.IMAGE_PAGES`.
        read: decodes the page that was opened: as colours or, where bands are requested, with all of its bands.
        format: of the file.
        info: texts in the file, which are not interpreted; as in Pillow.
    """

    size: tuple[int, int]
    orientation: int
    num_pages: Callable[[], int]
    read: Callable[[Bands | None], Stored]
    format: str = "stored"
    info: Mapping[Any, Any] = field(default_factory=dict)
