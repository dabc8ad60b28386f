"""From a composition to frames: which things are visible, light and shadow, and ground truth that agrees with them.

Things that are too hidden or too small are not painted at all. Frames are numpy arrays; this module does not use
samples or data sets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from mask2former.errors import UserError
from mask2former.scenes.brush import Array, Raster, mix
from mask2former.scenes.classes import SCENE_CATEGORIES, THINGS
from mask2former.scenes.composition import MIN_THINGS, Scene, compose
from mask2former.scenes.stuff import coverage, paint_stuff
from mask2former.scenes.things import KINDS, Local

__all__ = ["SceneFrame", "check_request", "draw_clip", "draw_scene"]

# Things that show less than this share of the image (30 pixels of 128 x 128) or of themselves are not painted.
_MIN_IMAGE_SHARE = 30 / 128**2
_MIN_VISIBLE_SHARE = 0.15
_MIN_PIXELS = 4
_MIN_STUFF_SHARE = 80 / 128**2
_MAX_THINGS = 14
_LARGEST_SIDE = 16384


@dataclass(frozen=True)
class SceneFrame:
    """One rendered image with its ground truth.

    ``image`` is uint8 RGB ``(H, W, 3)``; ``ids`` is int32 ``(H, W)``, the segment of every pixel, without void;
    ``segments`` lists ``(id, class index)`` for the ids 1..n. The frames of a clip share one list, so a segment that is
    not visible in a frame has no pixels in it.
    """

    image: Array
    ids: Array
    segments: tuple[tuple[int, int], ...]


class _Drawn(NamedTuple):
    """A thing in one frame: the position of its box and the distance of each pixel from its border."""

    thing: int  # index in the scene
    rows: slice
    columns: slice
    local: Local
    distance: Array


def _outline(scene: Scene, index: int, grid: Raster, frame: float) -> tuple[_Drawn, float] | None:
    """The thing within the image, with the share of its box that lies inside; None if it is completely outside."""
    thing = scene.things[index]
    spec = KINDS[thing.kind]
    x, y, size, angle = thing.position(frame)
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
    local = Local(
        mirror * (cos * dx + sin * dy),
        cos * dy - sin * dx,
        radius,
        (mirror * (cos * light_x + sin * light_y), cos * light_y - sin * light_x),
        thing.p,
    )
    return _Drawn(index, slice(top, bottom), slice(left, right), local, spec.shape(local)), inside


def _visible_things(scene: Scene, grid: Raster, frame: float) -> tuple[list[_Drawn], Array]:
    """The things to paint, front to back, and the map (H, W) of thing index + 1, with 0 where stuff is visible.

    The visibility of a thing depends only on the painted things in front of it, so one pass from the front is exact.
    """
    owner = np.zeros((grid.height, grid.width), np.int32)
    least = max(_MIN_IMAGE_SHARE * grid.height * grid.width, _MIN_PIXELS)
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


def _shadow(canvas: Array, scene: Scene, drawn: _Drawn, grid: Raster) -> None:
    """Darken the background behind a thing: an ellipse at its foot, or its own outline, shifted."""
    thing = scene.things[drawn.thing]
    strength = 0.25 + 0.3 * scene.look[11]
    radius = drawn.local.scale
    side = -1.0 if scene.look[9] < 0.5 else 1.0
    if thing.grounded:
        height, width = grid.height, grid.width
        spec = KINDS[thing.kind]
        foot_x = 0.5 * (drawn.columns.start + drawn.columns.stop) + side * 0.25 * radius
        foot_y = drawn.rows.stop - 1.5 - 0.06 * radius
        a, b = 1.05 * spec.half_width * radius, 0.22 * radius + 0.5
        if thing.kind == THINGS.index("tree"):
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


def _finish(canvas: Array, scene: Scene, grid: Raster, frame: int) -> Array:
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


def _render(scene: Scene, size_hw: tuple[int, int], frames: Sequence[int], moving_camera: bool) -> list[SceneFrame]:
    height, width = size_hw
    unit = math.sqrt(height * width)
    sway = (0.07 * scene.look[21] if scene.look[22] < 0.5 else 0.0) * moving_camera
    grids = [Raster(height, width, unit, sway * math.sin(0.35 * frame)) for frame in frames]
    spare = list(scene.spare)
    while True:
        views = [_visible_things(scene, grid, frame) for grid, frame in zip(grids, frames, strict=True)]
        seen = {drawn.thing for things, _ in views for drawn in things}
        if len(seen) >= MIN_THINGS or not spare:
            break
        scene = replace(scene, things=[*scene.things, spare.pop()])

    stage = []
    stuff_pixels = np.zeros(len(SCENE_CATEGORIES), np.int64)
    for frame, grid, (things, owner) in zip(frames, grids, views, strict=True):
        covers = [coverage(layer, grid) for layer in scene.layers]
        layer_of = np.zeros((height, width), np.uint8)
        for index, cover in enumerate(covers[1:], start=1):
            layer_of[cover >= 0.5] = index
        counts = np.bincount(layer_of[owner == 0], minlength=len(covers))
        for layer, pixels in zip(scene.layers, counts.tolist(), strict=True):
            stuff_pixels[layer.label] += pixels
        stage.append((frame, grid, things, owner, covers, layer_of))
    # A sliver of stuff becomes part of the most common stuff, in both texture and ground truth.
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

    images = []
    for frame, grid, things, owner, covers, layer_of in stage:
        canvas = paint_stuff(scene, grid, covers, labels)
        for drawn in reversed(things):
            _shadow(canvas, scene, drawn, grid)
            local = drawn.local
            rgb = KINDS[scene.things[drawn.thing].kind].paint(local)
            rim = 0.05 + 0.6 / local.scale
            rgb *= 1.0 - (0.15 + 0.5 * scene.look[23]) * np.clip(1.0 + drawn.distance / rim, 0.0, 1.0)
            mix(canvas[:, drawn.rows, drawn.columns], rgb, local.inside(drawn.distance))
        ids = np.where(owner > 0, thing_id[owner], layer_id[layer_of])
        images.append(SceneFrame(_finish(canvas, scene, grid, frame), ids, tuple(segments)))
    return images


def check_request(seed: int, size_hw: tuple[int, int]) -> None:
    """Check that a scene can be drawn.

    Raises:
        UserError: the seed is negative or the size is impossible.
    """
    if seed < 0:
        raise UserError(f"the seed of a scene must not be negative, got {seed}")
    if len(size_hw) != 2 or not all(8 <= side <= _LARGEST_SIDE for side in size_hw):
        raise UserError(f"a scene is (height, width) of 8 to {_LARGEST_SIDE} pixels each, got {tuple(size_hw)}")


def draw_scene(seed: int, size_hw: tuple[int, int]) -> SceneFrame:
    """A scene, as a pure function of the seed and the size; another size shows the same composition.

    Args:
        seed: at least 0.
        size_hw: height and width in pixels, at least 8 each.

    Raises:
        UserError: the seed is negative or the size is impossible.
    """
    check_request(seed, size_hw)
    return _render(compose(seed, 0), size_hw, [0], moving_camera=False)[0]


def draw_clip(seed: int, size_hw: tuple[int, int], frames: int | Sequence[int]) -> list[SceneFrame]:
    """A clip in which things move, cross, leave and return; every segment keeps its id over time.

    Args:
        seed: at least 0.
        size_hw: height and width in pixels, at least 8 each.
        frames: number of frames, from the first; or indices of the only frames to draw. What is too hidden or too small
            is determined over the frames that are drawn, so a part of a clip can have other segments than all of it.

    Raises:
        UserError: the seed is negative, the size is impossible or there is less than one frame.
    """
    check_request(seed, size_hw)
    chosen = range(frames) if isinstance(frames, int) else frames
    if not len(chosen) or min(chosen) < 0:
        raise UserError(f"a clip needs at least one frame, counted from 0, got {frames}")
    return _render(compose(seed, 1), size_hw, chosen, moving_camera=True)
