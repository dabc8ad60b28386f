"""What other readers than Pillow give of an image file."""

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
    """The values of an image file, as another reader than Pillow gives them.

    Attributes:
        values: (H, W) or (H, W, C), not turned yet; C is 1 or 3, or with alpha 2 or 4.
        bits: how many the file says that the values have; None: as many as their type.
        has_alpha: the last channel is alpha, of colours that are not multiplied by it.
        white_is_0: the smallest value is white.
        missing: (H, W), true where the file says that there is no value.
        value_range: what the file says is black and white, for values that no range is set for.
        full: the least and largest value that there could be; None: those of ``bits`` or of the type.
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
    """An open image file of another reader than Pillow, not decoded yet.

    Attributes:
        size: width and height of what is stored, as Pillow gives them.
        orientation: as EXIF counts them, 1 to 8.
        num_pages: counts the pages, up to :data:`mask2former.limits.IMAGE_PAGES`.
        read: decodes the page that was opened: as colours, or, where bands are wanted, with all of its bands.
        format: of the file.
        info: texts of the file, which are not read; as Pillow has them.
    """

    size: tuple[int, int]
    orientation: int
    num_pages: Callable[[], int]
    read: Callable[[Bands | None], Stored]
    format: str = "stored"
    info: Mapping[Any, Any] = field(default_factory=dict)
