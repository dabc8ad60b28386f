"""TIFF files through tifffile: parts of large pages, tile by tile or strip by strip."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt16

from mask2former import limits
from mask2former.errors import UserError
from mask2former.extras import need
from mask2former.media.image_files import ImagePage, NamedBytes
from mask2former.media.tiff_files import EXTRA, PACKAGES, check_tags, page_of, planes_of, tag_of_page
from mask2former.notes import note, noted_as_one
from mask2former.pixels import (
    FIRST_PAGE,
    Bands,
    ValueRange,
    bands_of_array,
    blackened,
    chosen_bands,
    missing_values,
    note_missing,
    rgb_of_array,
    stated_bits,
    stated_nodata,
)
from mask2former.text import printable

__all__ = ["TiffRegions"]

_JPEG = 7
_GREY, _RGB, _YCBCR = 1, 2, 6
# Channels, photometric interpretation, and whether compressed as JPEG, whose decoder returns RGB.
_KINDS = {(1, _GREY, False), (1, _GREY, True), (3, _RGB, False), (3, _RGB, True), (3, _YCBCR, True), (4, _RGB, False)}
_KINDS_OF_BANDS = {(_GREY, False), (_GREY, True), (_RGB, False), (_RGB, True)}  # any number of channels
_KEPT_BYTES = 128 << 20  # decoded tiles or strips that are kept in memory: 512 rows of 80,000 pixels


def _why_not(page: Any, value_range: ValueRange | None, bands: Bands | None) -> str | None:
    """Why a page cannot be read in parts, as the end of a sentence; None: it can."""
    channels, kind = page.samplesperpixel, (int(page.photometric), int(page.compression) == _JPEG)
    if page.imagedepth != 1:
        return f"because it is {page.imagedepth} pixels deep; save it as an image of one plane"
    if page.planarconfig != 1:
        return "because its channels are in separate planes; save it with interleaved channels"
    if page.dtype not in (np.uint8, np.uint16):
        return f"because it contains values of type {page.dtype}; save it with 8 or 16 bits (unsigned)"
    if page.bitspersample < 8:
        return f"because it contains values of {page.bitspersample} bits; save it with 8 or 16 bits"
    if (kind not in _KINDS_OF_BANDS) if bands is not None else ((channels, *kind) not in _KINDS):
        name = getattr(page.photometric, "name", str(page.photometric)).lower()
        return (
            f"because it has {channels} channel{'s' * (channels != 1)} of the photometric kind {name}; save it as "
            f"grey or RGB{' (minisblack)' if bands is not None else ''}"
        )
    if page.dtype == np.uint16 and value_range in (None, "auto"):
        return (
            "because it has 16 bits; give the values of black and white (--value-range BLACK WHITE, in Python and in "
            "runs the inference setting value_range), or use the full range of 16 bits (--value-rule full, or the "
            "setting as 'full')"
        )
    return None


class TiffRegions:
    """A page of a TIFF or BigTIFF file, of which only the required tiles or strips are decoded.

    Of a file, this is the first page: further ones of its size are noted; smaller ones are overviews and labels.

    Args:
        path: the file, on a disk or in memory, or one of its pages.
        value_range: the values that become 0 and 255; required unless values are bytes.
        bands: instead of colours, see :func:`~mask2former.media.images.read_image`.

    Attributes:
        size_hw: height and width in pixels.

    Raises:
        UserError: it is damaged, or of a kind that cannot be read in parts.
        MissingExtraError: tifffile is not installed.
    """

    def __init__(
        self, path: Path | NamedBytes | ImagePage, value_range: ValueRange | None = None, bands: Bands | None = None
    ) -> None:
        need(EXTRA, *PACKAGES, to="read parts of a TIFF")
        import tifffile

        self._path = path
        self._value_range: ValueRange | None = value_range
        self._bands: Bands | None = bands
        file, index = (path.file, path.number - 1) if isinstance(path, ImagePage) else (path, 0)
        assert isinstance(file, Path | NamedBytes)
        try:
            self._file = tifffile.TiffFile(file if isinstance(file, Path) else io.BytesIO(file.content))
            weakref.finalize(self, self._file.close)
            first: Any = self._file.pages.first
            page: Any = page_of(self._file, index, str(file))
        except UserError:
            raise
        except Exception as error:  # damage shows in many ways
            raise UserError(f"'{path}' is damaged and cannot be read: {printable(str(error), 200)}") from error
        self._start = 0  # bytes between what the tags say and the pixels
        if page is None:  # planes follow each other without gaps and without tags
            page, self._start = first, index * first.size * first.dtype.itemsize
            if (
                not first.is_contiguous
                or first.dataoffsets[0] + self._start + first.nbytes > self._file.filehandle.size
            ):
                raise UserError(f"'{file}' is cut short: it has no page {index + 1}, which its description mentions")
        self._page = page
        check_tags(self._file, page, str(path))
        tag = functools.partial(tag_of_page, page)
        self._nodata, self._told = stated_nodata(tag), set[str]()
        channels, depth = page.samplesperpixel, page.dtype
        if (reason := _why_not(page, value_range, bands)) is not None:
            raise UserError(f"'{path}' is so large that it must be read in parts, which is not possible {reason}")
        if bands is not None:
            chosen_bands(np.empty((1, 1, channels), np.bool_), bands, f"'{path}'")  # refuses others
        if depth == np.uint16 and value_range == "full" and (bits := stated_bits(tag)) is not None:
            self._value_range = (0, 2**bits - 1)
        # As for files read at once, a fourth band is alpha only if the file says so.
        self._num_read = (
            3 if bands is None and channels == 4 and page.extrasamples[:1] not in ((1,), (2,)) else channels
        )
        self._is_multiplied = bands is None and self._num_read == 4 and page.extrasamples[:1] == (1,)
        if self._num_read < channels:
            note("images with more bands than are used", f"'{path}' ({self._num_read} of {channels})")
        if (turn := page.tags.get("Orientation")) is not None and turn.value != 1:
            raise UserError(
                f"'{path}' is rotated (orientation {int(turn.value)}), but large images are read as stored; save "
                "it upright"
            )
        self.size_hw = (int(page.imagelength), int(page.imagewidth))
        tiled = page.is_tiled
        self._segment_hw = (
            int(page.tilelength if tiled else min(page.rowsperstrip, page.imagelength)),
            int(page.tilewidth if tiled else page.imagewidth),
        )
        size = math.prod(self._segment_hw) * channels * depth.itemsize
        if size > _KEPT_BYTES:
            raise UserError(
                f"'{path}' is stored in pieces of {self._segment_hw[0]}x{self._segment_hw[1]} pixels (height x "
                "width), which are too large for reading in parts; save it as a tiled TIFF, for instance of 512x512"
            )
        # A cache per file: one on a method would keep files open.
        self._segment = functools.lru_cache(maxsize=max(1, _KEPT_BYTES // size))(self._decoded)
        if not isinstance(path, ImagePage):
            self._note_pages()

    def read(self, top: int, left: int, bottom: int, right: int) -> UInt8[np.ndarray, "_h _w C"]:
        """See :class:`~mask2former.pixels.Regions`.

        Raises:
            UserError: the file is damaged there.
        """
        height, width = self._segment_hw
        columns = -(-self.size_hw[1] // width)
        values = np.empty((bottom - top, right - left, self._page.samplesperpixel), self._page.dtype)
        for row in range(top // height, (bottom - 1) // height + 1):
            for column in range(left // width, (right - 1) // width + 1):
                segment = self._segment(row * columns + column)
                y, x = row * height, column * width
                inside = segment[max(0, top - y) : bottom - y, max(0, left - x) : right - x]
                start = (max(0, y - top), max(0, x - left))
                values[start[0] : start[0] + inside.shape[0], start[1] : start[1] + inside.shape[1]] = inside
        if self._is_multiplied:
            values = _divided_by_alpha(values)
        values, name, example = values[..., : self._num_read], f"image '{self._path}'", str(self._path)
        with noted_as_one(self._told):
            if self._bands is not None:
                pixels = bands_of_array(values, self._bands, name, value_range=self._value_range, example=example)
            else:
                pixels = rgb_of_array(values, name, value_range=self._value_range, example=example)
            return pixels if self._nodata is None else self._without_nodata(pixels, values, self._nodata)

    def _without_nodata(
        self, pixels: UInt8[np.ndarray, "_h _w C"], values: np.ndarray, nodata: float
    ) -> UInt8[np.ndarray, "_h _w C"]:
        """Black where there is no value: in a band, or in all colours."""
        if self._bands is not None:
            missing = chosen_bands(missing_values(values, nodata, by_band=True), self._bands, f"'{self._path}'")
        else:
            missing = missing_values(values[..., :3], nodata)
        note_missing(missing, str(self._path))
        return blackened(pixels, missing)

    def _note_pages(self) -> None:
        """Note what follows the image that is read."""
        size_hw, pages = self.size_hw, 1
        with contextlib.suppress(Exception):  # of damage there, which does not affect what is read
            pages = planes_of(self._page)
            every: Any = self._file.pages
            further = (every[number] for number in range(1, min(len(every), limits.IMAGE_PAGES)))
            pages = max(pages, 1 + sum((page.imagelength, page.imagewidth) == size_hw for page in further))
        if pages > 1:
            note(f"images {FIRST_PAGE}", f"'{self._path}' ({pages})")

    def _decoded(self, index: int) -> np.ndarray:
        """A tile or strip of the file."""
        page = self._page
        height, width = self._segment_hw
        try:
            stream = self._file.filehandle
            stream.seek(page.dataoffsets[index] + self._start)
            stored = stream.read(page.databytecounts[index]) or None  # nothing: omitted, because all zeros
            segment = page.decode(stored, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)[0]
        except Exception as error:  # damage shows in many ways, and decoders raise arbitrary errors
            raise UserError(f"'{self._path}' is damaged and cannot be decoded: {printable(str(error), 200)}") from error
        if segment is None:
            return np.zeros((height, width, page.samplesperpixel), page.dtype)
        return np.asarray(segment).reshape(*segment.shape[-3:])


def _divided_by_alpha(values: UInt8[np.ndarray, "h w 4"] | UInt16[np.ndarray, "h w 4"]) -> np.ndarray:
    """Colours that are stored multiplied by alpha, as they were before; rounded down, as by Pillow."""
    full, alpha = np.iinfo(values.dtype).max, values[..., 3:].astype(np.uint32)
    colors = np.minimum(values[..., :3].astype(np.uint32) * full // np.maximum(alpha, 1), full)
    return np.concatenate([np.where(alpha, colors, values[..., :3]), alpha], axis=2).astype(values.dtype)
