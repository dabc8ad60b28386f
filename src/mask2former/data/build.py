"""Configuration to data sets: the only place that knows them by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mask2former.config import AugmentationConfig, CocoInstanceConfig, DataConfig, DatasetConfig, ScenesConfig
from mask2former.data.annotated import from_sample
from mask2former.data.datasets.coco import CocoInstances, read_categories
from mask2former.data.sampling import Draw
from mask2former.data.scenes import SCENE_CATEGORIES, Scenes
from mask2former.data.transforms import Augmentation, Geometry, LargeScaleJitter, Plan, ResizeCropFlip
from mask2former.structures.categories import Categories
from mask2former.structures.samples import Sample

__all__ = ["TrainingSet", "build_augmentation", "build_dataset", "build_training_set", "categories_of"]


def categories_of(config: DatasetConfig) -> Categories:
    """The class list of a data set, without reading its pictures.

    Raises:
        RequestError: the annotation file that has it cannot be read.
    """
    if isinstance(config, ScenesConfig):
        return SCENE_CATEGORIES
    return read_categories(config.train[0].annotations)


def build_dataset(
    config: DatasetConfig, split: Literal["train", "validation"], *, keep_empty: bool = True
) -> Sequence[Sample]:
    """Samples with targets, by index, as they are.

    Without ``keep_empty`` pictures without objects are left out (scenes always have some).

    Raises:
        RequestError: files that are missing or broken.
    """
    if isinstance(config, CocoInstanceConfig):
        files = config.train if split == "train" else config.validation
        return CocoInstances(
            [(entry.annotations, entry.images) for entry in files],
            keep_empty=keep_empty,
            missing_images=config.missing_images,
            missing_masks=config.missing_masks,
        )
    if split == "train":
        return Scenes(config.image_size, config.train_seed, config.num_training)
    return Scenes(config.image_size, config.validation_seed, config.num_validation)


def build_augmentation(config: AugmentationConfig) -> Augmentation | None:
    """The random recipe, or None for pictures as they are."""
    if config.name == "none":
        return None
    if config.name == "large-scale-jitter":
        return LargeScaleJitter(
            config.image_size, config.min_scale, config.max_scale, config.flip, keep_lost=config.keep_lost
        )
    return ResizeCropFlip(
        config.short_edges,
        config.long_edge,
        config.crop_size,
        config.pad_size,
        config.flip,
        color_jitter=config.color_jitter,
        keep_lost=config.keep_lost,
    )


class TrainingSet:
    """Samples by :class:`Draw`: the same index and seed give the same sample, whoever asks and when."""

    def __init__(self, samples: Sequence[Sample], augmentation: Augmentation | None = None) -> None:
        self.samples = samples
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> Sample:
        if isinstance(self.samples, CocoInstances):
            annotated = self.samples.annotated(draw.index)
        elif self.augmentation is None:
            return self.samples[draw.index]
        else:
            annotated = from_sample(self.samples[draw.index])
        if self.augmentation is None:
            return Plan(Geometry(annotated.size_hw))(annotated)
        return self.augmentation.draw(annotated.size_hw, np.random.default_rng(draw.seed))(annotated)


def build_training_set(config: DataConfig) -> TrainingSet:
    """What a run is trained on.

    Raises:
        RequestError: files that are missing or broken.
    """
    samples = build_dataset(config.dataset, "train", keep_empty=config.keep_empty)
    return TrainingSet(samples, build_augmentation(config.augmentation))
