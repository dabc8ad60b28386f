"""The contents of a scene and how a seed determines them, all in unit coordinates.

Positions are shares of the image's sides, and sizes are in units of sqrt(H W), so one composition serves every size.
Nothing is drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mask2former.scenes.classes import GRASS, ROAD, SAND, SKY, STUFF, THINGS, WALL, WATER
from mask2former.scenes.things import KINDS

__all__ = ["MIN_THINGS", "Layer", "Scene", "Thing", "compose"]

MIN_THINGS = 3  # visible things, if there are enough spare ones
_SPARE_PLACES = ((0.2, 0.75), (0.8, 0.3), (0.5, 0.55))
_TRAVELLERS = (THINGS.index("car"), THINGS.index("fish"))


@dataclass(frozen=True)
class Thing:
    """One thing: its kind, its position and its motion."""

    kind: int
    x: float  # share of the width
    y: float  # share of the height; of the foot if it stands on the ground
    size: float  # half size, in units of sqrt(H W)
    angle: float
    flipped: bool
    grounded: bool
    p: list[float]
    motion: list[float]

    def position(self, frame: float) -> tuple[float, float, float, float]:
        """Position, size and angle at a frame (0 for a still image); all motions start from the composition."""
        m = self.motion
        x, y, angle = self.x, self.y, self.angle
        if m[0] < 0.4:  # straight ahead, re-entering at the other side
            speed = (0.02 + 0.06 * m[2]) * (1.0 if m[1] < 0.5 else -1.0)
            margin = 0.15 + self.size
            x = (x + speed * frame + margin) % (1.0 + 2.0 * margin) - margin
        elif m[0] < 0.7:  # back and forth, far enough to leave the image
            swing = (0.2 + 0.4 * m[2]) * (1.0 if m[1] < 0.5 else -1.0)
            x += swing * math.sin((0.06 + 0.08 * m[3]) / abs(swing) * frame)
        elif m[0] < 0.85 and not self.grounded:  # up and down
            swing = (0.15 + 0.35 * m[2]) * (1.0 if m[1] < 0.5 else -1.0)
            y += swing * math.sin((0.05 + 0.08 * m[3]) / abs(swing) * frame)
        if not self.grounded:
            y += 0.03 * math.sin(0.9 * frame * m[4])
        spin = 0.3 if KINDS[self.kind].turn > 1.0 else 0.04
        angle += spin * (m[5] - 0.5) * frame if spin > 0.1 else spin * math.sin(frame * m[5])
        return x, y, self.size * (1.0 + 0.12 * m[6] * math.sin(0.5 * frame)), angle


@dataclass(frozen=True)
class Layer:
    """A stuff region over the layers before it. ``form`` is ``all``, ``below`` (a line), ``strip`` or ``patch``."""

    label: int
    form: str
    p: list[float]
    top: float = 0.0  # share of the height


@dataclass(frozen=True)
class Scene:
    """A complete composition, independent of the size at which it is rendered."""

    layers: list[Layer]
    styles: list[list[float]]  # random numbers of the six stuff textures
    things: list[Thing]  # back to front
    spare: list[Thing]  # added in front if too few things are visible
    look: list[float]
    horizon: float
    noise_seed: int


def _pick(weights: Sequence[tuple[int, float]], number: float) -> int:
    for label, weight in weights:
        number -= weight
        if number < 0:
            return label
    return weights[-1][0]


def compose(seed: int, stream: int) -> Scene:
    """The scene of a seed; ``stream`` separates clips (1) from images (0)."""
    rng = np.random.Generator(np.random.PCG64([seed, stream]))
    look = rng.random(24).tolist()
    styles = rng.random((len(STUFF), 16)).tolist()
    lines = rng.random((4, 12)).tolist()

    horizon = 0.28 + 0.34 * look[0]
    back = _pick([(SKY, 0.6), (WALL, 0.28), (WATER, 0.12)], look[1])
    ground = {
        SKY: [(GRASS, 0.32), (SAND, 0.24), (WATER, 0.2), (ROAD, 0.24)],
        WALL: [(ROAD, 0.4), (GRASS, 0.3), (SAND, 0.3)],
        WATER: [(SAND, 0.6), (GRASS, 0.4)],
    }[back]
    front = _pick(ground, look[2])
    layers = [Layer(back, "all", lines[0])]
    if look[3] < 0.4:  # another layer between back and front
        between = [k for k in (WALL, WATER, GRASS, SAND) if k not in (back, front)]
        label = between[int(look[4] * len(between))]
        layers.append(Layer(label, "below", lines[1], horizon - 0.1 - 0.1 * look[5]))
    layers.append(Layer(front, "below", lines[2], horizon))
    if look[6] < 0.5:
        inner = [k for k in (ROAD, WATER, SAND, GRASS) if k != front]
        label = inner[int(look[7] * len(inner))]
        layers.append(Layer(label, "strip" if label == ROAD else "patch", lines[3], horizon))

    count = MIN_THINGS + 1 + int(11.99 * look[8] ** 1.2)
    crowd = (6.0 / count) ** 0.35
    total = MIN_THINGS + 12 + len(_SPARE_PLACES)
    kinds = rng.integers(0, len(KINDS), total).tolist()
    numbers = rng.random((total, 40)).tolist()
    things: list[Thing] = []
    for index in range(count):
        q, kind = numbers[index], kinds[index]
        if index and q[24] < 0.15:
            kind = things[-1].kind  # neighbours of one class must be distinguished
        spec = KINDS[kind]
        size = 0.5 * 0.12 * (0.46 / 0.12) ** q[25] * spec.relative_size * crowd
        grounded = q[26] < spec.grounded
        x = -0.04 + 1.08 * q[27]
        y = horizon + 0.04 + (1.04 - horizon) * q[28] ** 0.8 if grounded else 0.02 + 0.9 * q[28]
        if index and q[29] < 0.4:  # beside, before or behind another thing
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
        if kind in _TRAVELLERS and q[33] < 0.7:  # cars and fish face their direction of travel
            flipped = q[34] >= 0.5
        things.append(Thing(kind, x, y, size, angle, flipped, grounded, q[:24], q[33:40]))
    # Nearer things stand lower; floating things can have any depth.
    depth = [thing.y if thing.grounded else 0.3 + 0.8 * thing.p[23] for thing in things]
    things = [things[index] for index in sorted(range(count), key=depth.__getitem__)]
    spare = []
    for position, kind, q in zip(_SPARE_PLACES, kinds[::-1], numbers[::-1], strict=False):
        spare.append(Thing(kind, *position, 0.08 + 0.04 * q[25], 0.0, q[32] < 0.5, False, q[:24], [1.0, *q[34:40]]))
    return Scene(layers, styles, things, spare, look, horizon, int(rng.integers(1 << 30)))
