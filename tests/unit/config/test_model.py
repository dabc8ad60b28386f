"""What a model is built from: how images are normalised."""

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
        ({"pixel_std": [58.395, 0, 57.375]}, r"'pixel_std\.1': Input should be greater than or equal to 1"),
        ({"pixel_std": [0.229, 0.224, 0.225]}, r"'pixel_std\.0': Input should be greater than or equal to 1"),
        ({"pixel_std": [1e9, 1, 1]}, "less than or equal to 1000"),
        ({"pixel_mean": [float("nan"), 0, 0]}, r"'pixel_mean\.0': Input should be a finite number"),
        ({"pixel_mean": [0, 0, float("inf")]}, r"'pixel_mean\.2'"),
        ({"pixel_mean": [-1, 0, 0]}, "greater than or equal to 0"),
        ({"pixel_mean": [1, 2]}, r"'pixel_mean\.2': Field required"),
        ({"pixel_mean": 127}, "'pixel_mean': Input should be a valid tuple"),
    ],
)
def test_normalisations_that_are_none_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(ModelConfig, values, "file")
