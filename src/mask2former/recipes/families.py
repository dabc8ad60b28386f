"""The common structure of published models, whoever trained them: a recipe, and the tables that recipes are made from.

A table has the settings in which the configurations of a provider differ; the settings that they share are the defaults
of ``config/``. The module contains only settings: no weights, no class tables, no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mask2former.config import (
    AugmentationConfig,
    BackboneConfig,
    DataConfig,
    DatasetConfig,
    EvaluationConfig,
    InferenceConfig,
    MaskedDecoderConfig,
    ModelConfig,
    OptimConfig,
    Resampling,
    RunConfig,
    SwinConfig,
    Task,
    TimmConfig,
    TrainerConfig,
)

__all__ = ["ALL_TASKS", "PROVIDERS", "Family", "Norm", "Provider", "Recipe", "Training", "recipes_of", "short_edges"]

Provider = Literal["official", "mmdet", "mmseg", "ssseg"]
"""Who trained and published a model: the authors, MMDetection, MMSegmentation, or SSSegmentation."""

PROVIDERS: Mapping[Provider, str] = {
    "official": "the published code",
    "mmdet": "MMDetection",
    "mmseg": "MMSegmentation",
    "ssseg": "SSSegmentation",
}
"""The name of each provider in a sentence."""

Norm = Literal["frozen", "sync"]
ALL_TASKS: tuple[Task, ...] = ("panoptic", "instance", "semantic")


@dataclass(frozen=True)
class Recipe:
    """One published model.

    Attributes:
        slug: its name in this library, prefixed with the provider unless that is the authors of the method.
        provider: who published it.
        model: architecture and inference settings.
        categories: name of a packaged class table.
        only_things: whether the classes are only the things of that table.
        reproduces: path of the published configuration file.
        is_video: whether it was trained on clips.
        init_weights: published file of the backbone from which training started, or the recipe for all weights.
        num_gpus: number of GPUs of the published training, each with an equal part of the batch.
        run: the complete training run.
        deviations: differences of the provider's training that no setting can express, one sentence each.
    """

    slug: str
    provider: Provider
    model: ModelConfig
    categories: str
    only_things: bool
    reproduces: str
    is_video: bool
    init_weights: str
    num_gpus: int
    run: RunConfig
    deviations: tuple[str, ...] = ()


_SWIN = {
    "swin-t": SwinConfig(),
    "swin-s": SwinConfig(depths=(2, 2, 18, 2)),
    "swin-b": SwinConfig(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32), window_size=12),
    "swin-l": SwinConfig(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), window_size=12),
}
_SWIN["swin-b-in21k"] = _SWIN["swin-b"]  # differs only in pre-training
_RESNET = {"r50": "resnet50", "r101": "resnet101"}


@dataclass(frozen=True)
class Training:
    """How the models of a family were trained; every field is a column of the published configurations.

    Attributes:
        augmentation: function of the shorter test edge, which is also the base of the training sizes.
        milestones: of the step schedule; if empty, the schedule is polynomial.
        long: backbones trained twice as long.
        monitor: the main metric of the family.
        filter_empty: whether images without objects are left out.
        group_by_aspect: whether the images of a batch are either all wide or all tall.
        evaluation_interval: in steps; None: only at the end.
        not_evaluated: tasks of the model for which its data set has no official metric.
    """

    dataset: DatasetConfig
    augmentation: Callable[[int], AugmentationConfig]
    max_steps: int
    monitor: str
    milestones: tuple[int, ...] = ()
    long: tuple[str, ...] = ()
    filter_empty: bool = False
    group_by_aspect: bool = True
    evaluation_interval: int | None = 5000
    checkpoint_interval: int = 5000
    not_evaluated: tuple[Task, ...] = ()
    num_workers: int = 4
    precision: Literal["fp32", "fp16"] = "fp16"


@dataclass(frozen=True)
class Family:
    """The models of one provider, data set and task; every field is a column of the published configurations."""

    categories: str
    tasks: tuple[Task, ...]
    edges: tuple[int, int]  # test size: short edge, limit of the long edge
    files: Mapping[str, str]  # backbone to published configuration file
    only_things: bool = False
    norm: Norm = "frozen"
    score_threshold: float = 0.8
    queries_large: int = 200  # queries of Swin-L; all other models have 100
    gpus_large: int = 16  # for Swin-L; all other models were trained on 8
    is_video: bool = False
    exceptions: tuple[tuple[str, tuple[int, int]], ...] = ()  # backbones with another test size
    norm_exceptions: tuple[tuple[str, Norm], ...] = ()  # backbones with another norm
    provider: Provider = "official"
    resampling: Resampling = "antialiased"
    init: Mapping[str, str] = field(kw_only=True)  # backbone to the file from which training started
    training: Training = field(kw_only=True)
    deviations: tuple[str, ...] = ()  # see Recipe
    deviations_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # additional ones of single backbones


def short_edges(base: int) -> tuple[int, ...]:
    """From half to double the base size in steps of a tenth, rounded down to pixels."""
    return tuple(int(tenths * 0.1 * base) for tenths in range(5, 21))


def recipes_of(families: Mapping[str, Family]) -> Iterator[Recipe]:
    """The recipes of all families, in the order of the tables.

    Args:
        families: by the beginning of the names of their recipes.
    """
    for family_name, family in families.items():
        for name in family.files:
            yield _recipe(f"{family_name}/{name}", name, family)


def _recipe(slug: str, name: str, family: Family) -> Recipe:
    short_edge, long_edge = dict(family.exceptions).get(name, family.edges)
    inference = InferenceConfig(
        tasks=family.tasks,
        short_edge=short_edge,
        long_edge=long_edge,
        resampling=family.resampling,
        resize_masks_first=family.tasks != ("semantic",),
        things_only="panoptic" in family.tasks,
        score_threshold=family.score_threshold,
        instance_threshold=0.5,  # our choice: the published results contain all candidates
        max_instances=10 if family.is_video else 100,
    )
    decoder = MaskedDecoderConfig(
        num_queries=family.queries_large if name == "swin-l" else 100,
        position_encoding="3d" if family.is_video else "2d",
    )
    model = ModelConfig(backbone=_backbone(family, name), transformer_decoder=decoder, inference=inference)
    num_gpus = family.gpus_large if name == "swin-l" else 8
    return Recipe(
        slug,
        family.provider,
        model,
        family.categories,
        family.only_things,
        family.files[name],
        family.is_video,
        f"coco-instance/{name}" if family.is_video else family.init[name],
        num_gpus,
        _run(slug, model, family.training, num_gpus),
        family.deviations + family.deviations_of.get(name, ()),
    )


def _backbone(family: Family, name: str) -> BackboneConfig:
    if name in _SWIN:
        return _SWIN[name]
    return TimmConfig(model=_RESNET[name], norm=dict(family.norm_exceptions).get(name, family.norm))


def _run(slug: str, model: ModelConfig, training: Training, num_gpus: int) -> RunConfig:
    times = 2 if slug.rpartition("/")[2] in training.long else 1
    max_steps = times * training.max_steps
    return RunConfig(
        model=model,
        data=DataConfig(
            dataset=training.dataset,
            augmentation=training.augmentation(model.inference.short_edge),
            filter_empty=training.filter_empty,
            group_by_aspect=training.group_by_aspect,
            batch_size=16,
            batch_size_per_device=16 // num_gpus,
            num_workers=training.num_workers,
        ),
        optim=OptimConfig(
            schedule="step" if training.milestones else "poly",
            steps=tuple(times * step for step in training.milestones),
        ),
        trainer=TrainerConfig(
            max_steps=max_steps, precision=training.precision, checkpoint_interval=training.checkpoint_interval
        ),
        evaluation=EvaluationConfig(
            interval=training.evaluation_interval or max_steps,
            tasks=tuple(task for task in model.inference.tasks if task not in training.not_evaluated),
            monitor=training.monitor,
        ),
        output=f"runs/{slug}",
    )
