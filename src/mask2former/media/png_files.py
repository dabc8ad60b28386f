"""PNG files with 16-bit colour, read with torchvision: Pillow keeps only the upper 8 bits of each value."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from mask2former.errors import UserError
from mask2former.notes import note
from mask2former.pixels import Bands, Stored, StoredImage, count_pages, note_pages, orientation, significant_bits

__all__ = ["is_deep_png", "stored_png"]

_DEEP = b"\x02\x04\x06"  # kinds of colour: RGB, grey with alpha, RGB with alpha


def is_deep_png(start: bytes) -> bool:
    """Whether a file with these first 26 bytes is a PNG with 16-bit colours, or with grey and alpha."""
    return start.startswith(b"\x89PNG\r\n\x1a\n") and start[24:25] == b"\x10" and start[25] in _DEEP


def stored_png(image: Image.Image, content: Path | io.BytesIO, name: str, page: int | None = None) -> StoredImage:
    """The first page of such a PNG.

    Args:
        image: as opened by Pillow, which has checked its size.
        content: of the file.
        name: of the file, for messages.
        page: 0: the caller chose the first; None: further frames are noted.
    """
    bits = significant_bits(image)  # now, while the file is open

    def read(bands: Bands | None) -> Stored:
        if page is None:
            note_pages(image, name)
        if "transparency" in image.info:
            note("16-bit images with one transparent colour, which is read like any other", f"'{name}'")
        stored = content.getvalue() if isinstance(content, io.BytesIO) else content.read_bytes()
        return _decoded(stored, bits, name)

    return StoredImage(image.size, orientation(image), lambda: count_pages(image), read, "PNG", image.info)


def _decoded(content: bytes, bits: int | None, name: str) -> Stored:
    import torch
    from torchvision.io import ImageReadMode, decode_png

    try:
        decoded = decode_png(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    except RuntimeError as error:  # whose text contains source lines
        raise UserError(f"'{name}' is damaged or cut short and cannot be decoded") from error
    values = np.ascontiguousarray(decoded.permute(1, 2, 0).numpy())
    has_alpha = values.shape[2] in (2, 4)
    if bits is not None and not (values & (2 ** (16 - bits) - 1)).any():
        bits = None  # the values were shifted to the upper end of 16 bits, as PNG requires
    return Stored(values, bits, has_alpha)
