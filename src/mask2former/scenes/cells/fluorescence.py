"""Bright nuclei on a dark background, in one colour: haze, debris, noise, and any exposure."""

from __future__ import annotations

import math

import numpy as np

from mask2former.scenes.cells.chromatin import chromatin
from mask2former.scenes.cells.epithelium import Epithelium
from mask2former.scenes.cells.nuclei import Nucleus, arrange, arrange_in_rows
from mask2former.scenes.cells.textures import Array, blurred, clouds, fibres

__all__ = ["paint_fluorescence"]


def _glow(rng: np.random.Generator, size_hw: tuple[int, int], diameter: float, nuclei: list[Nucleus]) -> Array:
    """Light (H, W) of the nuclei in focus; where two overlap, the light of both may add up."""
    inside = chromatin(rng, size_hw, diameter, rng.uniform(0.0, 0.3), rng.choice([0, 0, 4]), rng.choice([0, 1.5]))
    spread = rng.choice([0.1, 0.3, 0.6])
    dome = rng.uniform(0.0, 0.6)
    blurs_some = rng.random() < 0.25
    light = np.zeros(size_hw, np.float32)
    for nucleus in nuclei:
        value = math.exp(spread * rng.standard_normal()) * (1.8 if rng.random() < 0.04 else 1.0)  # some divide
        thickness = 1.0 - dome + dome * np.sqrt(np.maximum(nucleus.depth, 0.0))
        shade = nucleus.cover * thickness * inside(nucleus) * value
        if blurs_some and rng.random() < 0.4:
            shade = nucleus.softened(shade, rng.uniform(0.02, 0.09) * diameter)
        under = light[nucleus.box]  # a view: what changes it changes the image
        in_front = np.maximum(shade, 0.35 * under) if rng.random() < 0.5 else shade + 0.5 * under
        under[:] = np.where(nucleus.solid, in_front, np.maximum(under, shade))
    return light


def _out_of_focus(rng: np.random.Generator, size_hw: tuple[int, int], diameter: float, most: int) -> Array:
    """Light (H, W) of nuclei far above or below, too blurred to be objects."""
    light = np.zeros(size_hw, np.float32)
    others, _ = arrange(rng, size_hw, diameter * rng.uniform(0.9, 1.6))
    for nucleus in others[: int(most * rng.uniform(0.2, 1.0)) + 1]:
        light[nucleus.box] += nucleus.cover
    return blurred(light, diameter * rng.uniform(0.25, 0.6)) * rng.uniform(0.05, 0.35)


def _bodies(rng: np.random.Generator, size_hw: tuple[int, int], diameter: float, nuclei: list[Nucleus]) -> Array:
    """Faint light (H, W) of cell bodies and their processes, which are no nuclei."""
    light = np.zeros(size_hw, np.float32)
    centers = [(nucleus.y, nucleus.x) for nucleus in nuclei]
    bodies, _ = arrange(rng, size_hw, diameter * rng.uniform(1.3, 2.5), elongation=8.0, roughness=0.25, centers=centers)
    for body in bodies:
        light[body.box] += rng.uniform(0.0, 0.3) * body.cover * np.maximum(body.depth, 0.0) ** 0.5
    return blurred(light, 0.05 * diameter)


def _debris(rng: np.random.Generator, size_hw: tuple[int, int], diameter: float) -> Array:
    """Light (H, W) of bright specks that are far smaller than nuclei."""
    light = np.zeros(size_hw, np.float32)
    y, x = np.ogrid[: size_hw[0], : size_hw[1]]
    for _ in range(rng.poisson(rng.choice([0, 0, 3, 12]))):
        sigma = max(0.5, diameter * rng.uniform(0.02, 0.07))
        dy, dx = y - rng.uniform(0, size_hw[0]), x - rng.uniform(0, size_hw[1])
        light += rng.uniform(0.2, 1.2) * np.exp(-(dy * dy + dx * dx) / (2.0 * sigma * sigma))
    return light


def _cavity(rng: np.random.Generator, size_hw: tuple[int, int], sheet: Epithelium) -> Array:
    """Light (H, W) of what the sheet encloses: yolk, and nuclei far below as a faint texture; some haze around it."""
    depth, diameter = sheet.depth(size_hw), sheet.diameter
    inside = 1.0 / (1.0 + np.exp(np.clip(-depth * sheet.axes[1] / (0.4 * diameter), -30.0, 30.0)))
    blobs = max(size_hw) / (diameter * rng.uniform(1.0, 6.0))
    texture = 1.0 + rng.uniform(0.05, 0.35) * clouds(rng, size_hw, blobs, 3)
    if rng.random() < 0.5:
        texture += rng.uniform(0.03, 0.15) * fibres(rng, size_hw, diameter * rng.uniform(0.6, 1.2))
    hollow = 1.0 - rng.uniform(0.0, 0.7) * np.clip(depth * rng.uniform(1.0, 2.5), 0.0, 1.0)
    around = rng.uniform(0.0, 0.1) * np.exp(np.minimum(depth, 0.0) * sheet.axes[1] / (diameter * rng.uniform(0.5, 3.0)))
    return rng.uniform(0.0, 0.6) * inside * hollow * np.maximum(texture, 0.0) + around


def paint_fluorescence(
    rng: np.random.Generator, size_hw: tuple[int, int], diameter: float, sheet: Epithelium | None = None
) -> tuple[Array, Array]:
    """One image.

    Args:
        rng: source of all random numbers.
        size_hw: height and width in pixels.
        diameter: of the median nucleus, in pixels.
        sheet: where the nuclei stand in rows; by default, they lie as :func:`arrange` does.

    Returns:
        Values in 0..255, not yet rounded or clipped (H, W, 3), and the number of the nucleus at each pixel (H, W).
    """
    if sheet is None:
        nuclei, front = arrange(rng, size_hw, diameter)
        light = _glow(rng, size_hw, diameter, nuclei)
    else:
        nuclei, front = arrange_in_rows(rng, size_hw, sheet.poses(rng, size_hw))
        light = _glow(rng, size_hw, diameter, nuclei) + _cavity(rng, size_hw, sheet)
    if nuclei and rng.random() < 0.25:
        light += _bodies(rng, size_hw, diameter, nuclei)
    if rng.random() < 0.35:
        light += _out_of_focus(rng, size_hw, diameter, len(nuclei))
    light += blurred(light, diameter * rng.uniform(0.5, 2.0)) * rng.uniform(0.0, 0.25)
    light = blurred(light, rng.uniform(0.3, 0.9) + 0.04 * diameter * rng.random()) + _debris(rng, size_hw, diameter)
    background = rng.choice([0.01, 0.05, 0.15, 0.35])
    light += background * (1.0 + rng.uniform(0.0, 0.3) * clouds(rng, size_hw, rng.uniform(0.5, 2.0), 1))
    if rng.random() < 0.15:  # filaments
        lines = np.maximum(fibres(rng, size_hw, diameter * rng.uniform(0.8, 3.0)), 0.0)
        light += rng.uniform(0.01, 0.05) * lines * (clouds(rng, size_hw, 3) > 0.3)

    white = math.exp(rng.uniform(math.log(20), math.log(255)))  # cameras use any part of the range
    values = np.maximum(light, 0.0) * (white / max(float(np.percentile(light, 99.7)), 1e-3))
    values += rng.standard_normal(size_hw) * rng.choice([0.3, 1.0, 3.0]) * white / 128
    values += rng.standard_normal(size_hw) * np.sqrt(np.maximum(values, 0.0)) * rng.uniform(0.0, 0.5)
    if rng.random() < 0.25:
        values = blurred(values, 0.6)
    tint = rng.random(3) if rng.random() < 0.06 else np.ones(3)
    return values[..., None] * (tint / tint.max()), front
