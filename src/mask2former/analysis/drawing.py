"""Cells of the figures: an image with weights, a mask or points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw
from scipy import ndimage

from mask2former.files import check_file, write_whole
from mask2former.visualization import contact_sheet

__all__ = ["CELL", "Points", "heat", "points_on", "spotlight", "write_sheet"]

CELL = 176
"""Width of a cell in pixels."""

Points = Sequence[tuple[float, float, float, tuple[int, int, int]]]
"""(x, y) in 0..1 of the image, strength in 0..1, and colour of each point."""

_HOT = np.array([255.0, 96.0, 0.0])
_LINE = np.array([255.0, 214.0, 0.0])


def _canvas(image: UInt8[np.ndarray, "H W 3"], width: int = CELL) -> Image.Image:
    """The image, resized to the width of a cell."""
    height = max(1, round(width * image.shape[0] / image.shape[1]))
    return Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)


def _dimmed(canvas: Image.Image) -> Float[np.ndarray, "H W 3"]:
    grey = np.asarray(canvas.convert("L"), dtype=np.float64)
    return np.repeat((0.55 * grey)[..., None], 3, axis=2)


def heat(image: UInt8[np.ndarray, "H W 3"], weights: Float[np.ndarray, "h w"]) -> Image.Image:
    """Weights as heat on the grey image, with full heat for the largest; each square is a token."""
    canvas = _canvas(image)
    scaled = weights / max(float(weights.max()), 1e-12)
    large = np.asarray(Image.fromarray(scaled.astype(np.float32)).resize(canvas.size, Image.Resampling.NEAREST))
    share = np.sqrt(large.astype(np.float64))[..., None]
    return Image.fromarray((_dimmed(canvas) * (1 - share) + _HOT * share).clip(0, 255).astype(np.uint8))


def spotlight(image: UInt8[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "H W"]) -> Image.Image:
    """The pixels of a mask in colour with an outline, and all others grey and dark."""
    canvas = _canvas(image)
    inside = np.asarray(Image.fromarray(mask).resize(canvas.size, Image.Resampling.NEAREST), dtype=bool)
    inner: Any = ndimage.binary_erosion(inside, border_value=1)
    edge = inside & ~inner
    drawn = np.where(inside[..., None], np.asarray(canvas, dtype=np.float64), _dimmed(canvas))
    return Image.fromarray(np.where(edge[..., None], _LINE, drawn).astype(np.uint8))


def points_on(image: UInt8[np.ndarray, "H W 3"], points: Points, center: tuple[float, float]) -> Image.Image:
    """Points on the grey image, larger for larger weights, with a cross at the centre. Points outside are left out."""
    canvas = _canvas(image, 2 * CELL)
    drawn = Image.fromarray(_dimmed(canvas).astype(np.uint8))
    draw = ImageDraw.Draw(drawn)
    for x, y, strength, color in sorted(points, key=lambda point: -point[2]):
        radius, (left, top) = 1 + 5 * strength**0.5, (x * drawn.width, y * drawn.height)
        draw.ellipse((left - radius, top - radius, left + radius, top + radius), fill=color)
    left, top = center[0] * drawn.width, center[1] * drawn.height
    draw.line((left - 6, top, left + 6, top), fill=(255, 255, 255), width=2)
    draw.line((left, top - 6, left, top + 6), fill=(255, 255, 255), width=2)
    return drawn


def write_sheet(
    path: str | Path,
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str],
    names: Sequence[str],
    *,
    title: str,
    subtitle: str = "",
    legend: Sequence[tuple[str, tuple[int, int, int]]] = (),
    cell_width: int = CELL,
) -> None:
    """Cells in rows and columns, as PNG.

    Raises:
        UserError: the path cannot be written.
    """
    path = Path(path)
    check_file(path)
    sheet = contact_sheet(rows, columns, names, title=title, subtitle=subtitle, legend=legend, cell_width=cell_width)
    write_whole(path, lambda file: sheet.save(file, format="PNG"))
