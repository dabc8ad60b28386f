"""The published models by the names of the zoo (``coco-panoptic/r50``): architecture, inference and training.

Tables of what the published configurations differ in; what they share are the defaults of ``config/``. Knows settings
only: no weights, no class tables, no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from mask2former.config import (
    Ade20kConfig,
    AugmentationConfig,
    BackboneConfig,
    CityscapesConfig,
    CocoConfig,
    DataConfig,
    DatasetConfig,
    EvaluationConfig,
    InferenceConfig,
    LargeScaleJitterConfig,
    MapillaryVistasConfig,
    MaskedDecoderConfig,
    ModelConfig,
    OptimConfig,
    ResizeCropFlipConfig,
    RunConfig,
    SwinConfig,
    Task,
    TimmConfig,
    TrainerConfig,
    YouTubeVISConfig,
)
from mask2former.errors import UserError

__all__ = ["Provider", "Recipe", "describe_names", "recipe", "recipe_names"]

Provider = Literal["official", "mmdet", "mmseg", "ssseg"]
"""Who trained and published a model: the authors, MMDetection, MMSegmentation, or SSSegmentation."""


@dataclass(frozen=True)
class Recipe:
    """One published model.

    Attributes:
        slug: its name here; with the provider in front where that is not the authors of the method.
        provider: who published it.
        model: architecture and inference settings.
        categories: name of a packaged class table.
        only_things: whether the classes are the things of that table only.
        reproduces: path of the published configuration file.
        is_video: whether it was trained on clips.
        init_weights: published file of the backbone that training started from, or the recipe for all weights.
        num_gpus: how many the published training ran on, each with an equal part of the batch.
        run: the training, complete.
        deviations: what the provider does in another way that no setting here expresses, a sentence each.
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
_SWIN["swin-b-in21k"] = _SWIN["swin-b"]  # differ in their pre-training only
_RESNET = {"r50": "resnet50", "r101": "resnet101"}
_INIT_WEIGHTS = {
    "r50": "R-50.pkl",
    "r101": "R-101.pkl",
    "swin-t": "swin_tiny_patch4_window7_224.pkl",
    "swin-s": "swin_small_patch4_window7_224.pkl",
    "swin-b": "swin_base_patch4_window12_384.pkl",
    "swin-b-in21k": "swin_base_patch4_window12_384_22k.pkl",
    "swin-l": "swin_large_patch4_window12_384_22k.pkl",
}


@dataclass(frozen=True)
class _Training:
    """How the models of a family were trained; every field is a column of the published configurations.

    Attributes:
        augmentation: by the shorter test edge, which is also the base of the training sizes.
        milestones: of the step schedule; none: a polynomial one.
        long: backbones trained twice as long.
        monitor: the metric that the family is known for.
        filter_empty: whether images without objects are learned from.
        evaluation_interval: steps; None: at the end only.
        not_evaluated: tasks of the model that its data set has no official measure for.
    """

    dataset: DatasetConfig
    augmentation: Callable[[int], AugmentationConfig]
    max_steps: int
    monitor: str
    milestones: tuple[int, ...] = ()
    long: tuple[str, ...] = ()
    filter_empty: bool = False
    evaluation_interval: int | None = 5000
    not_evaluated: tuple[Task, ...] = ()
    num_workers: int = 4


def _crops(height: int, width: int, *, pad: bool) -> Callable[[int], AugmentationConfig]:
    """Half to double the base size, then crops of this size."""

    def augmentation(base: int) -> AugmentationConfig:
        return ResizeCropFlipConfig(
            short_edges=tuple(int(tenths * 0.1 * base) for tenths in range(5, 21)),
            long_edge=4 * base,
            crop_size=(height, width),
            pad_size=(height, width) if pad else None,
        )

    return augmentation


def _base_crops(base: int) -> AugmentationConfig:
    """Crops of the base size."""
    return _crops(base, base, pad=True)(base)


def _jitter(*, keep_lost: bool) -> Callable[[int], AugmentationConfig]:
    return lambda base: LargeScaleJitterConfig(keep_lost=keep_lost)


def _whole_frames(base: int) -> AugmentationConfig:
    """Two sizes and flips, the same for all frames of a clip."""
    return ResizeCropFlipConfig(
        short_edges=(360, 480), long_edge=1333, crop_size=None, pad_size=None, color_jitter=False
    )


@dataclass(frozen=True)
class _Family:
    """A data set and task; every field is a column of the published configurations."""

    categories: str
    tasks: tuple[Task, ...]
    edges: tuple[int, int]  # test size: short edge, cap of the long edge
    files: dict[str, str]  # backbone to published configuration file
    only_things: bool = False
    norm: Literal["frozen", "sync"] = "frozen"
    score_threshold: float = 0.8
    queries_large: int = 200  # queries of Swin-L; all others have 100
    is_video: bool = False
    exceptions: tuple[tuple[str, tuple[int, int]], ...] = ()  # backbones with another test size
    training: _Training = field(kw_only=True)


def _files(folder: str, **names: str) -> dict[str, str]:
    """``swin_t="swin/NAME"`` and so on to ``{"swin-t": "FOLDER/swin/NAME.yaml"}``."""
    return {backbone.replace("_", "-"): f"{folder}/{name}.yaml" for backbone, name in names.items()}


def _coco(folder: str) -> dict[str, str]:
    return _files(
        folder,
        r50="maskformer2_R50_bs16_50ep",
        r101="maskformer2_R101_bs16_50ep",
        swin_t="swin/maskformer2_swin_tiny_bs16_50ep",
        swin_s="swin/maskformer2_swin_small_bs16_50ep",
        swin_b="swin/maskformer2_swin_base_384_bs16_50ep",
        swin_b_in21k="swin/maskformer2_swin_base_IN21k_384_bs16_50ep",
        swin_l="swin/maskformer2_swin_large_IN21k_384_bs16_100ep",
    )


def _cityscapes(folder: str) -> dict[str, str]:
    return _files(
        folder,
        r50="maskformer2_R50_bs16_90k",
        r101="maskformer2_R101_bs16_90k",
        swin_t="swin/maskformer2_swin_tiny_bs16_90k",
        swin_s="swin/maskformer2_swin_small_bs16_90k",
        swin_b_in21k="swin/maskformer2_swin_base_IN21k_384_bs16_90k",
        swin_l="swin/maskformer2_swin_large_IN21k_384_bs16_90k",
    )


def _ytvis(folder: str) -> dict[str, str]:
    return _files(
        folder,
        r50="video_maskformer2_R50_bs16_8ep",
        r101="video_maskformer2_R101_bs16_8ep",
        swin_t="swin/video_maskformer2_swin_tiny_bs16_8ep",
        swin_s="swin/video_maskformer2_swin_small_bs16_8ep",
        swin_b_in21k="swin/video_maskformer2_swin_base_IN21k_384_bs16_8ep",
        swin_l="swin/video_maskformer2_swin_large_IN21k_384_bs16_8ep",
    )


_ALL: tuple[Task, ...] = ("panoptic", "instance", "semantic")


def _coco_training(task: Task, monitor: str) -> _Training:
    return _Training(
        CocoConfig(task=task),
        _jitter(keep_lost=task == "panoptic"),
        368_750,
        monitor,
        milestones=(327_778, 355_092),
        long=("swin-l",),
        filter_empty=task == "instance",
    )


def _cityscapes_training(task: Task, monitor: str) -> _Training:
    augmentation = _crops(512, 1024, pad=False)
    return _Training(CityscapesConfig(task=task), augmentation, 90_000, monitor, filter_empty=task == "instance")


def _ade20k_training(task: Task, monitor: str) -> _Training:
    return _Training(Ade20kConfig(task=task), _base_crops, 160_000, monitor, filter_empty=task == "instance")


def _mapillary_training(task: Literal["panoptic", "semantic"], monitor: str) -> _Training:
    return _Training(
        MapillaryVistasConfig(task=task),
        _crops(1024, 1024, pad=True),
        300_000,
        monitor,
        evaluation_interval=None,
        not_evaluated=("instance",),
        num_workers=10,
    )


def _ytvis_training(year: Literal[2019, 2021], max_steps: int, milestone: int) -> _Training:
    return _Training(
        YouTubeVISConfig(year=year),
        _whole_frames,
        max_steps,
        "instance/AP",
        milestones=(milestone,),
        evaluation_interval=None,
    )


_FAMILIES = {
    "coco-panoptic": _Family(
        "coco_panoptic",
        _ALL,
        (800, 1333),
        _coco("coco/panoptic-segmentation"),
        training=_coco_training("panoptic", "panoptic/PQ"),
    ),
    "coco-instance": _Family(
        "coco_instance",
        ("instance",),
        (800, 1333),
        _coco("coco/instance-segmentation"),
        training=_coco_training("instance", "instance/AP"),
    ),
    "cityscapes-panoptic": _Family(
        "cityscapes",
        _ALL,
        (1024, 2048),
        _cityscapes("cityscapes/panoptic-segmentation"),
        norm="sync",
        training=_cityscapes_training("panoptic", "panoptic/PQ"),
    ),
    "cityscapes-instance": _Family(
        "cityscapes",
        ("instance",),
        (1024, 2048),
        _cityscapes("cityscapes/instance-segmentation"),
        only_things=True,
        norm="sync",
        training=_cityscapes_training("instance", "instance/AP"),
    ),
    "cityscapes-semantic": _Family(
        "cityscapes",
        ("semantic",),
        (1024, 2048),
        _cityscapes("cityscapes/semantic-segmentation"),
        norm="sync",
        queries_large=100,
        training=_cityscapes_training("semantic", "semantic/mIoU"),
    ),
    "ade20k-panoptic": _Family(
        "ade20k_150",
        _ALL,
        (640, 2560),
        _files(
            "ade20k/panoptic-segmentation",
            r50="maskformer2_R50_bs16_160k",
            swin_l="swin/maskformer2_swin_large_IN21k_384_bs16_160k",
        ),
        training=_ade20k_training("panoptic", "panoptic/PQ"),
    ),
    # The published files switch on all three outputs here, but the models were trained and measured for this one.
    "ade20k-instance": _Family(
        "ade20k_instance_100",
        ("instance",),
        (640, 2560),
        _files(
            "ade20k/instance-segmentation",
            r50="maskformer2_R50_bs16_160k",
            swin_l="swin/maskformer2_swin_large_IN21k_384_bs16_160k",
        ),
        training=_ade20k_training("instance", "instance/AP"),
    ),
    "ade20k-semantic": _Family(
        "ade20k_150",
        ("semantic",),
        (512, 2048),
        _files(
            "ade20k/semantic-segmentation",
            r50="maskformer2_R50_bs16_160k",
            r101="maskformer2_R101_bs16_90k",
            swin_t="swin/maskformer2_swin_tiny_bs16_160k",
            swin_s="swin/maskformer2_swin_small_bs16_160k",
            swin_b="swin/maskformer2_swin_base_384_bs16_160k_res640",
            swin_b_in21k="swin/maskformer2_swin_base_IN21k_384_bs16_160k_res640",
            swin_l="swin/maskformer2_swin_large_IN21k_384_bs16_160k_res640",
        ),
        queries_large=100,
        exceptions=(("swin-b", (640, 2560)), ("swin-b-in21k", (640, 2560)), ("swin-l", (640, 2560))),
        training=_ade20k_training("semantic", "semantic/mIoU"),
    ),
    "mapillary-panoptic": _Family(
        "mapillary_vistas_v1.2",
        ("panoptic", "instance", "semantic"),
        (2048, 2048),
        _files(
            "mapillary-vistas/panoptic-segmentation",
            r50="maskformer_R50_bs16_300k",
            swin_l="swin/maskformer2_swin_large_IN21k_384_bs16_300k",
        ),
        score_threshold=0.0,
        training=_mapillary_training("panoptic", "panoptic/PQ"),
    ),
    "mapillary-semantic": _Family(
        "mapillary_vistas_v1.2",
        ("semantic",),
        (2048, 2048),
        _files(
            "mapillary-vistas/semantic-segmentation",
            r50="maskformer2_R50_bs16_300k",
            swin_l="swin/maskformer2_swin_large_IN21k_384_bs16_300k",
        ),
        score_threshold=0.0,
        queries_large=100,
        training=_mapillary_training("semantic", "semantic/mIoU"),
    ),
    "ytvis2019-instance": _Family(
        "ytvis_2019",
        ("instance",),
        (480, 1333),
        _ytvis("youtubevis_2019"),
        is_video=True,
        exceptions=(("r50", (360, 1333)), ("r101", (360, 1333))),
        training=_ytvis_training(2019, 6000, 4000),
    ),
    "ytvis2021-instance": _Family(
        "ytvis_2021",
        ("instance",),
        (480, 1333),
        _ytvis("youtubevis_2021"),
        is_video=True,
        exceptions=(("r50", (360, 1333)), ("r101", (360, 1333)), ("swin-l", (360, 1333))),
        training=_ytvis_training(2021, 8000, 5500),
    ),
}


def _backbone(family_name: str, name: str) -> BackboneConfig:
    if name in _SWIN:
        return _SWIN[name]
    # Parity: the one ADE20K model with trained batch norms.
    norm = "sync" if (family_name, name) == ("ade20k-semantic", "r101") else _FAMILIES[family_name].norm
    return TimmConfig(model=_RESNET[name], norm=norm)


def _run(slug: str, model: ModelConfig, training: _Training, num_gpus: int) -> RunConfig:
    times = 2 if slug.rpartition("/")[2] in training.long else 1
    max_steps = times * training.max_steps
    return RunConfig(
        model=model,
        data=DataConfig(
            dataset=training.dataset,
            augmentation=training.augmentation(model.inference.short_edge),
            filter_empty=training.filter_empty,
            group_by_aspect=True,
            batch_size=16,
            batch_size_per_device=16 // num_gpus,
            num_workers=training.num_workers,
        ),
        optim=OptimConfig(
            schedule="step" if training.milestones else "poly",
            steps=tuple(times * step for step in training.milestones),
        ),
        trainer=TrainerConfig(max_steps=max_steps, precision="fp16", checkpoint_interval=5000),
        evaluation=EvaluationConfig(
            interval=training.evaluation_interval or max_steps,
            tasks=tuple(task for task in model.inference.tasks if task not in training.not_evaluated),
            monitor=training.monitor,
        ),
        output=f"runs/{slug}",
    )


def _recipes() -> Iterator[Recipe]:
    for family_name, family in _FAMILIES.items():
        for name, file in family.files.items():
            short_edge, long_edge = dict(family.exceptions).get(name, family.edges)
            inference = InferenceConfig(
                tasks=family.tasks,
                short_edge=short_edge,
                long_edge=long_edge,
                resize_masks_first=family.tasks != ("semantic",),
                things_only="panoptic" in family.tasks,
                score_threshold=family.score_threshold,
                instance_threshold=0.5,  # ours: the published results are all candidates
                max_instances=10 if family.is_video else 100,
            )
            decoder = MaskedDecoderConfig(
                num_queries=family.queries_large if name == "swin-l" else 100,
                position_encoding="3d" if family.is_video else "2d",
            )
            model = ModelConfig(backbone=_backbone(family_name, name), transformer_decoder=decoder, inference=inference)
            slug = f"{family_name}/{name}"
            num_gpus = 16 if name == "swin-l" else 8
            yield Recipe(
                slug,
                "official",
                model,
                family.categories,
                family.only_things,
                file,
                family.is_video,
                f"coco-instance/{name}" if family.is_video else _INIT_WEIGHTS[name],
                num_gpus,
                _run(slug, model, family.training, num_gpus),
            )


@cache
def _by_slug() -> dict[str, Recipe]:
    return {entry.slug: entry for entry in _recipes()}


def recipe_names(provider: Provider | None = None) -> tuple[str, ...]:
    """Names of the published models, those of the authors first, of which 59.

    Args:
        provider: whose; None: all.
    """
    return tuple(slug for slug, entry in _by_slug().items() if provider in (None, entry.provider))


def recipe(slug: str) -> Recipe:
    """The published model of that name.

    Raises:
        UserError: there is none; the message names the closest ones.
    """
    known = _by_slug()
    if slug in known:
        return known[slug]
    close = difflib.get_close_matches(slug, known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are: {describe_names()}"
    raise UserError(f"no recipe '{slug}'; {hint}")


def describe_names() -> str:
    """All names in one line: ``coco-panoptic/{r50, r101, ...}; ...``."""
    return "; ".join(f"{family}/{{{', '.join(entry.files)}}}" for family, entry in _FAMILIES.items())
