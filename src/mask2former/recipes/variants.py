"""MaskFormer as published, for comparisons with Mask2Former.

A MaskFormer recipe also provides the class names and the inference settings for a published file of weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from textwrap import wrap

from mask2former.config import (
    CriterionConfig,
    FPNConfig,
    InferenceConfig,
    RunConfig,
    StandardDecoderConfig,
    Task,
    TransformerFPNConfig,
    changed,
)
from mask2former.recipes.families import Recipe

__all__ = ["maskformer_recipes", "variant_recipes"]

_LOSS = CriterionConfig(
    class_weight=1.0, mask_weight=20.0, dice_weight=1.0, mask_loss="focal", match_on="masks", loss_on="masks"
)


@dataclass(frozen=True)
class _MaskFormer:
    """The differences of a published MaskFormer model from the Mask2Former model for the same data."""

    base: str
    tasks: tuple[Task, ...]
    file: str
    metric: str
    max_steps: int
    has_encoder: bool
    score_threshold: float
    monitor: str


_PUBLISHED = {
    "maskformer/ade20k-semantic/r50": _MaskFormer(
        "ade20k-semantic/r50",
        ("semantic",),
        "ade20k-150/maskformer_R50_bs16_160k.yaml",
        "mIoU 44.5",
        160_000,
        False,
        0.8,
        "semantic/mIoU",
    ),
    "maskformer/ade20k-panoptic/r50": _MaskFormer(
        "ade20k-panoptic/r50",
        ("panoptic", "semantic"),
        "ade20k-150-panoptic/maskformer_panoptic_R50_bs16_720k.yaml",
        "PQ 34.7",
        720_000,
        True,
        0.7,
        "panoptic/PQ",
    ),
}


def maskformer_recipes(base: Callable[[str], Recipe]) -> dict[str, Recipe]:
    """Published MaskFormer models by name; ``base`` returns the Mask2Former recipes from which they differ."""
    return {slug: _maskformer(slug, facts, base(facts.base)) for slug, facts in _PUBLISHED.items()}


def _maskformer(slug: str, facts: _MaskFormer, base: Recipe) -> Recipe:
    pixels = TransformerFPNConfig() if facts.has_encoder else FPNConfig()
    decoder = StandardDecoderConfig(source="encoder" if facts.has_encoder else "res5")
    settings = base.model.inference.model_dump() | {"tasks": facts.tasks, "score_threshold": facts.score_threshold}
    inference = InferenceConfig.model_validate(settings)
    model = changed(base.model, {"pixel_decoder": pixels, "transformer_decoder": decoder, "inference": inference})
    changes = {
        "model": model,
        "criterion": _LOSS,
        "optim.weight_decay": 1e-4,
        "trainer.max_steps": facts.max_steps,
        "trainer.precision": "fp32",
        "evaluation.tasks": facts.tasks,
        "evaluation.monitor": facts.monitor,
        "output": f"runs/{slug}",
    }
    run = changed(base.run, changes)
    return replace(base, slug=slug, model=model, reproduces=facts.file, run=run)


def variant_recipes(recipe: Callable[[str], Recipe]) -> dict[str, Callable[[], RunConfig]]:
    """Complete training runs by name, those of ``recipe``; the docstring of each has its published results."""
    runs: dict[str, Callable[[], RunConfig]] = {}
    for slug, facts in _PUBLISHED.items():
        runs[slug] = run = partial(lambda name: recipe(name).run, slug)
        base = recipe(facts.base)
        others = {
            "tasks": facts.tasks != base.model.inference.tasks,
            "score threshold": facts.score_threshold != base.model.inference.score_threshold,
            "number of steps": facts.max_steps != base.run.trainer.max_steps,
        }
        differs = ["decoders", "loss", "weight decay", *(what for what, does in others.items() if does)]
        paragraphs = (
            f"MaskFormer, {facts.file} of its published code, which reached {facts.metric} (validation, percent). "
            f"Differs from the recipe {facts.base} in {', '.join(differs)} and precision.",
            f"Published initial weights: {base.init_weights}. Weights start random unless you set "
            f"model.init={base.init_weights}, or any file of docs/convert.md.",
        )
        run.__doc__ = "\n".join(line for paragraph in paragraphs for line in wrap(paragraph, 116))
    return runs
