"""The size of a pixel that an image file states: microscope images in TIFF, DICOM and whole slides."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mask2former.media.dicom_files import can_read_dicom, dicom_pixel_size, is_dicom
from mask2former.media.image_files import ImageFile, ImagePage, open_stream
from mask2former.media.images import ImageSource, as_file, image_size
from mask2former.media.slides import SLIDE_SUFFIXES, SlideRegions
from mask2former.media.tiff_tags import first_page_tags
from mask2former.notes import note

__all__ = ["stated_pixel_size"]

_WIDTH, _LENGTH, _DESCRIPTION, _X_RESOLUTION, _Y_RESOLUTION = 256, 257, 270, 282, 283
# Without inches: ImageJ writes them for the print resolution of photographs.
_MICROMETRES = {"pm": 1e-6, "Å": 1e-4, "nm": 1e-3, "um": 1.0, "mm": 1e3, "cm": 1e4, "dm": 1e5, "m": 1e6, "km": 1e9}
_MICROMETRES |= {"micron": 1.0} | {
    f"{prefix}met{ending}": factor
    for prefix, factor in (("nano", 1e-3), ("micro", 1.0), ("milli", 1e3), ("centi", 1e4), ("", 1e6))
    for ending in ("er", "re")
}


def stated_pixel_size(source: ImageSource) -> tuple[float, float] | None:
    """Height and width in micrometres of a pixel, as stated by the file; None: it states none.

    It is read from TIFF files of ImageJ (``unit`` with the resolution) and OME (``PhysicalSizeX`` and ``Y``), from
    DICOM (``PixelSpacing``, ``ImagerPixelSpacing``) and from slides. Dots per inch or centimetre alone, as photographs
    have them, are about printing and do not count, nor do the inches of ImageJ.

    Args:
        source: an image file that :func:`~mask2former.media.images.read_image` accepts; pixels state nothing.

    Raises:
        UserError: the file cannot be read.
        MissingExtraError: it is a slide, and OpenSlide is not installed.
    """
    image = as_file(source)
    if not isinstance(image, ImageFile):
        return None
    file, number = (image.file, image.number) if isinstance(image, ImagePage) else (image, 1)
    if isinstance(file, Path) and file.suffix.lower() in SLIDE_SUFFIXES:
        found = SlideRegions(file).pixel_size
    else:
        with open_stream(file) as stream:
            of_dicom = is_dicom(stream.read(132)) and can_read_dicom()
            found = dicom_pixel_size(stream, number - 1) if of_dicom else None
        if not of_dicom:
            found = _of_tiff(image, file, number)
    return found if found is not None and all(0 < side < math.inf for side in found) else None


def _of_tiff(image: ImageFile, file: ImageFile, number: int) -> tuple[float, float] | None:
    tags = first_page_tags(file, (_WIDTH, _LENGTH, _DESCRIPTION, _X_RESOLUTION, _Y_RESOLUTION))
    description = _as_utf8(str(tags.get(_DESCRIPTION, "")))
    found = _of_imagej(description, tags) if description.startswith("ImageJ=") else _of_ome(description)
    sizes = list(dict.fromkeys(found))
    if not sizes or number == 1:
        return sizes[0] if sizes else None
    if len(sizes) > 1 or image_size(image) != (tags.get(_LENGTH), tags.get(_WIDTH)):
        note(
            "pages of files whose pixel size may be another than that of the first page, and is not read",
            f"'{image}'",
        )
        return None
    return sizes[0]


def _as_utf8(text: str) -> str:
    """The text of a tag, which Pillow takes for Latin-1."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeError:
        return text


def _of_imagej(description: str, tags: Mapping[int, Any]) -> Iterator[tuple[float, float]]:
    fields = {key: value for key, _, value in (line.partition("=") for line in description.splitlines())}
    unit = fields.get("unit", "")
    factors = _micrometres(fields.get("yunit", unit)), _micrometres(unit)
    try:
        resolutions = float(tags[_Y_RESOLUTION]), float(tags[_X_RESOLUTION])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return
    if all(factors) and all(resolutions):
        yield factors[0] / resolutions[0], factors[1] / resolutions[1]


def _of_ome(description: str) -> Iterator[tuple[float, float]]:
    """Of each image of a file; 0 where none is stated."""
    for pixels in re.findall(r"<(?:\w{1,20}:)?Pixels\s([^>]*)>", description):
        stated = dict(re.findall(r'\b(PhysicalSize[XY](?:Unit)?)\s*=\s*"([^"]*)"', pixels))
        try:
            height, width = (
                float(stated[name]) * _micrometres(stated.get(f"{name}Unit", "um"))
                for name in ("PhysicalSizeY", "PhysicalSizeX")
            )
        except (KeyError, ValueError):
            height = width = 0.0
        yield height, width


def _micrometres(unit: str) -> float:
    """The length of a unit; 0: it is unknown, or not a length, such as ``pixel``."""
    unit = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), html.unescape(unit)).strip()
    unit = unit.replace("µ", "u").replace("μ", "u").replace("\N{ANGSTROM SIGN}", "Å")
    return _MICROMETRES.get(unit if len(unit) <= 2 else unit.lower().removesuffix("s"), 0.0)
