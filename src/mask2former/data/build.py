"""Configuration to data sets: the only place that knows them by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mask2former.config import ScenesConfig
from mask2former.data.scenes import SCENE_CATEGORIES, Scenes
from mask2former.structures.categories import Categories
from mask2former.structures.samples import Sample

__all__ = ["build_dataset", "categories_of"]


def categories_of(config: ScenesConfig) -> Categories:
    """The class list of a data set, without reading its pictures."""
    assert config.name == "scenes"
    return SCENE_CATEGORIES


def build_dataset(config: ScenesConfig, split: Literal["train", "validation"]) -> Sequence[Sample]:
    """Samples with targets, by index."""
    assert config.name == "scenes"
    if split == "train":
        return Scenes(config.image_size, config.train_seed, config.num_training)
    return Scenes(config.image_size, config.validation_seed, config.num_validation)
