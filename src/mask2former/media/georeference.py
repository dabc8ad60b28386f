"""Where on the Earth the pixels of a GeoTIFF are, read from its tags (OGC 19-008r4) and written back unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mask2former.media.image_files import ImageFile, ImagePage
from mask2former.media.images import ImageSource, as_file, image_size
from mask2former.media.tiff_tags import first_page_tags
from mask2former.notes import note

__all__ = ["GeoReference", "georeference"]

_SCALE, _TIEPOINTS, _TRANSFORM, _KEYS, _DOUBLES, _TEXTS = 33550, 33922, 34264, 34735, 34736, 34737
_TYPES = {_SCALE: 12, _TIEPOINTS: 12, _TRANSFORM: 12, _KEYS: 3, _DOUBLES: 12, _TEXTS: 2}  # double, short, ASCII
_OF_IMAGE = _WIDTH, _LENGTH, _ORIENTATION = 256, 257, 274
_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1025, 2048, 3072  # keys
_IS_POINT = 2
_USER_DEFINED = 32767
_MOST = 10_000  # numbers in a tag


@dataclass(frozen=True)
class GeoReference:
    """An affine map from pixels to world coordinates.

    Attributes:
        transform: (a, b, c, d, e, f) with x = a column + b row + c and y = d column + e row + f, in the unit of the
            reference system. The upper left corner of the upper left pixel is column 0, row 0.
        epsg: number of the reference system; None: the file describes its own, or none.
        tags: of the file, by number.
    """

    transform: tuple[float, float, float, float, float, float]
    epsg: int | None = None
    tags: Mapping[int, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def crs(self) -> str | None:
        """The name of the reference system, for instance ``urn:ogc:def:crs:EPSG::32633``."""
        return None if self.epsg is None else f"urn:ogc:def:crs:EPSG::{self.epsg}"

    def to_world(self, points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        """Points (column, row) in pixels as (x, y) in the world; for instance corners of polygons."""
        a, b, c, d, e, f = self.transform
        columns, rows = np.asarray(points, np.float64).T
        return np.stack([a * columns + b * rows + c, d * columns + e * rows + f], axis=1)

    def tiff_tags(self) -> ImageFileDirectory_v2:
        """The tags as Pillow writes them, for an image of the same size: ``labels.save("x.tif", tiffinfo=...)``."""
        directory = ImageFileDirectory_v2()
        for number, value in self.tags.items():
            directory.tagtype[number] = _TYPES[number]
            directory[number] = value
        return directory


def georeference(source: ImageSource) -> GeoReference | None:
    """Where the pixels of an image are; None: it is not a GeoTIFF, or one without an affine map (noted).

    Args:
        source: an image file that :func:`~mask2former.media.images.read_image` accepts; pixels have no such tags.

    Raises:
        UserError: the file cannot be read.
    """
    image = as_file(source)
    file = image.file if isinstance(image, ImagePage) else image
    if not isinstance(file, ImageFile):
        return None
    tags = _tags(file)
    size_hw = tags.pop(_LENGTH, None), tags.pop(_WIDTH, None)
    if not tags.keys() & {_SCALE, _TIEPOINTS, _TRANSFORM}:
        return None
    if tags.pop(_ORIENTATION, 1) != 1:
        note("rotated GeoTIFF files, whose coordinates are not read", f"'{file}'")
        return None
    if isinstance(image, ImagePage) and image.number > 1 and image_size(image) != size_hw:
        note(
            "pages of GeoTIFF files that differ in size from the first, to which alone its coordinates apply",
            f"'{image}'",
        )
        return None
    keys = _keys(tags.get(_KEYS, ()))
    transform = _affine(tags)
    if transform is None or not np.isfinite(transform).all():
        note("GeoTIFF files without an affine map from pixels to coordinates (only ground control points)", f"'{file}'")
        return None
    a, b, c, d, e, f = transform
    if keys.get(_RASTER_TYPE) == _IS_POINT:  # the tags refer to the centres of pixels
        c, f = c - (a + b) / 2, f - (d + e) / 2
    system = keys.get(_PROJECTED) or keys.get(_GEOGRAPHIC)
    known = system if system and system < _USER_DEFINED else None
    return GeoReference((a, b, c, d, e, f), known, {number: tags[number] for number in _TYPES if number in tags})


def _tags(file: ImageFile) -> dict[int, Any]:
    """The relevant tags of the first page; none for a file that is not a TIFF, or a damaged one."""
    values = first_page_tags(file, (*_OF_IMAGE, *_TYPES)).items()
    return {number: usable for number, value in values if (usable := _usable(number, value)) is not None}


def _usable(number: int, value: Any) -> Any:
    """The value of a tag, with numbers as a tuple; None: it is too long, or of another kind."""
    if number in _OF_IMAGE:
        return value
    if number == _TEXTS:
        return value if isinstance(value, str) and len(value) <= _MOST else None
    numbers = value if isinstance(value, tuple) else (value,)
    return numbers if len(numbers) <= _MOST and all(isinstance(each, Real) for each in numbers) else None


def _keys(directory: tuple[int, ...]) -> dict[int, int]:
    """The keys that are numbers and are stored in the directory itself."""
    entries = [directory[start : start + 4] for start in range(4, len(directory) - 3, 4)]
    return {key: value for key, place, _, value in entries if place == 0}


def _affine(tags: Mapping[int, Any]) -> tuple[float, float, float, float, float, float] | None:
    matrix, scale, points = ([float(value) for value in tags.get(tag, ())] for tag in (_TRANSFORM, _SCALE, _TIEPOINTS))
    if len(matrix) == 16:
        a, b, _, c, d, e, _, f = matrix[:8]
        return a, b, c, d, e, f
    if len(scale) < 2 or len(points) < 6:
        return None
    column, row, _, x, y, _ = points[:6]
    return scale[0], 0.0, x - column * scale[0], 0.0, -scale[1], y + row * scale[1]
