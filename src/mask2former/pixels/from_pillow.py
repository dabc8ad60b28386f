"""Images opened by Pillow as bytes: red, green and blue, or bands."""

from __future__ import annotations

import functools
import re

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImagePalette

from mask2former.errors import UserError
from mask2former.notes import note
from mask2former.pixels.bands import Bands, chosen_bands
from mask2former.pixels.colors import grey_to_rgb, on_white
from mask2former.pixels.exif import Exif, orientation, turned
from mask2former.pixels.from_arrays import rgb_of_array
from mask2former.pixels.missing import blackened, missing_values, note_missing, stated_nodata
from mask2former.pixels.pages import note_pages
from mask2former.pixels.tags import (
    BAND_TAG,
    BITS,
    PHOTOMETRIC,
    SAMPLE_FORMAT,
    is_deep_color,
    packing_of,
    stated_bits_of,
    tag_of,
)
from mask2former.pixels.to_bytes import (
    DEPTHS,
    CommonRange,
    black_and_white,
    check_ranges,
    common_range,
    from_integers,
    note_clipped,
    scaled,
)
from mask2former.value_range import ValueRange, ranges_of_bands

__all__ = ["bands_of_pillow", "decode", "load", "rgb_of_pillow"]

_COLOR_MAP = 320  # of TIFF
_EXACTLY = "convert them to 8 bits, or to TIFF, which pip install 'mask2former[microscopy]' reads exactly"


def rgb_of_pillow(
    image: Image.Image, name: str = "image", *, value_range: ValueRange | None = None, exif: Exif = "apply"
) -> UInt8[np.ndarray, "H W 3"]:
    """The image as RGB in 0..255, upright and contiguous; see :func:`mask2former.media.images.read_image`.

    Raises:
        UserError: it has no pixels, was closed before it was decoded, is damaged, or contains values that no rule
            covers; the message starts with ``name``.
    """
    common = common_range(value_range)
    if min(image.size) < 1:
        raise UserError(f"'{name}' has no pixels (width x height {image.width}x{image.height})")
    packing = packing_of(image)
    deep_color = image.mode in ("RGB", "RGBA", "LA", "CMYK") and is_deep_color(image)
    if int(tag_of(image, BITS) or 8) > 8 and re.match(r"\('[A-Z]'", packing):  # Pillow would read bytes
        raise UserError(
            f"'{name}' is a TIFF of {tag_of(image, BITS)}-bit colours in separate planes, which needs a special "
            "reader: pip install 'mask2former[microscopy]'; or save it with 8 bits"
        )
    is_signed = tag_of(image, SAMPLE_FORMAT) == 2
    stated = stated_bits_of(image) if _is_deep(image.mode) else None  # before decoding closes the file
    turn = orientation(image)
    if (found := re.search(r"\bL;([24])", packing)) and isinstance(image.info.get("transparency"), int):
        image.info["transparency"] *= 255 // (2 ** int(found[1]) - 1)  # as Pillow stretches the pixels
    decode(image, name)
    _note_bands(image, name)
    upright = turned(image, turn, exif)
    mode = upright.mode
    missing = _missing(image, upright, name)
    if (deep_color or _is_deep(mode)) and "transparency" in upright.info:
        note("16-bit images with one transparent colour, which is read like any other", f"'{name}'")
    white_is_0 = tag_of(image, PHOTOMETRIC) == 0  # which Pillow applies only to bytes
    if mode == "F":
        pixels = rgb_of_array(np.asarray(upright), f"'{name}' (32-bit float)", value_range=common, example=name)
        return 255 - pixels if white_is_0 else pixels
    if mode == "L" and is_signed:
        return grey_to_rgb(from_integers(np.asarray(upright).view(np.int8), f"'{name}'", common, name))
    if _is_deep(mode):
        # 16-bit grey arrives as I;16 or, from some formats, as 32-bit integers of which 16 bits are used.
        values = np.asarray(upright)
        if image.format == "PNG" and stated is not None and not (values & (2 ** (16 - stated) - 1)).any():
            stated = None  # the values were shifted to the upper end of 16 bits, as PNG requires
        if is_signed and tag_of(image, BITS) == 16:
            values = values.astype(np.int16)
        elif not is_signed and tag_of(image, BITS) == 32:  # unsigned, for which Pillow has no mode
            values = values.view(np.uint32)
        depth = stated or (None if is_signed or tag_of(image, BITS) == 32 else 16)  # of mode I: also in 32 bits
        grey = from_integers(values, f"'{name}'", common, name, stated, depth)
        return grey_to_rgb(255 - grey if white_is_0 else grey)
    if deep_color:
        upright = _from_high_bytes(upright, name, common)
    try:
        if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in upright.info:
            pixels = on_white(upright.convert("RGBA"), name)
        else:
            pixels = np.array(upright if mode == "RGB" else upright.convert("RGB"))
    except ValueError as error:
        raise UserError(f"'{name}' has colour mode {mode}, which cannot be converted to RGB") from error
    if mode == "CMYK":
        note("CMYK images, converted to RGB without a colour profile", f"'{name}'")
    return blackened(pixels, missing)


def bands_of_pillow(
    image: Image.Image,
    bands: Bands,
    name: str = "image",
    *,
    value_range: ValueRange | None = None,
    exif: Exif = "apply",
) -> UInt8[np.ndarray, "H W C"]:
    """Bands of the image in 0..255, upright and contiguous; alpha is one of them, a palette is resolved to its colours.

    Raises:
        UserError: as for :func:`rgb_of_pillow`; or it has other bands, or Pillow does not provide all of them
            unchanged.
    """
    check_ranges(value_range, bands)
    stored, given = int(tag_of(image, BAND_TAG) or 1), len(image.getbands())
    if stored > given or (given > 1 and is_deep_color(image)):
        why = f"{stored} bands, of which {given} are" if stored > given else "bands of 16 bits, of which 8 are"
        raise UserError(
            f"'{name}' has {why} read here; save it as TIFF, and pass its path (pip install 'mask2former[microscopy]' "
            "reads such files)"
        )
    is_blended = image.mode in ("1", "L") and "transparency" in image.info  # where colours are wanted
    if given == 1 and image.mode != "P" and not is_blended:  # which grey is computed from, in any type
        chosen_bands(np.empty((1, 1, 1), np.bool_), bands, f"'{name}'")  # refuses others
        ranges = ranges_of_bands(value_range) or (common_range(value_range),)
        grey = [rgb_of_pillow(image, name, value_range=span, exif=exif)[..., :1] for span in ranges]
        return np.concatenate(grey * (1 if isinstance(bands, int) else len(bands) // len(grey)), axis=2)
    turn = orientation(image)
    decode(image, name)
    upright = turned(image, turn, exif)
    if upright.mode in ("P", "PA"):
        upright = upright.convert("RGBA" if upright.mode == "PA" or "transparency" in upright.info else "RGB")
    elif upright.mode in ("La", "RGBa"):
        upright = upright.convert("RGBA" if upright.mode == "RGBa" else "LA")
    elif upright.mode == "1":
        upright = upright.convert("L")
    missing = _missing(image, upright, name, bands)
    return np.array(blackened(chosen_bands(np.asarray(upright), bands, f"'{name}'"), missing), order="C")


def _missing(
    image: Image.Image, upright: Image.Image, name: str, bands: Bands | None = None
) -> Bool[np.ndarray, ...] | None:
    """Where bytes have no value, which is noted: in all colours, or in a band. For deeper values this is only noted."""
    nodata = stated_nodata(functools.partial(tag_of, image))
    if nodata is None:
        return None
    values, mode = np.asarray(upright), upright.mode
    is_stored = mode == "P" or (int(tag_of(image, BITS) or 8) == 8 and tag_of(image, SAMPLE_FORMAT) != 2)
    if not is_stored or mode not in ("P", "L", "LA", "RGB", "RGBA"):  # the values differ from those in the file
        note(
            "TIFF files that declare a value for pixels without data (GDAL's nodata), which is read like any other "
            "(with pip install 'mask2former[microscopy]' these pixels are shown black in most of them)",
            f"'{name}' ({nodata:g})",
        )
        return None
    if mode == "L" and tag_of(image, PHOTOMETRIC) == 0:
        values = 255 - values  # which Pillow has already inverted
    if bands is None:
        missing = missing_values(values[..., :-1] if mode in ("LA", "RGBA") else values, nodata)
    else:
        missing = chosen_bands(missing_values(values, nodata, by_band=True), bands, f"'{name}'")
    note_missing(missing, name)
    return missing


def decode(image: Image.Image, name: str) -> None:
    """Decode the pixels of an open image: the first page, unless the caller moved to another.

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
                f"the Pillow image '{name}' was closed before its pixels were read; use it inside the 'with' block, "
                "or call its load() there"
            ) from error
        raise UserError(f"'{name}' is damaged or cut short and cannot be decoded: {error}") from error


def load(image: Image.Image) -> None:
    """Decode the pixels; raises whatever Pillow does."""
    filename = getattr(image, "filename", "")
    if image.format == "TIFF" and getattr(image, "tile", None):
        # Pillow would show the pixels of this page with the palette of another one that was visited before it.
        image.im = None  # pyright: ignore[reportAttributeAccessIssue]  (as before any page is decoded)
        image.palette = image.palette if image.mode in ("P", "PA") else None
        colors = getattr(image, "tag_v2", {}).get(_COLOR_MAP, ())
        if image.palette is not None and colors and max(colors) < 256:  # written as bytes, as libtiff assumes, too
            image.palette = ImagePalette.raw("RGB;L", bytes(colors))
    if image.format == "TIFF" and filename and orientation(image) >= 5:
        # Pillow would map uncompressed pixels into memory with the size that they have when rotated, which shears them.
        image.filename = ""  # pyright: ignore[reportAttributeAccessIssue]  (of files)
    try:
        image.load()
    finally:
        if filename:
            image.filename = filename  # pyright: ignore[reportAttributeAccessIssue]


def _is_deep(mode: str) -> bool:
    """Whether Pillow's mode is one of grey integers with more than 8 bits."""
    return mode == "I" or mode.startswith("I;16")


def _note_bands(image: Image.Image, name: str) -> None:
    bands, shown = int(tag_of(image, BAND_TAG) or 1), len(image.getbands())
    if bands > shown:
        note("images with more bands than are used", f"'{name}' ({shown} of {bands})")


def _from_high_bytes(image: Image.Image, name: str, value_range: CommonRange | None) -> Image.Image:
    """16-bit colour, of which Pillow keeps the upper bytes; stretched where these cover less than their range."""
    bands = np.asarray(image)
    has_alpha = image.mode in ("RGBA", "LA")  # which has the range of its type
    colors = bands[..., :-1] if has_alpha else bands
    seen = colors[bands[..., -1] > 0] if has_alpha else colors
    top = int((seen if seen.size else colors).max())
    bits = next((bits for bits in DEPTHS[1:] if top < 2 ** (bits - 8)), 16)
    wide = seen.astype(np.uint16) * 256  # only so that a rule receives 16 bits
    span = None if value_range is None else black_and_white(wide, value_range, f"'{name}'", name)
    low, high = span or (0, 2**bits - 1)
    dark, light = low // 256, high // 256
    if light <= dark:
        raise UserError(
            f"'{name}' has 16-bit colours, of which only the upper 8 bits are read, and these are the same everywhere "
            f"over value_range=({low:g}, {high:g}); {_EXACTLY}"
        )
    if not top:
        note(
            "16-bit colour images that are black because only the upper 8 bits are read, which are all 0 (if the "
            f"images are not empty, {_EXACTLY})",
            f"'{name}'",
        )
    elif light - dark < 255:
        note(
            f"16-bit colour images that use few of their upper 8 bits, the only ones that are read ({_EXACTLY})",
            f"'{name}' ({f'{low:g} to {high:g}' if span else f'{bits} bits'})",
        )
    if span is not None and not isinstance(value_range, str):
        note_clipped(colors, (dark, light), name)
    if (dark, light) == (0, 255):
        if "transparency" not in image.info:
            return image
    elif has_alpha:
        bands = np.concatenate([scaled(colors, (dark, light)), bands[..., -1:]], axis=2)
    else:
        bands = scaled(colors, (dark, light))
    return Image.frombytes(image.mode, image.size, bands.tobytes())
