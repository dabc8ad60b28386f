"""Decoded images of any kind, Pillow's and arrays, as (H, W, 3) uint8 RGB: the one conversion that all others use.

Opens no files. What is shown differently from what is stored, or only in part, is noted (:mod:`mask2former.notes`).
What an image comes from has a module each (``from_pillow``, ``from_stored`` for all other readers, ``from_arrays``);
their values become bytes in ``to_bytes``.
"""

from mask2former.pixels.bands import Bands, chosen_bands
from mask2former.pixels.colors import displayed
from mask2former.pixels.decoder_warnings import without_warnings
from mask2former.pixels.exif import Exif, orientation
from mask2former.pixels.from_arrays import bands_of_array, rgb_of_array
from mask2former.pixels.from_pillow import bands_of_pillow, decode, load, rgb_of_pillow
from mask2former.pixels.from_stored import bands_of_stored, rgb_of_stored
from mask2former.pixels.missing import blackened, missing_values, note_missing, stated_nodata
from mask2former.pixels.pages import (
    CHOSEN_PAGE,
    FIRST_PAGE,
    OTHER_PAGES,
    count_pages,
    described_planes,
    no_page,
    note_pages,
)
from mask2former.pixels.regions import ArrayRegions, Regions
from mask2former.pixels.stored import Stored, StoredImage
from mask2former.pixels.tags import packing_of, significant_bits, stated_bits
from mask2former.pixels.to_bytes import checked_range
from mask2former.value_range import ValueRange

__all__ = [
    "CHOSEN_PAGE",
    "FIRST_PAGE",
    "OTHER_PAGES",
    "ArrayRegions",
    "Bands",
    "Exif",
    "Regions",
    "Stored",
    "StoredImage",
    "ValueRange",
    "bands_of_array",
    "bands_of_pillow",
    "bands_of_stored",
    "blackened",
    "checked_range",
    "chosen_bands",
    "count_pages",
    "decode",
    "described_planes",
    "displayed",
    "load",
    "missing_values",
    "no_page",
    "note_missing",
    "note_pages",
    "orientation",
    "packing_of",
    "rgb_of_array",
    "rgb_of_pillow",
    "rgb_of_stored",
    "significant_bits",
    "stated_bits",
    "stated_nodata",
    "without_warnings",
]
