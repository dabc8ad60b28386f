"""Exposure: factors relative to the brightest values of an image, and colour jitter that cannot blacken a dark one."""

from __future__ import annotations

import numpy as np
import pytest

from mask2former.data.annotated import Annotated
from mask2former.data.transforms import ColorJitter, Exposure, Geometry, Plan, ResizeCropFlip, draw_exposure
from mask2former.data.transforms.exposure import white_of
from mask2former.errors import UserError


def dark_image(channels: int = 3) -> np.ndarray:
    """An object at 20 to 24 on a background of 3."""
    image = np.full((40, 50, channels), 3, np.uint8)
    image[5:30, 5:30] = np.arange(20, 25).repeat(5)[:25, None]
    return image


def test_white_leaves_out_defects_but_no_small_object() -> None:
    image = np.full((100, 100, 1), 9, np.uint8)
    image[0, 0] = 255  # a hundredth of a percent
    assert white_of(image) == 9
    image[50:52, 50:52] = 120
    assert white_of(image) == 120
    assert white_of(np.full((2, 2, 1), 255, np.uint8)) == 255
    assert white_of(np.zeros((2, 2, 1), np.uint8)) == 1  # black images are not divided by zero


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_all_values_are_multiplied_by_one_factor(channels: int) -> None:
    image = dark_image(channels)
    brighter = Exposure(240.0).around(None, image)(image)
    np.testing.assert_array_equal(brighter, 10 * image.astype(int))
    assert brighter.dtype == np.uint8
    darker = Exposure(12.0).around(None, image)(image)
    np.testing.assert_array_equal(darker, np.rint(image / 2))
    np.testing.assert_array_equal(Exposure(240.0, measured=48).around(None, image)(image), 5 * image.astype(int))


def test_an_image_as_it_is_stays_the_same() -> None:
    for image in (dark_image(), np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)):
        for color in (None, ColorJitter()):
            np.testing.assert_array_equal(Exposure().around(color, image)(image), image)


def test_what_exceeds_the_range_is_clipped() -> None:
    image = dark_image()
    image[0, 0] = 250
    assert Exposure(120.0, measured=24).around(None, image)(image)[0, 0].tolist() == [255] * 3


def test_parts_of_an_image_share_its_factor() -> None:
    image = dark_image()
    change = Exposure(240.0).around(None, image)
    np.testing.assert_array_equal(change(image[:10, :8]), change(image)[:10, :8])
    assert change(image[32:])[0, 0, 0] == 30  # background alone is not stretched


def test_brightness_is_in_proportion_to_the_image() -> None:
    image, jitter = dark_image(), ColorJitter(brightness=-30.0, contrast=1.5)
    assert not jitter(image)[5:30, 5:30].any()  # published jitter wipes all objects out
    shown = Exposure().around(jitter, image)(image)
    assert shown.max() == pytest.approx((24 - 30 * 24 / 255) * 1.5, abs=2)  # every step is truncated
    shown = Exposure(120.0).around(jitter, image)(image)
    assert shown.max() == pytest.approx((120 - 30 * 120 / 255) * 1.5, abs=2)


@pytest.mark.parametrize("white", [None, 40.0, 255.0])
def test_a_small_bright_object_is_told_from_the_background(white: float | None) -> None:
    image = np.full((200, 200, 3), 2, np.uint8)
    image[50:60, 50:60] = 200  # a quarter of a percent
    for brightness in (-32.0, 0.0, 32.0):
        shown = Exposure(white).around(ColorJitter(brightness=brightness), image)(image)
        assert shown[55, 55, 0] - int(shown[0, 0, 0]) > 25


def test_the_plan_measures_the_whole_image_and_not_the_crop() -> None:
    image = dark_image()
    recipe = ResizeCropFlip((40,), 50, (10, 10), None, "none", color_jitter=False, exposure=(1.0, 1.0))
    seen = set()
    for seed in range(60):
        plan = recipe.draw((40, 50), np.random.default_rng(seed))
        seen.add(int(plan(Annotated(image, np.zeros(0, dtype=np.int64))).image.min()))
    assert {3, 32} <= seen  # background as it was, and brightened, whatever else the crop shows
    assert not seen & {*range(4, 20), *range(33, 200), 255}  # 255: background alone, at the full range


def test_any_function_changes_colours_after_the_exposure() -> None:
    image = dark_image()
    seen = []

    def invert(part: np.ndarray) -> np.ndarray:
        seen.append(part)
        return 255 - part

    plan = Plan(Geometry((40, 50)), color=invert, exposure=Exposure(240.0))
    changed = plan(Annotated(image, np.zeros(0, dtype=np.int64))).image[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(seen[0], 10 * image.astype(int))
    np.testing.assert_array_equal(changed, 255 - 10 * image.astype(int))


def test_functions_that_return_no_such_image_are_refused() -> None:
    annotated = Annotated(dark_image(), np.zeros(0, dtype=np.int64))
    for function, got in (
        (lambda image: image / 2, r"returned float64 \(40, 50, 3\)"),
        (lambda image: image[:20], r"returned uint8 \(20, 50, 3\)"),
        (lambda image: None, "returned NoneType"),
    ):
        for part in ("color", "blur"):
            with pytest.raises(UserError, match=rf"got a uint8 array \(40, 50, 3\) and {got}; expected the same"):
                Plan(Geometry((40, 50)), **{part: function})(annotated)  # pyright: ignore[reportArgumentType]


def test_exposures_are_drawn_half_of_the_time_within_their_limits() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_exposure(rng, 0.1, 0.8).white for _ in range(2000)]
    whites = [white for white in drawn if white is not None]
    assert 0.46 < len(whites) / len(drawn) < 0.54
    assert 0.1 * 255 <= min(whites) < 0.105 * 255
    assert 0.76 * 255 < max(whites) <= 0.8 * 255
    assert np.median(whites) == pytest.approx(255 * np.sqrt(0.1 * 0.8), rel=0.08)  # uniform in the logarithm


@pytest.mark.parametrize("shares", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.1), (float("nan"), 1.0)])
def test_other_shares_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"two ascending shares of 255, from 0\.01 to 1, got"):
        draw_exposure(np.random.default_rng(0), *shares)


def test_without_exposure_nothing_else_changes() -> None:
    recipe = ResizeCropFlip((30, 60), 110, (40, 40), (50, 50))
    exposed = ResizeCropFlip((30, 60), 110, (40, 40), (50, 50), exposure=(0.2, 1.0), blur=2.0)
    for seed in range(5):
        one, two = (each.draw((60, 80), np.random.default_rng(seed)) for each in (recipe, exposed))
        assert (one.exposure, one.blur) == (None, None)
        assert two.exposure is not None
        assert two.blur is not None
        assert (one.geometry, one.color) == (two.geometry, two.color)
    assert Plan(Geometry((4, 4))).exposure is None
