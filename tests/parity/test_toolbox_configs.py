"""The recipes of models of other toolboxes compared with every fact in their published configurations.

``toolbox_configs.json`` was written by hand from the files that it names; null means that they do not state a fact.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from mask2former import recipes
from mask2former.checkpoints.formats import original
from mask2former.config import (
    LargeScaleJitterConfig,
    MaskedDecoderConfig,
    MSDeformAttnConfig,
    ResizeCropFlipConfig,
    RunConfig,
    SwinConfig,
    TimmConfig,
)
from mask2former.data.transforms import shortest_edge_size
from mask2former.models.mask2former import Mask2Former

_PROVIDERS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "toolbox_configs.json").read_text())
FACTS = {slug: one["common"] | row for one in _PROVIDERS.values() for slug, row in one["rows"].items()}
SLUGS = [slug for slug in recipes.recipe_names() if slug not in recipes.recipe_names("official")]

# Facts for which there is no setting, since none of these configurations has another value.
FIXED = {
    "channels": "RGB",
    "dropout": 0.0,
    "keep_ratio": True,
    "optimizer": "AdamW",
    "min_lr": 0.0,
    "resize_library": "OpenCV",
    "tta": False,
}
# Facts that no setting expresses: name, value where the recipe differs, and a word of the deviations on it.
NAMED = [
    ("train_fill", 0, "padded"),
    ("train_floats", True, "floats"),
    ("test_floats", True, "all images are resized as floats"),
    ("min_image_side", 32, "less than 32 pixels"),
    ("crop_numbers", 2, "each axis"),
    ("polygons", "drawn first", "drawn last"),
    ("pad_divisor", None, "multiples of 32"),
    ("pad_divisor", 1, "multiples of 32"),
    ("object_mask_thr", None, "class probability"),
    ("loss_class", None, "weights of the losses"),
    ("epochs", 130, "epochs"),
]
ELSEWHERE = {"config", "commit", "init", "undecayed", "mean", "std", "drop_last"}


def facts(slug: str) -> dict[str, Any]:
    """The settings of a recipe under the names of the table; those that do not apply to it are left out."""
    recipe = recipes.recipe(slug)
    run, inference = recipe.run, recipe.model.inference
    criterion, optim, data = run.criterion, run.optim, run.data
    pixels, decoder = recipe.model.pixel_decoder, recipe.model.transformer_decoder
    assert isinstance(decoder, MaskedDecoderConfig)
    assert isinstance(pixels, MSDeformAttnConfig)
    values: dict[str, Any] = {
        "num_classes": len(original.recipe_categories(slug)),
        "num_queries": decoder.num_queries,
        "hidden_dim": decoder.dim,
        "mask_dim": pixels.mask_dim,
        "encoder_layers": pixels.num_layers,
        "encoder_heads": pixels.num_heads,
        "encoder_points": pixels.num_points,
        "encoder_feedforward": pixels.feedforward_dim,
        "decoder_layers": decoder.num_layers,
        "decoder_heads": decoder.num_heads,
        "decoder_feedforward": decoder.feedforward_dim,
        "backbone": backbone(recipe.model.backbone),
        "lr": optim.lr,
        "weight_decay": optim.weight_decay,
        "betas": list(optim.betas),
        "eps": optim.eps,
        "backbone_lr_multiplier": optim.backbone_multiplier,
        "clip_norm": optim.clip_norm,
        "schedule": optim.schedule,
        "warmup_steps": optim.warmup_steps,
        "mixed_precision": run.trainer.precision != "fp32",
        "batch_size": data.batch_size,
        "gpus": recipe.num_gpus,
        "match_class": criterion.class_weight,
        "match_mask": criterion.mask_weight,
        "match_dice": criterion.dice_weight,
        "loss_class": criterion.class_weight,
        "loss_mask": criterion.mask_weight,
        "loss_dice": criterion.dice_weight,
        "no_object_weight": criterion.no_object_weight,
        "num_points": criterion.num_points,
        "oversample_ratio": criterion.oversample_ratio,
        "importance_sample_ratio": criterion.importance_sample_ratio,
        "skip_empty": data.filter_empty,
        "group_by_aspect": data.group_by_aspect,
        "test_edges": [inference.short_edge, inference.long_edge],
        "resampling": inference.resampling,
        "evaluated": list(run.evaluation.tasks),
    }
    values |= augmentation(data.augmentation) | schedule(slug, run)
    if recipe.provider == "mmdet":
        values["max_per_image"] = inference.max_instances
    if "panoptic" in inference.tasks:
        values |= {"iou_thr": inference.overlap_threshold, "filter_low_score": True}  # the area is always filtered
    return values


def schedule(slug: str, run: RunConfig) -> dict[str, Any]:
    optim = run.optim
    if optim.schedule == "step":
        values: dict[str, Any] = {"gamma": optim.gamma, "milestones": list(optim.steps)}
    else:
        assert optim.schedule_steps is None
        values = {"poly_power": optim.poly_power}
    steps, every, saved = run.trainer.max_steps, run.evaluation.interval, run.trainer.checkpoint_interval
    if not slug.startswith("ssseg/"):
        return values | {"max_steps": steps, "val_interval": every, "checkpoint_interval": saved}
    images = 20_210  # of ADE20K
    epoch = images // run.data.batch_size
    assert steps % epoch == every % epoch == saved % epoch == 0
    return values | {
        "epochs": steps // epoch,
        "val_interval_epochs": every // epoch,
        "checkpoint_interval_epochs": saved // epoch,
    }


def augmentation(config: Any) -> dict[str, Any]:
    assert config.resampling == "bilinear"
    assert config.flip == "horizontal"
    values: dict[str, Any] = {"flip": 0.5}
    if isinstance(config, LargeScaleJitterConfig):
        return values | {
            "lost_objects": "kept" if config.keep_lost else "dropped",
            "jitter_size": list(config.image_size),
            "jitter_range": [config.min_scale, config.max_scale],
            "color_jitter": False,
        }
    assert isinstance(config, ResizeCropFlipConfig)
    assert config.crop_size == config.pad_size
    return values | {
        "short_edges": list(config.short_edges),
        "long_edge": config.long_edge,
        "crop": list(config.crop_size or ()),
        "max_category_share": config.max_category_share,
        "color_jitter": config.color_jitter,
    }


def backbone(config: Any) -> dict[str, Any]:
    if isinstance(config, SwinConfig):
        return {
            "embed_dims": config.embed_dim,
            "depths": list(config.depths),
            "num_heads": list(config.num_heads),
            "window_size": config.window_size,
            "drop_path_rate": config.drop_path_rate,
        }
    assert isinstance(config, TimmConfig)
    return {
        "type": "ResNet",
        "depth": int(config.model.removeprefix("resnet")),
        "norm": {"frozen": "BN", "sync": "SyncBN"}[config.norm],
        "norm_affine_learned": config.norm != "frozen",
        "norm_statistics_learned": config.norm != "frozen",
    }


@pytest.mark.parametrize("slug", SLUGS)
def test_a_recipe_says_what_the_configuration_says(slug: str) -> None:
    recipe, row, ours = recipes.recipe(slug), FACTS[slug], facts(slug)
    assert recipe.run.model == recipe.model
    assert recipe.reproduces == row["config"]
    assert recipe.init_weights in (row["init"], row["init"].rpartition("/")[2])
    theirs = {key: row[key] for key in ours}
    said = "; ".join(recipe.deviations)
    if isinstance(recipe.model.backbone, TimmConfig) and recipe.provider == "mmseg":
        assert "scale and shift are fixed" in said
        ours["backbone"]["norm_affine_learned"] = False
    assert {key: ours[key] for key in ours if theirs[key] is not None} == {
        key: value for key, value in theirs.items() if value is not None
    }
    for name, value, words in NAMED:
        if name in row and row[name] == value:
            assert words in said, name
    assert ("level_embed of the pixel decoder" in row["undecayed"]) == ("level embedding" in said)
    assert {key: FIXED[key] for key in FIXED if key in row} == {key: row[key] for key in FIXED if key in row}
    assert row.keys() - ours.keys() - FIXED.keys() - {name for name, _, _ in NAMED} - ELSEWHERE == set()


def test_every_row_has_a_recipe_and_every_recipe_a_row() -> None:
    assert list(FACTS) == SLUGS
    assert len(SLUGS) == 27
    assert all(recipes.recipe(slug).deviations for slug in SLUGS)
    assert not any(recipes.recipe(slug).deviations for slug in recipes.recipe_names("official"))


def test_images_are_normalised_as_there() -> None:
    ours = inspect.signature(Mask2Former).parameters
    for row in FACTS.values():
        assert (list(ours["mean"].default), list(ours["std"].default)) == (row["mean"], row["std"])


@pytest.mark.parametrize("edges", sorted({tuple(row["test_edges"]) for row in FACTS.values()}))
def test_images_get_the_size_that_they_have_there(edges: tuple[int, int]) -> None:
    """Sizes by one factor for both sides, rounded half up, are within a pixel of ours, which take two steps."""
    short, long = edges
    for height in range(100, 1100, 37):
        for width in range(100, 2100, 41):
            factor = min(long / max(height, width), short / min(height, width))
            expected = int(height * factor + 0.5), int(width * factor + 0.5)
            found = shortest_edge_size((height, width), short, long)
            assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 1  # only in ties
