"""The settings of a model for the normalisation of images."""

from __future__ import annotations

from typing import Any

import pytest

from mask2former.config import ArchitectureConfig, ModelConfig, parse
from mask2former.errors import UserError


def test_without_a_word_images_are_normalised_as_imagenet_and_files_say_nothing_of_it() -> None:
    usual = parse(ModelConfig, {}, "file")
    assert (usual.pixel_mean, usual.pixel_std) == ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    assert not usual.own_normalisation
    own = parse(ModelConfig, {"pixel_mean": [127, 127, 127]}, "file").architecture
    assert isinstance(own, ArchitectureConfig)
    assert own.own_normalisation == {"pixel_mean": (127.0, 127.0, 127.0), "pixel_std": usual.pixel_std}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pixel_std": [58.395, 0, 57.375]}, r"'pixel_std\.1' is 0; expected a number from 1 to 1000"),
        ({"pixel_std": [0.229, 0.224, 0.225]}, r"'pixel_std\.0' is 0\.229; expected a number from 1 to 1000"),
        ({"pixel_std": [1e9, 1, 1]}, "from 1 to 1000"),
        ({"pixel_mean": [float("nan"), 0, 0]}, r"'pixel_mean\.0' is nan; expected a number from 0 to 255"),
        ({"pixel_mean": [0, 0, float("inf")]}, r"'pixel_mean\.2'"),
        ({"pixel_mean": [-1, 0, 0]}, "is -1; expected a number from 0 to 255"),
        ({"pixel_mean": [1, 2]}, "pixel_mean has 2 numbers but pixel_std has 3; both need one for each channel"),
        ({"pixel_mean": [1] * 33, "pixel_std": [1] * 33}, "a list of 1 to 32 entries"),
        ({"pixel_mean": [], "pixel_std": []}, "a list of 1 to 32 entries"),
        ({"pixel_mean": 127}, "'pixel_mean' is 127; expected a list"),
    ],
)
def test_normalisations_that_are_none_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(ModelConfig, values, "file")


FIVE = {"pixel_mean": [9] * 5, "pixel_std": [9] * 5}


def test_a_model_of_other_channels_reads_as_many_bands_unless_it_says_which() -> None:
    assert parse(ModelConfig, {}, "file").inference.bands is None
    assert parse(ModelConfig, FIVE, "file").inference.bands == 5
    chosen = parse(ModelConfig, {**FIVE, "inference": {"bands": [9, 1, 1, 2, 3]}}, "file")
    assert (chosen.inference.bands, chosen.inference.channels, chosen.inference.fewest_bands) == ((9, 1, 1, 2, 3), 5, 9)
    again = parse(ModelConfig, chosen.model_dump(mode="json"), "file")
    assert again == chosen
    assert parse(ModelConfig, {"inference": {"bands": [4, 3, 2]}}, "file").channels == 3  # false colours


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**FIVE, "inference": {"bands": [1, 2]}}, "inference.bands specifies 2 bands but pixel_mean has 5 numbers"),
        ({"inference": {"bands": 4}}, "inference.bands specifies 4 bands but pixel_mean has 3 numbers"),
        *(
            (
                {"inference": {"bands": bands}},
                r"inference\.bands'?: expected up to 32 band numbers, each from 1 to 1000, or the number of bands",
            )
            for bands in (
                0,
                33,
                [],
                [0, 1, 2],
                [1.5, 2, 3],
                [True, 2, 3],
                "321",
                [1] * 33,
                [1001, 1, 2],
                {"a": 1},
                "x" * 999,
            )
        ),
    ],
)
def test_bands_that_make_no_images_of_the_model_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(ModelConfig, values, "file")
