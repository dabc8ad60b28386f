"""Whole-slide microscope images through OpenSlide, at full resolution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mask2former.errors import UserError
from mask2former.extras import need
from mask2former.notes import noted_as_one
from mask2former.pixels import rgb_of_array
from mask2former.text import printable

__all__ = ["SLIDE_SUFFIXES", "SlideRegions"]

# Formats that only OpenSlide reads; slides in TIFF files are read as TIFF where possible.
SLIDE_SUFFIXES = (".svs", ".ndpi", ".vms", ".vmu", ".scn", ".mrxs", ".svslide", ".bif")


class SlideRegions:
    """A whole slide; unscanned areas are white.

    Args:
        path: the file.

    Attributes:
        size_hw: height and width in pixels, at full resolution.
        pixel_size: height and width of a pixel in micrometres; None: the file states none.

    Raises:
        UserError: it is damaged, or not a slide.
        MissingExtraError: OpenSlide is not installed.
    """

    def __init__(self, path: Path) -> None:
        need("slides", "openslide", to="read slides")
        import openslide

        self._path, self._errors = path, (openslide.OpenSlideError, OSError)
        self._told = set[str]()
        try:
            self._slide = openslide.OpenSlide(path)
        except self._errors as error:
            raise UserError(f"'{path}' is not a readable slide: {printable(str(error), 200)}") from error
        width, height = self._slide.dimensions
        self.size_hw = (height, width)
        self.pixel_size = self._pixel_size(openslide)

    def _pixel_size(self, openslide: Any) -> tuple[float, float] | None:
        stated = self._slide.properties
        if stated.get(openslide.PROPERTY_NAME_VENDOR) == "generic-tiff":  # that of print, in dots per centimetre
            return None
        try:
            return float(stated[openslide.PROPERTY_NAME_MPP_Y]), float(stated[openslide.PROPERTY_NAME_MPP_X])
        except (KeyError, ValueError):
            return None

    def read(self, top: int, left: int, bottom: int, right: int) -> UInt8[np.ndarray, "_h _w 3"]:
        """See :class:`~mask2former.pixels.Regions`.

        Raises:
            UserError: the file is damaged there.
        """
        try:
            image = self._slide.read_region((left, top), 0, (right - left, bottom - top))
        except self._errors as error:
            raise UserError(f"'{self._path}' is damaged: {printable(str(error), 200)}") from error
        with noted_as_one(self._told):  # with alpha, which is blended onto white
            return rgb_of_array(np.asarray(image), f"slide '{self._path}'", example=str(self._path))
