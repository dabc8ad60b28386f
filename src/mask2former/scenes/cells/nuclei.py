"""Shapes of nuclei and how they lie in an image. Lengths are in pixels; nothing is painted here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from mask2former.scenes.cells.epithelium import Pose
from mask2former.scenes.cells.textures import Array, blurred, clouds

__all__ = ["Nucleus", "arrange", "arrange_in_rows"]

_MIN_PIXELS = 12  # smaller ones, at the border of the image, are not drawn
_MIN_VISIBLE = 0.5  # of a nucleus behind others
_MOST = 700
_ANGLES = 128  # points of an outline


@dataclass
class Nucleus:
    """One nucleus (or another round thing) in its box of the image.

    Attributes:
        y, x: its centre.
        radius: of a circle of the same area, nearly.
        rows, columns: its box.
        depth: 1 in its centre, 0 at its border, negative outside (h, w).
        distance: from its border, negative inside, in pixels (h, w); approximate.
    """

    y: float
    x: float
    radius: float
    rows: slice
    columns: slice
    depth: Array = field(repr=False)
    distance: Array = field(repr=False)

    @property
    def box(self) -> tuple[slice, slice]:
        return self.rows, self.columns

    @property
    def cover(self) -> Array:
        """Soft coverage (h, w) in 0..1."""
        return np.clip(0.5 - self.distance, 0.0, 1.0)

    def softened(self, values: Array, sigma: float) -> Array:
        """``values`` (h, w) out of focus, within the box."""
        return blurred(np.pad(values, 2), sigma)[2:-2, 2:-2]

    @property
    def solid(self) -> Array:
        """Its pixels, bool (h, w)."""
        return self.distance < 0.0


def _radii(rng: np.random.Generator, roughness: float, notched: bool) -> Array:
    """Outline: radius by angle, about 1; low Fourier terms, and a notch in kidney-shaped ones."""
    angles = np.linspace(0.0, 2.0 * math.pi, _ANGLES, endpoint=False)
    radii = np.ones(_ANGLES)
    for order in range(2, 7):
        phase = rng.uniform(0.0, 2.0 * math.pi)
        radii += roughness * rng.standard_normal() / order**1.2 * np.cos(order * angles + phase)
    if notched:
        from_notch = (angles - rng.uniform(0.0, 2.0 * math.pi) + math.pi) % (2.0 * math.pi) - math.pi
        radii -= rng.uniform(0.15, 0.45) * np.exp(-((from_notch / rng.uniform(0.25, 0.6)) ** 2))
    return np.clip(radii, 0.35, 1.8)


def _nucleus(
    center: tuple[float, float], radius: float, aspect: float, angle: float, radii: Array, size_hw: tuple[int, int]
) -> Nucleus:
    """An outline, stretched by ``aspect`` along ``angle`` at the same area, in the part of its box inside the image."""
    y, x = center
    stretch = math.sqrt(aspect)
    reach = radius * stretch * float(radii.max()) + 3.0
    top, bottom = max(int(y - reach), 0), min(int(y + reach) + 1, size_hw[0])
    left, right = max(int(x - reach), 0), min(int(x + reach) + 1, size_hw[1])
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - y)
    dx = np.arange(left, right, dtype=np.float32)[None] + np.float32(0.5 - x)
    cos, sin = math.cos(angle), math.sin(angle)
    along, across = (cos * dx + sin * dy) / stretch, (cos * dy - sin * dx) * stretch
    rho = np.sqrt(along * along + across * across)
    turn = (np.arctan2(across, along) * (_ANGLES / (2.0 * math.pi))) % _ANGLES
    edge = radius * np.interp(turn, np.arange(_ANGLES + 1), np.append(radii, radii[0]))
    depth, distance = 1.0 - rho / edge, (rho - edge) / stretch
    return Nucleus(
        y, x, radius, slice(top, bottom), slice(left, right), depth.astype(np.float32), distance.astype(np.float32)
    )


class _Pile:
    """Nuclei of one image, back to front, of which enough is visible.

    Attributes:
        nuclei: in the order in which they were added.
        front: the number (from 1) of the one in front at each pixel, 0 for background (H, W).
    """

    def __init__(self, size_hw: tuple[int, int], overlap: float) -> None:
        self.nuclei: list[Nucleus] = []
        self.front = np.zeros(size_hw, np.int32)
        self._overlap = overlap
        self._areas, self._visible = [0], [0]  # by number; 0 is the background

    def add(self, nucleus: Nucleus) -> None:
        """Put one in front unless it is too small, lies too much over others, or leaves too little of them visible."""
        behind = self.front[nucleus.box]  # a view
        solid = nucleus.solid
        area = int(np.count_nonzero(solid))
        hidden = np.bincount(behind[solid], minlength=len(self._areas))
        hidden[0] = 0
        if area < _MIN_PIXELS or hidden.sum() > self._overlap * area:
            return
        numbers = np.flatnonzero(hidden)
        if any(self._visible[k] - hidden[k] < max(_MIN_VISIBLE * self._areas[k], _MIN_PIXELS) for k in numbers):
            return
        for k in numbers:
            self._visible[k] -= int(hidden[k])
        self.nuclei.append(nucleus)
        self._areas.append(area)
        self._visible.append(area)
        behind[solid] = len(self.nuclei)


def arrange(
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    diameter: float,
    *,
    elongation: float = 1.9,
    roughness: float = 0.12,
    centers: list[tuple[float, float]] | None = None,
) -> tuple[list[Nucleus], Array]:
    """Nuclei of one image, back to front: few or crowded, apart or touching, alike or of many sizes.

    Args:
        rng: source of all random numbers.
        size_hw: height and width in pixels.
        diameter: of the median nucleus, in pixels.
        elongation: largest mean ratio of the axes.
        roughness: largest deviation of an outline from an ellipse, as a share of the radius.
        centers: the only positions (y, x); by default, they are random.

    Returns:
        The nuclei and the number (from 1, in their order) of the one in front at each pixel, 0 for background (H, W).
    """
    height, width = size_hw
    spread = rng.uniform(0.08, 0.35)
    mean_aspect = rng.uniform(1.0, elongation)
    rough = rng.uniform(0.0, roughness)
    direction = clouds(rng, size_hw, rng.uniform(1.0, 4.0), 1) * 1.2 + rng.uniform(0.0, math.pi)
    is_aligned = rng.random() < 0.4
    # The share of the image that nuclei would cover if none overlapped, how often one lies beside another, and the
    # largest share of a new one that may lie over others.
    share = rng.choice([0.04, 0.12, 0.25, 0.4, 0.55], p=[0.2, 0.25, 0.25, 0.2, 0.1])
    touching = rng.random()
    overlap = rng.choice([0.03, 0.12, 0.25, 0.4])
    density = clouds(rng, size_hw, rng.uniform(1.0, 5.0), 2)
    sparsest = rng.uniform(-1.5, 0.8) if rng.random() < 0.6 else -np.inf  # none where the density is lower
    count = min(max(int(share * height * width / (math.pi / 4 * diameter * diameter)), 1), _MOST)
    if centers is not None:
        count = len(centers)

    pile = _Pile(size_hw, overlap)
    nuclei = pile.nuclei
    for attempt in range(3 * count):  # some do not fit
        if len(nuclei) == count:
            break
        radius = diameter / 2 * math.exp(spread * rng.standard_normal())
        if centers is not None:
            y, x = centers[attempt % count]
        elif nuclei and rng.random() < touching:
            other = nuclei[rng.integers(len(nuclei))]
            angle, apart = rng.uniform(0.0, 2.0 * math.pi), (other.radius + radius) * rng.uniform(0.8, 1.12)
            y, x = other.y + apart * math.sin(angle), other.x + apart * math.cos(angle)
        else:
            y, x = rng.uniform(-radius, height + radius), rng.uniform(-radius, width + radius)
        if not (-radius < y < height + radius and -radius < x < width + radius):
            continue
        at = min(max(int(y), 0), height - 1), min(max(int(x), 0), width - 1)
        if centers is None and density[at] < sparsest:
            continue
        angle = direction[at] + 0.3 * rng.standard_normal() if is_aligned else rng.uniform(0.0, math.pi)
        aspect = 1.0 + (mean_aspect - 1.0) * rng.uniform(0.3, 1.7)
        radii = _radii(rng, rough, rng.random() < 0.08)
        pile.add(_nucleus((y, x), radius, aspect, float(angle), radii, size_hw))
    return nuclei, pile.front


def arrange_in_rows(
    rng: np.random.Generator, size_hw: tuple[int, int], poses: list[Pose]
) -> tuple[list[Nucleus], Array]:
    """Nuclei in these poses, in a random order from back to front, without those that :class:`_Pile` does not take.

    Returns what :func:`arrange` does.
    """
    pile = _Pile(size_hw, rng.choice([0.12, 0.25, 0.4]))
    rough = rng.uniform(0.0, 0.12)
    for number in rng.permutation(len(poses)):
        pose = poses[number]
        radii = _radii(rng, rough, rng.random() < 0.05)
        pile.add(_nucleus((pose.y, pose.x), pose.radius, pose.aspect, pose.angle, radii, size_hw))
    return pile.nuclei, pile.front
