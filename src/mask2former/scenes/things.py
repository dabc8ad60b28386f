"""The eight kinds of things: for each, its shape as a distance, its paint and its usual position.

A kind sees only the pixels of its own box, in its own coordinates, and its own random numbers. Its position in a scene
and what hides it are determined elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mask2former.scenes.brush import (
    Array,
    any_color,
    box,
    disc,
    ellipse,
    gable,
    hsv,
    mix,
    noise_sampler,
    round_box,
)

__all__ = ["KINDS", "Kind", "Local"]


@dataclass
class Local:
    """The pixels of one thing's bounding box in its own coordinates: x right, y down, half size 1."""

    x: Array
    y: Array
    scale: float  # pixels per unit
    light: tuple[float, float]  # direction of the light, in these coordinates
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
        return noise_sampler(kind, (self.p[20], self.p[21]), (scale, scale), window)(*self.x.shape)


def _ball_shape(at: Local) -> Array:
    return disc(at.x, at.y, 1.0)


def _ball_paint(at: Local) -> Array:
    p, x, y = at.p, at.x, at.y
    first, second = any_color(p[0], p[1], p[2]), any_color(p[3], p[4] * 0.5, 0.5 + 0.5 * p[5])
    rgb = at.plain(first)
    pattern = int(p[6] * 4)
    if pattern == 0:  # beach ball: sectors around a pole
        angle = np.arctan2(y - 0.5 * (p[7] - 0.5), x - 0.5 * (p[8] - 0.5))
        mix(rgb, second, np.clip(0.5 + np.sin(angle * 3.0) * at.scale * 0.25, 0.0, 1.0))
    elif pattern == 1:  # two bands
        mix(rgb, second, at.inside(np.abs(np.abs(y + 0.25 * x * x) - 0.35) - 0.16))
    elif pattern == 2:  # dots
        bulge = 1.0 + 0.6 * (x * x + y * y)
        u, v = np.mod(x * bulge + 2.0, 0.8) - 0.4, np.mod(y * bulge + 2.0, 0.8) - 0.4
        mix(rgb, second, at.inside(disc(u, v, 0.22)))
    else:  # seams
        mix(rgb, second * 0.6, at.inside(np.abs(disc(x - 1.2, y, 1.0)) - 0.07))
        mix(rgb, second * 0.6, at.inside(np.abs(disc(x + 1.2, y, 1.0)) - 0.07))
    z = np.sqrt(np.maximum(1.0 - x * x - y * y, 0.0))
    lit = np.maximum(0.62 * (x * at.light[0] + y * at.light[1]) + 0.7 * z, 0.0)
    rgb *= 0.32 + 0.8 * lit
    mix(rgb, np.ones((3, 1, 1), np.float32), 0.75 * np.clip((lit - 0.88) * 10.0, 0.0, 1.0))
    return rgb


def _crate_shape(at: Local) -> Array:
    return box(at.x, at.y, 1.0, 0.72 + 0.26 * at.p[7])


def _crate_paint(at: Local) -> Array:
    p, x, y = at.p, at.x, at.y
    half = 0.72 + 0.26 * p[7]
    if p[6] < 0.65:  # bare wood; otherwise painted
        wood = hsv(0.05 + 0.07 * p[0], 0.35 + 0.35 * p[1], 0.45 + 0.4 * p[2])
    else:
        wood = any_color(p[0], p[1] * 0.8, p[2])
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
    mix(rgb, wood * (0.62 if p[11] < 0.5 else 1.35), at.inside(edge) * 0.85)
    rgb *= 1.0 - 0.4 * at.inside(np.abs(edge) - 0.03)
    rgb *= 0.92 + 0.2 * (x * at.light[0] + y * at.light[1])
    return rgb


def _tree_parts(at: Local) -> tuple[Array, Array]:
    p, x, y = at.p, at.x, at.y
    trunk = box(x, y - 0.6, 0.09 + 0.07 * p[8] + 0.04 * np.maximum(y - 0.5, 0.0), 0.4)
    if p[6] < 0.4:  # conifer
        wide = 0.55 + 0.2 * p[7]
        crown = np.minimum(gable(x, y, -1.0, -0.3, 0.62 * wide), gable(x, y, -0.72, 0.12, 0.82 * wide))
        crown = np.minimum(crown, gable(x, y, -0.35, 0.55, wide))
    else:
        spread = 0.24 + 0.16 * p[7]
        crown = np.minimum(disc(x, y + 0.56, 0.42), disc(x, y - 0.04, 0.36))
        crown = np.minimum(crown, disc(x - spread, y + 0.12 + 0.2 * p[9], 0.4))
        crown = np.minimum(crown, disc(x + spread, y + 0.12 + 0.2 * p[10], 0.42))
        crown = crown + 0.05 * np.sin(9.0 * x + 6.0 * p[11]) * np.sin(8.0 * y + 5.0 * p[12])
    return crown, trunk


def _tree_shape(at: Local) -> Array:
    return np.minimum(*_tree_parts(at))


def _tree_paint(at: Local) -> Array:
    p, x, y = at.p, at.x, at.y
    crown, _ = _tree_parts(at)
    rgb = at.plain(hsv(0.04 + 0.06 * p[3], 0.3 + 0.4 * p[4], 0.25 + 0.3 * p[5]))
    rgb *= 1.0 + 0.5 * x * at.light[0] * 3.0
    if p[13] < 0.6:
        leaf = hsv(0.2 + 0.2 * p[0], 0.4 + 0.5 * p[1], 0.3 + 0.4 * p[2])
    elif p[13] < 0.85:  # autumn, blossom
        leaf = hsv(-0.07 + 0.22 * p[0], 0.4 + 0.5 * p[1], 0.5 + 0.4 * p[2])
    else:
        leaf = any_color(p[0], p[1], p[2])
    shade = 0.85 + 0.3 * (x * at.light[0] + (y + 0.3) * at.light[1]) + 0.14 * at.noise("fine", 16.0)
    mix(rgb, leaf * np.maximum(shade, 0.25), at.inside(crown))
    return rgb


def _house_shape(at: Local) -> Array:
    p, x, y = at.p, at.x, at.y
    eaves = -0.15 + 0.25 * p[6]
    body = box(x, y - 0.5 * (1.0 + eaves) + 0.02, 0.8, 0.5 * (1.0 - eaves))
    shape = np.minimum(body, gable(x, y, -0.85 - 0.1 * p[7], eaves, 1.0))
    if p[8] < 0.5:
        shape = np.minimum(shape, box(x - 0.5, y + 0.55, 0.12, 0.35))
    return shape


def _house_paint(at: Local) -> Array:
    p, x, y = at.p, at.x, at.y
    eaves = -0.15 + 0.25 * p[6]
    wall, roof = any_color(p[0], p[1] * 0.7, 0.4 + 0.6 * p[2]), any_color(p[3], p[4], p[5] * 0.7)
    rgb = at.plain(wall * 0.8)
    rgb *= 1.0 + 0.18 * x * at.light[0]
    below = at.inside(eaves - y)
    mix(rgb, roof * (0.85 + 0.25 * np.clip((0.5 + np.sin(y * 26.0)) * 2.0, 0.0, 1.0) * 0.7), 1.0 - below)
    rgb *= 1.0 - 0.35 * at.inside(np.abs(y - eaves - 0.05) - 0.05)
    glass = hsv(0.13, 0.55, 1.0) if p[9] < 0.4 else hsv(0.58, 0.4, 0.25 + 0.5 * p[10])
    middle = 0.5 * (1.0 + eaves) - 0.08
    side = 0.45 if p[12] < 0.5 else -0.45
    pane = box(x - side, y - middle, 0.2, 0.19)
    if p[11] < 0.5:
        pane = np.minimum(pane, box(x + side, y - middle, 0.2, 0.19))
    mix(rgb, hsv(0.0, 0.0, 0.95), at.inside(pane - 0.06))
    mix(rgb, glass, at.inside(pane))
    door_x = x + side if p[11] >= 0.5 else x
    mix(rgb, roof * 0.55, at.inside(box(door_x, y - 0.72, 0.15, 0.32)))
    return rgb


def _car_parts(at: Local) -> tuple[Array, Array, Array, Array]:
    p, x, y = at.p, at.x, at.y
    middle = -0.15 + 0.2 * (p[6] - 0.5)
    half = 0.42 + 0.2 * p[7]
    body = round_box(x, y - 0.13, 1.0, 0.27, 0.14)
    slant = 0.35 + 0.3 * p[8]
    cabin = np.maximum(np.abs(x - middle) - half + slant * np.maximum(-y - 0.1, -0.2), np.abs(y + 0.3) - 0.28)
    near = np.minimum(np.abs(x - 0.58), np.abs(x + 0.56))
    wheels = disc(near, y - 0.38, 0.24)
    return body, cabin, wheels, x - middle


def _car_shape(at: Local) -> Array:
    body, cabin, wheels, _ = _car_parts(at)
    return np.minimum(np.minimum(body, cabin), wheels)


def _car_paint(at: Local) -> Array:
    p, x, y = at.p, at.x, at.y
    _, cabin, wheels, from_middle = _car_parts(at)
    paint = any_color(p[0], p[1], p[2]) if p[9] < 0.8 else hsv(0.0, 0.0, 0.2 + 0.75 * p[2])
    rgb = at.plain(paint)
    rgb *= 1.08 - 0.55 * y
    if p[10] < 0.4:
        mix(rgb, any_color(p[3], p[4], p[5]), at.inside(np.abs(y - 0.13) - 0.06))
    glass = np.maximum(np.maximum(cabin + 0.1, y + 0.1), 0.05 - np.abs(from_middle))
    mix(rgb, hsv(0.55, 0.25, 0.3 + 0.6 * p[11]), at.inside(glass))
    mix(rgb, hsv(0.14, 0.5, 1.0), at.inside(disc(x - 0.9, y - 0.05, 0.1)))
    mix(rgb, hsv(0.0, 0.9, 0.7), at.inside(box(x + 0.95, y - 0.05, 0.06, 0.08)))
    mix(rgb, np.full((3, 1, 1), 0.09, np.float32), at.inside(wheels))
    mix(rgb, np.full((3, 1, 1), 0.65, np.float32), at.inside(wheels + 0.13))
    return rgb


def _fish_parts(at: Local) -> tuple[Array, Array]:
    p, x, y = at.p, at.x, at.y
    body = ellipse(x - 0.2, y, 0.78, 0.36 + 0.18 * p[6])
    reach = 0.36 + 0.2 * p[7]  # a notched tail that opens to the left
    tail = np.maximum(np.abs(y) - reach * (-0.3 - x) / 0.7 - 0.05, -x - 1.0 + 0.35 * np.maximum(reach - np.abs(y), 0.0))
    tail = np.maximum(tail, x + 0.1)
    fin = np.maximum(np.abs(x - 0.1 - 0.25 * y) - 0.28 - 0.3 * y, -y - 0.62 - 0.12 * p[8])
    fin = np.maximum(fin, y)
    return body, np.minimum(tail, fin)


def _fish_shape(at: Local) -> Array:
    return np.minimum(*_fish_parts(at))


def _fish_paint(at: Local) -> Array:
    p, x, y = at.p, at.x, at.y
    body, _ = _fish_parts(at)
    first, second = any_color(p[0], p[1], p[2]), any_color(p[3], p[4], p[5])
    rgb = at.plain(second * 0.8)
    rgb *= 1.0 - 0.3 * np.clip(np.sin(12.0 * (x + 1.5 * np.abs(y))) * 2.0, 0.0, 1.0)  # fin rays
    skin = at.plain(first)
    pattern = int(p[9] * 3)
    if pattern == 0:
        mix(skin, second, np.clip(0.5 + np.sin(8.0 * x + 2.0 * y + 6.0 * p[10]) * at.scale * 0.12, 0.0, 1.0))
    elif pattern == 1:
        u, v = np.mod(x + p[10], 0.34) - 0.17, np.mod(y + 0.17, 0.34) - 0.17
        skin *= 1.0 - 0.3 * at.inside(np.abs(disc(u + 0.08, v, 0.15)) - 0.035)
    else:
        mix(skin, second, at.inside(np.abs(y + 0.05) - 0.09))
    skin *= 0.95 - 0.3 * y / 0.45 * (1.0 if at.light[1] < 0 else -1.0)
    mix(rgb, skin, at.inside(body))
    mix(rgb, np.ones((3, 1, 1), np.float32), at.inside(disc(x - 0.66, y + 0.1, 0.12)))
    mix(rgb, np.full((3, 1, 1), 0.05, np.float32), at.inside(disc(x - 0.69, y + 0.1, 0.07)))
    return rgb


def _star_sectors(at: Local) -> tuple[Array, Array, Array]:
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


def _star_shape(at: Local) -> Array:
    return _star_sectors(at)[0]


def _star_paint(at: Local) -> Array:
    p = at.p
    _, turn, radius = _star_sectors(at)
    first = hsv(0.1 + 0.06 * p[0], 0.5 + 0.5 * p[1], 0.8 + 0.2 * p[2]) if p[8] < 0.4 else any_color(*p[:3])
    rgb = at.plain(first)
    rgb *= 1.12 - 0.42 * np.clip(0.5 + turn * radius * at.scale, 0.0, 1.0)  # every tip has a bright and a dark facet
    if p[9] < 0.4:
        mix(rgb, any_color(p[3], p[4], p[5]), at.inside(radius - 0.28))
    return rgb


def _mug_parts(at: Local) -> tuple[Array, Array, Array]:
    p, x, y = at.p, at.x, at.y
    taper = 0.62 - 0.12 * p[6] * y
    body = np.maximum(np.abs(x + 0.3) - taper, np.abs(y) - 0.85)
    body = np.maximum(body, y - 0.85 + 0.12 * ((x + 0.3) / 0.62) ** 2)
    handle = np.abs(ellipse(x - 0.3, y - 0.02, 0.52, 0.42 + 0.1 * p[7])) - 0.11
    handle = np.maximum(handle, -x + 0.15)
    mouth = ellipse(x + 0.3, y + 0.74, 0.6, 0.17)
    return np.minimum(body, ellipse(x + 0.3, y + 0.74, 0.68, 0.22)), handle, mouth


def _mug_shape(at: Local) -> Array:
    body, handle, _ = _mug_parts(at)
    return np.minimum(body, handle)


def _mug_paint(at: Local) -> Array:
    p, x, y = at.p, at.x, at.y
    body, _, mouth = _mug_parts(at)
    first, second = any_color(p[0], p[1] * 0.9, 0.3 + 0.7 * p[2]), any_color(p[3], p[4], p[5])
    rgb = at.plain(first)
    if p[8] < 0.4:
        mix(rgb, second, at.inside(np.maximum(np.abs(np.abs(y - 0.1) - 0.25 * p[9]) - 0.1, body)))
    elif p[8] < 0.7:
        mix(rgb, second, at.inside(np.maximum(disc(x + 0.3, y - 0.12, 0.32), body)))
    across = (x + 0.3) / 0.62
    side = 1.0 if at.light[0] > 0 else -1.0
    rgb *= np.maximum(1.05 - 0.35 * (across - 0.35 * side) ** 2, 0.45)
    mix(rgb, first * 1.1, at.inside(ellipse(x + 0.3, y + 0.74, 0.68, 0.22)))
    mix(rgb, hsv(0.07, 0.6, 0.3) if p[10] < 0.5 else first * 0.45, at.inside(mouth + 0.02))
    return rgb


class Kind(NamedTuple):
    """How one kind of thing looks and where it stands; sizes are in units of its half size."""

    shape: Callable[[Local], Array]
    paint: Callable[[Local], Array]
    half_width: float
    half_height: float
    relative_size: float
    turn: float  # largest tilt in radians
    grounded: float  # probability that it stands on the ground


KINDS = (  # in the order of the thing classes
    Kind(_ball_shape, _ball_paint, 1.0, 1.0, 0.8, math.pi, 0.6),
    Kind(_crate_shape, _crate_paint, 1.0, 1.0, 0.85, 0.25, 0.9),
    Kind(_tree_shape, _tree_paint, 0.9, 1.0, 1.3, 0.08, 0.95),
    Kind(_house_shape, _house_paint, 1.0, 1.0, 1.2, 0.06, 0.95),
    Kind(_car_shape, _car_paint, 1.02, 0.64, 1.15, 0.12, 0.9),
    Kind(_fish_shape, _fish_paint, 1.02, 0.76, 1.1, 0.7, 0.05),
    Kind(_star_shape, _star_paint, 1.0, 1.0, 1.0, math.pi, 0.1),
    Kind(_mug_shape, _mug_paint, 1.0, 0.98, 0.9, 0.2, 0.9),
)
