"""Shapes and intensities of single masks, as scikit-image measures them. The only module that imports it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Num

from mask2former.errors import MissingExtraError

__all__ = ["check_installed", "intensities", "shape_of"]


def check_installed() -> None:
    """Check that shapes can be measured, ideally before hours of work.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    try:
        import skimage.measure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("scikit-image", "table") from error


def shape_of(mask: Bool[np.ndarray, "h w"]) -> dict[str, float | None]:
    """Shape of a mask that is not empty, from ``skimage.measure.regionprops_table``.

    Returns:
        ``diameter`` (pixels, of the circle of the same area), ``perimeter`` (pixels, the length of the line through the
        centres of the outermost pixels), ``circularity`` (4 pi area / perimeter squared: 1 for a circle; masks of few
        pixels can be above, because the perimeter is an estimate; None without a perimeter) and ``eccentricity`` (of
        the ellipse of the same second moments: 0 for a circle, up to 1 for a line).

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    check_installed()
    from skimage.measure import regionprops_table

    names = ("area", "equivalent_diameter_area", "perimeter", "eccentricity")
    found = regionprops_table(mask.astype(np.uint8), properties=names)
    area, diameter, perimeter, eccentricity = (float(found[name][0]) for name in names)
    return {
        "diameter": diameter,
        "perimeter": perimeter,
        "circularity": 4 * math.pi * area / perimeter**2 if perimeter else None,
        "eccentricity": eccentricity,
    }


def intensities(
    parts: Iterable[tuple[Bool[np.ndarray, "h w"], Num[np.ndarray, "h w *channels"]]],
) -> dict[str, float | None]:
    """Means of the pixels of a mask that is not empty: over all channels, and of each where there are three.

    Args:
        parts: of the mask, cut to boxes, with the pixels of each box, of any type and range.
    """
    total, count = np.zeros(1), 0
    for mask, pixels in parts:
        values = pixels[mask]
        if not len(values):  # a part between two others, in which the mask has no pixel
            continue
        values = values.reshape(len(values), -1)
        total, count = total + values.sum(axis=0, dtype=np.float64), count + len(values)
    means = (total / count).tolist()
    single = means if len(means) == 3 else [None] * 3
    return {
        "mean_intensity": sum(means) / len(means),
        **dict(zip(("mean_red", "mean_green", "mean_blue"), single, strict=True)),
    }
