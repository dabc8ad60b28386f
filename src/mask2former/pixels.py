"""Decoded images of any kind, Pillow's and arrays, as (H, W, 3) uint8 RGB: the one conversion that all others use.

Opens no files. What is shown differently from what is stored, or only in part, is noted (:mod:`mask2former.notes`).
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import ExifTags, Image, ImageOps

from mask2former import limits
from mask2former.errors import UserError
from mask2former.limits import check_limit
from mask2former.notes import note
from mask2former.text import printable

__all__ = [
    "CHOSEN_PAGE",
    "Bands",
    "Exif",
    "Stored",
    "StoredImage",
    "ValueRange",
    "bands_of_array",
    "bands_of_pillow",
    "bands_of_stored",
    "chosen_bands",
    "count_pages",
    "decode",
    "described_planes",
    "displayed",
    "load",
    "note_pages",
    "orientation",
    "packing_of",
    "rgb_of_array",
    "rgb_of_pillow",
    "rgb_of_stored",
    "significant_bits",
    "stated_bits",
    "without_warnings",
]

ValueRange = tuple[float, float] | Literal["auto", "full", "percentile"]
"""The values that become 0 and 255, or the rule by which each image gets them; see
:func:`mask2former.data.images.read_image`."""
Bands = int | tuple[int, ...]
"""All bands of an image, which must be so many; or some, by their numbers from 1, in this order."""
_Range = tuple[float, float]
Exif = Literal["apply", "ignore"]

ARRAY_HELP = "expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"

_DEPTHS = (8, 10, 12, 14)  # bits of cameras and converters that write 16-bit files
_FULL = (255, 1023, 4095, 16383, 32767, 65535)  # what stands for opaque in images of these depths
_OVERSHOOT = 0.1  # beyond 0..1 or 0..255, as a share of it: what resampling adds around edges
_ROUNDING = 0.002  # likewise: what arithmetic in half precision adds
_FEW = 0.15  # share of the values that may overshoot
_PERCENTILES = (0.5, 99.5)  # of the values of an image, that become 0 and 255 by the rule of this name
_NOTED = 0.01  # share of values that are cut off, from which on that is noted
_EXACTLY = "convert them to 8 bits, or to TIFF, which pip install 'mask2former[microscopy]' reads exactly"
_FLIP = Image.Transpose
_BACK = {  # from upright to what was stored, by orientation
    2: _FLIP.FLIP_LEFT_RIGHT,
    3: _FLIP.ROTATE_180,
    4: _FLIP.FLIP_TOP_BOTTOM,
    5: _FLIP.TRANSPOSE,
    6: _FLIP.ROTATE_90,
    7: _FLIP.TRANSVERSE,
    8: _FLIP.ROTATE_270,
}
_TURNS: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {  # from what is stored to upright
    2: np.fliplr,
    3: lambda array: array[::-1, ::-1],
    4: np.flipud,
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: np.rot90(array, -1),
    7: lambda array: array[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
_BAND_TAG, _PHOTOMETRIC, _SUBFILE, _DESCRIPTION, _BITS, _MAXIMUM = 277, 262, 254, 270, 258, (341, 281)
_SAMPLE_FORMAT = 339
CHOSEN_PAGE = "mask2former.page"  # in Pillow's info: that the caller chose the page, if only the first
_KEPT = "mask2former.bits"  # in Pillow's info: bits per channel in the file, so that reading an image twice is the same


_FILTERS = threading.RLock()  # filters of warnings are the process's: one thread at a time may change them
if hasattr(os, "register_at_fork"):
    # A child has the lock as it was, and not the thread that would release it.
    os.register_at_fork(before=_FILTERS.acquire, after_in_parent=_FILTERS.release, after_in_child=_FILTERS.release)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """For decoders, which warn of damaged metadata. Threads wait for each other."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
    value_range: _Range | None = None
    full: _Range | None = None


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


# --- Pillow ----------------------------------------------------------------------------------------------------------


def rgb_of_pillow(
    image: Image.Image, name: str = "image", *, value_range: ValueRange | None = None, exif: Exif = "apply"
) -> UInt8[np.ndarray, "H W 3"]:
    """The image as RGB in 0..255, upright and contiguous; see :func:`mask2former.data.images.read_image`.

    Raises:
        UserError: it has no pixels, was closed before it was decoded, is damaged, or holds values that no rule
            covers; the message starts with ``name``.
    """
    if min(image.size) < 1:
        raise UserError(f"'{name}' has no pixels (width x height {image.width}x{image.height})")
    packing = packing_of(image)
    deep_color = image.mode in ("RGB", "RGBA", "LA", "CMYK") and _is_deep_color(image)
    if int(_tag(image, _BITS) or 8) > 8 and re.match(r"\('[A-Z]'", packing):  # Pillow would read bytes
        raise UserError(
            f"'{name}' is a TIFF of {_tag(image, _BITS)}-bit colours in separate planes, which need a reader of their "
            "own: pip install 'mask2former[microscopy]'; or save it with 8 bits"
        )
    is_signed = _tag(image, _SAMPLE_FORMAT) == 2
    stated = _stated_bits(image) if _is_deep(image.mode) else None  # before decoding closes the file
    turn = orientation(image)
    decode(image, name)
    _note_bands(image, name)
    upright = _turned(image, turn, exif)
    mode = upright.mode
    if (deep_color or _is_deep(mode)) and "transparency" in upright.info:
        note("16-bit images with one transparent colour, which is read like the others", f"'{name}'")
    white_is_0 = _tag(image, _PHOTOMETRIC) == 0  # which Pillow applies to bytes alone
    if mode == "F":
        pixels = rgb_of_array(np.asarray(upright), f"'{name}' (32-bit float)", value_range=value_range, example=name)
        return 255 - pixels if white_is_0 else pixels
    if mode == "L" and is_signed:
        return _grey_to_rgb(_from_integers(np.asarray(upright).view(np.int8), f"'{name}'", value_range, name))
    if _is_deep(mode):
        # 16-bit grey arrives as I;16 or, from some formats, as 32-bit integers of which 16 bits are used.
        values = np.asarray(upright)
        if image.format == "PNG" and stated is not None and not (values & (2 ** (16 - stated) - 1)).any():
            stated = None  # the values were moved to the upper end of 16 bits, as PNG asks for
        if is_signed and _tag(image, _BITS) == 16:
            values = values.astype(np.int16)
        elif not is_signed and _tag(image, _BITS) == 32:  # unsigned, which Pillow has no mode for
            values = values.view(np.uint32)
        depth = stated or (None if is_signed or _tag(image, _BITS) == 32 else 16)  # of mode I: in 32 bits, too
        grey = _from_integers(values, f"'{name}'", value_range, name, stated, depth)
        return _grey_to_rgb(255 - grey if white_is_0 else grey)
    if deep_color:
        upright = _from_high_bytes(upright, name, value_range)
    try:
        if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in upright.info:
            pixels = _on_white(upright.convert("RGBA"), name)
        else:
            pixels = np.array(upright if mode == "RGB" else upright.convert("RGB"))
    except ValueError as error:
        raise UserError(f"'{name}' has colour mode {mode}, which cannot be converted to RGB") from error
    if mode == "CMYK":
        note("CMYK images, converted to RGB without a colour profile", f"'{name}'")
    return pixels


def decode(image: Image.Image, name: str) -> None:
    """Decode the pixels of an open image: the first page, unless the caller went to another.

    Raises:
        UserError: the image was closed before, or its file is damaged.
    """
    note_pages(image, name)
    is_closed = getattr(image, "fp", image) is None and bool(getattr(image, "tile", None))
    try:
        load(image)
    except (OSError, SyntaxError, ValueError, AssertionError, AttributeError) as error:
        if is_closed or str(error) == "Operation on closed image":
            raise UserError(
                f"the Pillow image '{name}' was closed before its pixels were read; use it inside the 'with' block, or "
                "call its load() there"
            ) from error
        raise UserError(f"'{name}' is damaged or cut short and cannot be decoded: {error}") from error


def load(image: Image.Image) -> None:
    """Decode the pixels; raises whatever Pillow does."""
    filename = getattr(image, "filename", "")
    if image.format == "TIFF" and filename and orientation(image) >= 5:
        # Pillow would map uncompressed pixels into memory by the size that they have when turned, which shears them.
        image.filename = ""  # pyright: ignore[reportAttributeAccessIssue]  (of files)
    try:
        image.load()
    finally:
        if filename:
            image.filename = filename  # pyright: ignore[reportAttributeAccessIssue]


def packing_of(image: Image.Image) -> str:
    """How the file of an image that is not decoded yet holds its pixels, as Pillow's decoders call it."""
    return " ".join(str(tile[3]) for tile in getattr(image, "tile", ())[:1])


def orientation(image: Image.Image | StoredImage) -> int:
    """The EXIF orientation, 1 to 8; unreadable EXIF data count as none, which is 1."""
    if isinstance(image, StoredImage):
        return image.orientation
    with without_warnings():
        try:
            value = image.getexif().get(ExifTags.Base.Orientation)
        except Exception:  # a broken metadata block says nothing about the pixels
            return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(image: Image.Image, turn: int, exif: Exif) -> Image.Image:
    """A decoded image upright, or as it is stored."""
    if image.format == "TIFF":  # which decoding has turned upright already
        return image if exif == "apply" or turn == 1 else image.transpose(_BACK[turn])
    return _upright(image) if exif == "apply" else image


def _upright(image: Image.Image) -> Image.Image:
    """The image with its EXIF orientation applied."""
    if orientation(image) == 1:
        return image  # of which exif_transpose would make a copy
    with without_warnings():
        try:
            return ImageOps.exif_transpose(image)
        except Exception:  # as in orientation()
            return image


def _is_deep(mode: str) -> bool:
    """Whether Pillow's mode is one of grey integers with more than 8 bits."""
    return mode == "I" or mode.startswith("I;16")


def _is_deep_color(image: Image.Image) -> bool:
    """Whether the file of a colour image has 16 bits per channel; kept with the image, whose decoding forgets it."""
    codec = next((tile[0] for tile in getattr(image, "tile", ())), "")
    if ";16" in packing_of(image) or codec == "SGI16" or _tag(image, _BITS) == 16:
        image.info[_KEPT] = 16
    return image.info.get(_KEPT) == 16


def _on_white(layers: Image.Image, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """An RGBA image blended onto white; as it is where it is opaque."""
    alpha = np.asarray(layers.getchannel("A"))
    share = np.count_nonzero(alpha < 255) / alpha.size
    if not share:
        return np.array(layers.convert("RGB"))
    hidden = np.asarray(layers)[..., :3][alpha == 0]
    covers = len(hidden) and (hidden != hidden[0]).any()
    faint = "" if (most := int(alpha.max())) == 255 else f", alpha is {_percent(most / 255)} at most"
    note(
        "images with an alpha channel, blended onto white (if a fourth band such as infrared is meant, remove it)",
        f"'{name}' ({_percent(share)} of the pixels{faint}{', which hide other values' if covers else ''})",
    )
    backdrop = Image.new("RGBA", layers.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(backdrop, layers).convert("RGB"))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


# --- what a file has besides -----------------------------------------------------------------------------------------


def _tag(image: Image.Image, number: int) -> Any:
    """The value of a TIFF tag, the first of several; None where there is none."""
    try:
        value = getattr(image, "tag_v2", {}).get(number)
    except Exception:  # a broken tag says nothing
        return None
    return value[0] if isinstance(value, tuple) and value else value


def note_pages(image: Image.Image, name: str, what: str = "images") -> bool:
    """Note pages and frames behind the one that is read, and tell whether there are; none if the caller went to one."""
    with without_warnings(), contextlib.suppress(Exception):  # decoding tells what is damaged
        # MPO: photographs with a preview or a depth map
        if image.format == "MPO" or image.tell() or CHOSEN_PAGE in image.info:
            return False
        count, is_all = _count_pages(image)
        pages = max(count, _described_pages(image))
        if pages > 1 and not (is_all and _are_overviews(image, count)):
            number = f"{pages}{'' if is_all else ' or more'}"
            note(
                f"{what} with several pages, frames or planes, of which only the first is read", f"'{name}' ({number})"
            )
            return True
    return False


def count_pages(image: Image.Image) -> int:
    """How many pages or frames an image has that is not decoded yet, counted up to ``limits.IMAGE_PAGES``."""
    if image.format == "GIF":
        return min(getattr(image, "n_frames", 1), limits.IMAGE_PAGES)
    if image.format == "MPO":
        return 1
    return min(max(_count_pages(image)[0], _described_pages(image)), limits.IMAGE_PAGES)


def _count_pages(image: Image.Image) -> tuple[int, bool]:
    """How many pages or frames there are, and whether these are all.

    Each page of a TIFF is found through the one before, in time that grows with their number, and those of a GIF by
    reading all of it.
    """
    if image.format == "GIF":
        return (2, False) if getattr(image, "is_animated", False) else (1, True)
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1), True
    count = 1
    try:
        while count < limits.IMAGE_PAGES:
            image.seek(count)
            count += 1
    except EOFError:
        return count, True
    finally:
        image.seek(0)
    return count, False


def described_planes(description: str, num_values: int) -> int:
    """Planes that lie behind a single TIFF page without pages of their own, as ImageJ and tifffile write them.

    Args:
        description: the text of the tag ``ImageDescription``.
        num_values: of the page: width, height and channels multiplied.
    """
    if description.startswith("ImageJ=") and (found := re.search(r"^images=(\d{1,9})$", description, re.MULTILINE)):
        return int(found[1])
    if found := re.match(r'\{"shape": \[([\d, ]{1,200})\]', description):
        return math.prod(int(side) for side in found[1].split(",")) // max(1, num_values)
    return 1


def _described_pages(image: Image.Image) -> int:
    bands = int(_tag(image, _BAND_TAG) or 1)
    return described_planes(str(_tag(image, _DESCRIPTION) or ""), image.width * image.height * bands)


def _are_overviews(image: Image.Image, pages: int) -> bool:
    """Whether all further pages of a TIFF say that they are smaller copies of the first."""
    if getattr(image, "tag_v2", None) is None or pages < 2:
        return False
    try:
        return all(_subfile_of(image, page) & 1 for page in range(1, pages))
    finally:
        image.seek(0)


def _subfile_of(image: Image.Image, page: int) -> int:
    image.seek(page)
    return int(_tag(image, _SUBFILE) or 0)


def _note_bands(image: Image.Image, name: str) -> None:
    bands, shown = int(_tag(image, _BAND_TAG) or 1), len(image.getbands())
    if bands > shown:
        note("images with more bands than are read", f"'{name}' ({shown} of {bands})")


def _stated_bits(image: Image.Image) -> int | None:
    if image.format == "PNG":
        return significant_bits(image)
    return stated_bits(functools.partial(_tag, image))


def stated_bits(tag: Callable[[int], Any]) -> int | None:
    """How many bits a TIFF says that its values have, if fewer than 16; what it says is checked by the reader.

    Args:
        tag: gives the value of a tag by its number, the first of several.
    """
    for number in (_BITS, *_MAXIMUM):
        value = tag(number)
        bits = value if number == _BITS else int(value + 1).bit_length() - 1 if isinstance(value, int) else None
        exact = number == _BITS or (bits is not None and value == 2**bits - 1)
        if bits and exact and 8 <= bits < 16:
            return bits
    if found := re.search(r'SignificantBits="(\d{1,3})"', str(tag(_DESCRIPTION) or "")):  # OME-TIFF
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
    except (OSError, ValueError, IndexError, struct.error):  # decoding tells what is damaged
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


# --- other readers ---------------------------------------------------------------------------------------------------


def rgb_of_stored(
    image: StoredImage, name: str = "image", *, value_range: ValueRange | None = None, exif: Exif = "apply"
) -> UInt8[np.ndarray, "H W 3"]:
    """The image as RGB in 0..255, upright and contiguous; see :func:`mask2former.data.images.read_image`.

    Raises:
        UserError: it is damaged, or holds values that no rule covers; the message names it.
    """
    stored = image.read(None)
    missing, named = stored.missing, f"'{name}'"
    values, value_range = _known_values(stored, name, value_range)
    if stored.has_alpha:
        hidden = values[..., -1] == 0
        if hidden.any() and not hidden.all():  # what nobody sees must not decide how many bits there are
            most = values[~hidden][:, :-1].max()
            values = np.where(hidden[..., None], np.minimum(values, most), values)
        colors = np.broadcast_to(values[..., :-1], (*values.shape[:2], 3))
        pixels = rgb_of_array(np.dstack([colors, values[..., -1]]), named, value_range=value_range, example=name)
    else:
        pixels = _to_bytes(values, named, value_range, name, stored)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = _grey_to_rgb(pixels.reshape(values.shape[:2]))
    if stored.white_is_0:
        pixels = 255 - pixels
    if missing is not None:
        pixels = np.where(missing[..., None], np.uint8(0), pixels)
    return _as_seen(image, pixels, exif)


def bands_of_stored(
    image: StoredImage,
    bands: Bands,
    name: str = "image",
    *,
    value_range: ValueRange | None = None,
    exif: Exif = "apply",
) -> UInt8[np.ndarray, "H W C"]:
    """Bands of the image in 0..255, upright and contiguous; see :func:`mask2former.data.images.read_image`.

    Raises:
        UserError: it is damaged, has other bands, or holds values that no rule covers; the message names it.
    """
    stored = image.read(bands)
    stored = replace(stored, values=chosen_bands(stored.values, bands, f"'{name}'"))
    missing = stored.missing
    if missing is not None and missing.ndim == 3:
        missing = chosen_bands(missing, bands, f"'{name}'")
        stored = replace(stored, missing=missing)
    if value_range == "percentile":
        pixels = _by_percentiles(stored.values, name, missing)
    else:
        values, value_range = _known_values(stored, name, value_range)
        pixels = _to_bytes(values, f"'{name}'", value_range, name, stored)
    if stored.white_is_0:
        pixels = 255 - pixels
    if missing is not None:
        pixels = np.where(missing if missing.ndim == 3 else missing[..., None], np.uint8(0), pixels)
    return _as_seen(image, pixels, exif)


def _known_values(stored: Stored, name: str, value_range: ValueRange | None) -> tuple[np.ndarray, ValueRange | None]:
    """The values, with others in place of what is missing, and what becomes 0 and 255, as far as that is known now."""
    values, missing = stored.values, stored.missing
    if value_range in (None, "auto") and stored.value_range is not None:
        value_range = stored.value_range
        values = np.clip(values, *value_range)
    if value_range == "full" and stored.full is not None:
        value_range = stored.full
    if missing is not None and missing.any():
        hidden = missing if missing.ndim == values.ndim else np.broadcast_to(missing[..., None], values.shape)
        known = values[~hidden]
        if known.size:
            value_range = _black_and_white(known, value_range, f"'{name}'", name, stored.bits)
        values = np.where(hidden, known.min() if known.size else 0, values)
        note("images with pixels that have no value, as the file says, shown black", f"'{name}' ({_share(missing)})")
    return values, value_range


def _as_seen(image: StoredImage, pixels: UInt8[np.ndarray, "_h _w C"], exif: Exif) -> UInt8[np.ndarray, "H W C"]:
    """Upright and contiguous."""
    if exif == "apply" and image.orientation > 1:
        pixels = _TURNS[image.orientation](pixels)
    return np.ascontiguousarray(pixels)


def _share(mask: np.ndarray) -> str:
    return _percent(np.count_nonzero(mask) / mask.size)


# --- arrays ----------------------------------------------------------------------------------------------------------


def rgb_of_array(
    array: np.ndarray,
    name: str = "array",
    expected: str = ARRAY_HELP,
    *,
    value_range: ValueRange | None = None,
    example: str | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """Channels-last values of any accepted type as RGB bytes; see :func:`mask2former.data.images.read_image`.

    Args:
        array: the values.
        name: what it is, for messages.
        expected: the shapes that are accepted, for messages.
        value_range: what becomes 0 and 255 unless the values are bytes.
        example: how notes call it.

    Raises:
        UserError: another shape or type, no pixel, masked values, or values that no rule covers.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "; channels come last in an array, transpose it with (1, 2, 0)"
        raise UserError(f"an {name} of shape {array.shape} is no image: {expected}{hint}")
    array = _checked(array, name)
    opaque = None
    if array.ndim == 3 and array.shape[2] == 4:
        value_range = _black_and_white(array[..., :3], value_range, name, example or name)
        opaque = _opaque_value(array[..., :3], array[..., 3], value_range, example or name)
    if opaque is not None:
        colors = _to_bytes(array[..., :3], name, value_range, example or name)
        pixels = np.concatenate([colors, _scaled(array[..., 3:], (0.0, opaque))], axis=2)
    else:
        pixels = _to_bytes(array, name, value_range, example or name)
    if pixels.ndim == 2:
        return _grey_to_rgb(pixels)
    if pixels.shape[2] == 1:
        return _grey_to_rgb(pixels[..., 0])
    if pixels.shape[2] == 4:
        return _on_white(Image.fromarray(np.ascontiguousarray(pixels)), example or name)
    return np.array(pixels, order="C")  # a copy: the result never shares memory with the caller's array


def _checked(array: np.ndarray, name: str) -> np.ndarray:
    """An image as a plain array; refuses those without or with too many pixels, or with masked values."""
    check_limit(f"the {name} has pixels:", array.shape[0] * array.shape[1], limits.ARRAY_PIXELS, "cut it into parts")
    if not array.size:
        raise UserError(f"an {name} of shape {array.shape} has no pixels")
    if isinstance(array, np.ma.MaskedArray):
        if hidden := np.ma.count_masked(array):
            raise UserError(
                f"the {name} is a masked array with {hidden} of {array.size} values masked; expected a value for every "
                "pixel, which array.filled(value) gives"
            )
        return array.data
    return array


# --- bands -----------------------------------------------------------------------------------------------------------


def chosen_bands(values: Shaped[np.ndarray, "H W *N"], bands: Bands, name: str) -> Shaped[np.ndarray, "H W C"]:
    """The bands that a model sees, of all that an image has.

    Args:
        values: of one band, or with the bands last.
        bands: all of them or some.
        name: the image, in messages.

    Raises:
        UserError: it has more or fewer, or not those.
    """
    numbers = bands if isinstance(bands, tuple) else (bands,)
    if not numbers or not all(type(number) is int and number >= 1 for number in numbers):
        raise UserError(
            f"bands must be numbers of bands, from 1, or how many bands images have, got {printable(repr(bands), 60)}"
        )
    values = values[..., None] if values.ndim == 2 else values
    count = values.shape[2]
    has = f"{name} has {count} band{'s' * (count != 1)}"
    if isinstance(bands, int):
        if count < bands:
            raise UserError(f"{has}, and the model takes {bands}; give it images with as many as those of its training")
        if count > bands:
            raise UserError(
                f"{has}, and the model takes {bands}; choose {bands} by their numbers (--bands, in Python and in runs "
                "the inference setting bands)"
            )
        return values
    if max(bands) > count:
        raise UserError(
            f"{has}, and band {max(bands)} is to be read; set bands to {len(bands)} numbers from 1 to {count}, as in "
            "training, or give it images of as many bands"
        )
    if bands == tuple(range(1, count + 1)):
        return values
    size = values[..., 0].nbytes * len(bands)
    check_limit(f"{name} has bytes in the bands that are read:", size, limits.IMAGE_BYTES, "cut it into parts")
    return values[..., [number - 1 for number in bands]]


def bands_of_pillow(
    image: Image.Image,
    bands: Bands,
    name: str = "image",
    *,
    value_range: ValueRange | None = None,
    exif: Exif = "apply",
) -> UInt8[np.ndarray, "H W C"]:
    """Bands of the image in 0..255, upright and contiguous; alpha is one of them, a palette is its colours.

    Raises:
        UserError: as :func:`rgb_of_pillow`; it has other bands, or Pillow does not give all of them as they are.
    """
    stored, given = int(_tag(image, _BAND_TAG) or 1), len(image.getbands())
    if stored > given or (given > 1 and _is_deep_color(image)):
        why = f"{stored} bands, of which {given} are" if stored > given else "bands of 16 bits, of which 8 are"
        raise UserError(
            f"'{name}' has {why} read here; save it as TIFF, and give its path (pip install 'mask2former[microscopy]' "
            "reads such files)"
        )
    is_blended = image.mode in ("1", "L") and "transparency" in image.info  # where colours are wanted
    if given == 1 and image.mode != "P" and not is_blended:  # which grey is made of, in whatever type
        grey = rgb_of_pillow(image, name, value_range=value_range, exif=exif)[..., :1]
        return np.ascontiguousarray(chosen_bands(grey, bands, f"'{name}'"))
    turn = orientation(image)
    decode(image, name)
    upright = _turned(image, turn, exif)
    if upright.mode in ("P", "PA"):
        upright = upright.convert("RGBA" if upright.mode == "PA" or "transparency" in upright.info else "RGB")
    elif upright.mode in ("La", "RGBa"):
        upright = upright.convert("RGBA" if upright.mode == "RGBa" else "LA")
    elif upright.mode == "1":
        upright = upright.convert("L")
    return np.array(chosen_bands(np.asarray(upright), bands, f"'{name}'"), order="C")


def bands_of_array(
    array: np.ndarray,
    bands: Bands,
    name: str = "array",
    *,
    value_range: ValueRange | None = None,
    example: str | None = None,
) -> UInt8[np.ndarray, "H W C"]:
    """Bands of channels-last values in 0..255; see :func:`rgb_of_array`.

    Raises:
        UserError: as there, or it has other bands.
    """
    if array.ndim not in (2, 3):
        raise UserError(f"an {name} of shape {array.shape} is no image: expected (H, W) or (H, W, bands)")
    array = chosen_bands(_checked(array, name), bands, f"the {name} of shape {array.shape}")
    if value_range == "percentile" and array.dtype != np.uint8 and array.dtype.kind in "iuf":
        return np.ascontiguousarray(_by_percentiles(array, example or name))
    return np.array(_to_bytes(array, name, value_range, example or name), order="C")


def _by_percentiles(
    values: Shaped[np.ndarray, "H W C"], name: str, missing: np.ndarray | None = None
) -> UInt8[np.ndarray, "H W C"]:
    """Each band by its own percentiles, since one may hold other things, in another unit, than the next."""
    if values.dtype == np.uint8:
        return values
    pixels, spans = np.zeros(values.shape, np.uint8), []
    for band in range(values.shape[2]):
        plane = values[..., band]
        hidden = None if missing is None else missing[..., band] if missing.ndim == 3 else missing
        known = plane if hidden is None else plane[~hidden]
        if not known.size:
            continue
        low, high = (float(value) for value in np.percentile(known, _PERCENTILES))
        if not (math.isfinite(low) and math.isfinite(high) and np.isfinite(known).all()):
            raise UserError(f"'{name}' holds values in band {band + 1} of those read that are NaN or infinite")
        spans.append(f"{low:.4g} to {high:.4g}")
        pixels[..., band] = _scaled(np.nan_to_num(plane), (low, high if low < high else low + 1))
    note(
        f"images whose percentiles {_PERCENTILES[0]:g} and {_PERCENTILES[1]:g} of each band are taken as black and "
        "white",
        f"'{name}' ({', '.join(spans[:4])}{', ...' if len(spans) > 4 else ''})",
    )
    return pixels


def displayed(image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W 3"]:
    """What a model saw, as it is drawn: the first three bands as red, green and blue; the first of one or two, grey."""
    if image.shape[2] == 3:
        return image
    return _grey_to_rgb(image[..., 0]) if image.shape[2] < 3 else np.ascontiguousarray(image[..., :3])


def _black_and_white(
    values: np.ndarray, value_range: ValueRange | None, name: str, example: str, bits: int | None = None
) -> _Range | None:
    """What becomes 0 and 255 by a rule; None: values are bytes, or it is inferred from them.

    Args:
        values: of the colours, without alpha.
        value_range: the numbers themselves, or a rule.
        name: subject of errors.
        example: how notes call it.
        bits: how many the values have, where that are fewer than those of their type.

    Raises:
        UserError: floats, which have no full range.
    """
    if not isinstance(value_range, str):
        return value_range
    if value_range == "auto" or values.dtype == np.uint8 or values.dtype.kind not in "iuf":
        return None
    if value_range == "full":
        if values.dtype.kind == "f":
            raise UserError(
                f"the {name} holds floats, which have no full range; set value_range to percentile or to the values "
                "of black and white"
            )
        span = np.iinfo(values.dtype)
        return (0, 2**bits - 1) if bits else (float(span.min), float(span.max))
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        return None  # which is refused
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    note(
        f"images whose percentiles {_PERCENTILES[0]:g} and {_PERCENTILES[1]:g} are taken as black and white",
        f"'{example}' ({low:.4g} to {high:.4g})",
    )
    return (low, high) if low < high else (low, low + 1)


def _opaque_value(colors: np.ndarray, alpha: np.ndarray, value_range: _Range | None, example: str) -> float | None:
    """The alpha that stands for opaque, where alpha has a range of its own; None: that of the colours."""
    kind = alpha.dtype.kind
    most = float(alpha.max()) if kind in "iuf" else np.nan
    if not np.isfinite(most):
        return None  # which _to_bytes refuses, booleans aside
    if kind == "f":
        if value_range is not None:
            return max(value_range[1], most) if most > 255 else 255.0 if most > 2 else 1.0
        if not (0 < most <= 1 + _ROUNDING and colors.max() > 1 + _OVERSHOOT):
            return None
        note("float images with alpha within 0..1 but colours beyond, taken as opaque at 1", f"'{example}'")
        return 1.0
    if alpha.dtype == np.uint16:
        opaque = most if most in _FULL and most >= colors.max() else 65535.0
    elif value_range is None or alpha.dtype == np.uint8:
        return None  # bytes; _to_bytes refuses other types without value_range
    else:
        opaque = float(next((full for full in _FULL if most <= full), np.iinfo(alpha.dtype).max))
    if opaque < np.iinfo(alpha.dtype).max:
        note(
            "images whose alpha uses part of the range of its type, taken as opaque at the largest value of 8, 10, 12, "
            "14, 15 or 16 bits",
            f"'{example}' ({opaque:g})",
        )
    return opaque


def _to_bytes(
    array: np.ndarray, name: str, value_range: ValueRange | None, example: str, stored: Stored | None = None
) -> UInt8[np.ndarray, ...]:
    """Values as bytes; what comes from a file (``stored``) may be integers of any type."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if np.issubdtype(array.dtype, np.floating):
        return _from_floats(array, name, value_range, example)
    if stored is not None and array.dtype.kind in "iu":
        return _from_integers(array, name, value_range, example, stored.bits, stored.bits)
    if array.dtype == np.uint16 or (value_range not in (None, "auto") and array.dtype.kind in "iu"):
        return _from_integers(array, f"the {name}", value_range, example)
    hint = " (integers of other types with value_range)" if array.dtype.kind in "iu" else ""
    raise UserError(f"the {name} has type {array.dtype}; expected uint8, uint16, bool or float{hint}")


def _from_floats(array: np.ndarray, name: str, value_range: ValueRange | None, example: str) -> UInt8[np.ndarray, ...]:
    low, high = float(array.min()), float(array.max())
    if not np.isfinite(low) or not np.isfinite(high):  # min and max pass NaN on
        raise UserError(f"the {name} holds values that are not finite (NaN or infinity)")
    if (span := _black_and_white(array, value_range, name, example)) is not None:
        if not isinstance(value_range, str):
            _note_clipped(array, span, example)
        return _scaled(array, span)
    for top in (1.0, 255.0):
        if low < -_OVERSHOOT * top or high > (1 + _OVERSHOOT) * top:
            continue
        least, most = -_ROUNDING * top, (1 + _ROUNDING) * top
        beyond = 0 if least <= low <= high <= most else np.count_nonzero((array < least) | (array > most))
        if beyond <= _FEW * array.size and (top == 1 or _are_bytes(array)):
            if beyond > _NOTED * array.size:
                note(
                    f"float images with values beyond 0..{top:g}, cut off as the overshoot of resampling",
                    f"'{example}' ({_percent(beyond / array.size)}, {low:.4g} to {high:.4g})",
                )
            if top == 1 and 0 < high < 2 / 255:
                note("float images whose values, taken as 0..1, are all black", f"'{example}' (up to {high:.2g})")
            return _scaled(array, (0.0, top))
    middle = float(np.median(array))
    raise UserError(
        f"the {name} holds floats from {low:.4g} to {high:.4g}, half of them up to {middle:.4g}; expected 0..1 or "
        "0..255 (not normalised: the model does that itself), or the values that stand for black and white as "
        "value_range=(black, white)"
    )


def _are_bytes(array: np.ndarray) -> bool:
    """Whether values that go beyond 1 are those of 0..255: all whole, or mostly above what 0..1 has, zeros aside."""
    if np.array_equal(np.rint(array), array):
        return True
    return 2 * int(np.count_nonzero(array > 1 + _OVERSHOOT)) >= int(np.count_nonzero(array))


def _from_integers(
    values: np.ndarray,
    name: str,
    value_range: ValueRange | None,
    example: str,
    stated: int | None = None,
    depth: int | None = None,
) -> UInt8[np.ndarray, ...]:
    """Integers as bytes; without a range of up to 16 bits.

    Args:
        values: of any type of integers.
        name: subject of errors.
        value_range: what becomes 0 and 255.
        example: how notes call it.
        stated: how many bits the file says that there are.
        depth: how many bits the full range has; None: those of the type.
    """
    low, high = int(values.min()), int(values.max())
    if (span := _black_and_white(values, value_range, name, example, depth)) is not None:
        if not isinstance(value_range, str):
            _note_clipped(values, span, example)
        return _scaled(values, span)
    if low < 0 or high > 65535:
        raise UserError(
            f"{name} holds integers with values {low}..{high}; expected 8 or 16 bit, 0..65535, or the values that "
            "stand for black and white as value_range=(black, white)"
        )
    if stated is not None and high < 2**stated:
        return _scaled(values, (0, 2**stated - 1))
    signed = {np.dtype(np.int8): 7, np.dtype(np.int16): 15}.get(values.dtype)
    depths = (*(bits for bits in _DEPTHS if signed is None or bits < signed), signed or 16)
    bits = next((bits for bits in depths if high < 2**bits), 16)
    if bits < 16 and high:
        limit = 2**bits - 1
        note(
            f"{'signed' if signed else '16-bit'} images whose values stay below {limit + 1}, read as {bits} bits, "
            f"0..{limit} (if their camera has another range, or to read all its images alike, set value_range)",
            f"'{example}' (up to {high})",
        )
        return _scaled(values, (0, limit))
    if high and np.count_nonzero(values > 4095) < 0.001 * values.size:
        note(
            "16-bit images that are nearly black, since 99.9 % of their values lie in the lowest sixteenth of the "
            "range (value_range=(black, white) brightens them)",
            f"'{example}' (up to {high})",
        )
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # full range to full range: 65535 = 257 * 255


def _from_high_bytes(image: Image.Image, name: str, value_range: ValueRange | None) -> Image.Image:
    """16-bit colour, of which Pillow keeps the upper bytes; stretched where these hold less than their range."""
    bands = np.asarray(image)
    has_alpha = image.mode in ("RGBA", "LA")  # which has the range of its type
    colors = bands[..., :-1] if has_alpha else bands
    seen = colors[bands[..., -1] > 0] if has_alpha else colors
    top = int((seen if seen.size else colors).max())
    bits = next((bits for bits in _DEPTHS[1:] if top < 2 ** (bits - 8)), 16)
    wide = seen.astype(np.uint16) * 256  # only so that a rule sees 16 bits
    span = None if value_range is None else _black_and_white(wide, value_range, f"'{name}'", name)
    low, high = span or (0, 2**bits - 1)
    dark, light = low // 256, high // 256
    if light <= dark:
        raise UserError(
            f"'{name}' has 16-bit colours, of which the upper 8 bits are read, and these are the same all over "
            f"value_range=({low:g}, {high:g}); {_EXACTLY}"
        )
    if not top:
        note(
            "16-bit colour images that are black, since all upper 8 bits, which are all that is read, are 0 (if there "
            f"is something in them, {_EXACTLY})",
            f"'{name}'",
        )
    elif light - dark < 255:
        note(
            f"16-bit colour images that use few of their upper 8 bits, which are all that is read ({_EXACTLY})",
            f"'{name}' ({f'{low:g} to {high:g}' if span else f'{bits} bits'})",
        )
    if span is not None and not isinstance(value_range, str):
        _note_clipped(colors, (dark, light), name)
    if (dark, light) == (0, 255):
        if "transparency" not in image.info:
            return image
    elif has_alpha:
        bands = np.concatenate([_scaled(colors, (dark, light)), bands[..., -1:]], axis=2)
    else:
        bands = _scaled(colors, (dark, light))
    return Image.frombytes(image.mode, image.size, bands.tobytes())


def _scaled(values: np.ndarray, value_range: _Range) -> UInt8[np.ndarray, ...]:
    """The range as 0..255, rounded to the nearest and cut off at both ends."""
    low, high = value_range
    if values.dtype in (np.uint8, np.uint16):  # by a table, which is faster than arithmetic
        every = np.arange(np.iinfo(values.dtype).max + 1)
        return _scaled(every, value_range)[values]
    wide = (values.astype(np.float64) - low) * (255 / (high - low)) if low or high != 255 else values
    return np.rint(np.clip(wide, 0, 255)).astype(np.uint8)


def _note_clipped(values: np.ndarray, value_range: _Range, example: str) -> None:
    share = np.count_nonzero((values < value_range[0]) | (values > value_range[1])) / values.size
    if share > _NOTED:
        note("images with values outside value_range, which are cut off", f"'{example}' ({_percent(share)})")


def _grey_to_rgb(grey: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    return np.ascontiguousarray(np.broadcast_to(grey[..., None], (*grey.shape, 3)))
