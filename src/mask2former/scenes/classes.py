"""The fourteen classes of the scenes: names, colours and class indices, things before stuff.

The rest of this package refers to classes by these indices; drawing is defined elsewhere.
"""

from __future__ import annotations

from mask2former.structures import Categories, Category

__all__ = ["GRASS", "ROAD", "SAND", "SCENE_CATEGORIES", "SKY", "STUFF", "THINGS", "WALL", "WATER"]

THINGS = ("ball", "crate", "tree", "house", "car", "fish", "star", "mug")
STUFF = ("sky", "grass", "water", "wall", "road", "sand")
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
        Category(index + 1, name, index < len(THINGS), color)
        for index, (name, color) in enumerate(zip(THINGS + STUFF, _COLORS, strict=True))
    )
)

SKY, GRASS, WATER, WALL, ROAD, SAND = range(len(THINGS), len(THINGS) + len(STUFF))
