"""Colour jitter: what each property changes, and how it rounds."""

from __future__ import annotations

import numpy as np

from mask2former.data.transforms import ColorJitter, draw_color_jitter


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_no_change_of_colour_is_none_and_the_image_given_stays() -> None:
    pixels = image()
    np.testing.assert_array_equal(ColorJitter()(pixels), pixels)
    for seed in range(50):
        changed = draw_color_jitter(np.random.default_rng(seed))(pixels)
        assert changed.shape == pixels.shape
        assert changed.dtype == np.uint8
    np.testing.assert_array_equal(pixels, image())


def test_brightness_and_contrast_clip_and_truncate() -> None:
    pixels = np.array([[[0, 100, 250]]], dtype=np.uint8)
    np.testing.assert_array_equal(ColorJitter(brightness=20.7)(pixels), [[[20, 120, 255]]])
    np.testing.assert_array_equal(ColorJitter(brightness=-20.7)(pixels), [[[0, 79, 229]]])
    np.testing.assert_array_equal(ColorJitter(contrast=0.999)(pixels), [[[0, 99, 249]]])
    both = ColorJitter(brightness=10, contrast=1.5, contrast_first=False)(pixels)
    np.testing.assert_array_equal(both, [[[15, 165, 255]]])


def test_hue_turns_the_colour_wheel_in_half_degrees() -> None:
    red = np.array([[[255, 0, 0], [0, 255, 0], [77, 77, 77]]], dtype=np.uint8)
    np.testing.assert_array_equal(ColorJitter(hue=15)(red), [[[255, 128, 0], [0, 255, 128], [77, 77, 77]]])
    np.testing.assert_array_equal(ColorJitter(hue=-15)(red), [[[255, 0, 128], [128, 255, 0], [77, 77, 77]]])


def test_saturation_moves_towards_grey_and_back() -> None:
    pixels = np.array([[[200, 100, 100], [50, 150, 50]]], dtype=np.uint8)
    np.testing.assert_array_equal(ColorJitter(saturation=0.5)(pixels), [[[200, 150, 150], [100, 150, 100]]])
    strong = ColorJitter(saturation=1.5)(pixels)
    np.testing.assert_array_equal(strong.max(axis=2), [[200, 150]])
    assert (strong.min(axis=2) < [[100, 50]]).all()


def test_hue_and_saturation_nearly_round_trip() -> None:
    assert abs(ColorJitter(saturation=1.0)(image()).astype(int) - image()).max() <= 6  # hue has 180 steps
