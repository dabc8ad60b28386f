"""Models that Mask2Former is compared with: MaskFormer as published, and rows of Tables 4e and XII.

A MaskFormer recipe is also what names the classes and the inference settings of a published file of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from mask2former.config import (
    BiFPNConfig,
    CriterionConfig,
    FaPNConfig,
    FPNConfig,
    InferenceConfig,
    PixelDecoderConfig,
    RunConfig,
    SemanticFPNConfig,
    StandardDecoderConfig,
    Task,
    TransformerFPNConfig,
)
from mask2former.recipes.families import Recipe

__all__ = ["PIXEL_DECODERS", "maskformer_recipes", "variant_recipes"]

Base = Callable[[str], Recipe]

PIXEL_DECODERS: Mapping[str, tuple[PixelDecoderConfig, tuple[float, float, float]]] = {
    "fpn": (FPNConfig(), (41.5, 50.7, 45.6)),
    "semantic-fpn": (SemanticFPNConfig(), (42.1, 51.2, 46.2)),
    "fapn": (FaPNConfig(), (42.4, 51.8, 46.8)),
    "bifpn": (BiFPNConfig(), (43.5, 51.8, 45.6)),
}
"""Rows of Table 4e, with what the paper prints: AP on COCO, PQ on COCO, mIoU on ADE20K."""
_OF_MASKFORMER = (37.8, 48.2, 45.3)  # Table XII d, with FPN and the training of Mask2Former
_PLAIN = {"coco-instance": ("AP", 43.7), "coco-panoptic": ("PQ", 51.9), "ade20k-semantic": ("mIoU", 47.2)}

_LOSS = CriterionConfig(
    class_weight=1.0, mask_weight=20.0, dice_weight=1.0, mask_loss="focal", match_on="masks", loss_on="masks"
)


@dataclass(frozen=True)
class _MaskFormer:
    """What a published MaskFormer differs in from the Mask2Former of the same data."""

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


def maskformer_recipes(base: Base) -> dict[str, Recipe]:
    """Published MaskFormer models by name; ``base`` gives the Mask2Former recipes that they are told from."""
    return {slug: _maskformer(slug, facts, base(facts.base)) for slug, facts in _PUBLISHED.items()}


def _maskformer(slug: str, facts: _MaskFormer, base: Recipe) -> Recipe:
    pixels = TransformerFPNConfig() if facts.has_encoder else FPNConfig()
    decoder = StandardDecoderConfig(source="encoder" if facts.has_encoder else "res5")
    settings = base.model.inference.model_dump() | {"tasks": facts.tasks, "score_threshold": facts.score_threshold}
    model = base.model.model_copy(
        update={
            "pixel_decoder": pixels,
            "transformer_decoder": decoder,
            "inference": InferenceConfig.model_validate(settings),
        }
    )
    run = base.run.model_copy(
        update={
            "model": model,
            "criterion": _LOSS,
            "optim": base.run.optim.model_copy(update={"weight_decay": 1e-4}),
            "trainer": base.run.trainer.model_copy(update={"max_steps": facts.max_steps, "precision": "fp32"}),
            "evaluation": base.run.evaluation.model_copy(update={"tasks": facts.tasks, "monitor": facts.monitor}),
            "output": f"runs/{slug}",
        }
    )
    return replace(base, slug=slug, model=model, reproduces=facts.file, run=run)


def variant_recipes(base: Base) -> dict[str, Callable[[], RunConfig]]:
    """Complete training runs by name; what is published of each is in its docstring."""
    runs: dict[str, Callable[[], RunConfig]] = {}
    for slug, facts in _PUBLISHED.items():
        runs[slug] = run = partial(_run_of_maskformer, slug, base)
        run.__doc__ = (
            f"MaskFormer, {facts.file} of its published code, which reached {facts.metric} (validation, percent).\n"
            f"Differs from the recipe {facts.base} in decoders, loss, weight decay, precision and number of steps."
        )
    for index, (family, (metric, plain)) in enumerate(_PLAIN.items()):
        for kind, (pixels, figures) in PIXEL_DECODERS.items():
            name = f"ablation/{family}/pixel-decoder-{kind}"
            runs[name] = run = partial(_with_parts, name, f"{family}/r50", base, {"pixel_decoder": pixels})
            run.__doc__ = _said("4e", metric, figures[index], plain, family, f"  model.pixel_decoder: {kind}")
        name = f"ablation/{family}/maskformer-decoder"
        parts = {"pixel_decoder": FPNConfig(), "transformer_decoder": StandardDecoderConfig()}
        runs[name] = run = partial(_with_parts, name, f"{family}/r50", base, parts)
        changes = "  model.pixel_decoder: fpn\n  model.transformer_decoder: standard"
        run.__doc__ = _said("XII d", metric, _OF_MASKFORMER[index], plain, family, changes)
    return runs


def _said(table: str, metric: str, figure: float, plain: float, family: str, changes: str) -> str:
    return (
        f"Ablation of Mask2Former, Table {table}: {metric} {figure} in the paper, and {plain} without it.\n"
        f"Differs from the recipe {family}/r50, which says how the published model was trained, in:\n{changes}"
    )


def _run_of_maskformer(slug: str, base: Base) -> RunConfig:
    return maskformer_recipes(base)[slug].run


def _with_parts(name: str, slug: str, base: Base, parts: Mapping[str, object]) -> RunConfig:
    run = base(slug).run
    return run.model_copy(update={"model": run.model.model_copy(update=dict(parts)), "output": f"runs/{name}"})
