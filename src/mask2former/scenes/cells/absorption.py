"""Dark nuclei in stained tissue or in a bright field, by the absorption of light (Beer and Lambert).

A dye has an optical density for each of red, green and blue; where it lies in the amount a, light is reduced to
exp(-a density). Haematoxylin colours nuclei, eosin the rest (densities of Ruifrok and Johnston 2001).
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from mask2former.scenes.cells.chromatin import chromatin
from mask2former.scenes.cells.nuclei import Nucleus, arrange
from mask2former.scenes.cells.textures import Array, blurred, clouds, fibres

__all__ = ["paint_absorption"]

_HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.07, 0.99, 0.11])
_arrange = partial(arrange, elongation=2.4, roughness=0.25)  # in tissue, nuclei are less regular


def _dyes(rng: np.random.Generator, is_grey: bool, is_single: bool) -> tuple[Array, Array]:
    """Densities of the dye of nuclei and of that of everything else."""
    if is_grey:
        return np.full(3, 0.6), np.full(3, 0.6)
    nuclear = np.clip(_HAEMATOXYLIN + rng.normal(0, 0.12, 3), 0.05, 1.2)
    other = nuclear + rng.normal(0, 0.08, 3) if is_single else _EOSIN + rng.normal(0, 0.12, 3)
    return nuclear, np.clip(other, 0.02, 1.2)


def _tissue(rng: np.random.Generator, size_hw: tuple[int, int], diameter: float) -> Array:
    """Amount of dye outside of nuclei (H, W): cloudy, fibrous, with gaps."""
    grain = max(size_hw) / (diameter * rng.uniform(0.5, 4.0))
    amount = rng.uniform(0.02, 0.5) * (1.0 + rng.uniform(0.05, 0.4) * clouds(rng, size_hw, grain, 4))
    if rng.random() < 0.5:
        amount *= 1.0 + rng.uniform(0.05, 0.35) * fibres(rng, size_hw, diameter * rng.uniform(0.3, 2.0))
    if rng.random() < 0.4:
        holes = clouds(rng, size_hw, rng.uniform(1.0, 6.0), 2) - rng.uniform(-0.5, 1.0)
        amount /= 1.0 + np.exp(np.clip(6.0 * holes, -30.0, 30.0))
    return np.maximum(amount, 0.0)


def _add_discs(rng: np.random.Generator, amount: Array, diameter: float) -> None:
    """Add red blood cells and the like, in the colour of the tissue."""
    discs, _ = _arrange(rng, (amount.shape[0], amount.shape[1]), diameter * rng.uniform(0.7, 1.3))
    for disc in discs[: rng.integers(1, 25)]:
        amount[disc.box] += disc.cover * rng.uniform(0.1, 0.6)


def _add_bodies(rng: np.random.Generator, amount: Array, bodies: list[Nucleus]) -> None:
    """Add cell bodies with a faint border."""
    for body in bodies:
        rim = 0.1 * np.exp(-(body.distance**2) / 4.0)
        amount[body.box] += body.cover * rng.uniform(0.05, 0.35) + rim


def _stain(rng: np.random.Generator, nuclei: list[Nucleus], tissue: Array, diameter: float) -> Array:
    """Amount of the nuclear dye (H, W). Changes ``tissue``, which becomes thinner in nuclei."""
    spots = float(rng.choice([0, 2]))  # dark ones and pale ones
    size_hw = (tissue.shape[0], tissue.shape[1])
    inside = chromatin(rng, size_hw, diameter, rng.uniform(0.05, 0.35), spots, spots)
    strength, spread = rng.uniform(0.5, 1.8), rng.uniform(0.05, 0.4)
    rim = rng.uniform(0.0, 1.2) if rng.random() < 0.5 else 0.0
    has_pale = rng.random() < 0.3
    blurs_some = rng.random() < 0.4
    ink = np.zeros(size_hw, np.float32)
    for nucleus in nuclei:
        value = strength * math.exp(spread * rng.standard_normal())
        if has_pale and rng.random() < 0.5:
            value *= 0.45
        border = np.exp(-((nucleus.distance / max(1.0, 0.12 * nucleus.radius)) ** 2))
        cover = nucleus.cover
        under = ink[nucleus.box]  # a view: what changes it changes the image
        under *= 1.0 - cover * rng.uniform(0.6, 1.0)
        dye = value * inside(nucleus) * (1.0 + rim * border) * cover
        if blurs_some and rng.random() < 0.4:
            dye = nucleus.softened(dye, rng.uniform(0.03, 0.15) * diameter)
        under += dye
        tissue[nucleus.box] *= 1.0 - cover * rng.uniform(0.3, 1.0)
    if rng.random() < 0.3:  # smears
        smears = clouds(rng, size_hw, max(size_hw) / diameter) - rng.uniform(1.5, 2.5)
        ink += np.maximum(smears, 0.0) * rng.uniform(0.0, 0.4)
    return ink


def paint_absorption(
    rng: np.random.Generator, size_hw: tuple[int, int], diameter: float, *, is_grey: bool
) -> tuple[Array, Array]:
    """One image, grey or of two dyes (or one dye for everything).

    Args:
        rng: source of all random numbers.
        size_hw: height and width in pixels.
        diameter: of the median nucleus, in pixels.
        is_grey: a bright field: cell bodies with one nucleus each, mostly, and little tissue.

    Returns:
        Values in 0..255, not yet rounded or clipped (H, W, 3), and the number of the nucleus at each pixel (H, W).
    """
    is_single = is_grey or rng.random() < 0.5
    nuclear, other = _dyes(rng, is_grey, is_single)
    tissue = _tissue(rng, size_hw, diameter)
    centers = None
    if is_grey or rng.random() < 0.2:
        tissue *= rng.uniform(0.0, 0.3)
        bodies, _ = _arrange(rng, size_hw, diameter * rng.uniform(1.8, 5.0))
        _add_bodies(rng, tissue, bodies)
        if bodies and rng.random() < 0.7:
            centers = [(body.y, body.x) for body in bodies]
    nuclei, front = _arrange(rng, size_hw, diameter, centers=centers)
    if not is_single and rng.random() < 0.3:
        _add_discs(rng, tissue, diameter)
    ink = _stain(rng, nuclei, tissue, diameter)
    sigma = rng.uniform(0.2, 0.8) + 0.03 * diameter * rng.random()
    ink, tissue = blurred(ink, sigma), blurred(tissue, 0.7 * sigma)

    lamp = rng.uniform(0.75, 1.0) * (1.0 + 0.03 * clouds(rng, size_hw, 1, 1))[..., None]
    if not is_grey:
        lamp = lamp * (1.0 - 0.12 * rng.random(3))
    values = 255.0 * lamp * np.exp(-ink[..., None] * nuclear - tissue[..., None] * other)
    noise = rng.standard_normal((*size_hw, 1 if is_grey else 3)) * rng.choice([0.5, 2.0, 5.0])
    values = values + noise
    return (blurred(values, 0.7) if rng.random() < 0.3 else values), front
