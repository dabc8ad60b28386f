"""Sheets of cells: nuclei stand across the outline, side by side."""

import math

import numpy as np

from mask2former.scenes.cells.epithelium import Epithelium
from mask2former.scenes.cells.nuclei import arrange_in_rows

SIZE = (400, 400)


def sheets(count: int) -> list[tuple[Epithelium, np.random.Generator]]:
    generators = [np.random.default_rng(seed) for seed in range(count)]
    return [(Epithelium.random(rng, SIZE, 20.0), rng) for rng in generators]


def test_the_outline_crosses_the_image() -> None:
    for sheet, _ in sheets(30):
        depth = sheet.depth(SIZE)
        assert depth.min() < 0 < depth.max()


def test_depth_of_a_circle_falls_from_its_centre() -> None:
    circle = Epithelium(y=200.0, x=100.0, axes=(50.0, 50.0), angle=1.0, diameter=20.0)
    depth = circle.depth(SIZE)
    np.testing.assert_allclose(depth[199:201, 99:101], 1.0, atol=0.02)
    np.testing.assert_allclose(depth[200, 50], 0.0, atol=0.02)
    np.testing.assert_allclose(depth[200, 0], -1.0, atol=0.02)


def test_nuclei_of_the_first_row_lie_inside_the_outline_and_point_across_it() -> None:
    circle = Epithelium(y=200.0, x=200.0, axes=(120.0, 120.0), angle=0.3, diameter=20.0)
    poses = circle.poses(np.random.default_rng(1), SIZE)
    assert len(poses) > 20
    distances = np.array([math.hypot(pose.y - 200.0, pose.x - 200.0) for pose in poses])
    assert distances.max() < 120.0
    first = [pose for pose, distance in zip(poses, distances, strict=True) if distance > 100.0]
    away = [
        (pose.angle - math.atan2(pose.y - 200.0, pose.x - 200.0) + math.pi) % (2 * math.pi) - math.pi for pose in first
    ]
    assert abs(np.mean(away)) < 0.1
    assert np.std(away) < 0.5


def test_most_nuclei_touch_another_one() -> None:
    """What the sheets are for: nuclei with hardly any background between them."""
    touching = []
    for sheet, rng in sheets(20):
        nuclei, front = arrange_in_rows(rng, SIZE, sheet.poses(rng, SIZE))
        padded = np.pad(front, 2)
        for number in range(1, len(nuclei) + 1):
            mine = front == number
            assert mine.sum() >= 12
            around = np.zeros_like(padded, bool)
            for dy in (0, 2, 4):
                for dx in (0, 2, 4):
                    around[dy : dy + SIZE[0], dx : dx + SIZE[1]] |= mine
            others = padded[around]
            touching.append(bool(((others != number) & (others > 0)).any()))
    assert len(touching) > 300
    assert np.mean(touching) > 0.7
