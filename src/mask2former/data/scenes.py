"""Scenes: little procedural illustrations with exact panoptic truth, as pictures and as clips.

A scene is composed in unit coordinates from a seed, then rendered at any size with analytic soft edges; what is too
hidden or too small to be found is not painted, so the truth always agrees with the pixels. It knows the shared
structures, numpy and Pillow, and nothing of models or training.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple, overload

import numpy as np
import torch
from PIL import Image, ImageFilter

from mask2former.errors import RequestError
from mask2former.structures import Categories, Category, Sample, Target

__all__ = ["SCENE_CATEGORIES", "SceneClips", "SceneFrame", "Scenes", "draw_clip", "draw_scene"]

Array = np.ndarray

_THINGS = ("ball", "crate", "tree", "house", "car", "fish", "star", "mug")
_STUFF = ("sky", "grass", "water", "wall", "road", "sand")
_COLORS = (
    (235, 64, 82),
    (176, 112, 52),
    (24, 128, 72),
    (232, 120, 48),
    (64, 96, 220),
    (244, 130, 180),
    (250, 206, 50),
    (150, 72, 190),
    (150, 208, 246),
    (136, 196, 84),
    (44, 142, 176),
    (188, 168, 160),
    (104, 104, 116),
    (230, 208, 152),
)

SCENE_CATEGORIES = Categories(
    tuple(
        Category(index + 1, name, index < len(_THINGS), color)
        for index, (name, color) in enumerate(zip(_THINGS + _STUFF, _COLORS, strict=True))
    )
)

_SKY, _GRASS, _WATER, _WALL, _ROAD, _SAND = range(len(_THINGS), len(_THINGS) + len(_STUFF))

# Nothing is painted that shows less than this share of the picture (30 pixels of 128 x 128) or of itself.
_MIN_PICTURE_SHARE = 30 / 128**2
_MIN_VISIBLE_SHARE = 0.15
_MIN_PIXELS = 4
_MIN_STUFF_SHARE = 80 / 128**2
_MIN_THINGS, _MAX_THINGS = 3, 14
_SPARE_PLACES = ((0.2, 0.75), (0.8, 0.3), (0.5, 0.55))
_LARGEST_SIDE = 16384


@dataclass(frozen=True)
class SceneFrame:
    """One rendered picture with its truth.

    ``image`` is uint8 RGB ``(H, W, 3)``; ``ids`` is int32 ``(H, W)``, the segment of every pixel, without void;
    ``segments`` lists ``(id, class index)`` for the ids 1..n. The frames of a clip share one list, so a segment that is
    out of sight in a frame has no pixel there.
    """

    image: Array
    ids: Array
    segments: tuple[tuple[int, int], ...]


# Noise and colour


@cache
def _noise_tiles() -> dict[str, Image.Image]:
    """Two 512 x 512 tiles of zero mean and unit variance: ``fine`` (one scale, 2 px) and ``cloudy`` (fractal)."""
    rng = np.random.Generator(np.random.PCG64(20220411))

    def octave(cells: int) -> Array:
        values = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
        return np.asarray(values.resize((512, 512), Image.Resampling.BICUBIC))

    def tile(values: Array) -> Image.Image:
        return Image.fromarray(((values - values.mean()) / values.std()).astype(np.float32))

    return {"fine": tile(octave(256)), "cloudy": tile(sum((octave(2**k) * 0.62**k for k in range(3, 9)), np.zeros(())))}


def _noise(
    kind: str, start: tuple[float, float], scale: tuple[float, float], window: tuple[float, float, float, float]
) -> Callable[[int, int], Array]:
    """Sampler of a noise tile over ``window`` (x0, y0, x1, y1), with ``scale`` tile pixels per unit of the window.

    ``start`` in [0, 1) chooses the place in the tile. Sampling is area-averaged, hence looks alike at every size.
    """
    tile = _noise_tiles()[kind]
    box = []
    for axis in (0, 1):
        low, high = window[axis], window[axis + 2]
        step = min(scale[axis], 500.0 / (high - low))
        free = 510.0 - step * (high - low)
        begin = (start[axis] * 510.0 + step * low) % free if free > 0 else 0.0
        box.append((begin, begin + step * (high - low)))
    area = (box[0][0], box[1][0], box[0][1], box[1][1])
    return lambda height, width: np.asarray(tile.resize((width, height), Image.Resampling.BILINEAR, box=area))


def _color(hue: float, saturation: float, value: float) -> Array:
    """RGB in 0..1, shape (3, 1, 1)."""
    rgb = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))
    return np.array(rgb, np.float32)[:, None, None]


def _any_color(a: float, b: float, c: float) -> Array:
    """A paint colour from three numbers in [0, 1): any hue, mostly saturated, seldom dark."""
    return _color(a, 0.25 + 0.7 * b, 0.45 + 0.5 * c)


def _mix(rgb: Array, color: Array, coverage: Array) -> None:
    """Paint ``color`` over ``rgb`` (3, h, w) where ``coverage`` (h, w) says so, in place."""
    rgb += coverage * (color - rgb)


# Shapes: distances are negative inside, in units of the thing's half size


def _disc(x: Array, y: Array, radius: float) -> Array:
    return np.sqrt(x * x + y * y) - radius


def _ellipse(x: Array, y: Array, a: float, b: float) -> Array:
    return (np.sqrt((x / a) ** 2 + (y / b) ** 2) - 1.0) * min(a, b)


def _box(x: Array, y: Array, half_width: float | Array, half_height: float) -> Array:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _round_box(x: Array, y: Array, half_width: float, half_height: float, radius: float) -> Array:
    qx = np.maximum(np.abs(x) - (half_width - radius), 0.0)
    qy = np.maximum(np.abs(y) - (half_height - radius), 0.0)
    return np.sqrt(qx * qx + qy * qy) - radius


def _gable(x: Array, y: Array, top: float, bottom: float, half_width: float) -> Array:
    """Triangle with the tip at (0, top) and the base from -half_width to half_width at ``bottom``."""
    height = bottom - top
    norm = math.hypot(height, half_width)
    return np.maximum((np.abs(x) * height - (y - top) * half_width) / norm, y - bottom)


@dataclass
class _Local:
    """The pixels of one thing's bounding box in its own frame: x right, y down, half size 1."""

    x: Array
    y: Array
    scale: float  # pixels per unit
    light: tuple[float, float]  # from where the light comes, in this frame
    p: list[float]  # the thing's own random numbers in [0, 1)

    def inside(self, distance: Array) -> Array:
        """Soft coverage in 0..1 of a shape."""
        return np.clip(0.5 - self.scale * distance, 0.0, 1.0)

    def plain(self, color: Array) -> Array:
        rgb = np.empty((3, *self.x.shape), np.float32)
        rgb[:] = color
        return rgb

    def noise(self, kind: str, scale: float) -> Array:
        window = (float(self.x.min()), float(self.y.min()), float(self.x.max()) + 1e-3, float(self.y.max()) + 1e-3)
        return _noise(kind, (self.p[20], self.p[21]), (scale, scale), window)(*self.x.shape)


def _ball_shape(at: _Local) -> Array:
    return _disc(at.x, at.y, 1.0)


def _ball_paint(at: _Local) -> Array:
    p, x, y = at.p, at.x, at.y
    first, second = _any_color(p[0], p[1], p[2]), _any_color(p[3], p[4] * 0.5, 0.5 + 0.5 * p[5])
    rgb = at.plain(first)
    pattern = int(p[6] * 4)
    if pattern == 0:  # beach ball: sectors around a pole
        angle = np.arctan2(y - 0.5 * (p[7] - 0.5), x - 0.5 * (p[8] - 0.5))
        _mix(rgb, second, np.clip(0.5 + np.sin(angle * 3.0) * at.scale * 0.25, 0.0, 1.0))
    elif pattern == 1:  # two bands
        _mix(rgb, second, at.inside(np.abs(np.abs(y + 0.25 * x * x) - 0.35) - 0.16))
    elif pattern == 2:  # dots
        bulge = 1.0 + 0.6 * (x * x + y * y)
        u, v = np.mod(x * bulge + 2.0, 0.8) - 0.4, np.mod(y * bulge + 2.0, 0.8) - 0.4
        _mix(rgb, second, at.inside(_disc(u, v, 0.22)))
    else:  # seams
        _mix(rgb, second * 0.6, at.inside(np.abs(_disc(x - 1.2, y, 1.0)) - 0.07))
        _mix(rgb, second * 0.6, at.inside(np.abs(_disc(x + 1.2, y, 1.0)) - 0.07))
    z = np.sqrt(np.maximum(1.0 - x * x - y * y, 0.0))
    lit = np.maximum(0.62 * (x * at.light[0] + y * at.light[1]) + 0.7 * z, 0.0)
    rgb *= 0.32 + 0.8 * lit
    _mix(rgb, np.ones((3, 1, 1), np.float32), 0.75 * np.clip((lit - 0.88) * 10.0, 0.0, 1.0))
    return rgb


def _crate_shape(at: _Local) -> Array:
    return _box(at.x, at.y, 1.0, 0.72 + 0.26 * at.p[7])


def _crate_paint(at: _Local) -> Array:
    p, x, y = at.p, at.x, at.y
    half = 0.72 + 0.26 * p[7]
    if p[6] < 0.65:  # bare wood, else painted
        wood = _color(0.05 + 0.07 * p[0], 0.35 + 0.35 * p[1], 0.45 + 0.4 * p[2])
    else:
        wood = _any_color(p[0], p[1] * 0.8, p[2])
    rgb = at.plain(wood)
    planks = 3 + int(p[8] * 3)
    along = np.mod((y + half) * (planks / (2 * half)), 1.0)
    rgb *= 1.0 - 0.5 * at.inside((np.minimum(along, 1.0 - along) - 0.07) * (2 * half / planks))
    rgb *= 1.0 + 0.08 * at.noise("fine", 9.0)
    frame = np.maximum(np.abs(x) - 0.76, np.abs(y) - (half - 0.22))
    slope = half if p[9] < 0.5 else -half
    brace = (np.abs(y - slope * x) - 0.17) * 0.75
    if p[10] < 0.4:
        brace = np.minimum(brace, (np.abs(y + slope * x) - 0.17) * 0.75)
    edge = np.minimum(brace, -frame)
    _mix(rgb, wood * (0.62 if p[11] < 0.5 else 1.35), at.inside(edge) * 0.85)
    rgb *= 1.0 - 0.4 * at.inside(np.abs(edge) - 0.03)
    rgb *= 0.92 + 0.2 * (x * at.light[0] + y * at.light[1])
    return rgb


def _tree_parts(at: _Local) -> tuple[Array, Array]:
    p, x, y = at.p, at.x, at.y
    trunk = _box(x, y - 0.6, 0.09 + 0.07 * p[8] + 0.04 * np.maximum(y - 0.5, 0.0), 0.4)
    if p[6] < 0.4:  # conifer
        wide = 0.55 + 0.2 * p[7]
        crown = np.minimum(_gable(x, y, -1.0, -0.3, 0.62 * wide), _gable(x, y, -0.72, 0.12, 0.82 * wide))
        crown = np.minimum(crown, _gable(x, y, -0.35, 0.55, wide))
    else:
        spread = 0.24 + 0.16 * p[7]
        crown = np.minimum(_disc(x, y + 0.56, 0.42), _disc(x, y - 0.04, 0.36))
        crown = np.minimum(crown, _disc(x - spread, y + 0.12 + 0.2 * p[9], 0.4))
        crown = np.minimum(crown, _disc(x + spread, y + 0.12 + 0.2 * p[10], 0.42))
        crown = crown + 0.05 * np.sin(9.0 * x + 6.0 * p[11]) * np.sin(8.0 * y + 5.0 * p[12])
    return crown, trunk


def _tree_shape(at: _Local) -> Array:
    return np.minimum(*_tree_parts(at))


def _tree_paint(at: _Local) -> Array:
    p, x, y = at.p, at.x, at.y
    crown, _ = _tree_parts(at)
    rgb = at.plain(_color(0.04 + 0.06 * p[3], 0.3 + 0.4 * p[4], 0.25 + 0.3 * p[5]))
    rgb *= 1.0 + 0.5 * x * at.light[0] * 3.0
    if p[13] < 0.6:
        leaf = _color(0.2 + 0.2 * p[0], 0.4 + 0.5 * p[1], 0.3 + 0.4 * p[2])
    elif p[13] < 0.85:  # autumn, blossom
        leaf = _color(-0.07 + 0.22 * p[0], 0.4 + 0.5 * p[1], 0.5 + 0.4 * p[2])
    else:
        leaf = _any_color(p[0], p[1], p[2])
    shade = 0.85 + 0.3 * (x * at.light[0] + (y + 0.3) * at.light[1]) + 0.14 * at.noise("fine", 16.0)
    _mix(rgb, leaf * np.maximum(shade, 0.25), at.inside(crown))
    return rgb


def _house_shape(at: _Local) -> Array:
    p, x, y = at.p, at.x, at.y
    eaves = -0.15 + 0.25 * p[6]
    body = _box(x, y - 0.5 * (1.0 + eaves) + 0.02, 0.8, 0.5 * (1.0 - eaves))
    shape = np.minimum(body, _gable(x, y, -0.85 - 0.1 * p[7], eaves, 1.0))
    if p[8] < 0.5:
        shape = np.minimum(shape, _box(x - 0.5, y + 0.55, 0.12, 0.35))
    return shape


def _house_paint(at: _Local) -> Array:
    p, x, y = at.p, at.x, at.y
    eaves = -0.15 + 0.25 * p[6]
    wall, roof = _any_color(p[0], p[1] * 0.7, 0.4 + 0.6 * p[2]), _any_color(p[3], p[4], p[5] * 0.7)
    rgb = at.plain(wall * 0.8)
    rgb *= 1.0 + 0.18 * x * at.light[0]
    below = at.inside(eaves - y)
    _mix(rgb, roof * (0.85 + 0.25 * np.clip((0.5 + np.sin(y * 26.0)) * 2.0, 0.0, 1.0) * 0.7), 1.0 - below)
    rgb *= 1.0 - 0.35 * at.inside(np.abs(y - eaves - 0.05) - 0.05)
    glass = _color(0.13, 0.55, 1.0) if p[9] < 0.4 else _color(0.58, 0.4, 0.25 + 0.5 * p[10])
    middle = 0.5 * (1.0 + eaves) - 0.08
    side = 0.45 if p[12] < 0.5 else -0.45
    pane = _box(x - side, y - middle, 0.2, 0.19)
    if p[11] < 0.5:
        pane = np.minimum(pane, _box(x + side, y - middle, 0.2, 0.19))
    _mix(rgb, _color(0.0, 0.0, 0.95), at.inside(pane - 0.06))
    _mix(rgb, glass, at.inside(pane))
    door_x = x + side if p[11] >= 0.5 else x
    _mix(rgb, roof * 0.55, at.inside(_box(door_x, y - 0.72, 0.15, 0.32)))
    return rgb


def _car_parts(at: _Local) -> tuple[Array, Array, Array, Array]:
    p, x, y = at.p, at.x, at.y
    middle = -0.15 + 0.2 * (p[6] - 0.5)
    half = 0.42 + 0.2 * p[7]
    body = _round_box(x, y - 0.13, 1.0, 0.27, 0.14)
    slant = 0.35 + 0.3 * p[8]
    cabin = np.maximum(np.abs(x - middle) - half + slant * np.maximum(-y - 0.1, -0.2), np.abs(y + 0.3) - 0.28)
    near = np.minimum(np.abs(x - 0.58), np.abs(x + 0.56))
    wheels = _disc(near, y - 0.38, 0.24)
    return body, cabin, wheels, x - middle


def _car_shape(at: _Local) -> Array:
    body, cabin, wheels, _ = _car_parts(at)
    return np.minimum(np.minimum(body, cabin), wheels)


def _car_paint(at: _Local) -> Array:
    p, x, y = at.p, at.x, at.y
    _, cabin, wheels, from_middle = _car_parts(at)
    paint = _any_color(p[0], p[1], p[2]) if p[9] < 0.8 else _color(0.0, 0.0, 0.2 + 0.75 * p[2])
    rgb = at.plain(paint)
    rgb *= 1.08 - 0.55 * y
    if p[10] < 0.4:
        _mix(rgb, _any_color(p[3], p[4], p[5]), at.inside(np.abs(y - 0.13) - 0.06))
    glass = np.maximum(np.maximum(cabin + 0.1, y + 0.1), 0.05 - np.abs(from_middle))
    _mix(rgb, _color(0.55, 0.25, 0.3 + 0.6 * p[11]), at.inside(glass))
    _mix(rgb, _color(0.14, 0.5, 1.0), at.inside(_disc(x - 0.9, y - 0.05, 0.1)))
    _mix(rgb, _color(0.0, 0.9, 0.7), at.inside(_box(x + 0.95, y - 0.05, 0.06, 0.08)))
    _mix(rgb, np.full((3, 1, 1), 0.09, np.float32), at.inside(wheels))
    _mix(rgb, np.full((3, 1, 1), 0.65, np.float32), at.inside(wheels + 0.13))
    return rgb


def _fish_parts(at: _Local) -> tuple[Array, Array]:
    p, x, y = at.p, at.x, at.y
    body = _ellipse(x - 0.2, y, 0.78, 0.36 + 0.18 * p[6])
    reach = 0.36 + 0.2 * p[7]  # a tail that opens to the left, notched
    tail = np.maximum(np.abs(y) - reach * (-0.3 - x) / 0.7 - 0.05, -x - 1.0 + 0.35 * np.maximum(reach - np.abs(y), 0.0))
    tail = np.maximum(tail, x + 0.1)
    fin = np.maximum(np.abs(x - 0.1 - 0.25 * y) - 0.28 - 0.3 * y, -y - 0.62 - 0.12 * p[8])
    fin = np.maximum(fin, y)
    return body, np.minimum(tail, fin)


def _fish_shape(at: _Local) -> Array:
    return np.minimum(*_fish_parts(at))


def _fish_paint(at: _Local) -> Array:
    p, x, y = at.p, at.x, at.y
    body, _ = _fish_parts(at)
    first, second = _any_color(p[0], p[1], p[2]), _any_color(p[3], p[4], p[5])
    rgb = at.plain(second * 0.8)
    rgb *= 1.0 - 0.3 * np.clip(np.sin(12.0 * (x + 1.5 * np.abs(y))) * 2.0, 0.0, 1.0)  # rays of the fins
    skin = at.plain(first)
    pattern = int(p[9] * 3)
    if pattern == 0:
        _mix(skin, second, np.clip(0.5 + np.sin(8.0 * x + 2.0 * y + 6.0 * p[10]) * at.scale * 0.12, 0.0, 1.0))
    elif pattern == 1:
        u, v = np.mod(x + p[10], 0.34) - 0.17, np.mod(y + 0.17, 0.34) - 0.17
        skin *= 1.0 - 0.3 * at.inside(np.abs(_disc(u + 0.08, v, 0.15)) - 0.035)
    else:
        _mix(skin, second, at.inside(np.abs(y + 0.05) - 0.09))
    skin *= 0.95 - 0.3 * y / 0.45 * (1.0 if at.light[1] < 0 else -1.0)
    _mix(rgb, skin, at.inside(body))
    _mix(rgb, np.ones((3, 1, 1), np.float32), at.inside(_disc(x - 0.66, y + 0.1, 0.12)))
    _mix(rgb, np.full((3, 1, 1), 0.05, np.float32), at.inside(_disc(x - 0.69, y + 0.1, 0.07)))
    return rgb


def _star_sectors(at: _Local) -> tuple[Array, Array, Array]:
    points = 5 if at.p[6] < 0.75 else 6
    inner = 0.4 + 0.12 * at.p[7]
    radius = np.sqrt(at.x * at.x + at.y * at.y)
    half = math.pi / points
    turn = np.mod(np.arctan2(at.x, -at.y) + half, 2.0 * half) - half  # 0 at a tip
    u, v = radius * np.cos(turn), radius * np.abs(np.sin(turn))
    # The edge runs from the tip (1, 0) to the notch.
    nx, ny = inner * math.sin(half), 1.0 - inner * math.cos(half)
    distance = ((u - 1.0) * nx + v * ny) / math.hypot(nx, ny)
    return distance, turn, radius


def _star_shape(at: _Local) -> Array:
    return _star_sectors(at)[0]


def _star_paint(at: _Local) -> Array:
    p = at.p
    _, turn, radius = _star_sectors(at)
    first = _color(0.1 + 0.06 * p[0], 0.5 + 0.5 * p[1], 0.8 + 0.2 * p[2]) if p[8] < 0.4 else _any_color(*p[:3])
    rgb = at.plain(first)
    rgb *= 1.12 - 0.42 * np.clip(0.5 + turn * radius * at.scale, 0.0, 1.0)  # every tip has a bright and a dark facet
    if p[9] < 0.4:
        _mix(rgb, _any_color(p[3], p[4], p[5]), at.inside(radius - 0.28))
    return rgb


def _mug_parts(at: _Local) -> tuple[Array, Array, Array]:
    p, x, y = at.p, at.x, at.y
    taper = 0.62 - 0.12 * p[6] * y
    body = np.maximum(np.abs(x + 0.3) - taper, np.abs(y) - 0.85)
    body = np.maximum(body, y - 0.85 + 0.12 * ((x + 0.3) / 0.62) ** 2)
    handle = np.abs(_ellipse(x - 0.3, y - 0.02, 0.52, 0.42 + 0.1 * p[7])) - 0.11
    handle = np.maximum(handle, -x + 0.15)
    mouth = _ellipse(x + 0.3, y + 0.74, 0.6, 0.17)
    return np.minimum(body, _ellipse(x + 0.3, y + 0.74, 0.68, 0.22)), handle, mouth


def _mug_shape(at: _Local) -> Array:
    body, handle, _ = _mug_parts(at)
    return np.minimum(body, handle)


def _mug_paint(at: _Local) -> Array:
    p, x, y = at.p, at.x, at.y
    body, _, mouth = _mug_parts(at)
    first, second = _any_color(p[0], p[1] * 0.9, 0.3 + 0.7 * p[2]), _any_color(p[3], p[4], p[5])
    rgb = at.plain(first)
    if p[8] < 0.4:
        _mix(rgb, second, at.inside(np.maximum(np.abs(np.abs(y - 0.1) - 0.25 * p[9]) - 0.1, body)))
    elif p[8] < 0.7:
        _mix(rgb, second, at.inside(np.maximum(_disc(x + 0.3, y - 0.12, 0.32), body)))
    across = (x + 0.3) / 0.62
    side = 1.0 if at.light[0] > 0 else -1.0
    rgb *= np.maximum(1.05 - 0.35 * (across - 0.35 * side) ** 2, 0.45)
    _mix(rgb, first * 1.1, at.inside(_ellipse(x + 0.3, y + 0.74, 0.68, 0.22)))
    _mix(rgb, _color(0.07, 0.6, 0.3) if p[10] < 0.5 else first * 0.45, at.inside(mouth + 0.02))
    return rgb


class _Kind(NamedTuple):
    shape: Callable[[_Local], Array]
    paint: Callable[[_Local], Array]
    half_width: float
    half_height: float
    relative_size: float
    turn: float  # largest tilt in radians
    grounded: float  # how often it stands on the ground


_KINDS = (
    _Kind(_ball_shape, _ball_paint, 1.0, 1.0, 0.8, math.pi, 0.6),
    _Kind(_crate_shape, _crate_paint, 1.0, 1.0, 0.85, 0.25, 0.9),
    _Kind(_tree_shape, _tree_paint, 0.9, 1.0, 1.3, 0.08, 0.95),
    _Kind(_house_shape, _house_paint, 1.0, 1.0, 1.2, 0.06, 0.95),
    _Kind(_car_shape, _car_paint, 1.02, 0.64, 1.15, 0.12, 0.9),
    _Kind(_fish_shape, _fish_paint, 1.02, 0.76, 1.1, 0.7, 0.05),
    _Kind(_star_shape, _star_paint, 1.0, 1.0, 1.0, math.pi, 0.1),
    _Kind(_mug_shape, _mug_paint, 1.0, 0.98, 0.9, 0.2, 0.9),
)


_TRAVELLERS = (_THINGS.index("car"), _THINGS.index("fish"))

# Composition, all in unit coordinates


@dataclass(frozen=True)
class _Thing:
    kind: int
    x: float  # share of the width
    y: float  # share of the height; of the foot where it stands on the ground
    size: float  # half size, in units of sqrt(H W)
    angle: float
    flipped: bool
    grounded: bool
    p: list[float]
    motion: list[float]

    def place(self, frame: float) -> tuple[float, float, float, float]:
        """Position, size and angle at a frame (0 for a still picture); all motions start from the composition."""
        m = self.motion
        x, y, angle = self.x, self.y, self.angle
        if m[0] < 0.4:  # straight on, in again at the other side
            speed = (0.02 + 0.06 * m[2]) * (1.0 if m[1] < 0.5 else -1.0)
            margin = 0.15 + self.size
            x = (x + speed * frame + margin) % (1.0 + 2.0 * margin) - margin
        elif m[0] < 0.7:  # to and fro, wide enough to leave the picture
            swing = (0.2 + 0.4 * m[2]) * (1.0 if m[1] < 0.5 else -1.0)
            x += swing * math.sin((0.06 + 0.08 * m[3]) / abs(swing) * frame)
        elif m[0] < 0.85 and not self.grounded:  # up and down
            swing = (0.15 + 0.35 * m[2]) * (1.0 if m[1] < 0.5 else -1.0)
            y += swing * math.sin((0.05 + 0.08 * m[3]) / abs(swing) * frame)
        if not self.grounded:
            y += 0.03 * math.sin(0.9 * frame * m[4])
        spin = 0.3 if _KINDS[self.kind].turn > 1.0 else 0.04
        angle += spin * (m[5] - 0.5) * frame if spin > 0.1 else spin * math.sin(frame * m[5])
        return x, y, self.size * (1.0 + 0.12 * m[6] * math.sin(0.5 * frame)), angle


@dataclass(frozen=True)
class _Layer:
    """A stuff region over those before it. ``form`` is ``all``, ``below`` (a line), ``strip`` or ``patch``."""

    label: int
    form: str
    p: list[float]
    top: float = 0.0  # share of the height


@dataclass(frozen=True)
class _Scene:
    layers: list[_Layer]
    styles: list[list[float]]  # random numbers of the six stuff textures
    things: list[_Thing]  # back to front
    spare: list[_Thing]  # put in front where too few things can be seen
    look: list[float]
    horizon: float
    noise_seed: int


def _pick(weights: Sequence[tuple[int, float]], number: float) -> int:
    for label, weight in weights:
        number -= weight
        if number < 0:
            return label
    return weights[-1][0]


def _compose(seed: int, stream: int) -> _Scene:
    rng = np.random.Generator(np.random.PCG64([seed, stream]))
    look = rng.random(24).tolist()
    styles = rng.random((len(_STUFF), 16)).tolist()
    lines = rng.random((4, 12)).tolist()

    horizon = 0.28 + 0.34 * look[0]
    back = _pick([(_SKY, 0.6), (_WALL, 0.28), (_WATER, 0.12)], look[1])
    ground = {
        _SKY: [(_GRASS, 0.32), (_SAND, 0.24), (_WATER, 0.2), (_ROAD, 0.24)],
        _WALL: [(_ROAD, 0.4), (_GRASS, 0.3), (_SAND, 0.3)],
        _WATER: [(_SAND, 0.6), (_GRASS, 0.4)],
    }[back]
    front = _pick(ground, look[2])
    layers = [_Layer(back, "all", lines[0])]
    if look[3] < 0.4:  # something between back and ground
        between = [k for k in (_WALL, _WATER, _GRASS, _SAND) if k not in (back, front)]
        label = between[int(look[4] * len(between))]
        layers.append(_Layer(label, "below", lines[1], horizon - 0.1 - 0.1 * look[5]))
    layers.append(_Layer(front, "below", lines[2], horizon))
    if look[6] < 0.5:
        inner = [k for k in (_ROAD, _WATER, _SAND, _GRASS) if k != front]
        label = inner[int(look[7] * len(inner))]
        layers.append(_Layer(label, "strip" if label == _ROAD else "patch", lines[3], horizon))

    count = _MIN_THINGS + 1 + int(11.99 * look[8] ** 1.2)
    crowd = (6.0 / count) ** 0.35
    total = _MIN_THINGS + 12 + len(_SPARE_PLACES)
    kinds = rng.integers(0, len(_KINDS), total).tolist()
    numbers = rng.random((total, 40)).tolist()
    things: list[_Thing] = []
    for index in range(count):
        q, kind = numbers[index], kinds[index]
        if index and q[24] < 0.15:
            kind = things[-1].kind  # neighbours of one class must be told apart
        spec = _KINDS[kind]
        size = 0.5 * 0.12 * (0.46 / 0.12) ** q[25] * spec.relative_size * crowd
        grounded = q[26] < spec.grounded
        x = -0.04 + 1.08 * q[27]
        y = horizon + 0.04 + (1.04 - horizon) * q[28] ** 0.8 if grounded else 0.02 + 0.9 * q[28]
        if index and q[29] < 0.4:  # beside, before or behind another one
            other = things[int(q[30] * index)]
            x = other.x + (q[27] - 0.5) * 2.6 * max(other.size, size)
            if not grounded or other.grounded:
                y = other.y + (q[28] - 0.5) * (0.12 if grounded else 2.4 * other.size)
            x, y = min(max(x, -0.04), 1.04), min(max(y, 0.02), 1.1)
        if grounded:
            size *= 0.75 + 0.5 * min(max((y - horizon) / (1.0 - horizon), 0.0), 1.0)
        size = max(size, 0.048)
        angle = spec.turn * (2.0 * q[31] - 1.0)
        flipped = q[32] < 0.5
        if kind in _TRAVELLERS and q[33] < 0.7:  # cars and fish look where they go
            flipped = q[34] >= 0.5
        things.append(_Thing(kind, x, y, size, angle, flipped, grounded, q[:24], q[33:40]))
    # Nearer things stand lower; what floats goes anywhere in the order.
    depth = [thing.y if thing.grounded else 0.3 + 0.8 * thing.p[23] for thing in things]
    things = [things[index] for index in sorted(range(count), key=depth.__getitem__)]
    spare = []
    for place, kind, q in zip(_SPARE_PLACES, kinds[::-1], numbers[::-1], strict=False):
        spare.append(_Thing(kind, *place, 0.08 + 0.04 * q[25], 0.0, q[32] < 0.5, False, q[:24], [1.0, *q[34:40]]))
    return _Scene(layers, styles, things, spare, look, horizon, int(rng.integers(1 << 30)))


# Stuff


@dataclass
class _Field:
    """The rows of the picture that one stuff texture covers."""

    u: Array  # (1, w) share of the width, moved by the camera
    v: Array  # (h, 1) share of the height
    x: Array  # (1, w) and (h, 1) in units of sqrt(H W)
    y: Array
    unit: float  # pixels per unit
    horizon: float
    p: list[float]

    def noise(self, kind: str, scale_x: float, scale_y: float, which: int = 0) -> Array:
        step = 0.5 / self.unit
        window = (float(self.x[0, 0]) - step, float(self.y[0, 0]) - step)
        window += (float(self.x[0, -1]) + step, float(self.y[-1, 0]) + step)
        start = (self.p[14 - which], self.p[15 - which])
        return _noise(kind, start, (scale_x, scale_y), window)(self.y.shape[0], self.x.shape[1])


def _sky(f: _Field) -> Array:
    p = f.p
    mood = p[0]
    if mood < 0.5:
        top, low = _color(0.54 + 0.1 * p[1], 0.35 + 0.4 * p[2], 0.6 + 0.35 * p[3]), _color(0.55, 0.2 * p[4], 0.9)
    elif mood < 0.75:  # dusk
        top, low = _color(0.6 + 0.25 * p[1], 0.3 + 0.3 * p[2], 0.4 + 0.3 * p[3]), _color(0.03 + 0.1 * p[4], 0.5, 0.95)
    elif mood < 0.9:  # overcast
        top, low = _color(0.6, 0.1 * p[2], 0.5 + 0.3 * p[3]), _color(0.6, 0.05, 0.75 + 0.2 * p[4])
    else:  # night
        top, low = _color(0.6 + 0.1 * p[1], 0.6, 0.12 + 0.1 * p[3]), _color(0.6 + 0.15 * p[1], 0.5, 0.3 + 0.2 * p[4])
    t = np.clip(f.v / (f.horizon + 0.1), 0.0, 1.0)
    cloud = f.noise("cloudy", 90.0 + 90.0 * p[5], 220.0 + 160.0 * p[6])
    cover = np.clip((cloud - (-0.2 + 1.4 * p[7])) * 0.9, 0.0, 0.8)
    rgb = np.empty((3, *cloud.shape), np.float32)
    rgb[:] = top + t * (low - top)
    _mix(rgb, np.minimum(low * 1.1 + 0.08, 1.0) if mood < 0.9 else low * 1.3, cover)
    return rgb


def _grass(f: _Field) -> Array:
    p = f.p
    base = _color(0.17 + 0.19 * p[0], 0.35 + 0.4 * p[1], 0.35 + 0.4 * p[2])
    blades = f.noise("fine", 150.0 + 60.0 * p[3], 40.0 + 20.0 * p[4])
    patch = f.noise("cloudy", 60.0, 90.0, 2)
    rgb = base * np.maximum(1.0 + (0.1 + 0.14 * p[5]) * blades + 0.1 * patch, 0.15)
    rgb[0] += 0.03 * patch
    return rgb


def _water(f: _Field) -> Array:
    p = f.p
    deep = _color(0.45 + 0.2 * p[0], 0.4 + 0.45 * p[1], 0.3 + 0.4 * p[2])
    waves = f.noise("fine", 22.0 + 16.0 * p[3], 90.0 + 60.0 * p[4])
    swell = f.noise("cloudy", 40.0, 200.0, 2)
    rgb = deep * np.maximum(1.0 + (0.08 + 0.1 * p[5]) * waves + 0.08 * swell, 0.2)
    _mix(rgb, np.ones((3, 1, 1), np.float32), (0.35 + 0.4 * p[6]) * np.clip((waves - 1.3) * 0.9, 0.0, 1.0))
    return rgb


@cache
def _tints() -> Array:
    return np.random.Generator(np.random.PCG64(5)).standard_normal(1024).astype(np.float32)


def _wall(f: _Field) -> Array:
    p = f.p
    if p[0] < 0.5:
        base = _color(0.0 + 0.12 * p[1], 0.2 + 0.5 * p[2], 0.4 + 0.45 * p[3])
    else:
        base = _color(p[1], 0.05 + 0.35 * p[2], 0.4 + 0.5 * p[3])
    wide = 0.13 + 0.12 * p[5]
    high, shift = (0.5 * wide, 0.5) if p[4] < 0.5 else (wide, 0.0) if p[4] < 0.75 else (9.0, 0.0)
    if high > 1.0:  # boards
        wide *= 0.55
    row = np.floor(f.y / high)
    across = f.x / wide + shift * np.mod(row, 2.0)
    column = np.floor(across)
    fx, fy = across - column, f.y / high - row
    joint = np.minimum(np.minimum(fx, 1.0 - fx) * wide, np.minimum(fy, 1.0 - fy) * high) * f.unit
    half = max(0.006 * f.unit, 0.35)
    tint = _tints()[np.bitwise_and((row * 37.0 + column * 11.0).astype(np.int32), 1023)]
    rough = f.noise("fine", 120.0, 120.0)
    rgb = base * (1.0 + (0.04 + 0.08 * p[6]) * tint + 0.05 * rough)
    mortar = base * 0.55 if p[7] < 0.5 else np.minimum(base * 1.3 + 0.1, 1.0)
    _mix(rgb, mortar, np.clip(half + 0.5 - joint, 0.0, 0.85))
    return rgb


def _road(f: _Field) -> Array:
    p = f.p
    base = _color(p[0], 0.02 + 0.12 * p[1], 0.22 + 0.36 * p[2])
    grain = f.noise("fine", 230.0, 230.0)
    stain = f.noise("cloudy", 60.0, 110.0, 2)
    return base * np.maximum(1.0 + (0.1 + 0.1 * p[3]) * grain + 0.06 * stain, 0.2)


def _sand(f: _Field) -> Array:
    p = f.p
    base = _color(0.06 + 0.09 * p[0], 0.18 + 0.4 * p[1], 0.6 + 0.35 * p[2])
    dunes = f.noise("cloudy", 50.0, 90.0)
    ripple = np.sin(f.y * (70.0 + 50.0 * p[3]) + 9.0 * (p[5] - 0.5) * f.x + 2.4 * dunes)
    grain = f.noise("fine", 200.0, 200.0, 2)
    return base * (1.0 + (0.05 + 0.06 * p[4]) * ripple + 0.05 * dunes + 0.06 * grain)


_TEXTURES = (_sky, _grass, _water, _wall, _road, _sand)


@dataclass
class _Raster:
    """The pixel grid of one frame."""

    height: int
    width: int
    unit: float
    camera: float  # shift to the left, share of the width


def _cover(layer: _Layer, grid: _Raster) -> Array:
    """Coverage (H, W) of a layer in 0..1, soft at its border."""
    p = layer.p
    u = ((np.arange(grid.width, dtype=np.float32) + 0.5) / grid.width + grid.camera)[None]
    v = ((np.arange(grid.height, dtype=np.float32) + 0.5) / grid.height)[:, None]
    if layer.form == "all":
        return np.ones((grid.height, grid.width), np.float32)
    wavy = 0.0 if layer.label == _WALL and p[11] < 0.7 else 1.0
    line = layer.top + (0.12 * wavy + 0.04) * (p[0] - 0.5) * (u - 0.5) * (0.0 if layer.label == _WATER else 2.0)
    if layer.label != _WATER:
        line = line + wavy * 0.05 * p[1] * np.sin(u * (3.0 + 7.0 * p[2]) + 6.3 * p[3])
        line = line + wavy * 0.012 * np.sin(u * (12.0 + 20.0 * p[4]) + 6.3 * p[5])
    below = (v - line) * grid.height
    if layer.form == "strip":
        middle = 0.2 + 0.6 * p[6] + (p[7] - 0.5) * (v - 1.0) ** 2 * 2.0
        half = 0.03 + (0.12 + 0.16 * p[8]) * (v - layer.top) / (1.0 - layer.top)
        below = np.minimum((half - np.abs(u - middle)) * grid.width, below)
    elif layer.form == "patch":
        a, b = 0.2 + 0.3 * p[6], 0.1 + 0.12 * p[7]
        dx, dy = (u - p[8]) / a, (v - (layer.top + (1.0 - layer.top) * (0.3 + 0.6 * p[9]))) / b
        radius = np.sqrt(dx * dx + dy * dy) + 0.08 * np.sin(dx * 4.0 + 6.0 * p[10])
        below = np.minimum((1.0 - radius) * min(a * grid.width, b * grid.height), below)
    return np.clip(below + 0.5, 0.0, 1.0)


def _lane(rgb: Array, layer: _Layer, grid: _Raster, rows: slice, dashes: float) -> None:
    """Dashed middle line of a road, in place on the texture rows."""
    p = layer.p
    u = ((np.arange(grid.width, dtype=np.float32) + 0.5) / grid.width + grid.camera)[None]
    v = ((np.arange(grid.height, dtype=np.float32) + 0.5) / grid.height)[rows, None]
    if layer.form == "strip":
        middle = 0.2 + 0.6 * p[6] + (p[7] - 0.5) * (v - 1.0) ** 2 * 2.0
        near = np.maximum((v - layer.top) / (1.0 - layer.top), 0.0)
        aside = ((0.003 + 0.02 * near) - np.abs(u - middle)) * grid.width
        on = np.mod(7.0 * np.sqrt(near) + dashes, 1.0) < 0.6
    else:
        middle = layer.top + (1.0 - layer.top) * (0.35 + 0.4 * p[6])
        aside = (0.014 - np.abs(v - middle)) * grid.height
        on = np.mod(u * 4.0 + dashes, 1.0) < 0.6
    _mix(rgb, np.full((3, 1, 1), 0.9, np.float32), 0.85 * np.clip(aside + 0.5, 0.0, 1.0) * on)


# Rendering


class _Drawn(NamedTuple):
    """A thing in one frame: where its box lies and how far each of its pixels is from its border."""

    thing: int  # index in the scene
    rows: slice
    columns: slice
    local: _Local
    distance: Array


def _outline(scene: _Scene, index: int, grid: _Raster, frame: float) -> tuple[_Drawn, float] | None:
    """The thing within the picture, with the share of its box that lies inside; None if it is outside."""
    thing = scene.things[index]
    spec = _KINDS[thing.kind]
    x, y, size, angle = thing.place(frame)
    radius = size * grid.unit
    cos, sin = math.cos(angle), math.sin(angle)
    half_x = radius * (abs(cos) * spec.half_width + abs(sin) * spec.half_height) + 1.5
    half_y = radius * (abs(sin) * spec.half_width + abs(cos) * spec.half_height) + 1.5
    center_x, center_y = (x - grid.camera) * grid.width, y * grid.height
    if thing.grounded:
        center_y -= radius * spec.half_height
    left, right = max(math.floor(center_x - half_x), 0), min(math.ceil(center_x + half_x), grid.width)
    top, bottom = max(math.floor(center_y - half_y), 0), min(math.ceil(center_y + half_y), grid.height)
    if right - left < 2 or bottom - top < 2:
        return None
    inside = (right - left) * (bottom - top) / (4.0 * half_x * half_y)
    dx = (np.arange(left, right, dtype=np.float32) + (0.5 - center_x))[None] / radius
    dy = (np.arange(top, bottom, dtype=np.float32) + (0.5 - center_y))[:, None] / radius
    mirror = -1.0 if thing.flipped else 1.0
    side = 1.0 if scene.look[9] < 0.5 else -1.0
    light_x, light_y = side * (0.3 + 0.5 * scene.look[10]), -0.75
    local = _Local(
        mirror * (cos * dx + sin * dy),
        cos * dy - sin * dx,
        radius,
        (mirror * (cos * light_x + sin * light_y), cos * light_y - sin * light_x),
        thing.p,
    )
    return _Drawn(index, slice(top, bottom), slice(left, right), local, spec.shape(local)), inside


def _visible_things(scene: _Scene, grid: _Raster, frame: float) -> tuple[list[_Drawn], Array]:
    """The things worth painting, front to back, and the map (H, W) of thing index + 1, 0 where stuff shows.

    A thing's visibility depends only on those kept before it, so one pass from the front is exact.
    """
    owner = np.zeros((grid.height, grid.width), np.int32)
    least = max(_MIN_PICTURE_SHARE * grid.height * grid.width, _MIN_PIXELS)
    kept = []
    for index in range(len(scene.things) - 1, -1, -1):
        found = _outline(scene, index, grid, frame)
        if found is None:
            continue
        drawn, share = found
        solid = drawn.distance < 0.0
        region = owner[drawn.rows, drawn.columns]
        free = solid & (region == 0)
        visible = np.count_nonzero(free)
        if visible < least or visible * share < _MIN_VISIBLE_SHARE * np.count_nonzero(solid):
            continue
        region[free] = index + 1
        kept.append(drawn)
        if len(kept) == _MAX_THINGS:
            break
    return kept, owner


def _shadow(canvas: Array, scene: _Scene, drawn: _Drawn, grid: _Raster) -> None:
    """Darkens what lies behind a thing: an ellipse at its foot, or its own outline thrown aside."""
    thing = scene.things[drawn.thing]
    strength = 0.25 + 0.3 * scene.look[11]
    radius = drawn.local.scale
    side = -1.0 if scene.look[9] < 0.5 else 1.0
    if thing.grounded:
        height, width = grid.height, grid.width
        spec = _KINDS[thing.kind]
        foot_x = 0.5 * (drawn.columns.start + drawn.columns.stop) + side * 0.25 * radius
        foot_y = drawn.rows.stop - 1.5 - 0.06 * radius
        a, b = 1.05 * spec.half_width * radius, 0.22 * radius + 0.5
        if thing.kind == _THINGS.index("tree"):
            a *= 0.7
        top, bottom = max(int(foot_y - b), 0), min(int(foot_y + b) + 2, height)
        left, right = max(int(foot_x - a), 0), min(int(foot_x + a) + 2, width)
        if top >= bottom or left >= right:
            return
        dx = (np.arange(left, right, dtype=np.float32) + (0.5 - foot_x))[None] / a
        dy = (np.arange(top, bottom, dtype=np.float32) + (0.5 - foot_y))[:, None] / b
        canvas[:, top:bottom, left:right] *= 1.0 - strength * np.clip(1.4 * (1.0 - dx * dx - dy * dy), 0.0, 1.0)
        return
    step_x, step_y = round(side * 0.18 * radius), round(0.2 * radius)
    rows, columns = drawn.rows, drawn.columns
    top, bottom = rows.start + step_y, min(rows.stop + step_y, grid.height)
    left, right = max(columns.start + step_x, 0), min(columns.stop + step_x, grid.width)
    if top >= bottom or left >= right:
        return
    far = drawn.distance[: bottom - top, left - columns.start - step_x : right - columns.start - step_x]
    canvas[:, top:bottom, left:right] *= 1.0 - 0.7 * strength * np.clip(0.4 - 5.0 * far, 0.0, 1.0)


def _paint_stuff(scene: _Scene, grid: _Raster, covers: list[Array], labels: list[int]) -> Array:
    """Canvas (3, H, W) in 0..1 with the stuff layers, of which layer i has class ``labels[i]``."""
    height, width = grid.height, grid.width
    u = (np.arange(width, dtype=np.float32) + 0.5) / width + grid.camera
    v = (np.arange(height, dtype=np.float32) + 0.5) / height
    canvas = np.empty((3, height, width), np.float32)
    starts = [int(np.argmax(cover.any(axis=1))) if index else 0 for index, cover in enumerate(covers)]
    for layer, cover, label, start in zip(scene.layers, covers, labels, starts, strict=True):
        rows = slice(start, height)
        field = _Field(
            u[None], v[rows, None], u[None] * (width / grid.unit), v[rows, None] * (height / grid.unit),
            grid.unit, scene.horizon, scene.styles[label - len(_THINGS)],
        )  # fmt: skip
        rgb = _TEXTURES[label - len(_THINGS)](field)
        if label == _ROAD and layer.label == _ROAD and layer.p[11] < 0.7:
            _lane(rgb, layer, grid, rows, layer.p[10])
        if layer.form == "all":
            canvas[:] = rgb
        else:
            area = canvas[:, rows]
            if layer.form == "below" and layer.label not in (_WATER, _WALL):
                # A little darker towards the far edge, so that layers read as depth.
                rgb *= 0.82 + 0.18 * np.clip((v[rows, None] - layer.top) * 3.0 + 0.3, 0.0, 1.0)
            _mix(area, rgb, cover[rows])
    return canvas


def _finish(canvas: Array, scene: _Scene, grid: _Raster, frame: int) -> Array:
    """Light, blur and sensor noise; returns uint8 (H, W, 3)."""
    look = scene.look
    u = (np.arange(grid.width, dtype=np.float32) / grid.width - 0.5)[None]
    v = (np.arange(grid.height, dtype=np.float32) / grid.height - 0.5)[:, None]
    light = (0.95 + 0.2 * look[12]) + 0.4 * (look[13] - 0.5) * u + 0.3 * (look[14] - 0.5) * v
    light = light - 0.3 * look[15] * (u * u + v * v)
    canvas *= light
    canvas *= 255.0 * (1.0 + 0.12 * (np.array(look[16:19], np.float32)[:, None, None] - 0.5))
    pixels = np.clip(canvas, 0.0, 255.0, out=canvas).astype(np.uint8).transpose(1, 2, 0)
    blur = (look[19] - 0.4) * grid.unit / 128.0
    if blur > 0.15:
        pixels = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).filter(ImageFilter.GaussianBlur(blur)))
    rng = np.random.Generator(np.random.PCG64([scene.noise_seed, frame]))
    amplitude = 3 + int(14 * look[20] ** 2)
    grain = rng.integers(-amplitude, amplitude + 1, (grid.height, grid.width, 3), dtype=np.int8)
    return np.clip(pixels.astype(np.int16) + grain, 0, 255).astype(np.uint8)


def _render(scene: _Scene, size_hw: tuple[int, int], frames: Sequence[int], moving_camera: bool) -> list[SceneFrame]:
    height, width = size_hw
    unit = math.sqrt(height * width)
    sway = (0.07 * scene.look[21] if scene.look[22] < 0.5 else 0.0) * moving_camera
    grids = [_Raster(height, width, unit, sway * math.sin(0.35 * frame)) for frame in frames]
    spare = list(scene.spare)
    while True:
        views = [_visible_things(scene, grid, frame) for grid, frame in zip(grids, frames, strict=True)]
        seen = {drawn.thing for things, _ in views for drawn in things}
        if len(seen) >= _MIN_THINGS or not spare:
            break
        scene = replace(scene, things=[*scene.things, spare.pop()])

    stage = []
    stuff_pixels = np.zeros(len(SCENE_CATEGORIES), np.int64)
    for frame, grid, (things, owner) in zip(frames, grids, views, strict=True):
        covers = [_cover(layer, grid) for layer in scene.layers]
        layer_of = np.zeros((height, width), np.uint8)
        for index, cover in enumerate(covers[1:], start=1):
            layer_of[cover >= 0.5] = index
        counts = np.bincount(layer_of[owner == 0], minlength=len(covers))
        for layer, pixels in zip(scene.layers, counts.tolist(), strict=True):
            stuff_pixels[layer.label] += pixels
        stage.append((frame, grid, things, owner, covers, layer_of))
    # A sliver of stuff becomes part of the most common stuff, in texture as in truth.
    largest = int(stuff_pixels.argmax())
    few = _MIN_STUFF_SHARE * height * width * len(frames)
    labels = [layer.label if stuff_pixels[layer.label] >= few else largest for layer in scene.layers]

    stuff = sorted(set(labels))
    shown = sorted(seen)
    segments = [(number + 1, label) for number, label in enumerate(stuff)]
    segments += [(number + 1 + len(stuff), scene.things[index].kind) for number, index in enumerate(shown)]
    thing_id = np.zeros(len(scene.things) + 1, np.int32)
    for number, index in enumerate(shown):
        thing_id[index + 1] = number + 1 + len(stuff)
    layer_id = np.array([stuff.index(label) + 1 for label in labels], np.int32)

    pictures = []
    for frame, grid, things, owner, covers, layer_of in stage:
        canvas = _paint_stuff(scene, grid, covers, labels)
        for drawn in reversed(things):
            _shadow(canvas, scene, drawn, grid)
            local = drawn.local
            rgb = _KINDS[scene.things[drawn.thing].kind].paint(local)
            rim = 0.05 + 0.6 / local.scale
            rgb *= 1.0 - (0.15 + 0.5 * scene.look[23]) * np.clip(1.0 + drawn.distance / rim, 0.0, 1.0)
            _mix(canvas[:, drawn.rows, drawn.columns], rgb, local.inside(drawn.distance))
        ids = np.where(owner > 0, thing_id[owner], layer_id[layer_of])
        pictures.append(SceneFrame(_finish(canvas, scene, grid, frame), ids, tuple(segments)))
    return pictures


def _check(seed: int, size_hw: tuple[int, int]) -> None:
    if seed < 0:
        raise RequestError(f"the seed of a scene must not be negative, got {seed}")
    if len(size_hw) != 2 or not all(8 <= side <= _LARGEST_SIDE for side in size_hw):
        raise RequestError(f"a scene is (height, width) of 8 to {_LARGEST_SIDE} pixels each, got {tuple(size_hw)}")


def draw_scene(seed: int, size_hw: tuple[int, int]) -> SceneFrame:
    """A scene: a pure function of the seed and the size; another size shows the same composition.

    Args:
        seed: not negative.
        size_hw: height and width in pixels, at least 8 each.

    Raises:
        RequestError: a negative seed or an impossible size.
    """
    _check(seed, size_hw)
    return _render(_compose(seed, 0), size_hw, [0], moving_camera=False)[0]


def draw_clip(seed: int, size_hw: tuple[int, int], num_frames: int) -> list[SceneFrame]:
    """A clip in which things move, cross, leave and return; every segment keeps its id over time.

    Raises:
        RequestError: a negative seed, an impossible size or less than one frame.
    """
    _check(seed, size_hw)
    if num_frames < 1:
        raise RequestError(f"a clip needs at least one frame, got {num_frames}")
    return _render(_compose(seed, 1), size_hw, range(num_frames), moving_camera=True)


def _sample(frames: Sequence[SceneFrame], name: str) -> Sample:
    """Image uint8 (T, 3, H, W), masks bool (N, T, H, W), ``info["ids"]`` int32 (T, H, W)."""
    image = torch.from_numpy(np.stack([frame.image.transpose(2, 0, 1) for frame in frames]))
    ids = torch.from_numpy(np.stack([frame.ids for frame in frames]))
    segments = frames[0].segments
    labels = torch.tensor([label for _, label in segments], dtype=torch.int64)
    numbers = torch.tensor([number for number, _ in segments], dtype=torch.int32)
    return Sample(image, Target(labels, ids[None] == numbers[:, None, None, None]), name, {"ids": ids})


class _Drawings(Sequence[Sample]):
    """Samples made on demand; sample i has the seed ``seed + i``."""

    categories = SCENE_CATEGORIES

    def __init__(self, image_size: int | tuple[int, int], seed: int = 0, length: int = 1000) -> None:
        self.size_hw = (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])
        self.seed = seed
        self.length = length
        _check(seed, self.size_hw)
        if length < 0:
            raise RequestError(f"the number of scenes must not be negative, got {length}")

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self._draw(self.seed + place) for place in range(*index.indices(self.length))]
        place = index + self.length if index < 0 else index
        if not 0 <= place < self.length:
            raise IndexError(f"scene {index} of {self.length}")
        return self._draw(self.seed + place)

    def _draw(self, seed: int) -> Sample:
        raise NotImplementedError


class Scenes(_Drawings):
    """Endless pictures, as a map-style data set of ``length`` samples named ``scene-{seed + index}``.

    Args:
        image_size: side in pixels, or (height, width).
        seed: seed of the first scene; keep training and evaluation seeds apart.
        length: number of samples.

    Raises:
        RequestError: a negative seed or length, or an impossible size.
    """

    def _draw(self, seed: int) -> Sample:
        return _sample([draw_scene(seed, self.size_hw)], f"scene-{seed}")


class SceneClips(_Drawings):
    """Like :class:`Scenes`, with ``num_frames`` frames each; a thing out of sight has an empty mask in that frame."""

    def __init__(
        self, image_size: int | tuple[int, int], num_frames: int = 8, seed: int = 0, length: int = 1000
    ) -> None:
        super().__init__(image_size, seed, length)
        self.num_frames = num_frames
        if num_frames < 1:
            raise RequestError(f"a clip needs at least one frame, got {num_frames}")

    def _draw(self, seed: int) -> Sample:
        return _sample(draw_clip(seed, self.size_hw, self.num_frames), f"scene-clip-{seed}")
