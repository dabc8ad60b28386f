"""Multi-scale and flipped averaging of semantic scores against the published implementation, in float64."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import SLUGS, arrays, facts, filled_model

from mask2former import recipes
from mask2former.config import InferenceConfig, Task
from mask2former.data.transforms import shortest_edge_size
from mask2former.inference.predictor import Predictor
from mask2former.inference.tta import MultiScaleFlip, View, through_views

CASE = "tta_r50_ade_semantic"


@pytest.fixture(scope="module")
def settings() -> InferenceConfig:
    published = recipes.recipe(SLUGS[CASE]).model.inference
    return published.model_copy(update={"short_edge": 0})  # the stored image was resized already


@pytest.fixture(scope="module")
def augmentation() -> MultiScaleFlip:
    fact = facts(CASE)
    return MultiScaleFlip(tuple(fact["min_sizes"]), fact["max_size"], flip=fact["flip"])


def test_the_views_are_the_published_images(augmentation: MultiScaleFlip, settings: InferenceConfig) -> None:
    image = arrays(CASE)["image"]
    views = [view.of(image) for view in augmentation.views(image.shape[:2], settings)]
    expected = [arrays(CASE)[f"augmented{number}"] for number in range(4)]
    assert len(views) == 4
    # Ours begin with the size nearest to the plain one; the sum does not depend on the order.
    for ours, number in zip(views, (2, 3, 0, 1), strict=True):
        np.testing.assert_array_equal(ours, expected[number])


def test_averaged_scores_and_classes(augmentation: MultiScaleFlip, settings: InferenceConfig) -> None:
    image = arrays(CASE)["image"]
    predictor = Predictor(filled_model(SLUGS[CASE]), device="cpu", settings=settings)
    views: dict[Task, list[View]] = {"semantic": augmentation.views(image.shape[:2], settings)}
    with torch.inference_mode():
        _, scores = through_views(predictor.predictions, image, image.shape[:2], views, settings)
    assert scores is not None
    assert scores.dtype == torch.float64
    np.testing.assert_allclose(scores.sum((1, 2)), arrays(CASE)["sem_seg.class_sum"], rtol=1e-7)
    if "sem_seg.every4" in arrays(CASE):
        np.testing.assert_allclose(scores[:, ::4, ::4], arrays(CASE)["sem_seg.every4"], atol=1e-6)
    np.testing.assert_array_equal(scores.argmax(0), arrays(CASE)["sem_seg.argmax"])


def test_sizes_are_those_of_the_published_configurations() -> None:
    shared = os.environ.get("MASK2FORMER_SHARED")
    if not shared:
        pytest.skip("reads all published configurations: set MASK2FORMER_SHARED")
    configs = json.loads((Path(shared) / "reference" / "configs.json").read_text())
    compared = 0
    for slug in recipes.recipe_names("official"):
        recipe = recipes.recipe(slug)
        if recipe.is_video:
            continue
        published = configs[recipe.reproduces]["config"]["TEST"]["AUG"]
        inference = recipe.model.inference
        # A square image of the plain size, which no cap reaches, and a very long one, which all of them reach.
        for ratio in (1, 100):
            plain = shortest_edge_size((600, 600 * ratio), inference.short_edge, inference.long_edge)
            sizes = [view.size_hw for view in MultiScaleFlip().views(plain, inference)]
            expected = [
                shortest_edge_size(plain, size, published["MAX_SIZE"])
                for size in published["MIN_SIZES"]
                for _ in range(2)
            ]
            assert sorted(sizes) == sorted(expected), slug
        assert published["FLIP"]
        compared += 1
    assert compared == 47
