"""Shapes and intensities of single masks, as scikit-image measures them. The only module that imports it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Num

from mask2former.extras import need

__all__ = ["check_installed", "intensities", "shape_of"]

_STRIP = 1 << 20  # pixels


def check_installed() -> None:
    """Check that shapes can be measured, ideally before hours of work.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    need("table", "skimage", to="measure shapes")


def shape_of(mask: Bool[np.ndarray, "h w"]) -> dict[str, float | None]:
    """Shape of a mask that is not empty, equal to ``skimage.measure.regionprops_table`` within rounding.

    Only the perimeter is left to it: preparing the rest costs more than ten times what the sums take.

    Returns:
        ``diameter`` (pixels, of the circle of the same area), ``perimeter`` (pixels, the length of the line through the
        centres of the outermost pixels), ``circularity`` (4 pi area / perimeter squared: 1 for a circle; masks of few
        pixels can be above, because the perimeter is an estimate; None without a perimeter) and ``eccentricity`` (of
        the ellipse of the same second moments: 0 for a circle, up to 1 for a line).

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    check_installed()
    from skimage.measure import perimeter as length_of

    area, perimeter = int(np.count_nonzero(mask)), float(length_of(mask))
    return {
        "diameter": math.sqrt(4 * area / math.pi),
        "perimeter": perimeter,
        "circularity": 4 * math.pi * area / perimeter**2 if perimeter else None,
        "eccentricity": _eccentricity(mask, area),
    }


def _eccentricity(mask: Bool[np.ndarray, "h w"], area: int) -> float:
    """From sums of coordinates, which are whole numbers, so that nothing is rounded before the end."""
    height, width = mask.shape
    rows, columns = np.arange(height), np.arange(width)
    in_rows, in_columns = np.count_nonzero(mask, axis=1), np.count_nonzero(mask, axis=0)
    strip = max(1, _STRIP // width)  # rows, since the product takes eight bytes per pixel
    parts = [rows[top : top + strip] @ (mask[top : top + strip] @ columns) for top in range(0, height, strip)]
    y, x = int(rows @ in_rows), int(columns @ in_columns)
    # Variances and covariance, times the area squared.
    # Sums of Python's integers: of masks with sides beyond 70,000 pixels, they exceed 64 bits.
    yy = area * sum((rows**2 * in_rows).tolist()) - y * y
    xx = area * sum((columns**2 * in_columns).tolist()) - x * x
    xy = area * sum(map(int, parts)) - x * y
    spread = math.sqrt((yy - xx) ** 2 + 4 * xy**2)
    return math.sqrt(2 * spread / (yy + xx + spread)) if yy + xx else 0.0


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
