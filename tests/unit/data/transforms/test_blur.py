"""Blur: how wide it is, which images it takes, and how often it is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from mask2former.data.annotated import Annotated
from mask2former.data.transforms import ResizeCropFlip
from mask2former.data.transforms.blur import Blur, draw_blur
from mask2former.errors import UserError


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("sigma", [0.8, 2.0])
def test_a_line_becomes_as_wide_as_the_standard_deviation_says(channels: int, sigma: float) -> None:
    image = np.zeros((9, 61, channels), np.uint8)
    image[:, 30] = 250
    blurred = Blur(sigma)(image)
    assert blurred.shape == image.shape
    assert blurred.dtype == np.uint8
    assert (blurred == blurred[:1, :, :1]).all()  # all rows and bands alike, also at the edges
    line = blurred[0, :, 0].astype(float)
    weights = line / line.sum()
    assert np.sqrt((weights * (np.arange(61) - 30) ** 2).sum()) == pytest.approx(sigma, rel=0.06)
    assert line.sum() == pytest.approx(250, rel=0.06)


@pytest.mark.parametrize("sigma", [-1.0, 101.0, float("nan"), float("inf")])
def test_other_deviations_are_refused(sigma: float) -> None:
    with pytest.raises(UserError, match="from 0 to 100 pixels, got"):
        Blur(sigma)


def test_no_blur_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    np.testing.assert_array_equal(Blur(0.0)(image), image)


def test_blur_is_drawn_half_of_the_time_up_to_the_largest() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([draw_blur(rng, 2.0).sigma for _ in range(2000)])
    assert 0.46 < (drawn > 0).mean() < 0.54
    assert 1.95 < drawn.max() <= 2
    assert drawn[drawn > 0].mean() == pytest.approx(1, abs=0.05)


def test_samples_are_blurred_but_not_their_masks() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[10:30, 10:30] = 200
    ids = (image[..., 0] > 0).astype(np.int32)
    source = Annotated(image, np.zeros(1, dtype=np.int64), ids=ids)
    recipe = ResizeCropFlip((40,), 40, None, None, "none", color_jitter=False, blur=3.0)
    grey = []
    for seed in range(20):
        sample = recipe.draw((40, 40), np.random.default_rng(seed))(source)
        assert sample.target is not None
        np.testing.assert_array_equal(sample.target.masks[0, 0].numpy(), ids > 0)
        grey.append(int(((sample.image > 0) & (sample.image < 200)).sum()))
    assert min(grey) == 0
    assert max(grey) > 500
