"""The recipes equal the published configurations in every setting."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import published_configs
import pytest
import torch

from mask2former import recipes
from mask2former.checkpoints.zoo import current_zoo
from mask2former.config import (
    LargeScaleJitterConfig,
    MaskedDecoderConfig,
    MSDeformAttnConfig,
    ResizeCropFlipConfig,
    RunConfig,
    SwinConfig,
    TimmConfig,
    YouTubeVISConfig,
)
from mask2former.models.build import build_model
from mask2former.structures import Categories

CONFIGS = published_configs.load()
CLIP_CONFIGS = published_configs.load(published_configs.CLIP_PATH)
CLIP_SLUGS = [name for name in recipes.recipe_names("official") if recipes.recipe(name).is_video]
SLUGS = [name for name in recipes.recipe_names("official") if not recipes.recipe(name).is_video]

DATASETS = {
    ("coco", "panoptic"): ("coco_2017_train_panoptic", "coco_2017_val_panoptic_with_sem_seg"),
    ("coco", "instance"): ("coco_2017_train", "coco_2017_val"),
    ("ade20k", "panoptic"): ("ade20k_panoptic_train", "ade20k_panoptic_val"),
    ("ade20k", "instance"): ("ade20k_instance_train", "ade20k_instance_val"),
    ("ade20k", "semantic"): ("ade20k_sem_seg_train", "ade20k_sem_seg_val"),
    ("cityscapes", "panoptic"): ("cityscapes_fine_panoptic_train", "cityscapes_fine_panoptic_val"),
    ("cityscapes", "instance"): ("cityscapes_fine_instance_seg_train", "cityscapes_fine_instance_seg_val"),
    ("cityscapes", "semantic"): ("cityscapes_fine_sem_seg_train", "cityscapes_fine_sem_seg_val"),
    ("mapillary-vistas", "panoptic"): ("mapillary_vistas_panoptic_train", "mapillary_vistas_panoptic_val"),
    ("mapillary-vistas", "semantic"): ("mapillary_vistas_sem_seg_train", "mapillary_vistas_sem_seg_val"),
}
"""Data set and task to the published names of training and validation."""

# Settings that our code does not have, because no published configuration uses another value. The test of names and
# shapes (test_zoo_tables.py) and the golden cases of the parity tests hold the code to them.
FIXED = {
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
    "INPUT.FORMAT": "RGB",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": True,
    "MODEL.MASK_FORMER.DROPOUT": 0.0,
    "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": False,
    "MODEL.MASK_FORMER.PRE_NORM": False,
    "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": 32,
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": "MultiScaleMaskedTransformerDecoder",
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE": "multi_scale_pixel_decoder",
    "MODEL.RESNETS.STEM_TYPE": "basic",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
    "MODEL.SWIN.APE": False,
    "MODEL.SWIN.ATTN_DROP_RATE": 0.0,
    "MODEL.SWIN.DROP_RATE": 0.0,
    "MODEL.SWIN.MLP_RATIO": 4.0,
    "MODEL.SWIN.PATCH_NORM": True,
    "MODEL.SWIN.PATCH_SIZE": 4,
    "MODEL.SWIN.QKV_BIAS": True,
    "MODEL.SWIN.QK_SCALE": None,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.POLY_LR_CONSTANT_ENDING": 0.0,
    "SOLVER.WEIGHT_DECAY_EMBED": 0.0,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
}

# What the published code does not read in any of these configurations.
UNUSED = {
    "MODEL.MASK_FORMER.ENC_LAYERS",
    "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE",  # it decides by the outputs that are on
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS",
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS",
    "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT",
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES",
    "MODEL.SEM_SEG_HEAD.IN_FEATURES",
    "MODEL.SEM_SEG_HEAD.LOSS_TYPE",
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
    "MODEL.SEM_SEG_HEAD.NAME",
    "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS",
    "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES",
    "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV",
    "MODEL.SWIN.OUT_FEATURES",
    "MODEL.SWIN.PRETRAIN_IMG_SIZE",  # of absolute positions, which are off
    "MODEL.SWIN.USE_CHECKPOINT",
}


def dataset_names(run: RunConfig) -> tuple[str, str]:
    dataset = run.data.dataset
    if isinstance(dataset, YouTubeVISConfig):
        return f"ytvis_{dataset.year}_train", f"ytvis_{dataset.year}_val"
    return DATASETS[dataset.name, dataset.task]  # type: ignore[union-attr]


def published(slug: str, run: RunConfig) -> dict[str, Any]:
    """The settings of a run under their published names; those that do not apply to it are left out."""
    recipe = recipes.recipe(slug)
    kind = slug.partition("/")[0].partition("-")[2]
    train, validation = dataset_names(run)
    criterion, decoder, pixels = run.criterion, run.model.transformer_decoder, run.model.pixel_decoder
    assert isinstance(decoder, MaskedDecoderConfig)
    assert isinstance(pixels, MSDeformAttnConfig)
    inference, optim, classes = run.model.inference, run.optim, Categories.load(recipe.categories)
    values: dict[str, Any] = {
        "num_classes": len(classes.things() if recipe.only_things else classes),
        "DATALOADER.ASPECT_RATIO_GROUPING": run.data.group_by_aspect,
        "DATALOADER.NUM_WORKERS": run.data.num_workers,
        "DATASETS.TRAIN": [train],
        "DATASETS.TEST": [validation],
        "INPUT.MIN_SIZE_TEST": inference.short_edge,
        "INPUT.MAX_SIZE_TEST": inference.long_edge,
        "MODEL.MASK_FORMER.CLASS_WEIGHT": criterion.class_weight,
        "MODEL.MASK_FORMER.MASK_WEIGHT": criterion.mask_weight,
        "MODEL.MASK_FORMER.DICE_WEIGHT": criterion.dice_weight,
        "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": criterion.no_object_weight,
        "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": criterion.num_points,
        "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": criterion.oversample_ratio,
        "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": criterion.importance_sample_ratio,
        "MODEL.MASK_FORMER.DEC_LAYERS": decoder.num_layers + 1,  # the published count has the heads before the first
        "MODEL.MASK_FORMER.HIDDEN_DIM": decoder.dim,
        "MODEL.MASK_FORMER.DIM_FEEDFORWARD": decoder.feedforward_dim,
        "MODEL.MASK_FORMER.NHEADS": decoder.num_heads,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": decoder.num_queries,
        "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": inference.score_threshold,
        "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": inference.overlap_threshold,
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": pixels.dim,
        "MODEL.SEM_SEG_HEAD.MASK_DIM": pixels.mask_dim,
        "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": pixels.num_layers,
        "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": pixels.num_heads,
        "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": pixels.num_points,
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": len(classes.things() if recipe.only_things else classes),
        "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": classes.ignore_label,
        "MODEL.WEIGHTS": recipe.init_weights,
        "SOLVER.AMP.ENABLED": run.trainer.precision != "fp32",
        "SOLVER.BACKBONE_MULTIPLIER": optim.backbone_multiplier,
        "SOLVER.BASE_LR": optim.lr,
        "SOLVER.CHECKPOINT_PERIOD": run.trainer.checkpoint_interval,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": optim.clip_norm,
        "SOLVER.IMS_PER_BATCH": run.data.batch_size,
        "SOLVER.LR_SCHEDULER_NAME": {"step": "WarmupMultiStepLR", "poly": "WarmupPolyLR"}[optim.schedule],
        "SOLVER.MAX_ITER": run.trainer.max_steps,
        "SOLVER.WARMUP_FACTOR": optim.warmup_factor,  # 1: the number of steps does not matter
        "SOLVER.WEIGHT_DECAY": optim.weight_decay,
        "TEST.DETECTIONS_PER_IMAGE": inference.max_instances,
        "TEST.EVAL_PERIOD": run.evaluation.interval % run.trainer.max_steps,  # 0: at the end only
    }
    values |= backbone(run.model.backbone) | (
        clips(run) if recipe.is_video else augmentation(run.data.augmentation, kind)
    )
    if kind == "instance":
        values["DATALOADER.FILTER_EMPTY_ANNOTATIONS"] = run.data.filter_empty
    else:
        assert not run.data.filter_empty  # data sets without instance annotations are not filtered
    if optim.schedule == "step":
        values |= {"SOLVER.GAMMA": optim.gamma, "SOLVER.STEPS": list(optim.steps)}
    else:
        values["SOLVER.POLY_LR_POWER"] = optim.poly_power
        assert optim.schedule_steps is None
    return values


def backbone(config: Any) -> dict[str, Any]:
    if isinstance(config, SwinConfig):
        return {
            "MODEL.BACKBONE.NAME": "D2SwinTransformer",
            "MODEL.SWIN.EMBED_DIM": config.embed_dim,
            "MODEL.SWIN.DEPTHS": list(config.depths),
            "MODEL.SWIN.NUM_HEADS": list(config.num_heads),
            "MODEL.SWIN.WINDOW_SIZE": config.window_size,
            "MODEL.SWIN.DROP_PATH_RATE": config.drop_path_rate,
        }
    assert isinstance(config, TimmConfig)
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.RESNETS.DEPTH": int(config.model.removeprefix("resnet")),
        "MODEL.RESNETS.NORM": {"frozen": "FrozenBN", "sync": "SyncBN"}[config.norm],
    }


def augmentation(config: Any, kind: str) -> dict[str, Any]:
    values = {"INPUT.RANDOM_FLIP": config.flip}
    if isinstance(config, LargeScaleJitterConfig):
        assert config.image_size[0] == config.image_size[1]
        assert config.keep_lost == (kind == "panoptic")
        return values | {
            "INPUT.DATASET_MAPPER_NAME": f"coco_{kind}_lsj",
            "INPUT.IMAGE_SIZE": config.image_size[0],
            "INPUT.MIN_SCALE": config.min_scale,
            "INPUT.MAX_SCALE": config.max_scale,
        }
    assert isinstance(config, ResizeCropFlipConfig)
    assert config.keep_lost
    assert config.pad_size is None or config.pad_size[0] == config.pad_size[1]
    return values | {
        "INPUT.DATASET_MAPPER_NAME": f"mask_former_{kind}",
        "INPUT.MIN_SIZE_TRAIN": list(config.short_edges),
        "INPUT.MAX_SIZE_TRAIN": config.long_edge,
        "INPUT.CROP.ENABLED": config.crop_size is not None,
        "INPUT.CROP.TYPE": "absolute",
        "INPUT.CROP.SIZE": list(config.crop_size or ()),
        "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": config.max_category_share,
        "INPUT.COLOR_AUG_SSD": config.color_jitter,
        "INPUT.SIZE_DIVISIBILITY": config.pad_size[0] if config.pad_size else -1,
    }


def clips(run: RunConfig) -> dict[str, Any]:
    config, dataset = run.data.augmentation, run.data.dataset
    assert isinstance(config, ResizeCropFlipConfig)
    assert isinstance(dataset, YouTubeVISConfig)
    assert dataset.labels_from == "last-frame"  # a quirk of the code that no setting changes
    return {
        "INPUT.MIN_SIZE_TRAIN": list(config.short_edges),
        "INPUT.MAX_SIZE_TRAIN": config.long_edge,
        "INPUT.CROP.ENABLED": config.crop_size is not None,
        "INPUT.COLOR_AUG_SSD": config.color_jitter,
        "INPUT.SIZE_DIVISIBILITY": config.pad_size[0] if config.pad_size else -1,
        "INPUT.RANDOM_FLIP": {"horizontal": "flip_by_clip"}[config.flip],
        "INPUT.SAMPLING_FRAME_NUM": dataset.num_frames,
        "INPUT.SAMPLING_FRAME_RANGE": dataset.frame_range,
    }


def outputs(run: RunConfig, row: dict[str, Any]) -> None:
    """Check which outputs are switched on, with two deliberate differences."""
    on = {task for task in ("panoptic", "instance", "semantic") if row[f"MODEL.MASK_FORMER.TEST.{task.upper()}_ON"]}
    dataset = run.data.dataset
    if (dataset.name, dataset.task) == ("ade20k", "instance"):  # type: ignore[union-attr]
        on = {"instance"}  # all are on, but only instances are measured
    assert set(run.evaluation.tasks) == on
    if "panoptic" in on:
        on |= {"instance"}  # a panoptic model predicts all three, even if that was not measured (Mapillary Vistas)
    assert set(run.model.inference.tasks) == on
    assert run.evaluation.monitor.partition("/")[0] == dataset.task  # type: ignore[union-attr]


# What matters for one kind of row only.
ELSEWHERE = ("INPUT.", "MODEL.SWIN.", "MODEL.RESNETS.", "SOLVER.STEPS", "SOLVER.GAMMA", "SOLVER.POLY_LR_POWER")
ELSEWHERE += ("SOLVER.WARMUP_ITERS", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "MODEL.MASK_FORMER.TEST.")
ELSEWHERE += ("MODEL.PIXEL_",)


@pytest.mark.parametrize("slug", SLUGS)
def test_recipe_is_the_published_configuration(slug: str) -> None:
    recipe = recipes.recipe(slug)
    assert recipe.run.model == recipe.model
    row, ours = CONFIGS[recipe.reproduces], published(slug, recipe.run)
    assert ours == {key: row[key] for key in ours} | {"MODEL.WEIGHTS": Path(row["MODEL.WEIGHTS"]).name}
    assert {key: row[key] for key in FIXED} == FIXED
    outputs(recipe.run, row)
    forgotten = row.keys() - ours.keys() - FIXED.keys() - UNUSED
    assert {key for key in forgotten if not key.startswith(ELSEWHERE)} == set()


@pytest.mark.parametrize("slug", CLIP_SLUGS)
def test_recipe_of_clips_is_the_published_configuration(slug: str) -> None:
    recipe = recipes.recipe(slug)
    assert recipe.run.model == recipe.model
    row, ours = CLIP_CONFIGS[recipe.reproduces], published(slug, recipe.run)
    weights = current_zoo()[recipe.init_weights]  # a whole model, of images
    assert ours.pop("MODEL.WEIGHTS") == recipe.init_weights
    assert weights.url.rpartition("/")[2] == row["MODEL.WEIGHTS"]
    assert ours.pop("TEST.DETECTIONS_PER_IMAGE") == 10  # the published code has this number in place of its setting
    assert ours == {key: row[key] for key in ours}
    fixed = FIXED | {
        "INPUT.AUGMENTATIONS": [],
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice_by_clip",
        "INPUT.SAMPLING_FRAME_SHUFFLE": False,
        "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME": "VideoMultiScaleMaskedTransformerDecoder",
    }
    assert {key: row[key] for key in fixed} == fixed
    assert [row[f"MODEL.MASK_FORMER.TEST.{name}_ON"] for name in ("PANOPTIC", "INSTANCE", "SEMANTIC")] == [0, 1, 0]
    assert recipe.run.evaluation.tasks == recipe.model.inference.tasks == ("instance",)
    forgotten = row.keys() - ours.keys() - fixed.keys() - UNUSED - {"MODEL.WEIGHTS", "TEST.DETECTIONS_PER_IMAGE"}
    assert {key for key in forgotten if not key.startswith(ELSEWHERE)} == set()


def test_every_setting_is_compared_in_some_recipe() -> None:
    compared: set[str] = set()
    for slug in SLUGS:
        run = recipes.recipe(slug).run
        compared |= published(slug, run).keys()
    elsewhere = {f"MODEL.MASK_FORMER.TEST.{task}_ON" for task in ("PANOPTIC", "INSTANCE", "SEMANTIC")}
    elsewhere |= {"MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "SOLVER.WARMUP_ITERS"}
    everything = {key for row in CONFIGS.values() for key in row}
    assert everything - compared - FIXED.keys() - UNUSED == elsewhere
    assert {recipes.recipe(slug).reproduces for slug in SLUGS} == CONFIGS.keys()


def test_images_are_normalised_as_published() -> None:
    with torch.device("meta"):
        model = build_model(recipes.recipe("coco-panoptic/r50").model, 3)
    for row in CONFIGS.values():
        assert (list(model.mean), list(model.std)) == (row["MODEL.PIXEL_MEAN"], row["MODEL.PIXEL_STD"])


def test_the_committed_settings_are_those_of_the_complete_configurations() -> None:
    folder = os.environ.get("MASK2FORMER_SHARED")
    if not folder:
        pytest.skip("MASK2FORMER_SHARED does not name the folder of shared data")
    complete = json.loads((Path(folder) / "reference" / "configs.json").read_text())
    assert json.loads(published_configs.PATH.read_text()) == published_configs.trim(complete)
    assert json.loads(published_configs.CLIP_PATH.read_text()) == published_configs.trim(complete, clips=True)
