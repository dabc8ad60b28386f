"""Images that are read one part at a time, for images larger than memory."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from mask2former import limits
from mask2former.documents import check_regular
from mask2former.errors import UserError
from mask2former.media.dicom_files import slide_size
from mask2former.media.image_files import ImagePage, NamedBytes, PixelLimitError
from mask2former.media.images import image_size
from mask2former.media.slides import SLIDE_SUFFIXES, SlideRegions
from mask2former.media.tiff_regions import TiffRegions
from mask2former.pixels import Bands, Regions, ValueRange

__all__ = [
    "LARGE_PIXELS",
    "STRIP_PIXELS",
    "RegionsPart",
    "is_large",
    "open_large",
    "reduced",
]

LARGE_PIXELS = 1 << 26  # above which a file is read in parts: 8192 x 8192, slightly less than Pillow's limit
_TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8")
STRIP_PIXELS = 1 << 21  # that are read at once when reducing an image


class RegionsPart(NamedTuple):
    """A part of an image, as an image: ``size_hw`` pixels from (top, left)."""

    whole: Regions
    top: int
    left: int
    size_hw: tuple[int, int]

    def read(self, top: int, left: int, bottom: int, right: int) -> UInt8[np.ndarray, "_h _w C"]:
        return self.whole.read(self.top + top, self.left + left, self.top + bottom, self.left + right)


def is_large(file: Path | NamedBytes | ImagePage) -> bool:
    """Whether an image is read in parts: a slide, or a page of a TIFF with more than ``LARGE_PIXELS`` pixels or 2 GiB.

    TIFF files, also BigTIFF, and the slide scanner formats that OpenSlide supports can be read in parts. Slides always
    are, whatever their size; DICOM slides are files with several tiles, whatever their name.

    Raises:
        UserError: a TIFF file whose header cannot be read.
    """
    suffix, whole = _suffix(file), file.file if isinstance(file, ImagePage) else file
    if file is whole and (suffix in SLIDE_SUFFIXES or (isinstance(file, Path) and slide_size(file) is not None)):
        return True
    if suffix not in _TIFF_SUFFIXES:
        return False
    if isinstance(whole, Path) and check_regular(whole, "image") > limits.IMAGE_BYTES:  # too many to be read at once
        return True
    try:
        height, width = image_size(file)
    except PixelLimitError:
        return True
    return height * width > LARGE_PIXELS


def _suffix(file: Path | NamedBytes | ImagePage) -> str:
    return PurePath(file.name).suffix.lower()


def open_large(
    file: Path | NamedBytes | ImagePage, value_range: ValueRange | None = None, bands: Bands | None = None
) -> Regions:
    """An image file that :func:`is_large`, to be read in parts.

    Args:
        file: the image; slides must be on a disk.
        value_range: see :class:`TiffRegions`.
        bands: likewise; slides have only colours.

    Raises:
        UserError: it is damaged, or of a kind that cannot be read in parts.
        MissingExtraError: the package that reads it is not installed.
    """
    if value_range == "percentile":  # which needs all values of an image
        raise UserError(
            f"'{file}' is read in parts, for which value_range cannot be percentile; give two numbers, or full"
        )
    size = slide_size(file) if isinstance(file, Path) else None  # for DICOM, at the resolution of the file
    if isinstance(file, ImagePage) or (size is None and _suffix(file) not in SLIDE_SUFFIXES):
        return TiffRegions(file, value_range, bands)
    if bands is not None:
        raise UserError(
            f"'{file}' is a slide, which is read as red, green and blue, but the model expects bands: {bands}"
        )
    if not isinstance(file, Path):
        raise UserError(
            f"'{file}' is a slide, which can be read in parts only from a disk; copy it there, and give the copy"
        )
    slide = SlideRegions(file)
    if size not in (None, slide.size_hw):  # OpenSlide opens all resolutions in the same folder
        height, width = slide.size_hw
        raise UserError(
            f"'{file}' is a slide at {size[1]}x{size[0]} pixels, reduced from {width}x{height} (width x height); give "
            "the file beside it that has the full size"
        )
    return slide


def reduced(image: Regions, step: int) -> UInt8[np.ndarray, "_h _w C"]:
    """An image reduced by a whole number: means over squares of ``step`` pixels, read strip by strip."""
    height, width = image.size_hw
    rows = max(1, STRIP_PIXELS // width // step) * step
    strips = []
    for top in range(0, height, rows):
        strip = image.read(top, 0, min(top + rows, height), width)
        tops, lefts = (np.arange(0, length, step) for length in strip.shape[:2])
        sums = np.add.reduceat(np.add.reduceat(strip, tops, axis=0, dtype=np.uint32), lefts, axis=1)
        counts = np.diff(tops, append=strip.shape[0])[:, None] * np.diff(lefts, append=width)
        strips.append((sums / counts[..., None] + 0.5).astype(np.uint8))
    return np.concatenate(strips)
