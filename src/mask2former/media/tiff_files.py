"""TIFF files that Pillow cannot read, or only in part: planes, bands, floats, 16-bit colour, more compressions.

What decoding takes is known from the tags before it begins: sizes are checked, and codecs whose output may have a size
other than in the tags are left out, or examined first. Pillow reads all other TIFF files.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mask2former import limits
from mask2former.errors import UserError
from mask2former.extras import is_installed, need
from mask2former.limits import check_limit
from mask2former.notes import note, noted_as_one
from mask2former.pixels import (
    FIRST_PAGE,
    OTHER_PAGES,
    Bands,
    Stored,
    StoredImage,
    chosen_bands,
    described_planes,
    missing_values,
    no_page,
    stated_bits,
    stated_nodata,
)

if TYPE_CHECKING:
    import tifffile

__all__ = [
    "EXTRA",
    "PACKAGES",
    "PLAIN_CODECS",
    "can_read_tiff",
    "check_tags",
    "is_for_tifffile",
    "num_large_pages",
    "open_tiff",
    "page_of",
    "planes_of",
    "tag_of_page",
]

EXTRA, PACKAGES = "microscopy", ("tifffile", "imagecodecs")
"""The optional dependencies that this module needs."""

# Compressions whose decoders are told the maximum number of bytes: LZW, Deflate, PackBits, LZMA, Zstandard.
PLAIN_CODECS = {5, 8, 32946, 32773, 34925, 50000, 34926}
# Those whose data include their own size, which is checked first: JPEG 2000, WebP, PNG, LERC.
_IMAGE_CODECS = {33003, 33004, 33005, 34712, 50001, 34927, 34933}
_LERC, _JPEG = 34887, 7
_WHITE_IS_0, _BLACK_IS_0, _RGB = 0, 1, 2
_DECISIVE = {256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 339}  # tags for decoding
_SAMPLE_TYPES = "buif"  # numpy's kinds of values that are supported

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # problems are reported in errors


def can_read_tiff() -> bool:
    """Whether the packages are installed."""
    return all(map(is_installed, PACKAGES))


def is_for_tifffile(image: Image.Image, bands: Bands | None = None) -> bool:
    """Whether Pillow, which opened a TIFF, would read less than it contains: more than 8 bits of colour, or WebP.

    Also grey with more than 8 bits and a nodata value.

    Args:
        image: not decoded yet.
        bands: requested bands, if any: Pillow returns some of them, multiplies by alpha, or has them in pages.
    """
    tags: Any = getattr(image, "tag_v2", {})
    bits, compression = tags.get(258, (1,)), tags.get(259, 1)
    lacks_values = max(bits) > 8 and stated_nodata(tags.get) is not None
    if bands is not None and compression != _JPEG and tags.get(262) in (_WHITE_IS_0, _BLACK_IS_0, _RGB):
        return tags.get(277, 1) > 1 or _last_band(bands) > 1 or lacks_values
    if compression in _IMAGE_CODECS:
        return True
    is_deep = (len(bits) > 1 and max(bits) > 8) or lacks_values
    multiplied = 1 in tags.get(338, ())  # colours premultiplied by alpha, which Pillow undoes
    known = compression == 1 or compression in PLAIN_CODECS
    return is_deep and known and not multiplied and tags.get(262) in (_BLACK_IS_0, _RGB)


@contextlib.contextmanager
def open_tiff(content: Path | io.BytesIO, name: str, page: int | None = None) -> Iterator[StoredImage]:
    """A page of a TIFF, not decoded yet.

    Args:
        content: of the file.
        name: of the file, for messages.
        page: counted from 0; None: the first, and a note if there are more.

    Raises:
        UserError: it does not have the page, has an unsupported kind of pixels or compression, or its pixels or their
            bytes are above the limits of :mod:`mask2former.limits` or Pillow's.
        MissingExtraError: without tifffile or imagecodecs.
        Exception: whatever tifffile raises for damaged files.
    """
    need(EXTRA, *PACKAGES, to="read this TIFF")
    import tifffile

    if isinstance(content, io.BytesIO):
        content.seek(0)
    with tifffile.TiffFile(content) as file:
        first = file.pages[0]
        assert isinstance(first, tifffile.TiffPage)
        count = functools.partial(_count_pages, file, planes_of(first))
        chosen, plane = page_of(file, page or 0, name), 0
        if chosen is None:
            chosen, plane = first, page or 0
        check_tags(file, chosen, name)
        _check(chosen, file.filehandle.size, name)
        turn = tag_of_page(chosen, 274)
        yield StoredImage(
            (chosen.imagewidth, chosen.imagelength),
            turn if isinstance(turn, int) and 1 <= turn <= 8 else 1,
            count,
            functools.partial(_read, file, chosen, plane, name, count if page is None else None),
        )


def tag_of_page(page: tifffile.TiffPage, number: int) -> Any:
    """The value of a tag, the first of several; None if it is absent."""
    value = page.tags.valueof(number)
    return value[0] if isinstance(value, tuple) and value else value


def num_large_pages(content: Path | io.BytesIO) -> int:
    """The number of pages of a TIFF that is too large to be opened at once; 1 if the others are smaller copies."""
    import tifffile

    with tifffile.TiffFile(content) as file:
        first = file.pages[0]
        assert isinstance(first, tifffile.TiffPage)
        count = _count_pages(file, planes_of(first))
        return 1 if count > 1 and _are_overviews(file, count) else count


def check_tags(file: tifffile.TiffFile, page: tifffile.TiffPage, name: str) -> None:
    """Refuse a page with a tag for decoding whose value is lost: tifffile would use the default for it.

    Raises:
        UserError: the message has the numbers of the tags.
    """
    file.filehandle.seek(page.offset)
    count = struct.unpack(file.tiff.tagnoformat, file.filehandle.read(file.tiff.tagnosize))[0]
    size = file.tiff.tagsize
    stored = file.filehandle.read(count * size)
    listed = {struct.unpack_from(f"{file.byteorder}H", stored, start)[0] for start in range(0, len(stored), size)}
    if lost := sorted((listed & _DECISIVE) - {tag.code for tag in page.tags}):
        raise UserError(
            f"'{name}' is damaged or cut short: it has tags needed for decoding whose values cannot be read "
            f"({', '.join(map(str, lost))})"
        )


def planes_of(first: tifffile.TiffPage) -> int:
    """The number of planes that the first page describes, including itself."""
    return described_planes(first.description, max(1, math.prod(first.shape)))


def page_of(file: tifffile.TiffFile, index: int, name: str) -> tifffile.TiffPage | None:
    """A page, counted from 0; None where the first one is followed by planes without pages of their own.

    Raises:
        UserError: there is no such page.
    """
    import tifffile

    first: Any = file.pages.first
    planes = planes_of(first)
    try:
        page = file.pages[index]
    except IndexError as error:
        if index < planes:
            return None
        if index < (count := _count_pages(file, planes)):
            raise UserError(
                f"'{name}' is cut short or damaged: it has no page {index + 1}, which the page before refers to; write "
                "the file again"
            ) from error
        raise UserError(no_page(name, index, count, first.samplesperpixel)) from error
    assert isinstance(page, tifffile.TiffPage)
    return page


def _count_pages(file: tifffile.TiffFile, planes: int) -> int:
    """The number of pages; each is found through the previous one, possibly in a circle.

    A page that is referred to, but is beyond the end of a file that was cut short, counts: reading it is an error.
    """
    count = 1
    try:
        while count < limits.IMAGE_PAGES:
            _ = file.pages[count]
            count += 1
    except IndexError:
        count += _refers_on(file)
    return min(max(count, planes), limits.IMAGE_PAGES)


def _refers_on(file: tifffile.TiffFile) -> bool:
    """Whether the last page that could be found refers to another one, other than those before it."""
    assert file.pages.next_page_offset is not None
    file.filehandle.seek(file.pages.next_page_offset)
    stored = file.filehandle.read(file.tiff.offsetsize)
    if len(stored) < file.tiff.offsetsize:
        return True
    offset = struct.unpack(file.tiff.offsetformat, stored)[0]
    return bool(offset) and all(page.offset != offset for page in file.pages)


def _are_overviews(file: tifffile.TiffFile, count: int) -> bool:
    """Whether all further pages are marked as smaller copies of the first."""
    with contextlib.suppress(IndexError):  # of planes without pages
        return all(int(getattr(file.pages[index], "subfiletype", 0)) & 1 for index in range(1, count))
    return False


def _check(page: tifffile.TiffPage, size: int, name: str) -> None:
    """Refuse what is not supported, and what would take too much, judging by the tags and the size of the file."""
    height, width, bands = page.imagelength, page.imagewidth, page.samplesperpixel
    if min(height, width, bands) < 1 or page.dtype is None or not page.shape:
        raise UserError(f"'{name}' is a TIFF of an unusual kind ({_kind(page)}); save it as 8-bit or 16-bit RGB")
    if page.imagedepth > 1 or page.dtype.kind not in _SAMPLE_TYPES or page.photometric not in (0, 1, 2):
        raise UserError(
            f"'{name}' is a TIFF of an unsupported kind ({_kind(page)}); save it as grey or RGB, of integers or floats"
        )
    codec = int(page.compression)
    if codec != 1 and codec not in PLAIN_CODECS | _IMAGE_CODECS | {_LERC}:
        raise UserError(
            f"'{name}' has the TIFF compression {_word(page.compression)}, which is not supported; save it with "
            "Deflate, LZW or Zstandard"
        )
    if Image.MAX_IMAGE_PIXELS and height * width > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError  # the same message as for Pillow's own files
    part = page.tilewidth * page.tilelength or width * min(height, page.rowsperstrip)
    of_values = page.dtype.itemsize * bands
    for what, pixels in (("has", height * width), ("has tiles or strips of", part)):
        check_limit(
            f"'{name}' {what} too many bytes of pixels:", pixels * of_values, limits.IMAGE_BYTES, "cut it into parts"
        )
    expected, parts = math.prod(page.chunked), list(zip(page.dataoffsets, page.databytecounts, strict=False))
    check_limit(f"'{name}' has too many tiles or strips:", len(parts), expected, "save it again")
    if len(parts) < expected or any(start + count > size for start, count in parts):
        raise UserError(f"'{name}' is damaged or cut short: some of its {expected} tiles or strips are missing")


def _kind(page: tifffile.TiffPage) -> str:
    kind = "no type" if page.dtype is None else str(page.dtype)
    return f"{_word(page.photometric)}, {page.samplesperpixel} bands of {kind}, {page.imagedepth} deep"


def _word(value: object) -> str:
    return str(getattr(value, "name", value))


def _read(
    file: tifffile.TiffFile,
    page: tifffile.TiffPage,
    plane: int,
    name: str,
    count: Callable[[], int] | None,
    bands: Bands | None,
) -> Stored:
    """The values of a page, or of a plane after it; with ``count`` other pages are noted, or are bands."""
    if count is not None and (total := count()) > 1 and not _are_overviews(file, total):
        if bands is not None and page.samplesperpixel == 1 and _last_band(bands) > 1:
            return _pages_as_bands(file, page, total, name, bands)
        note(f"images {FIRST_PAGE}{OTHER_PAGES}", f"'{name}' ({total})")
    if absent := sum(not size for size in page.databytecounts):
        note("TIFF files with tiles that are not stored, which are read as empty", f"'{name}' ({absent})")
    if bands is not None:  # others are refused before they are decoded
        chosen_bands(np.empty((1, 1, page.samplesperpixel), np.bool_), bands, f"'{name}'")
    if plane:
        values = _plane(file, page, plane, name)
    else:
        if int(page.compression) in _IMAGE_CODECS | {_LERC}:
            _check_parts(file, page, name)
        values = page.asarray(maxworkers=1)
    if page.axes == "SYX":
        values = np.moveaxis(values, 0, -1)
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    values, has_alpha = _colors(values, page, name) if bands is None else (values, False)
    return Stored(
        values,
        stated_bits(functools.partial(tag_of_page, page)),
        has_alpha,
        white_is_0=page.photometric == _WHITE_IS_0,
        missing=_missing(values, page, has_alpha=has_alpha, by_band=bands is not None),
    )


def _last_band(bands: Bands) -> int:
    return bands if isinstance(bands, int) else max(bands)


def _pages_as_bands(file: tifffile.TiffFile, first: tifffile.TiffPage, total: int, name: str, bands: Bands) -> Stored:
    """The values of pages with one band each, as far as requested, as the bands of one image.

    Of a stack of several channels, these are the channels of its first plane, at its first time.
    """
    pages = _pages_of_channels(first.description, total) or range(total)
    chosen_bands(np.empty((1, 1, len(pages)), np.bool_), bands, f"'{name}'")  # refuses others before they are read
    wanted = _last_band(bands)
    check_limit(
        f"'{name}' has too many bytes of pixels in its pages:",
        math.prod(first.shape) * wanted * (1 if first.dtype is None else first.dtype.itemsize),
        limits.IMAGE_BYTES,
        "cut it into parts",
    )
    found: list[Stored] = []
    with noted_as_one():
        for index in pages[:wanted]:
            page = page_of(file, index, name)
            plane, page = (index, first) if page is None else (0, page)
            _check(page, file.filehandle.size, name)
            if page.shape != first.shape or page.dtype != first.dtype or page.photometric != first.photometric:
                raise UserError(
                    f"'{name}' has one band, but page {index + 1} is of another kind than the first ({_kind(page)}), "
                    "so that pages are not bands of one image; save it with all bands in one page"
                )
            found.append(_read(file, page, plane, name, None, 1))
    if len(pages) < total:
        note(
            "stacks of several channels, of which the channels of the first plane and time are read",
            f"'{name}' ({len(pages)} channels, {total} pages)",
        )
    elif _stated_channels(first.description) != total:
        note(
            "TIFF files with one band whose pages are read as bands, since the model expects several",
            f"'{name}' ({total} pages)",
        )
    missing = [one.missing for one in found if one.missing is not None]
    return replace(
        found[0],
        values=np.dstack([one.values for one in found]),
        missing=np.dstack(missing) if len(missing) == len(found) else None,
    )


def _stated_channels(description: str) -> int | None:
    """The number of channels according to ImageJ or OME. tifffile would open other files, which OME may name."""
    pattern = r"^channels=(\d{1,4})$" if description.startswith("ImageJ=") else r'SizeC="(\d{1,4})"'
    found = re.search(pattern, description, re.MULTILINE)
    return None if found is None else int(found[1])


def _pages_of_channels(description: str, total: int) -> range | None:
    """The pages, from 0, of the channels in the first plane, at the first time; None: no such order is stated.

    ImageJ writes channels first, then planes (z), then times. OME states the order, in which planes may come first.
    """
    channels = _stated_channels(description)
    if channels is None or channels < 2:
        return None
    if description.startswith("ImageJ="):
        return range(channels) if total % channels == 0 else None
    order = re.search(r'DimensionOrder="XY([CZT]{3})"', description)
    sizes = dict(re.findall(r'\bSize([CZT])="(\d{1,6})"', description)[:3])
    if order is None or len(sizes) < 3 or math.prod(map(int, sizes.values())) != total:
        return None
    step = math.prod(int(sizes[axis]) for axis in order[1].partition("C")[0])
    return range(0, step * channels, step)


def _plane(file: tifffile.TiffFile, page: tifffile.TiffPage, plane: int, name: str) -> np.ndarray:
    """Planes after a page follow each other without gaps, uncompressed."""
    assert page.dtype is not None
    count = math.prod(page.shape)
    start = page.dataoffsets[0] + plane * count * page.dtype.itemsize
    if not page.is_contiguous or start + count * page.dtype.itemsize > file.filehandle.size:
        raise UserError(f"'{name}' is cut short: it has no page {plane + 1}, which its description mentions")
    values = file.filehandle.read_array(page.dtype.newbyteorder(file.byteorder), count, start)
    return values.astype(page.dtype).reshape(page.shape)


def _colors(values: np.ndarray, page: tifffile.TiffPage, name: str) -> tuple[np.ndarray, bool]:
    """The bands that are used, and whether the last one is alpha."""
    if values.ndim == 2:
        return values, False
    bands, extra = values.shape[2], page.extrasamples
    colors = 3 if page.photometric == _RGB or bands - len(extra) >= 3 or (bands >= 3 and 2 not in extra) else 1
    has_alpha = len(extra) > 0 and extra[0] == 2 and bands > colors
    shown = colors + has_alpha
    if shown < bands:
        note("images with more bands than are used", f"'{name}' ({shown} of {bands})")
    if colors == 3 and page.photometric != _RGB:
        note(
            "images with bands that are not declared as colours, of which the first three are read as red, green and "
            "blue",
            f"'{name}' ({bands})",
        )
    return values[..., :shown] if shown > 1 else values[..., 0], has_alpha


def _missing(
    values: np.ndarray, page: tifffile.TiffPage, *, has_alpha: bool, by_band: bool = False
) -> np.ndarray | None:
    """Where GDAL's tag declares that there is no value: in a band, or in all colours."""
    if (nodata := stated_nodata(functools.partial(tag_of_page, page))) is None:
        return None
    return missing_values(values[..., :-1] if has_alpha else values, nodata, by_band=by_band)


# --- codecs whose data have a size of their own ---------------------------------------------------------------------


def _check_parts(file: tifffile.TiffFile, page: tifffile.TiffPage, name: str) -> None:
    """Refuse tiles and strips that would decode to more than the tags say."""
    width, height = page.tilewidth or page.imagewidth, page.tilelength or min(page.imagelength, page.rowsperstrip)
    most = (width, height, max(4, page.samplesperpixel))
    size_of = _lerc_size if int(page.compression) == _LERC else _image_size
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if not count:
            continue
        file.filehandle.seek(start)
        found = size_of(file.filehandle.read(min(count, 1 << 12)))
        if found is None:
            raise UserError(f"'{name}' has a tile or strip without the header of its compression; save it again")
        if any(got > limit for got, limit in zip(found, most, strict=True)):
            raise UserError(
                f"'{name}' has a tile or strip of {found} (width, height, bands), but its tags say {most}; save it "
                "again"
            )


def _lerc_size(start: bytes) -> tuple[int, int, int] | None:
    """Width, height and bands in the header of LERC data, version 2 to 6."""
    if start[:6] != b"Lerc2 " or len(start) < 30:
        return None
    version = struct.unpack_from("<i", start, 6)[0]
    rows, columns, bands = struct.unpack_from("<iii", start, 10 if version < 3 else 14)  # behind a checksum
    return columns, rows, bands if version >= 4 else 1


def _image_size(start: bytes) -> tuple[int, int, int] | None:
    """Width, height and bands in the header of JPEG 2000, PNG or WebP."""
    if found := re.search(rb"\xff\x4f\xff\x51.{4}(.{16}).{16}(..)", start, re.DOTALL):
        right, bottom, left, top = struct.unpack(">IIII", found[1])
        return right - left, bottom - top, int.from_bytes(found[2])
    if start.startswith(b"\x89PNG") and len(start) >= 24:
        width, height = struct.unpack_from(">II", start, 16)
        return width, height, 4
    if start[:4] != b"RIFF" or len(start) < 30:
        return None
    if start[12:16] == b"VP8 ":
        width, height = struct.unpack_from("<HH", start, 26)
        return width & 0x3FFF, height & 0x3FFF, 4
    if start[12:16] == b"VP8L":
        bits = struct.unpack_from("<I", start, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 4
    if start[12:16] == b"VP8X":
        return int.from_bytes(start[24:27], "little") + 1, int.from_bytes(start[27:30], "little") + 1, 4
    return None
