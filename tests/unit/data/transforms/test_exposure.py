"""Exposure: factors relative to the brightest values of an image, and colour jitter that cannot blacken a dark one."""

from __future__ import annotations

import numpy as np
import pytest

from mask2former.data.annotated import Annotated
from mask2former.data.transforms import ColorJitter, Geometry, Plan, ResizeCropFlip
from mask2former.data.transforms.exposure import Exposure, draw_exposure, white_of


def dark_image(channels: int = 3) -> np.ndarray:
    """Objects at 20..30 on a background of 3, with a few highlights at 90."""
    image = np.full((40, 50, channels), 3, np.uint8)
    image[5:30, 5:30] = np.arange(20, 30).repeat(5)[:25, None]
    image[0, :5] = 90  # a quarter of a percent
    return image


def test_white_leaves_out_highlights() -> None:
    assert white_of(dark_image()) == 24
    assert white_of(np.full((2, 2, 1), 255, np.uint8)) == 255
    assert white_of(np.zeros((2, 2, 1), np.uint8)) == 1  # black images are not divided by zero
    ramp = np.arange(200, dtype=np.uint8)[:, None, None]
    assert white_of(ramp) == 198  # 199 of 200 values


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_all_values_are_multiplied_by_one_factor(channels: int) -> None:
    image = dark_image(channels)
    brighter = Exposure(240.0).around(None, image)(image)
    np.testing.assert_array_equal(brighter, np.minimum(255, 10 * image.astype(int)))  # highlights are clipped
    assert brighter.dtype == np.uint8
    darker = Exposure(12.0).around(None, image)(image)
    np.testing.assert_array_equal(darker, np.rint(image / 2))
    np.testing.assert_array_equal(Exposure().around(None, image)(image), image)


def test_parts_of_an_image_share_its_factor() -> None:
    image = dark_image()
    change = Exposure(240.0).around(None, image)
    np.testing.assert_array_equal(change(image[:10, :8]), change(image)[:10, :8])
    assert change(image[32:])[0, 0, 0] == 30  # background alone is not stretched


def test_colour_jitter_acts_on_the_full_range() -> None:
    image, jitter = dark_image(), ColorJitter(brightness=-30.0)
    assert not jitter(image)[5:30, 5:30].any()  # published jitter wipes all objects out
    kept = Exposure().around(jitter, image)(image)
    assert kept[5:30, 5:30].min() >= 15
    assert white_of(kept) == pytest.approx(24 * 225 / 255, abs=1)


def test_the_plan_measures_the_whole_image_and_not_the_crop() -> None:
    image = dark_image()
    recipe = ResizeCropFlip((40,), 50, (10, 10), None, "none", color_jitter=False, exposure=(1.0, 1.0))
    seen = set()
    for seed in range(60):
        plan = recipe.draw((40, 50), np.random.default_rng(seed))
        shown = plan(Annotated(image, np.zeros(0, dtype=np.int64))).image
        background = int(shown.min())
        seen.add(background)
    assert {3, 32} <= seen  # background as it was, and brightened, whatever else the crop shows
    assert not seen & {*range(4, 20), *range(33, 200), 255}  # 255: background alone, at the full range


def test_exposures_are_drawn_half_of_the_time_within_their_limits() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_exposure(rng, 0.1, 0.8).white for _ in range(2000)]
    whites = [white for white in drawn if white is not None]
    assert 0.46 < len(whites) / len(drawn) < 0.54
    assert 0.1 * 255 <= min(whites) < 0.105 * 255
    assert 0.76 * 255 < max(whites) <= 0.8 * 255
    assert np.median(whites) == pytest.approx(255 * np.sqrt(0.1 * 0.8), rel=0.08)  # uniform in the logarithm


def test_without_exposure_nothing_else_changes() -> None:
    recipe = ResizeCropFlip((30, 60), 110, (40, 40), (50, 50))
    exposed = ResizeCropFlip((30, 60), 110, (40, 40), (50, 50), exposure=(0.2, 1.0))
    for seed in range(5):
        one, two = (each.draw((60, 80), np.random.default_rng(seed)) for each in (recipe, exposed))
        assert one.exposure is None
        assert two.exposure is not None
        assert (one.geometry, one.color) == (two.geometry, two.color)
    assert Plan(Geometry((4, 4))).exposure is None
