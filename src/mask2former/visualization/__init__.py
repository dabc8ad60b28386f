"""Drawing segmentations: overlays with outlines and labels, and contact sheets. Only numpy, SciPy and Pillow.

The functions take arrays, colours and names, and do not depend on result types, categories or tasks. Each returns a new
image and is a pure function of its arguments, so the same result always looks the same.

Other modules: :mod:`.regions` (what is drawn), :mod:`.colors`, :mod:`.labels` (names and counts), :mod:`.fonts`,
:mod:`.sheets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8
from PIL import Image, ImageFilter

from mask2former import limits
from mask2former.errors import UserError
from mask2former.ops.masks import Patch
from mask2former.ops.sparse_masks import AnyMasks, SparseMasks
from mask2former.pixels import Bands, ValueRange, bands_of_array, checked_range, displayed, rgb_of_array
from mask2former.visualization.colors import Palette, line_color, recolored, spread_colors
from mask2former.visualization.labels import INK, Anchor, distance, draw_labels
from mask2former.visualization.regions import Color, Crop, Region, ranks
from mask2former.visualization.sheets import contact_sheet

__all__ = [
    "Color",
    "ImageLike",
    "Palette",
    "Region",
    "contact_sheet",
    "enlarged",
    "overlay_instances",
    "overlay_panoptic",
    "overlay_semantic",
    "ranks",
    "readable_scale",
    "recolored",
    "rgb_of",
]

# The segmented image as it was read: anything that mask2former.media.images.read_image accepts, for instance a path, a
# Pillow image or an array.
ImageLike = Any

THING_ALPHA = 0.50
STUFF_ALPHA = 0.52
CASING_ALPHA = 0.85
_READABLE = 768  # pixels that the longer side may have after a small image is enlarged
_LARGEST_SCALE = 16


# --- overlays --------------------------------------------------------------------------------------------------------


def overlay_panoptic(
    image: ImageLike,
    ids: Int[np.ndarray, "H W"],
    numbers: Sequence[int],
    regions: Sequence[Region],
    *,
    scale: int | None = 1,
    labels: bool = True,
) -> Image.Image:
    """``image`` with every segment of an id map: stuff flat, things tinted and outlined, names where they fit.

    Where all things are of one class, and in crowds of small things, a plate counts them instead of naming each.

    Args:
        image: the image that was segmented.
        ids: segment id per pixel.
        numbers: the id of each region; pixels with other ids are unchanged.
        regions: how each segment is shown.
        scale: factor by which image and map are first enlarged, for small images; None: :func:`readable_scale`.
        labels: whether names are written.

    Raises:
        UserError: image and map differ in size.
    """
    return _overlay_map(image, _index_map(ids, numbers), regions, scale, labels)


def overlay_semantic(
    image: ImageLike,
    class_map: Int[np.ndarray, "H W"],
    regions: Sequence[Region],
    *,
    scale: int | None = 1,
    labels: bool = True,
) -> Image.Image:
    """``image`` with a class map, all classes flat; ``regions[k]`` shows class k, pixels of other values do not change.

    Raises:
        UserError: image and map differ in size.
    """
    index_map = class_map.astype(np.int32)  # maps read from files are unsigned
    index_map[(index_map < 0) | (index_map >= len(regions))] = -1
    flat = [Region(region.name, region.color, None, region.group, is_thing=False) for region in regions]
    return _overlay_map(image, index_map, flat, scale, labels)


def overlay_instances(
    image: ImageLike,
    masks: AnyMasks,
    regions: Sequence[Region],
    *,
    scale: int | None = 1,
    labels: bool = True,
) -> Image.Image:
    """``image`` with objects that may overlap, small ones on top of large ones; names and counts as for segments.

    Raises:
        UserError: image and masks differ in size.
    """
    assert len(masks) == len(regions), (len(masks), len(regions))
    masks = SparseMasks.of(masks)
    scale = readable_scale(masks.size_hw) if scale is None else scale
    canvas = _canvas(image, masks.size_hw, scale)
    crops = [_crop(index, patch, scale) for index, patch in enumerate(masks) if patch.mask.size]
    colors = spread_colors(regions, crops, canvas)
    crops.sort(key=lambda crop: -crop.area)
    for crop in crops:
        window = canvas[crop.window]
        window[crop.mask] = _mix(window[crop.mask], colors[crop.index], THING_ALPHA)
    for crop in crops:
        _draw_outline(canvas, crop, colors[crop.index], scale)
    if labels:
        draw_labels(canvas, [Anchor(regions[crop.index], colors[crop.index], crop) for crop in crops], regions)
    return Image.fromarray(canvas)


def readable_scale(size_hw: Sequence[int]) -> int:
    """Factor that enlarges an image so that outlines and names have room: 1 from 385 pixels on, at most 16."""
    return min(_LARGEST_SCALE, max(1, _READABLE // max(1, *size_hw)))


def _overlay_map(
    image: ImageLike,
    index_map: Int[np.ndarray, "H W"],
    regions: Sequence[Region],
    scale: int | None,
    labels: bool,
) -> Image.Image:
    """``image`` with an index map (-1: nothing)."""
    from scipy import ndimage  # takes half a second, so it is imported only to draw

    scale = readable_scale(index_map.shape) if scale is None else scale
    canvas = _canvas(image, (index_map.shape[0], index_map.shape[1]), scale)
    if scale > 1:
        index_map = index_map.repeat(scale, axis=0).repeat(scale, axis=1)
    crops = []
    for index, window in enumerate(ndimage.find_objects(index_map + 1)):
        if window is not None and index < len(regions):
            mask = index_map[window] == index
            crops.append(Crop(index, window, mask, int(np.count_nonzero(mask))))
    colors = spread_colors(regions, crops, canvas)
    # The last row of the tables is for index -1, where nothing is painted.
    rows = index_map.astype(np.intp)  # numpy's index type: a single conversion, and indexing twice as fast
    rows[rows < 0] = len(regions)
    palette = np.zeros((len(regions) + 1, 3), dtype=np.uint8)
    alpha = np.zeros(len(regions) + 1, dtype=np.uint8)
    for index, (region, color) in enumerate(zip(regions, colors, strict=True)):
        alpha[index] = round(255 * (THING_ALPHA if region.is_thing else STUFF_ALPHA))
        palette[index] = color
    tint, opacity = Image.fromarray(palette.take(rows, axis=0)), Image.fromarray(alpha.take(rows))
    canvas = np.array(Image.composite(tint, Image.fromarray(canvas), opacity))
    _draw_seams(canvas, index_map)
    for crop in crops:
        if regions[crop.index].is_thing:
            _draw_outline(canvas, crop, colors[crop.index], scale)
    if labels:
        centers = _interior_points(index_map, len(regions))
        draw_labels(
            canvas,
            [Anchor(regions[crop.index], colors[crop.index], crop, centers.get(crop.index)) for crop in crops],
            regions,
        )
    return Image.fromarray(canvas)


# --- masks -----------------------------------------------------------------------------------------------------------


def _crop(index: int, patch: Patch, scale: int) -> Crop:
    """A nonempty mask on the enlarged canvas."""
    top, left, cut = patch
    if scale > 1:
        cut = cut.repeat(scale, axis=0).repeat(scale, axis=1)
    rows, columns = cut.shape
    window = (slice(top * scale, top * scale + rows), slice(left * scale, left * scale + columns))
    return Crop(index, window, cut, int(np.count_nonzero(cut)))


def _index_map(ids: Int[np.ndarray, "H W"], numbers: Sequence[int]) -> Int[np.ndarray, "H W"]:
    """Position in ``numbers`` of each pixel's id, -1 for other ids."""
    if not len(numbers):
        return np.full(ids.shape, -1, dtype=np.int32)
    order = np.argsort(np.asarray(numbers))
    ascending = np.asarray(numbers)[order]
    found = np.searchsorted(ascending, ids).clip(max=len(ascending) - 1)
    return np.where(ascending[found] == ids, order[found], -1).astype(np.int32)


def rgb_of(
    image: ImageLike, size_hw: tuple[int, int], value_range: ValueRange | None = None, bands: Bands | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """An image as RGB in 0..255, with the size of its result: the same pixels that the network saw.

    For bands other than red, green and blue, see :func:`~mask2former.pixels.displayed`.

    Args:
        image: an input of :func:`mask2former.media.images.read_image`, or an array with any number of bands.
        size_hw: size of the result.
        value_range: as used for the segmentation; see :func:`~mask2former.media.images.read_image`.
        bands: as used for the segmentation; see :func:`~mask2former.media.images.read_image`.

    Raises:
        UserError: the image has another size, or is not an image.
    """
    if isinstance(image, np.ndarray):
        value_range = checked_range(value_range)
        if bands is None and image.ndim == 3 and (image.shape[2] == 2 or 4 < image.shape[2] <= limits.CHANNELS):
            bands = image.shape[2]
        pixels = (
            rgb_of_array(image, value_range=value_range)
            if bands is None
            else displayed(bands_of_array(image, bands, value_range=value_range))
        )
    else:
        from mask2former.media.images import read_image  # needs torch; not imported for plain arrays

        pixels = displayed(read_image(image, value_range=value_range, bands=bands))
    if pixels.shape[:2] != tuple(size_hw):
        raise UserError(
            f"the image has {pixels.shape[0]}x{pixels.shape[1]} pixels but the result {size_hw[0]}x{size_hw[1]} "
            "(height x width); draw on the image that was segmented"
        )
    return pixels


def _canvas(image: ImageLike, size_hw: tuple[int, int], scale: int) -> UInt8[np.ndarray, "H W 3"]:
    """A new RGB array of the image, enlarged ``scale`` times."""
    if not isinstance(scale, Integral) or scale < 1:
        raise UserError(f"scale must be a whole number from 1, or None, got {scale!r}")
    return np.array(enlarged(rgb_of(image, size_hw), scale))


def enlarged(image: UInt8[np.ndarray, "H W 3"], scale: int) -> Image.Image:
    """The image with ``scale`` times its height and width, at least once."""
    plain = Image.fromarray(image)
    return plain.resize((plain.width * scale, plain.height * scale), Image.Resampling.BICUBIC)


def _line_width(size_hw: tuple[int, ...]) -> float:
    """Standard deviation in pixels of the blur that makes outlines; about half their width."""
    longer = max(size_hw[:2])
    return max(1.2, min(longer / 750, max(3.0, longer / 1500)))


def _draw_outline(canvas: UInt8[np.ndarray, "H W 3"], crop: Crop, color: Color, scale: int) -> None:
    """A smooth light line along the edge of a mask with a dark casing outside; no line at the border of the image.

    One of the two stands out from any background. The blurred mask is one half at the edge, so its difference from one
    half gives antialiased lines.
    """
    shorter = min(crop.mask.shape)
    sigma = min(_line_width(canvas.shape), max(0.75, shorter / 18))  # the line must not cover the whole object
    sigma = max(sigma, 0.5 * scale)  # smooths the steps of enlarged pixels
    if shorter < 4:
        sigma = 0.5
    margin = int(3 * sigma + 2)
    rows, columns = crop.window
    top, left = max(0, rows.start - margin), max(0, columns.start - margin)
    bottom, right = min(canvas.shape[0], rows.stop + margin), min(canvas.shape[1], columns.stop + margin)
    padded = np.zeros((bottom - top, right - left), dtype=np.uint8)
    padded[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left][crop.mask] = 255
    blurred = np.asarray(Image.fromarray(padded).filter(ImageFilter.GaussianBlur(sigma)))
    where = _STRENGTH[blurred] > 0
    edge = blurred[where]
    window = canvas[top:bottom, left:right]
    window[where] = (window[where] * (1 - _STRENGTH[edge])[:, None] + _inks(color)[edge]).astype(np.uint8)


@lru_cache(maxsize=1024)
def _inks(color: Color) -> Float32[np.ndarray, "256 3"]:
    """What line and casing add at each level of the blurred mask, plus one half for rounding."""
    dark, light = (np.asarray(ink, dtype=np.float32) for ink in (INK, line_color(color)))
    return (dark + (light - dark) * _LIGHT[:, None]) * _STRENGTH[:, None] + np.float32(0.5)


# From the blurred mask (0..255) to the opacity of line and casing together, and to the share of the line in it. The
# line reaches from half a deviation outside to one and a half inside, the casing from there to two deviations outside.
_LEVELS: Float32[np.ndarray, 256] = np.arange(256, dtype=np.float32) / 255
_LIGHT: Float32[np.ndarray, 256] = np.clip((_LEVELS - 0.24) / 0.16, 0, 1)
_STRENGTH: Float32[np.ndarray, 256] = np.clip((_LEVELS - 0.02) / 0.08, 0, CASING_ALPHA + 0.15 * _LIGHT) * np.clip(
    (0.95 - _LEVELS) / 0.2, 0, 1
)


def _draw_seams(canvas: UInt8[np.ndarray, "H W 3"], index_map: Int[np.ndarray, "H W"]) -> None:
    """A faint light line where the index changes, so that flat neighbours of similar colours remain distinct."""
    seam = _seams(index_map)
    canvas[seam] = _mix(canvas[seam], (255, 255, 255), 0.35)


def _seams(index_map: Int[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels whose index is not that of the pixel above or to the left."""
    seam = np.zeros(index_map.shape, dtype=bool)
    seam[:, 1:] |= index_map[:, 1:] != index_map[:, :-1]
    seam[1:] |= index_map[1:] != index_map[:-1]
    return seam


def _mix(pixels: UInt8[np.ndarray, "P 3"], color: Color, alpha: float) -> UInt8[np.ndarray, "P 3"]:
    tint = np.asarray(color, dtype=np.float32) * alpha + 0.5
    return (pixels * np.float32(1 - alpha) + tint.astype(np.float32)).astype(np.uint8)


def _interior_points(index_map: Int[np.ndarray, "H W"], count: int) -> dict[int, tuple[int, int]]:
    """Row and column of the deepest pixel of each index, by one distance transform of the whole map."""
    from scipy import ndimage  # takes half a second, so it is imported only to draw

    step = 1 + max(index_map.shape) // 400
    coarse = index_map[step // 2 :: step, step // 2 :: step]
    depth = distance(np.pad(~_seams(coarse), 1))[1:-1, 1:-1]  # the border counts as an edge
    present = [int(index) for index in np.unique(coarse) if 0 <= index < count]
    if not present:
        return {}
    deepest = ndimage.maximum_position(depth, coarse, present)
    return {
        index: (int(row) * step + step // 2, int(column) * step + step // 2)
        for index, (row, column) in zip(present, deepest, strict=True)
    }
