"""The model that comes with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from mask2former import demo, recipes
from mask2former.data.scenes import SCENE_CATEGORIES, Scenes
from mask2former.inference.predictor import Predictor


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_pretrained("scenes-tiny", device="cpu")


def test_it_is_small_and_its_recipe_is_known(predictor: Predictor) -> None:
    file = resources.files("mask2former").joinpath("assets", "scenes-tiny.safetensors")
    assert len(file.read_bytes()) < 10_000_000
    assert predictor.model.config is not None
    stored = predictor.model.config.model_copy(update={"init": None})
    assert stored == recipes.scenes_tiny().model.model_copy(update={"init": None})
    assert predictor.categories == SCENE_CATEGORIES


def test_demonstration_on_fresh_scenes(tmp_path: Path) -> None:
    """Fifty scenes that were in neither training nor validation."""
    report = demo.run("scenes-tiny", tmp_path / "demo", device="cpu")
    assert report.metrics["panoptic/PQ"] > 70
    assert report.sheet.exists()


def test_it_finds_the_things_of_a_scene(predictor: Predictor) -> None:
    sample = Scenes((192, 192), seed=3_000_000, length=1)[0]
    assert sample.target is not None
    image = sample.image[0].permute(1, 2, 0).numpy()
    result = predictor(image, "semantic")
    truth = np.zeros(image.shape[:2], int)
    for label, mask in zip(sample.target.labels.tolist(), sample.target.masks[:, 0].numpy(), strict=True):
        truth[mask] = label
    assert (result.labels == truth).mean() > 0.7
