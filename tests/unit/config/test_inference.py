"""Thresholds in the settings of a model."""

from __future__ import annotations

from typing import Any

import pytest

from mask2former import recipes
from mask2former.config import InferenceConfig


@pytest.mark.parametrize(
    ("values", "panoptic", "instance"),
    [
        ({}, 0.8, 0.5),
        ({"score_threshold": 0.6}, 0.6, 0.5),  # a panoptic model that predicts instances
        ({"instance_threshold": 0.6}, 0.8, 0.6),
        ({"tasks": ["instance"]}, 0.8, 0.5),
        ({"tasks": ["instance"], "score_threshold": 0.85}, 0.8, 0.85),  # a file of 0.1.0
        ({"tasks": ["instance", "semantic"], "score_threshold": 0.85}, 0.8, 0.85),
        ({"tasks": ["instance"], "score_threshold": 0.8, "instance_threshold": 0.6}, 0.8, 0.6),  # a current file
        ({"tasks": ["instance"], "score_threshold": 0.5, "instance_threshold": 0.5}, 0.8, 0.5),  # tasks edited
        ({"tasks": ["semantic"], "score_threshold": 0.0}, 0.0, 0.5),
    ],
)
def test_each_task_has_its_threshold(values: dict[str, Any], panoptic: float, instance: float) -> None:
    settings = InferenceConfig.model_validate(values)
    assert (settings.score_threshold, settings.instance_threshold) == (panoptic, instance)
    assert InferenceConfig.model_validate_json(settings.model_dump_json()) == settings
    assert InferenceConfig.model_validate(settings.model_dump()) == settings


def test_a_threshold_without_effect_is_refused() -> None:
    stored = InferenceConfig(tasks=("instance",), score_threshold=0.85).model_dump()
    with pytest.raises(ValueError, match="set instance_threshold"):
        InferenceConfig.model_validate(stored | {"score_threshold": 0.6})
    assert InferenceConfig.model_validate(stored | {"instance_threshold": 0.6}).instance_threshold == 0.6


@pytest.mark.parametrize("name", recipes.recipe_names())
def test_published_models_show_instances_from_a_half(name: str) -> None:
    assert recipes.recipe(name).model.inference.instance_threshold == 0.5
