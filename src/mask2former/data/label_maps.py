"""Images whose pixels are numbers: class indices, or ids of segments. Knows no classes and no data sets."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64, UInt8
from PIL import Image

from mask2former.data.array_files import is_array_file, read_array
from mask2former.errors import UserError
from mask2former.media.archives import File
from mask2former.media.image_files import ImageFile, open_image
from mask2former.notes import is_collecting, note
from mask2former.pixels import load, note_pages, orientation, packing_of
from mask2former.pixels.tags import PHOTOMETRIC, SAMPLE_FORMAT, tag_of

__all__ = [
    "ColorTable",
    "Colors",
    "LabelCounts",
    "Palettes",
    "colors_of_ids",
    "count_labels",
    "inner_numbers",
    "num_parts",
    "read_id_colors",
    "read_ids",
    "read_label_map",
    "read_object",
    "read_with_palette",
    "remap",
    "rgb_text",
    "runs_of",
]

Colors = dict[int, tuple[int, int, int]]  # RGB by number

_NUMBERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "F")  # Pillow modes
_ROUNDED = 2**24  # the first number that may stand for another one in Pillow's floats, which have 32 bits
_BLACK = 0, 0, 0
_WHITE = 255, 255, 255
_WHITE_IS_0, _SIGNED = 0, 2  # of TIFF
_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "HEIF")


class _Decoded(NamedTuple):
    image: Image.Image
    packing: str  # how the file stores its pixels, in Pillow's terms
    has_pages: bool


def _decoded(file: ImageFile, modes: tuple[str, ...], expected: str) -> _Decoded:
    """The decoded image, if it has one of these Pillow modes.

    Raises:
        UserError: it is missing, cannot be decoded, or is of another kind.
    """
    with open_image(file) as image:
        if image.format in _LOSSY:
            raise UserError(
                f"'{file}' is in {image.format}, a format that changes pixel values; export it again as PNG"
            )
        if image.format == "JPEG2000":
            note(
                "label maps in JPEG 2000, which changes numbers unless it was saved without losses (PNG never does)",
                f"'{file}'",
            )
        if image.mode not in modes:
            raise UserError(f"'{file}' is an image of mode {image.mode}; expected {expected}")
        packing = packing_of(image)
        has_pages = False
        if is_collecting():
            has_pages = note_pages(image, str(file), "label maps")
            if image.format != "TIFF" and (turn := orientation(image)) > 1:  # decoding applies that of TIFF
                note("label maps with an EXIF orientation, which is not applied", f"'{file}' (orientation {turn})")
        load(image)
    return _Decoded(image, packing, has_pages)


def read_label_map(file: ImageFile) -> Int32[np.ndarray, "H W"]:
    """The numbers of an image of 1 to 32 bits or with a palette (PNG, TIFF): for a palette, its indices.

    They may be stored as floats, as ImageJ and MorphoLibJ store labels, if all are whole and below 2**24, from where on
    floats of 32 bits are rounded. Of several pages the first is read, which is noted.

    Raises:
        UserError: the file is missing or damaged, contains colours instead of numbers, numbers that are not whole,
            or numbers below 0 (numbers from 2**31 on are read as such).
    """
    return read_with_palette(file)[0]


class ColorTable:
    """Numbers by colour, for label maps whose pixels are colours.

    Args:
        numbers: by RGB.
        source: the file that defines them, for messages.
    """

    def __init__(self, numbers: Mapping[tuple[int, int, int], int], source: str) -> None:
        self.source = source
        self.number_of = {red | green << 8 | blue << 16: number for (red, green, blue), number in numbers.items()}

    def read(self, file: ImageFile) -> Int32[np.ndarray, "H W"]:
        """The numbers of an image in these colours, RGB or with a palette; alpha is not read, which is noted.

        Raises:
            UserError: the file is missing or damaged, or has other colours.
        """
        colors = _read_colors(file, "the colours of classes")
        runs, lengths = runs_of(colors)
        values, of_run = np.unique(runs, return_inverse=True)
        known = np.array([value in self.number_of for value in values.tolist()])
        if not known.all():
            pixels = np.bincount(of_run, weights=lengths, minlength=len(values))
            order = np.argsort(-np.where(known, 0, pixels), kind="stable")[: np.count_nonzero(~known)]
            named = [f"{rgb_text(int(values[index]))} in {pixels[index]:.0f} pixels" for index in order[:5]]
            share = 100 * pixels[~known].sum() / colors.size
            smoothed = " (as if the label map had been resized or saved with smoothing)" if len(order) > 5 else ""
            raise UserError(
                f"'{file}' contains colours that '{self.source}' does not have, in {share:.3g} % of its "
                f"pixels{smoothed}: {len(order)} ({'; '.join(named)}{', ...' if len(order) > 5 else ''}); add them "
                "(if they are not to be learned, under a name such as void whose number is listed in dataset.ignore)"
            )
        numbers = np.array([self.number_of[value] for value in values.tolist()], dtype=np.int32)
        return np.repeat(numbers[of_run], lengths).reshape(colors.shape)


def rgb_text(packed: int) -> str:
    """A colour, R + 256 G + 65536 B, for messages."""
    return f"{packed & 255} {packed >> 8 & 255} {packed >> 16}"


def _read_colors(file: ImageFile, expected: str) -> Int32[np.ndarray, "H W"]:
    """R + 256 G + 65536 B of every pixel."""
    return _packed(file, _decoded(file, ("RGB", "RGBA", "P", "L", "1"), expected), expected)


def _packed(file: ImageFile, decoded: _Decoded, expected: str) -> Int32[np.ndarray, "H W"]:
    image, packing, _ = decoded
    if ";16" in packing:  # of which only the upper bytes were read
        raise UserError(f"'{file}' has 16 bits per colour; expected 8 ({expected})")
    if is_collecting() and image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        note("label maps with transparent pixels, whose colours are read all the same", f"'{file}'")
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    # Four bytes per pixel, as Pillow stores them, are the id and one byte to mask out: several times faster than sums.
    packed = np.frombuffer(rgb.tobytes("raw", "RGBX"), dtype="<i4")
    return (packed & 0xFFFFFF).reshape(rgb.height, rgb.width).astype(np.int32, copy=False)


def read_ids(file: ImageFile) -> tuple[Int32[np.ndarray, "H W"], bool]:
    """Objects by number: the numbers of :func:`read_label_map` or, where the image is in colour, one number per colour.

    Returns:
        The numbers, and whether they are colours: R + 256 G + 65536 B, so that black is 0.

    Raises:
        UserError: the file is missing or damaged.
    """
    if is_array_file(file):
        return read_array(file), False
    decoded = _decoded(file, ("RGB", "RGBA", *_NUMBERS), "numbers or colours of objects")
    if decoded.image.mode in ("RGB", "RGBA"):
        return _packed(file, decoded, "the colours of objects"), True
    numbers = _numbers(file, decoded)
    _note_greys(file, numbers, _palette(decoded.image))
    return numbers, False


def read_object(file: ImageFile) -> Int32[np.ndarray, "H W"]:
    """The mask of one object, as from :func:`read_ids`: 0, or black, is what does not belong to it.

    With a palette, numbers count, not colours; a palette that shows black for the object, or not for 0, is noted.

    Raises:
        UserError: as :func:`read_ids`.
    """
    decoded = _decoded(file, ("RGB", "RGBA", *_NUMBERS), "the mask of an object")
    if decoded.image.mode in ("RGB", "RGBA"):
        return _packed(file, decoded, "the mask of an object")
    numbers = _numbers(file, decoded)
    shown = _shown(numbers, _palette(decoded.image))
    if any((number == 0) != (color == _BLACK) for number, color in shown.items()):
        note(
            "masks with a palette in which 0 is not black, or another number is: everything except 0 is read as the "
            "object, whatever its colour (if the object is where 0 is, save them as grey, with 0 outside)",
            f"'{file}' ({_listed(shown)})",
        )
    return numbers


def _shown(numbers: Int32[np.ndarray, "H W"], palette: Colors) -> Colors:
    """The colours of the numbers that occur."""
    present = np.flatnonzero(np.bincount(numbers.ravel())).tolist() if palette else ()
    return {number: palette[number] for number in present if number in palette}


def _listed(shown: Colors) -> str:
    first = ", ".join(f"{number} is {color}" for number, color in list(shown.items())[:3])
    return f"{first}{', ...' if len(shown) > 3 else ''}"


def read_with_palette(file: ImageFile) -> tuple[Int32[np.ndarray, "H W"], Colors]:
    """The numbers of a label map, as from :func:`read_label_map`, and the colours of its palette, if it has one.

    Raises:
        UserError: as :func:`read_label_map`.
    """
    if is_array_file(file):
        return read_array(file), {}
    expected = (
        "one number per pixel: 8-bit or 16-bit grey, or a palette (write the class numbers instead of colours, "
        "without anti-aliasing; or give a names file with the colours of the classes and set dataset.encoding: "
        "colors)"
    )
    decoded = _decoded(file, _NUMBERS, expected)
    numbers, palette = _numbers(file, decoded), _palette(decoded.image)
    _note_greys(file, numbers, palette)
    return numbers, palette


def _note_greys(file: ImageFile, numbers: Int32[np.ndarray, "H W"], palette: Colors) -> None:
    """Note a palette of greys that are not the numbers: tools that shrink PNG files make one out of a grey image."""
    if not palette or any(color != color[:1] * 3 for color in palette.values()):
        return
    shown = _shown(numbers, palette)
    wrong = {number: color for number, color in shown.items() if color[0] != number}
    if wrong and not shown.items() <= {0: _BLACK, 1: _WHITE}.items():  # which are masks, as they are usually shown
        note(
            "label maps with a palette of greys, of which the indices are read, not the greys (if they were grey "
            "images before, save them as such again)",
            f"'{file}' ({_listed(wrong)})",
        )


def _palette(image: Image.Image) -> Colors:
    rgb = (image.getpalette("RGB") or []) if image.mode == "P" else []
    return dict(enumerate(zip(rgb[::3], rgb[1::3], rgb[2::3], strict=False)))


def _numbers(file: ImageFile, decoded: _Decoded) -> Int32[np.ndarray, "H W"]:
    image, packing, has_pages = decoded
    stored = np.asarray(image)
    if tag_of(image, PHOTOMETRIC) == _WHITE_IS_0:
        what = "of one bit in which 0 is white, read as they look: white is 1"
        if image.mode != "1":
            what = "in which 0 is white (as ImageJ saves an inverting lookup table), read as stored, not as they look"
            stored = 255 - stored if image.mode == "L" else stored  # only bytes are inverted by Pillow
        note(f"label maps {what}", f"'{file}'")
    if image.mode == "L" and tag_of(image, SAMPLE_FORMAT) == _SIGNED:
        stored = stored.view(np.int8)
    if image.mode == "F" and (wrong := ~((stored >= 0) & (stored < _ROUNDED) & (np.floor(stored) == stored))).any():
        value = stored[wrong][0].item()
        hint = "floats of 32 bits round larger ones: save it as whole numbers of 32 bits"
        if not (value >= _ROUNDED and math.isfinite(value)):
            hint = "is it a map of probabilities or distances?"
        raise UserError(
            f"'{file}' contains the number {value:.10g}; expected whole numbers from 0 to {_ROUNDED - 1} ({hint})"
        )
    numbers = stored.astype(np.int32)
    if found := re.search(r"\bL;([24])", packing):  # Pillow stretches grey of 2 and 4 bits to 0..255
        numbers //= 255 // (2 ** int(found[1]) - 1)
    if has_pages and (numbers == numbers[0, 0]).all():
        note("label maps whose first page, the one that is read, is empty", f"'{file}'")
    if stored.dtype.kind == "i" and (low := int(numbers.min())) < 0:
        raise UserError(f"'{file}' contains the number {low}; expected numbers from 0 to {2**31 - 1}")
    return numbers


class Palettes:
    """The palettes of label maps that belong together: whether numbers and colours correspond in all of them."""

    def __init__(self) -> None:
        self._color_of: dict[int, tuple[tuple[int, int, int], str]] = {}
        self._number_of: dict[tuple[int, int, int], tuple[int, str]] = {}

    def add(self, name: str, colors: Colors) -> str | None:
        """How a label map contradicts the earlier ones, as a phrase; None if it does not.

        Args:
            name: of the label map, for messages.
            colors: of the numbers that occur on it.
        """
        conflict = None
        of_file = Counter(colors.values())
        for number, color in colors.items():
            first, where = self._color_of.setdefault(number, (color, name))
            if first != color:
                conflict = conflict or f"{number} is {color} in {name}, but {first} in {where}"
            # Two numbers of one colour, such as those beyond the end of a palette, are no contradiction.
            elif of_file[color] == 1:
                other, where = self._number_of.setdefault(color, (number, name))
                if other != number:
                    conflict = conflict or f"{color} is {number} in {name}, but {other} in {where}"
        return conflict


class LabelCounts(NamedTuple):
    """The content of one label map.

    Attributes:
        pixels: count of every number that occurs.
        inner: count of those pixels whose four neighbours (above, below, left, right) have the same number.
        colors: RGB of every number that occurs, where the file has a palette.
    """

    pixels: dict[int, int]
    inner: dict[int, int]
    colors: Colors


def count_labels(file: File, colors: ColorTable | None = None) -> LabelCounts:
    """Counts of the numbers on a label map, and the palette colours that show them.

    Args:
        file: the label map.
        colors: where its pixels are colours, the numbers of these; palettes are then not reported.

    Raises:
        UserError: as :func:`read_label_map`, or :meth:`ColorTable.read`.
    """
    numbers, palette = (colors.read(file), {}) if colors is not None else read_with_palette(file)
    runs, lengths = runs_of(numbers)
    kinds, kind_of_run = np.unique(runs, return_inverse=True)
    pixels = np.bincount(kind_of_run, weights=lengths, minlength=len(kinds)).astype(np.int64)
    inner = np.bincount(np.searchsorted(kinds, inner_numbers(numbers)), minlength=len(kinds))
    return LabelCounts(
        dict(zip(kinds.tolist(), pixels.tolist(), strict=True)),
        dict(zip(kinds.tolist(), inner.tolist(), strict=True)),
        {number: palette[number] for number in kinds.tolist() if number in palette},
    )


def inner_numbers(numbers: Int32[np.ndarray, "H W"]) -> Int32[np.ndarray, " P"]:
    """The numbers of those pixels whose four neighbours have the same number."""
    across, down = numbers[:, 1:] == numbers[:, :-1], numbers[1:] == numbers[:-1]
    return numbers[1:-1, 1:-1][across[1:-1, 1:] & across[1:-1, :-1] & down[1:, 1:-1] & down[:-1, 1:-1]]


def num_parts(mask: Bool[np.ndarray, "H W"]) -> int:
    """The number of separate parts of a mask; pixels that touch at a corner are connected."""
    from scipy import ndimage  # takes a while to import, and only checks need it

    labelled: Any = ndimage.label(mask, np.ones((3, 3)))
    return labelled[1]


def read_id_colors(file: ImageFile) -> Int32[np.ndarray, "H W"]:
    """Segment ids of an image in COCO's panoptic encoding: R + 256 G + 65536 B.

    Raises:
        UserError: the file is missing or damaged.
    """
    return _read_colors(file, "colours (id = R + 256 G + 65536 B)")


def colors_of_ids(ids: Int[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """The panoptic encoding of ids from 0 to 2**24 - 1; :func:`read_id_colors` reverses it."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8)


def remap(values: Int[np.ndarray, "H W"], table: dict[int, int], otherwise: int) -> Int32[np.ndarray, "H W"]:
    """``table[value]`` of every pixel, and ``otherwise`` where the table has none; values may be of any size."""
    if not table:
        return np.full(values.shape, otherwise, dtype=np.int32)
    runs, lengths = runs_of(values)
    keys = np.array(sorted(table), dtype=np.int64)
    results = np.array([table[key] for key in keys.tolist()], dtype=np.int32)
    indices = np.searchsorted(keys, runs).clip(max=len(keys) - 1)
    return np.repeat(np.where(keys[indices] == runs, results[indices], np.int32(otherwise)), lengths).reshape(
        values.shape
    )


def runs_of(values: Int[np.ndarray, "H W"]) -> tuple[Int[np.ndarray, " R"], Int64[np.ndarray, " R"]]:
    """Runs of equal numbers, row by row: their numbers and lengths. Maps have few, which makes counting fast."""
    flat = values.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return flat[starts], np.diff(np.append(starts, flat.size))
