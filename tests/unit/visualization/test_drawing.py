"""Overlays: what is painted where, outlines on any background, enlargement, nothing random."""

import time
from typing import Any

import numpy as np
import pytest

from mask2former import visualization
from mask2former.errors import UserError
from mask2former.visualization import Region
from mask2former.visualization.colors import luminance

GREY = np.full((240, 320, 3), 120, dtype=np.uint8)


def discs(count: int, radius: tuple[int, int], size_hw: tuple[int, int] = (240, 320)) -> np.ndarray:
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[: size_hw[0], : size_hw[1]]
    return np.stack(
        [
            (rows - rng.integers(size_hw[0])) ** 2 + (columns - rng.integers(size_hw[1])) ** 2
            <= rng.integers(*radius) ** 2
            for _ in range(count)
        ]
    )


def test_pixels_far_from_masks_stay_and_inside_is_tinted() -> None:
    masks = np.zeros((1, 240, 320), dtype=bool)
    masks[0, 100:140, 100:200] = True
    red = Region("box", (230, 30, 30))
    drawn = np.asarray(visualization.overlay_instances(GREY, masks, [red], labels=False))
    np.testing.assert_array_equal(drawn[:90], GREY[:90])
    assert drawn[120, 150, 0] > 150 > 100 > drawn[120, 150, 1]
    # the outline stands out from the tint
    edge, middle = drawn[100, 150].astype(int), drawn[120, 150].astype(int)
    assert abs(edge - middle).max() > 40


def test_no_outline_where_the_image_ends() -> None:
    masks = np.zeros((1, 60, 80), dtype=bool)
    masks[0, :, :40] = True
    drawn = np.asarray(
        visualization.overlay_instances(GREY[:60, :80], masks, [Region("a", (230, 30, 30))], labels=False)
    )
    np.testing.assert_array_equal(drawn[0, 10], drawn[30, 10])
    np.testing.assert_array_equal(drawn[30, 0], drawn[30, 10])


def test_small_objects_lie_on_large_ones() -> None:
    masks = np.zeros((2, 240, 320), dtype=bool)
    masks[0, 100:130, 100:130] = True
    masks[1, 20:220, 20:300] = True
    regions = [Region("small", (20, 220, 20), group=0), Region("large", (220, 20, 20), group=1)]
    drawn = np.asarray(visualization.overlay_instances(GREY, masks, regions, labels=False)).astype(int)
    assert drawn[115, 115, 1] > drawn[115, 115, 0]
    assert drawn[200, 200, 0] > drawn[200, 200, 1]


def test_panoptic_and_semantic_maps_leave_unknown_values_alone() -> None:
    ids = np.zeros((240, 320), dtype=np.int32)
    ids[:, 160:] = 9
    ids[200:, :100] = 5  # not among the numbers
    drawn = np.asarray(visualization.overlay_panoptic(GREY, ids, [9], [Region("sky", (40, 40, 220), is_thing=False)]))
    np.testing.assert_array_equal(drawn[100, :150], GREY[100, :150])
    np.testing.assert_array_equal(drawn[230, :90], GREY[230, :90])
    assert drawn[10, 300, 2] > 150
    classes = np.full((240, 320), 255)
    np.testing.assert_array_equal(visualization.overlay_semantic(GREY, classes, [Region("a", (1, 2, 3))]), GREY)


def test_the_same_arguments_give_the_same_image() -> None:
    masks = discs(12, (10, 50))
    regions = [Region("a", (200, 40, 40), 0.7) for _ in range(12)]
    first, second = (np.asarray(visualization.overlay_instances(GREY, masks, regions)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 200), (200, 3), (17, 23)])
def test_tiny_and_thin_images(size_hw: tuple[int, int]) -> None:
    image = np.zeros((*size_hw, 3), dtype=np.uint8)
    masks = np.ones((2, *size_hw), dtype=bool)
    masks[1] = False
    regions = [Region("a long name of a class", (9, 9, 9), 0.5), Region("b", (0, 0, 0))]
    assert visualization.overlay_instances(image, masks, regions).size == size_hw[::-1]
    assert visualization.overlay_panoptic(image, masks[0].astype(np.int32), [1], regions[:1]).size == size_hw[::-1]
    assert visualization.overlay_semantic(image, masks[1].astype(int), regions, scale=2).width == 2 * size_hw[1]


@pytest.mark.parametrize(("wrong", "reason"), [("a.jpg", "no image 'a.jpg'"), (None, "cannot read an image from None")])
def test_other_things_than_images_are_refused(wrong: object, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        visualization.overlay_semantic(wrong, np.zeros((240, 320), dtype=int), [])  # type: ignore[arg-type]


@pytest.mark.slow
def test_fifty_instances_are_drawn_quickly() -> None:
    # processor time, so that a busy machine does not decide
    masks = discs(50, (15, 90), (480, 640))
    regions = [Region(f"class {index % 20}", (200, 80, 40), 0.9, index % 20) for index in range(50)]
    image = np.zeros((480, 640, 3), dtype=np.uint8)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        visualization.overlay_instances(image, masks, regions)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.15


def test_objects_between_the_points_of_the_coarse_search_have_labels_too() -> None:
    """An object that the coarse grid of the search for a label position misses is named like any other."""
    ids = np.zeros((401, 401), dtype=np.int32)
    ids[::2, ::2] = 1  # the search looks at rows and columns 1, 3, 5, ...
    black, regions = np.zeros((401, 401, 3), dtype=np.uint8), [Region("sky", (200, 40, 40), is_thing=False)]
    named, plain = (
        np.asarray(visualization.overlay_panoptic(black, ids, [1], regions, labels=labels)) for labels in (True, False)
    )
    written = (named != plain).any(axis=2)
    assert (named[written].min(axis=1) > 200).sum() > 20  # white letters
    rows, columns = np.nonzero(written)
    assert np.ptp(rows) < 40  # one label
    assert np.ptp(columns) < 80


def test_a_track_keeps_the_colour_of_its_number() -> None:
    masks = np.zeros((2, 240, 320), dtype=bool)
    masks[0, 20:100, 20:100] = masks[1, 120:200, 120:200] = True
    regions = [Region("cat", (200, 30, 30), group=1, identity=number) for number in (3, 4)]
    both = np.asarray(visualization.overlay_instances(GREY, masks, regions, labels=False))
    second = np.asarray(visualization.overlay_instances(GREY, masks[1:], regions[1:], labels=False))
    assert (both[160, 160] == second[160, 160]).all()
    assert abs(both[60, 60].astype(int) - both[160, 160]).max() > 30


GROUNDS = {
    "fluorescence": (6, 6, 9),
    "bright field": (236, 234, 238),
    "purple tissue": (168, 122, 190),
    "stained nucleus": (88, 58, 128),
    "pink tissue": (226, 170, 200),
    "grey": (119, 119, 119),
}


@pytest.mark.parametrize(("radius", "scale"), [(7, 1), (24, 1), (7, 3)])
@pytest.mark.parametrize("ground", GROUNDS)
def test_an_outline_stands_out_from_any_ground(ground: str, radius: int, scale: int) -> None:
    """All around an object, the line or its casing has a contrast above 2.7:1 (WCAG demands 3:1 of graphics)."""
    rows, columns = np.mgrid[:64, :64] - 32
    mask = rows**2 + columns**2 <= radius**2
    image = np.full((64, 64, 3), GROUNDS[ground], dtype=np.uint8)
    behind = float(luminance(np.array(GROUNDS[ground])))
    rows, columns = np.mgrid[: 64 * scale, : 64 * scale] - 32 * scale - (scale - 1) / 2
    distance = np.hypot(rows, columns) / scale
    sectors = np.floor((np.arctan2(rows, columns) + np.pi) / (2 * np.pi) * 16).astype(int) % 16
    edge = [(sectors == sector) & (abs(distance - radius) < 3.5) for sector in range(16)]
    for color in [(200, 40, 40), (30, 30, 220), (160, 110, 190), (250, 250, 250), (5, 5, 5)]:
        drawn = visualization.overlay_instances(image, mask[None], [Region("a", color)], labels=False, scale=scale)
        lights = luminance(np.asarray(drawn))
        contrast = (np.maximum(lights, behind) + 0.05) / (np.minimum(lights, behind) + 0.05)
        weakest = min(contrast[part].max() for part in edge)
        assert weakest > 2.7, (color, weakest)


@pytest.mark.parametrize(
    ("size_hw", "scale"),
    [((64, 80), 9), ((256, 256), 3), ((384, 100), 2), ((385, 385), 1), ((32, 32), 16), ((1, 1), 16)],
)
def test_small_images_are_enlarged_by_a_whole_number(size_hw: tuple[int, int], scale: int) -> None:
    image, masks = np.zeros((*size_hw, 3), dtype=np.uint8), np.ones((1, *size_hw), dtype=bool)
    regions = [Region("a", (200, 40, 40))]
    assert visualization.readable_scale(size_hw) == scale
    for drawn in (
        visualization.overlay_instances(image, masks, regions, scale=None),
        visualization.overlay_panoptic(image, masks[0].astype(np.int32), [1], regions, scale=None),
        visualization.overlay_semantic(image, masks[0].astype(int) - 1, regions, scale=None),
    ):
        assert drawn.size == (scale * size_hw[1], scale * size_hw[0])
    assert (
        visualization.overlay_instances(image, masks, regions).size == size_hw[::-1]
    )  # as large as the image by default


def test_class_maps_of_bytes_leave_unknown_values_alone() -> None:
    classes = np.full((240, 320), 255, dtype=np.uint8)
    np.testing.assert_array_equal(visualization.overlay_semantic(GREY, classes, [Region("a", (1, 2, 3))]), GREY)


@pytest.mark.parametrize("scale", [0, -1, 1.5, "2"])
def test_a_scale_that_is_no_whole_number_is_refused(scale: Any) -> None:
    masks = np.ones((1, 4, 4), dtype=bool)
    with pytest.raises(UserError, match="scale must be a whole number from 1, or None, got"):
        visualization.overlay_instances(np.zeros((4, 4, 3), np.uint8), masks, [Region("a", (1, 2, 3))], scale=scale)
