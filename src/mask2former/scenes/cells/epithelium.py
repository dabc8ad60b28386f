"""Sheets of cells around a cavity, as in embryos and glands: nuclei stand in rows, seen from the side or from above."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mask2former.scenes.cells.textures import Array

__all__ = ["Epithelium", "Pose"]

_MOST = 700  # poses of one sheet


class Pose(NamedTuple):
    """Where a nucleus stands: its centre, radius (of a circle of the same area), ratio of the axes and long axis."""

    y: float
    x: float
    radius: float
    aspect: float
    angle: float


@dataclass(frozen=True)
class Epithelium:
    """The outline of a sheet, an ellipse of which the image usually shows a part.

    Attributes:
        y, x: its centre, in pixels; may be outside the image.
        axes: half lengths, in pixels, the longer one first.
        angle: of the longer axis.
        diameter: of the median nucleus, in pixels.
    """

    y: float
    x: float
    axes: tuple[float, float]
    angle: float
    diameter: float

    @classmethod
    def random(cls, rng: np.random.Generator, size_hw: tuple[int, int], diameter: float) -> Epithelium:
        """One whose outline crosses the image."""
        short = diameter * math.exp(rng.uniform(math.log(2.5), math.log(16.0)))
        axes, angle = (short * rng.uniform(1.0, 2.6), short), rng.uniform(0.0, math.pi)
        y, x, _ = cls(0.0, 0.0, axes, angle, diameter)._edge(rng.uniform(0.0, 2.0 * math.pi))
        y, x = rng.uniform(0.2, 0.8) * size_hw[0] - y, rng.uniform(0.2, 0.8) * size_hw[1] - x
        return cls(y, x, axes, angle, diameter)

    def _edge(self, turn: float) -> tuple[float, float, float]:
        """The point (y, x) of the outline at ``turn`` (0 to 2 pi), and the angle of the normal there."""
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        along, across = self.axes[0] * math.cos(turn), self.axes[1] * math.sin(turn)
        normal = math.atan2(self.axes[0] * math.sin(turn), self.axes[1] * math.cos(turn)) + self.angle
        return self.y + sin * along + cos * across, self.x + cos * along - sin * across, normal

    def depth(self, size_hw: tuple[int, int]) -> Array:
        """1 in the centre, 0 on the outline, negative outside (H, W)."""
        dy = np.arange(size_hw[0], dtype=np.float32)[:, None] + np.float32(0.5 - self.y)
        dx = np.arange(size_hw[1], dtype=np.float32)[None] + np.float32(0.5 - self.x)
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        along, across = (cos * dx + sin * dy) / self.axes[0], (cos * dy - sin * dx) / self.axes[1]
        return 1.0 - np.sqrt(along * along + across * across)

    def poses(self, rng: np.random.Generator, size_hw: tuple[int, int]) -> list[Pose]:
        """Nuclei in rows along the outline, the outermost row first.

        Seen from the side, they are thin, stand side by side across the outline, and have one row. Where the sheet
        turns to the viewer they become round, and more rows are visible.

        Args:
            rng: source of all random numbers.
            size_hw: height and width of the image, in pixels.
        """
        diameter = self.diameter
        thinnest, roundest = rng.uniform(1.6, 3.6), rng.uniform(1.0, 1.4)
        phase, share = rng.uniform(0.0, 2.0 * math.pi), rng.uniform(-0.7, 1.2)  # which parts are seen from the side
        rows = int(rng.choice([1, 2, 4, 12], p=[0.3, 0.25, 0.25, 0.2]))
        gap, jitter, spread = rng.uniform(0.82, 1.2), rng.uniform(0.03, 0.2), rng.uniform(0.05, 0.2)
        poses: list[Pose] = []
        inset = 0.5 * diameter  # of the row, from the outline
        for row in range(rows):
            turn, end = rng.uniform(0.0, 0.5), 2.0 * math.pi
            shrink = 1.0 - inset / self.axes[1]
            if shrink < 0.15:
                break
            inner = replace(self, axes=(self.axes[0] * shrink, self.axes[1] * shrink))
            while turn < end and len(poses) < _MOST:
                side = 1.0 / (1.0 + math.exp(-6.0 * (math.cos(turn - phase) + share)))  # 1: seen from the side
                aspect = roundest + (thinnest - roundest) * side
                radius = diameter / 2 * math.exp(spread * rng.standard_normal())
                y, x, normal = inner._edge(turn)
                speed = math.hypot(inner.axes[0] * math.sin(turn), inner.axes[1] * math.cos(turn))
                turn += max(2.0 * radius / math.sqrt(aspect) * gap / speed, 0.01)
                if row > 0 and rng.random() < side**2:  # one row there
                    continue
                lift = jitter * diameter * rng.standard_normal()
                y, x = y + lift * math.sin(normal), x + lift * math.cos(normal)
                if -radius < y < size_hw[0] + radius and -radius < x < size_hw[1] + radius:
                    poses.append(Pose(y, x, radius, aspect, normal + jitter * rng.standard_normal()))
            inset += diameter * rng.uniform(0.75, 1.0)
        return poses
