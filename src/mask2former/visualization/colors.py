"""Colours: objects of a class that differ from their neighbours, and lines that are visible on any background.

Deterministic and stable: the colour of an object depends on itself and on previous objects, not on later ones.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from mask2former.errors import UserError
from mask2former.visualization.regions import Color, Crop, Region

__all__ = ["Palette", "identity_color", "line_color", "luminance", "perceived", "recolored", "spread_colors"]

Palette = Literal["classes", "colorblind"]
"""Colours of classes as in the data set, or eight that colour-blind people can distinguish (Okabe and Ito, 2008)."""

_SAFE: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (220, 220, 220),  # replaces black, which would look like a hole in the image
)
_SHADES = ((1, 0.0), (1, 0.35), (0, 0.35))  # mixed with white or black, and by how much
NEIGHBOURS = 8  # with which the colour of an object is compared
_ONE_CLASS = 18  # colours over all hues
_OF_A_CLASS = 9  # colours around that of a class
_LINE_LUMINANCE = 0.45  # with casings near black, one of the two has a contrast of 3:1 on any background
_ENOUGH = 60.0  # larger differences of colours count the same


def recolored(regions: Sequence[Region], palette: Palette) -> list[Region]:
    """The regions in the colours of a palette; if there are more classes than colours, some share one.

    Raises:
        UserError: the palette does not exist.
    """
    if palette == "classes":
        return list(regions)
    if palette != "colorblind":
        raise UserError(f"palette must be classes or colorblind, got {palette!r}")
    chosen: dict[int, int] = {}
    for group in sorted({region.group for region in regions}):
        place = group % len(_SAFE)  # the same in every image, unless another class already uses it
        while place in chosen.values() and len(set(chosen.values())) < len(_SAFE):
            place = (place + 1) % len(_SAFE)
        chosen[group] = place
    return [replace(region, color=_SAFE[chosen[region.group]], is_safe=True) for region in regions]


def spread_colors(
    regions: Sequence[Region], crops: Sequence[Crop] = (), ground: UInt8[np.ndarray, "H W 3"] | None = None
) -> list[Color]:
    """Colour of each region: that of its class, but varied among things of a class so that neighbours differ.

    If all regions are things of one class, they vary over all hues; otherwise they stay close to the colour of their
    class. ``crops`` give the positions of the regions; a region without a crop has the first colour of its class. Where
    all hues are allowed, those similar to the ``ground`` below are avoided.
    """
    things = [region for region in regions if region.is_thing and region.identity is None]
    one_class = len(things) == len(regions) and len({region.group for region in things}) == 1
    colors = [region.color for region in regions]
    free = [False] * len(regions)
    for index, region in enumerate(regions):
        if not region.is_thing:
            continue
        if region.identity is not None:
            colors[index] = identity_color(region.identity)
            continue
        palette = _palette(region.color, one_class, region.is_safe)
        colors[index] = palette[(region.variant or 0) % len(palette)]
        free[index] = region.variant is None
    placed = sorted((crop for crop in crops if regions[crop.index].is_thing), key=lambda crop: crop.index)
    near, gaps = _neighbours(placed)
    avoided = None
    if one_class and ground is not None and placed:
        avoided = perceived(np.stack([_mean(ground, crop) for crop in placed]))
    worn: dict[tuple[int, Color], np.ndarray] = {}  # how often each colour of a palette has been used
    known = np.empty((len(placed), 3), dtype=np.float32)
    for row, crop in enumerate(placed):
        region = regions[crop.index]
        if not free[crop.index]:
            known[row] = perceived(np.array(colors[crop.index], dtype=np.float32))
            continue
        palette = _palette(region.color, one_class, region.is_safe)
        seen = _perceived_palette(region.color, one_class, region.is_safe)
        difference = np.full(len(palette), _ENOUGH, dtype=np.float32)
        before = near[row] < row  # neighbours that already have a colour
        if before.any():
            apart = _differences(seen[:, None], known[near[row][before]]) * (1 + gaps[row][before])
            difference = np.minimum(difference, apart.min(axis=1))
        if avoided is not None:
            difference = np.minimum(difference, _differences(seen, avoided[row]))
        # Of the colours that differ enough, take the least used one, in the order of the palette.
        wear = worn.setdefault((region.group, region.color), np.zeros(len(palette), dtype=np.int64))
        choice = int(np.where(difference >= 0.75 * difference.max(), wear, np.iinfo(np.int64).max).argmin())
        colors[crop.index], known[row] = palette[choice], seen[choice]
        wear[choice] += 1
    return colors


def _differences(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Perceived differences between colours of :func:`perceived`."""
    return np.sqrt(np.square(one - other).sum(axis=-1))


def _mean(ground: UInt8[np.ndarray, "H W 3"], crop: Crop) -> Float32[np.ndarray, 3]:
    """The mean colour below a mask, from about 16 x 16 of its pixels."""
    steps = [slice(span.start, span.stop, 1 + (span.stop - span.start) // 16) for span in crop.window]
    inside = crop.mask[:: steps[0].step, :: steps[1].step]
    pixels = ground[steps[0], steps[1]][inside if inside.any() else ...]
    return pixels.reshape(-1, 3).mean(axis=0, dtype=np.float32)


def _neighbours(crops: Sequence[Crop]) -> tuple[Int64[np.ndarray, "N K"], Float32[np.ndarray, "N K"]]:
    """The nearest other crops of each by the gap between boxes, and the gaps in units of the usual size."""
    count = min(NEIGHBOURS, len(crops) - 1)
    if count < 1:
        return np.zeros((len(crops), 0), dtype=np.int64), np.zeros((len(crops), 0), dtype=np.float32)
    rows = np.array([(crop.window[0].start, crop.window[0].stop) for crop in crops], dtype=np.float32)
    columns = np.array([(crop.window[1].start, crop.window[1].stop) for crop in crops], dtype=np.float32)
    usual = float(np.median(np.maximum(rows[:, 1] - rows[:, 0], columns[:, 1] - columns[:, 0])))
    near = np.empty((len(crops), count), dtype=np.int64)
    gaps = np.empty((len(crops), count), dtype=np.float32)
    for start in range(0, len(crops), 256):  # all pairs at once would not fit into memory for tens of thousands
        part = slice(start, start + 256)
        gap, middle = np.zeros((2, len(rows[part]), len(crops)), dtype=np.float32)
        for axis in (rows, columns):
            low, high = axis[part, :1], axis[part, 1:]
            gap += np.maximum(np.maximum(low - axis[:, 1], axis[:, 0] - high), 0)
            middle += np.abs((low + high) - (axis[:, 0] + axis[:, 1]))
        ranking = gap + 0.01 * middle  # among crops that touch, those with the nearest centres
        own = np.arange(len(ranking))
        ranking[own, own + start] = np.inf
        nearest = np.argpartition(ranking, count - 1, axis=1)[:, :count]
        near[part], gaps[part] = nearest, np.take_along_axis(gap, nearest, axis=1) / usual
    return near, gaps


def identity_color(number: int) -> Color:
    """A strong colour for a track number; neighbouring numbers are far apart in hue."""
    hue, step = (number * 0.618034) % 1, (number * 0.754878) % 1
    return _to_bytes(colorsys.hsv_to_rgb(hue, 0.7 + 0.25 * step, 0.95 - 0.2 * step))


@lru_cache(maxsize=512)
def _palette(color: Color, all_hues: bool, is_safe: bool = False) -> tuple[Color, ...]:
    """Colours that differ as much as possible; the first is like ``color`` but strong enough for a tint."""
    if is_safe and all_hues:
        return (color, *(other for other in _SAFE if other != color))
    if is_safe:  # varies only the lightness, which everybody sees
        red, green, blue = (channel / 255 for channel in color)
        mixed = [[channel + (white - channel) * share for channel in (red, green, blue)] for white, share in _SHADES]
        return tuple(_to_bytes((one, two, three)) for one, two, three in mixed)
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in color))
    if all_hues:
        hue, saturation = (hue, max(saturation, 0.6)) if saturation > 0.25 else (0.55, 0.7)
        choices = [(step / 36, *tone) for step in range(36) for tone in ((0.9, 0.95), (0.5, 1.0), (0.9, 0.7))]
    elif saturation > 0.08:
        saturation = max(saturation, 0.5)
        choices = [
            ((hue + shift) % 1, tone, light)
            for shift in (-0.05, -0.03, 0, 0.03, 0.05)
            for tone in (0.45, 0.7, 0.95)
            for light in (0.6, 0.8, 1.0)
        ]
    else:  # grey stays grey
        choices = [(hue, saturation, light) for light in np.linspace(0.45, 1, 12).tolist()]
    colors = [_to_bytes(colorsys.hsv_to_rgb(hue, saturation, max(value, 0.72)))]
    candidates = [_to_bytes(colorsys.hsv_to_rgb(*choice)) for choice in choices]
    seen = perceived(np.array(candidates, dtype=np.float32))
    apart = _differences(seen, perceived(np.array(colors[0], dtype=np.float32)))
    while len(colors) < (_ONE_CLASS if all_hues else _OF_A_CLASS):
        farthest = int(apart.argmax())
        colors.append(candidates[farthest])
        apart = np.minimum(apart, _differences(seen, seen[farthest]))
    return tuple(colors)


@lru_cache(maxsize=512)
def _perceived_palette(color: Color, all_hues: bool, is_safe: bool) -> Float32[np.ndarray, "P 3"]:
    return perceived(np.array(_palette(color, all_hues, is_safe), dtype=np.float32))


@lru_cache(maxsize=1024)
def line_color(color: Color) -> Color:
    """``color`` mixed with white until it is light enough for a line between dark casings."""
    light = _linear(np.array(color, dtype=np.float32))
    own = float(luminance(np.array(color, dtype=np.float32)))
    light = light + (1 - light) * (max(0.0, _LINE_LUMINANCE - own) / max(1 - own, _LINE_LUMINANCE))
    curved = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return _to_bytes((float(curved[0]), float(curved[1]), float(curved[2])))


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Relative luminance in 0..1 of sRGB colours ``(..., 3)`` in 0..255, as used for contrast (WCAG)."""
    return _linear(rgb) @ np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)


def perceived(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of sRGB colours ``(..., 3)`` in 0..255; distances correspond to perceived differences."""
    to_xyz = np.array(
        [[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0178, 0.1095, 0.8727]]
    )  # white is 1, 1, 1
    xyz = _linear(rgb) @ to_xyz.T
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


def _linear(rgb: np.ndarray) -> np.ndarray:
    share = np.asarray(rgb, dtype=np.float32) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def _to_bytes(rgb: tuple[float, float, float]) -> Color:
    red, green, blue = (round(255 * min(1.0, max(0.0, channel))) for channel in rgb)
    return red, green, blue
