"""Tags of the first page of a TIFF file, read without its pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mask2former.media.image_files import ImageFile, open_stream
from mask2former.pixels import without_warnings

__all__ = ["first_page_tags"]


def first_page_tags(file: ImageFile, numbers: Iterable[int]) -> dict[int, Any]:
    """Those of the tags that are there; none for a file that is not a TIFF, or a damaged one.

    Raises:
        UserError: the file cannot be read.
    """
    # of a directory that is damaged in any way: decoding reports it
    with open_stream(file) as stream, without_warnings(), contextlib.suppress(Exception):
        start = stream.read(16)
        directory = ImageFileDirectory_v2(start if start[2:3] == b"+" or start[3:4] == b"+" else start[:8])
        stream.seek(directory.next)
        directory.load(stream)
        values = {number: directory.get(number) for number in numbers}
        return {number: value for number, value in values.items() if value is not None}
    return {}
