"""Results as tables: the columns, the record of each mask and of each image, and lengths in units.

The one definition of the columns for :meth:`rows`, data frames, CSV and Parquet. Knows no files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mask2former.errors import UserError
from mask2former.ops.shapes import intensities, shape_of
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.pixels import Regions
from mask2former.structures.categories import Categories
from mask2former.text import quoted

__all__ = ["MEASURED_COLUMNS", "ROW_COLUMNS", "PixelSize", "image_row", "table_columns", "table_rows"]

ROW_COLUMNS = (
    *("id", "category_id", "category_name", "is_thing", "score", "area"),
    *("x1", "y1", "x2", "y2", "centroid_x", "centroid_y"),
)
"""The keys of the rows of a result, in the order of columns."""

MEASURED_COLUMNS = (
    *("diameter", "perimeter", "circularity", "eccentricity"),
    *("mean_intensity", "mean_red", "mean_green", "mean_blue"),
)
"""Columns that are measured: shapes, and means of the image."""

_PIXELS_AT_ONCE = 1 << 22  # pixels of an image that are in memory for measuring
_LENGTHS = ("x1", "y1", "x2", "y2", "centroid_x", "centroid_y", "diameter", "perimeter")
_UNITS = {"nm": 1e-3, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "km": 1e9}  # in micrometres
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([^\W\d]+)\s*")


@dataclass(frozen=True, slots=True)
class PixelSize:
    """The side of a pixel, which is square, in a unit; columns in units end in it: ``area_um2``, ``perimeter_um``.

    Raises:
        UserError: the side is not above 0, or the unit is unknown.
    """

    side: float
    unit: str

    def __post_init__(self) -> None:
        if not (0 < self.side < float("inf") and self.unit in _UNITS):
            raise UserError(
                f"a pixel size is a number above 0 and one of {', '.join(_UNITS)}, for example 0.65um; got "
                f"{quoted(f'{self.side:g}{self.unit}')}"
            )

    @property
    def micrometres(self) -> float:
        """The side in micrometres."""
        return self.side * _UNITS[self.unit]

    @classmethod
    def of(cls, text: str | PixelSize) -> Self | PixelSize:
        """From ``0.65um`` (µm is also accepted); a pixel size is returned unchanged.

        Raises:
            UserError: it is something else, for instance two sides, with which shapes cannot be measured.
        """
        if isinstance(text, PixelSize):
            return text
        if (match := _SIZE.fullmatch(text)) is None:
            raise UserError(
                f"a pixel size is one number with its unit, for example 0.65um, got {quoted(text)}; resample images "
                "whose pixels are not square"
            )
        return cls(float(match[1]), match[2].replace("µ", "u").replace("μ", "u"))

    def columns(self, names: Iterable[str]) -> list[str]:
        """The columns in units that correspond to those in pixels."""
        return [
            f"{name}_{self.unit}{'2' if name == 'area' else ''}" for name in names if name == "area" or name in _LENGTHS
        ]

    def in_units(self, row: Mapping[str, Any]) -> dict[str, float | None]:
        """The values in units of a row, by their columns."""
        names = [name for name in row if name == "area" or name in _LENGTHS]
        factors = [self.side**2 if name == "area" else self.side for name in names]
        return {
            column: None if row[name] is None else row[name] * factor
            for column, name, factor in zip(self.columns(names), names, factors, strict=True)
        }


def table_columns(pixel_size: PixelSize | None = None) -> list[str]:
    """All columns of a table of masks, without those that identify images."""
    names = [*ROW_COLUMNS, *MEASURED_COLUMNS]
    return names + (pixel_size.columns(names) if pixel_size else [])


def table_rows(
    entries: Iterable[tuple[int, int, float | None]],
    masks: SparseMasks,
    categories: Categories,
    *,
    measured: bool = False,
    image: Regions | None = None,
    pixel_size: PixelSize | None = None,
) -> list[dict[str, Any]]:
    """The rows of masks: ``entries`` are id, class index and score of each.

    Args:
        entries: one per mask.
        masks: of one image.
        categories: the classes that the class indices refer to.
        measured: with :data:`MEASURED_COLUMNS`; None where there is nothing to measure.
        image: for the means.
        pixel_size: adds columns in units.

    Raises:
        UserError: the image has another size than the masks.
        MissingExtraError: scikit-image is not installed, and shapes are requested.
    """
    if image is not None and tuple(image.size_hw) != masks.size_hw:
        raise UserError(
            f"the image has {image.size_hw[0]}x{image.size_hw[1]} pixels but the result "
            f"{masks.size_hw[0]}x{masks.size_hw[1]} (height x width); pass the image that was segmented"
        )
    rows, means = [], _means(image, masks) if measured and image is not None else {}
    for index, ((number, label, score), patch, area, box, centroid) in enumerate(
        zip(entries, masks, masks.areas.tolist(), masks.boxes.tolist(), masks.centroids.tolist(), strict=True)
    ):
        item = categories[label]
        where: Sequence[float | None] = [*map(int, box), *centroid] if area else [None] * 6
        kind = (number, item.id, item.name, item.is_thing, score, area)
        row: dict[str, Any] = dict(zip(ROW_COLUMNS, (*kind, *where), strict=True))
        if measured:
            row |= dict.fromkeys(MEASURED_COLUMNS) | (shape_of(patch.mask) if area else {}) | means.get(index, {})
        if pixel_size is not None:
            row |= pixel_size.in_units(row)
        rows.append(row)
    return rows


def _means(image: Regions, masks: SparseMasks) -> dict[int, dict[str, float | None]]:
    """The means of an image inside masks that are not empty, by index.

    From top to bottom: an image that is read in parts keeps what it decoded last.
    """
    found = {}
    for index in sorted(range(len(masks)), key=lambda index: masks.packed[index].box):
        top, left, mask = masks[index]
        if mask.size:
            height, width = mask.shape
            step = max(1, _PIXELS_AT_ONCE // width)
            found[index] = intensities(
                (mask[row : row + step], image.read(top + row, left, top + min(row + step, height), left + width))
                for row in range(0, height, step)
            )
    return found


def image_row(
    rows: Sequence[Mapping[str, Any]],
    size_hw: tuple[int, int],
    categories: Categories,
    pixel_size: PixelSize | None = None,
) -> dict[str, Any]:
    """The row of an image: the number of masks, in total and by class, their areas and scores.

    Args:
        rows: of :func:`table_rows`.
        size_hw: of the image.
        categories: each has a column ``num_NAME``; classes of one name share it.
        pixel_size: itself, and with areas in units, too.
    """
    areas = [row["area"] for row in rows]
    scores = [row["score"] for row in rows if row["score"] is not None]
    found = Counter(row["category_name"] for row in rows)
    values: dict[str, Any] = {
        "height": size_hw[0],
        "width": size_hw[1],
        "num": len(rows),
        "total_area": sum(areas),
        "mean_area": float(np.mean(areas)) if areas else None,
        "median_area": float(np.median(areas)) if areas else None,
        "mean_score": float(np.mean(scores)) if scores else None,
    }
    if pixel_size is not None:
        values[f"pixel_size_{pixel_size.unit}"] = pixel_size.side
        for name in ("total_area", "mean_area", "median_area"):
            value = values[name]
            values[f"{name}_{pixel_size.unit}2"] = None if value is None else value * pixel_size.side**2
    return values | {f"num_{name}": found[name] for name in categories.names}
