"""What the files of images opened by Pillow state about their values."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image

__all__ = [
    "BAND_TAG",
    "BITS",
    "DESCRIPTION",
    "PHOTOMETRIC",
    "SAMPLE_FORMAT",
    "SUBFILE",
    "is_deep_color",
    "packing_of",
    "significant_bits",
    "stated_bits",
    "stated_bits_of",
    "tag_of",
]

BAND_TAG, PHOTOMETRIC, SUBFILE, DESCRIPTION, BITS, _MAXIMUM = 277, 262, 254, 270, 258, (341, 281)
SAMPLE_FORMAT = 339
_KEPT = "mask2former.bits"  # in Pillow's info: bits per channel in the file, so that a second reading gives the same


def tag_of(image: Image.Image, number: int) -> Any:
    """The value of a TIFF tag, the first of several; None where there is none."""
    try:
        value = getattr(image, "tag_v2", {}).get(number)
    except Exception:  # a broken tag carries no information
        return None
    return value[0] if isinstance(value, tuple) and value else value


def packing_of(image: Image.Image) -> str:
    """How the file of an image that is not decoded yet stores its pixels, in Pillow's terms."""
    return " ".join(str(tile[3]) for tile in getattr(image, "tile", ())[:1])


def is_deep_color(image: Image.Image) -> bool:
    """Whether the file of a colour image has 16 bits per channel; kept with the image, since decoding loses it."""
    codec = next((tile[0] for tile in getattr(image, "tile", ())), "")
    if ";16" in packing_of(image) or codec == "SGI16" or tag_of(image, BITS) == 16:
        image.info[_KEPT] = 16
    return image.info.get(_KEPT) == 16


def stated_bits_of(image: Image.Image) -> int | None:
    """The number of bits that the file of an image that is not decoded yet gives for its values, if fewer than 16."""
    if image.format == "PNG":
        return significant_bits(image)
    return stated_bits(functools.partial(tag_of, image))


def stated_bits(tag: Callable[[int], Any]) -> int | None:
    """The number of bits that a TIFF gives for its values, if fewer than 16; the reader checks it.

    Args:
        tag: returns the value of a tag by its number, the first of several.
    """
    for number in (BITS, *_MAXIMUM):
        value = tag(number)
        bits = value if number == BITS else int(value + 1).bit_length() - 1 if isinstance(value, int) else None
        exact = number == BITS or (bits is not None and value == 2**bits - 1)
        if bits and exact and 8 <= bits < 16:
            return bits
    if found := re.search(r'SignificantBits="(\d{1,3})"', str(tag(DESCRIPTION) or "")):  # OME-TIFF
        return int(found[1]) if 8 <= int(found[1]) < 16 else None
    return None


def significant_bits(image: Image.Image) -> int | None:
    """The first number of the chunk sBIT of a PNG; kept with the image, whose decoding closes the file."""
    file = getattr(image, "fp", None)
    if file is None or file.closed:
        return image.info.get(_KEPT)
    position = file.tell()
    try:
        for kind, start in _png_chunks(file):
            if kind == b"sBIT":
                file.seek(start)
                bits = file.read(1)[0]
                if 8 <= bits < 16:
                    image.info[_KEPT] = bits
                    return bits
                return None
    except (OSError, ValueError, IndexError, struct.error):  # decoding reports damage
        return None
    finally:
        file.seek(position)
    return None


def _png_chunks(file: Any) -> Iterator[tuple[bytes, int]]:
    """Kind and start of the chunks before the pixels."""
    start = 8
    while True:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IDAT":
            return
        yield kind, start + 8
        start += size + 12
