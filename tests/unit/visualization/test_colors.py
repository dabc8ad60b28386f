"""Colours: neighbours differ, classes stay together, and the order of objects has no random effect."""

import time

import numpy as np
import pytest

from mask2former.errors import UserError
from mask2former.visualization.colors import identity_color, line_color, luminance, perceived, recolored, spread_colors
from mask2former.visualization.regions import Color, Crop, Region

CELL = Region("cell", (80, 160, 230))


def crops(indices: list[tuple[int, int]], side: int = 10) -> list[Crop]:
    """Square crops with their top left corners at ``indices``."""
    mask = np.ones((side, side), dtype=bool)
    return [
        Crop(index, (slice(y, y + side), slice(x, x + side)), mask, side * side) for index, (y, x) in enumerate(indices)
    ]


def difference(one: Color, other: Color) -> float:
    return float(np.linalg.norm(perceived(np.array(one)) - perceived(np.array(other))))


def touching(indices: list[tuple[int, int]], side: int = 10) -> list[tuple[int, int]]:
    corners = np.array(indices)
    apart = np.abs(corners[:, None] - corners).max(axis=2)
    return [(int(i), int(j)) for i, j in np.argwhere(apart <= side) if i < j]


def test_differences_are_those_of_cielab() -> None:
    np.testing.assert_allclose(perceived(np.array([255, 255, 255])), [100, 0, 0], atol=0.05)
    np.testing.assert_allclose(perceived(np.array([0, 0, 0])), [0, 0, 0], atol=0.05)
    np.testing.assert_allclose(perceived(np.array([255, 0, 0])), [53.24, 80.09, 67.20], atol=0.1)  # white is D65
    np.testing.assert_allclose(perceived(np.array([0, 0, 255])), [32.30, 79.19, -107.86], atol=0.1)
    assert float(luminance(np.array([255, 255, 255]))) == pytest.approx(1)


@pytest.mark.parametrize("count", [2, 3, 5, 8, 30, 400])
@pytest.mark.parametrize("order", ["rows", "shuffled"])
def test_neighbours_of_one_class_differ_however_few_or_many(count: int, order: str) -> None:
    side = int(np.ceil(np.sqrt(count)))
    indices = [(10 * (index // side), 10 * (index % side) + 5 * (index // side % 2)) for index in range(count)]
    if order == "shuffled":
        indices = [indices[index] for index in np.random.default_rng(1).permutation(count)]
    colors = spread_colors([CELL] * count, crops(indices))
    pairs = touching(indices)
    assert pairs
    assert min(difference(colors[i], colors[j]) for i, j in pairs) > 35


def test_neighbours_differ_where_objects_lie_on_one_another() -> None:
    chosen = np.random.default_rng(2).permutation(120 * 120)[:60]
    indices = [(int(index) // 120, int(index) % 120) for index in chosen]
    colors = spread_colors([CELL] * 60, crops(indices))
    nearest = [
        (i, int(np.argsort([(a - c) ** 2 + (b - d) ** 2 for c, d in indices])[1])) for i, (a, b) in enumerate(indices)
    ]
    assert min(difference(colors[i], colors[j]) for i, j in nearest) > 25


def test_a_grey_class_has_hues_too_where_it_is_alone() -> None:
    colors = np.array(spread_colors([Region("cell", (128, 128, 128))] * 6, crops([(0, 10 * i) for i in range(6)])))
    assert (np.ptp(colors, axis=1) > 60).all()


def test_members_of_a_class_among_others_keep_near_its_colour() -> None:
    regions = [Region("cat", (200, 60, 40), group=1), Region("dog", (40, 60, 200), group=2)] * 6
    placed = crops([(0, 10 * index) for index in range(12)])
    colors = np.asarray(spread_colors(regions, placed)).astype(int)
    assert (colors[::2, 0] > colors[::2, 2]).all()  # cats stay red
    assert (colors[1::2, 2] > colors[1::2, 0]).all()  # dogs stay blue
    same = [difference(tuple(colors[i]), tuple(colors[i + 2])) for i in range(10)]
    assert min(same) > 12
    alone = spread_colors([regions[0], regions[1]], placed[:2])
    assert alone[0] == tuple(colors[0])  # the first is always the same


def test_later_objects_change_no_colour() -> None:
    indices = [(10 * (i // 5), 10 * (i % 5)) for i in range(25)]
    few, many = spread_colors([CELL] * 15, crops(indices[:15])), spread_colors([CELL] * 25, crops(indices))
    # those with as many neighbours among the first as they have in all
    assert few[:8] == many[:8]


def test_a_variant_and_an_identity_have_one_colour_wherever_they_are() -> None:
    regions = [Region("cell", (80, 160, 230), variant=4), CELL, Region("cell 7", (80, 160, 230), identity=7)]
    here, there = (
        spread_colors(regions, crops(indices)) for indices in ([(0, 0), (0, 5), (5, 0)], [(90, 0), (9, 5), (50, 0)])
    )
    assert (here[0], here[2]) == (there[0], there[2])
    assert here[2] == identity_color(7)
    numbered = spread_colors([Region("cell", (80, 160, 230), variant=number) for number in range(10)])
    assert len(set(numbered)) == 10


def test_the_hue_of_the_ground_is_avoided() -> None:
    placed = crops([(0, 0)])
    for ground in [(80, 160, 230), (88, 58, 128), (220, 60, 60)]:
        image = np.full((12, 12, 3), ground, dtype=np.uint8)
        (color,) = spread_colors([Region("cell", ground)], placed, image)
        assert difference(color, ground) > 40


@pytest.mark.parametrize("color", [(0, 0, 255), (255, 0, 0), (1, 1, 1), (128, 128, 128), (255, 255, 255), (60, 0, 90)])
def test_lines_are_light_enough_for_dark_casings(color: Color) -> None:
    assert float(luminance(np.array(line_color(color)))) > 0.44


def test_empty_and_single() -> None:
    assert spread_colors([]) == []
    assert len(spread_colors([CELL], crops([(0, 0)]))) == 1


@pytest.mark.slow
def test_two_thousand_objects_are_coloured_quickly() -> None:
    placed = crops([(12 * (i // 50), 12 * (i % 50)) for i in range(2000)])
    seconds = []
    for _ in range(3):
        start = time.process_time()
        spread_colors([CELL] * 2000, placed)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.8


# Linear RGB as people without one kind of cones see it (Machado, Oliveira and Fernandes, 2009).
BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def seen_by(kind: str, color: Color) -> Color:
    share = np.array(color) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(BLIND[kind]) @ linear, 0, 1)
    curved = 255 * np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    return float(curved[0]), float(curved[1]), float(curved[2])  # type: ignore[return-value]


@pytest.mark.parametrize("kind", BLIND)
def test_colours_for_colour_blind_people_are_told_apart_by_them(kind: str) -> None:
    regions = recolored([Region("class", (9, 9, 9), group=group) for group in range(8)], "colorblind")
    colors = [region.color for region in regions]
    assert len(set(colors)) == 8
    least = min(
        difference(seen_by(kind, one), seen_by(kind, other))
        for index, one in enumerate(colors)
        for other in colors[:index]
    )
    assert least > 10  # a just noticeable difference is about 2.3


def test_members_of_a_class_keep_its_safe_hue_and_one_class_has_all_eight() -> None:
    pair = [Region("cell", (1, 2, 3), group=0), Region("dog", (1, 2, 3), group=8)]
    several = recolored(pair * 10, "colorblind")
    assert len({region.color for region in several}) == 2  # of classes 0 and 8, which would share one
    colors = spread_colors(several, crops([(0, 12 * index) for index in range(20)]))
    assert 2 < len(set(colors[0::2])) <= 3
    assert not set(colors[0::2]) & set(colors[1::2])
    alone = spread_colors(recolored([CELL] * 40, "colorblind"), crops([(0, 12 * index) for index in range(40)]))
    assert len(set(alone)) == 8
    with pytest.raises(UserError, match="palette must be classes or colorblind, got 'jet'"):
        recolored([CELL], "jet")  # type: ignore[arg-type]
