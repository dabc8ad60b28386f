"""The stuff of a scene: the six textures, and the layers that they fill with soft borders.

This module turns the layers of a composition into the background of one frame. Things are not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from mask2former.scenes.brush import Array, Raster, hsv, mix, noise_sampler
from mask2former.scenes.classes import ROAD, THINGS, WALL, WATER
from mask2former.scenes.composition import Layer, Scene

__all__ = ["coverage", "paint_stuff"]


@dataclass
class _Field:
    """The rows of the image that one stuff texture covers."""

    u: Array  # (1, w) share of the width, shifted by the camera
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
        return noise_sampler(kind, start, (scale_x, scale_y), window)(self.y.shape[0], self.x.shape[1])


def _sky(f: _Field) -> Array:
    p = f.p
    mood = p[0]
    if mood < 0.5:
        top, low = hsv(0.54 + 0.1 * p[1], 0.35 + 0.4 * p[2], 0.6 + 0.35 * p[3]), hsv(0.55, 0.2 * p[4], 0.9)
    elif mood < 0.75:  # dusk
        top, low = hsv(0.6 + 0.25 * p[1], 0.3 + 0.3 * p[2], 0.4 + 0.3 * p[3]), hsv(0.03 + 0.1 * p[4], 0.5, 0.95)
    elif mood < 0.9:  # overcast
        top, low = hsv(0.6, 0.1 * p[2], 0.5 + 0.3 * p[3]), hsv(0.6, 0.05, 0.75 + 0.2 * p[4])
    else:  # night
        top, low = hsv(0.6 + 0.1 * p[1], 0.6, 0.12 + 0.1 * p[3]), hsv(0.6 + 0.15 * p[1], 0.5, 0.3 + 0.2 * p[4])
    t = np.clip(f.v / (f.horizon + 0.1), 0.0, 1.0)
    cloud = f.noise("cloudy", 90.0 + 90.0 * p[5], 220.0 + 160.0 * p[6])
    cover = np.clip((cloud - (-0.2 + 1.4 * p[7])) * 0.9, 0.0, 0.8)
    rgb = np.empty((3, *cloud.shape), np.float32)
    rgb[:] = top + t * (low - top)
    mix(rgb, np.minimum(low * 1.1 + 0.08, 1.0) if mood < 0.9 else low * 1.3, cover)
    return rgb


def _grass(f: _Field) -> Array:
    p = f.p
    base = hsv(0.17 + 0.19 * p[0], 0.35 + 0.4 * p[1], 0.35 + 0.4 * p[2])
    blades = f.noise("fine", 150.0 + 60.0 * p[3], 40.0 + 20.0 * p[4])
    patch = f.noise("cloudy", 60.0, 90.0, 2)
    rgb = base * np.maximum(1.0 + (0.1 + 0.14 * p[5]) * blades + 0.1 * patch, 0.15)
    rgb[0] += 0.03 * patch
    return rgb


def _water(f: _Field) -> Array:
    p = f.p
    deep = hsv(0.45 + 0.2 * p[0], 0.4 + 0.45 * p[1], 0.3 + 0.4 * p[2])
    waves = f.noise("fine", 22.0 + 16.0 * p[3], 90.0 + 60.0 * p[4])
    swell = f.noise("cloudy", 40.0, 200.0, 2)
    rgb = deep * np.maximum(1.0 + (0.08 + 0.1 * p[5]) * waves + 0.08 * swell, 0.2)
    mix(rgb, np.ones((3, 1, 1), np.float32), (0.35 + 0.4 * p[6]) * np.clip((waves - 1.3) * 0.9, 0.0, 1.0))
    return rgb


@cache
def _tints() -> Array:
    return np.random.Generator(np.random.PCG64(5)).standard_normal(1024).astype(np.float32)


def _wall(f: _Field) -> Array:
    p = f.p
    if p[0] < 0.5:
        base = hsv(0.0 + 0.12 * p[1], 0.2 + 0.5 * p[2], 0.4 + 0.45 * p[3])
    else:
        base = hsv(p[1], 0.05 + 0.35 * p[2], 0.4 + 0.5 * p[3])
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
    mix(rgb, mortar, np.clip(half + 0.5 - joint, 0.0, 0.85))
    return rgb


def _road(f: _Field) -> Array:
    p = f.p
    base = hsv(p[0], 0.02 + 0.12 * p[1], 0.22 + 0.36 * p[2])
    grain = f.noise("fine", 230.0, 230.0)
    stain = f.noise("cloudy", 60.0, 110.0, 2)
    return base * np.maximum(1.0 + (0.1 + 0.1 * p[3]) * grain + 0.06 * stain, 0.2)


def _sand(f: _Field) -> Array:
    p = f.p
    base = hsv(0.06 + 0.09 * p[0], 0.18 + 0.4 * p[1], 0.6 + 0.35 * p[2])
    dunes = f.noise("cloudy", 50.0, 90.0)
    ripple = np.sin(f.y * (70.0 + 50.0 * p[3]) + 9.0 * (p[5] - 0.5) * f.x + 2.4 * dunes)
    grain = f.noise("fine", 200.0, 200.0, 2)
    return base * (1.0 + (0.05 + 0.06 * p[4]) * ripple + 0.05 * dunes + 0.06 * grain)


_TEXTURES = (_sky, _grass, _water, _wall, _road, _sand)


def coverage(layer: Layer, grid: Raster) -> Array:
    """Coverage (H, W) of a layer in 0..1, soft at its border."""
    p = layer.p
    u = ((np.arange(grid.width, dtype=np.float32) + 0.5) / grid.width + grid.camera)[None]
    v = ((np.arange(grid.height, dtype=np.float32) + 0.5) / grid.height)[:, None]
    if layer.form == "all":
        return np.ones((grid.height, grid.width), np.float32)
    wavy = 0.0 if layer.label == WALL and p[11] < 0.7 else 1.0
    line = layer.top + (0.12 * wavy + 0.04) * (p[0] - 0.5) * (u - 0.5) * (0.0 if layer.label == WATER else 2.0)
    if layer.label != WATER:
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


def _lane(rgb: Array, layer: Layer, grid: Raster, rows: slice, dashes: float) -> None:
    """Dashed centre line of a road, in place on the texture rows."""
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
    mix(rgb, np.full((3, 1, 1), 0.9, np.float32), 0.85 * np.clip(aside + 0.5, 0.0, 1.0) * on)


def paint_stuff(scene: Scene, grid: Raster, covers: list[Array], labels: list[int]) -> Array:
    """Canvas (3, H, W) in 0..1 with the stuff layers, where layer i has class ``labels[i]``."""
    height, width = grid.height, grid.width
    u = (np.arange(width, dtype=np.float32) + 0.5) / width + grid.camera
    v = (np.arange(height, dtype=np.float32) + 0.5) / height
    canvas = np.empty((3, height, width), np.float32)
    starts = [int(np.argmax(cover.any(axis=1))) if index else 0 for index, cover in enumerate(covers)]
    for layer, cover, label, start in zip(scene.layers, covers, labels, starts, strict=True):
        rows = slice(start, height)
        field = _Field(
            u[None], v[rows, None], u[None] * (width / grid.unit), v[rows, None] * (height / grid.unit),
            grid.unit, scene.horizon, scene.styles[label - len(THINGS)],
        )  # fmt: skip
        rgb = _TEXTURES[label - len(THINGS)](field)
        if label == ROAD and layer.label == ROAD and layer.p[11] < 0.7:
            _lane(rgb, layer, grid, rows, layer.p[10])
        if layer.form == "all":
            canvas[:] = rgb
        else:
            area = canvas[:, rows]
            if layer.form == "below" and layer.label not in (WATER, WALL):
                # A little darker towards the far edge, so that layers suggest depth.
                rgb *= 0.82 + 0.18 * np.clip((v[rows, None] - layer.top) * 3.0 + 0.3, 0.0, 1.0)
            mix(area, rgb, cover[rows])
    return canvas
