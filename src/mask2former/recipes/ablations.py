"""The ablations of the paper (Mask2Former, Tables 4, 5, XI and XII): a published training with some settings changed.

Each row exists for the three models for which the paper reports it: ``ablation/coco-instance/attention-full``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mask2former.config import (
    BiFPNConfig,
    EncoderOnlyConfig,
    FaPNConfig,
    FPNConfig,
    MaskedDecoderConfig,
    NoPixelDecoderConfig,
    PerPixelConfig,
    PerPixelPlusConfig,
    RunConfig,
    SemanticFPNConfig,
    StandardDecoderConfig,
    TimmConfig,
    changed,
    parse,
)
from mask2former.config.fields import ConfigT, Strict
from mask2former.errors import UserError
from mask2former.recipes.names import recipe

__all__ = ["ABLATIONS", "BASES", "PARTS", "ROWS", "SINCE", "Ablation", "ablated", "ablation_recipes"]

BASES: Mapping[str, tuple[str, float]] = {
    "coco-instance": ("AP", 43.7),
    "coco-panoptic": ("PQ", 51.9),
    "ade20k-semantic": ("mIoU", 47.2),
}
"""Families whose R50 model the rows change, the metric of each, and its value in the paper without a change."""


@dataclass(frozen=True)
class Ablation:
    """A row of a table.

    Attributes:
        table: number of the table in the paper.
        settings: differences from the published training, by dotted names. A part that is replaced completely passes
            its sizes on to its replacement.
        figures: results in the paper in percent, in the order of :data:`BASES`; None if the paper has no such results.
        is_semantic: whether the models have no queries, so they exist only for the task semantic.
    """

    table: str
    settings: Mapping[str, Any]
    figures: tuple[float, ...] | None
    is_semantic: bool = False

    @property
    def described(self) -> dict[str, Any]:
        """The settings as JSON gives them back: parts as their names, sequences as lists."""
        return {
            setting: getattr(value, "name", "")
            if isinstance(value, Strict)
            else list(value)
            if isinstance(value, tuple)
            else value
            for setting, value in self.settings.items()
        }

    @property
    def paper(self) -> dict[str, float]:
        """Results in the paper, by metric."""
        return {metric: figure for (metric, _), figure in zip(BASES.values(), self.figures or (), strict=False)}


def _decoder(table: str, *figures: float, **settings: Any) -> Ablation:
    named = {f"model.transformer_decoder.{name}": value for name, value in settings.items()}
    return Ablation(table, named, figures)


def _loss(*figures: float, **settings: str) -> Ablation:
    return Ablation("5", {f"criterion.{name}": value for name, value in settings.items()}, figures)


ABLATIONS: Mapping[str, Ablation] = {
    "attention-full": _decoder("4a and 4c", 37.8, 47.1, 45.5, attention="full"),
    "attention-smca": _decoder("4c", 37.9, 47.2, 46.6, attention="smca"),
    "attention-mask-pool": _decoder("4c", 43.1, 51.5, 46.0, attention="mask_pool"),
    "scales-s32": _decoder("4a and 4d", 41.5, 50.2, 46.1, scales="s32"),
    "scales-s16": _decoder("4d", 43.0, 51.5, 46.5, scales="s16"),
    "scales-s8": _decoder("4d", 44.0, 51.8, 47.4, scales="s8"),
    "scales-naive": _decoder("4d", 44.0, 51.9, 46.3, scales="naive"),
    "self-attention-first": _decoder("4b", 43.2, 51.6, 46.3, order="self_first"),
    "queries-zero": _decoder("4b and XI b", 42.9, 51.2, 45.4, query_init="zero"),
    "queries-learned": _decoder("XI b", 42.9, 51.2, 47.0, query_init="learned"),
    "dropout": _decoder("4b", 43.0, 51.3, 47.2, dropout=0.1),
    "decoder-as-before": _decoder("4b", 42.3, 50.8, 46.3, query_init="zero", order="self_first", dropout=0.1),
    "match-and-loss-on-masks": _loss(41.0, 50.3, 45.9, match_on="masks", loss_on="masks"),
    "match-on-masks": _loss(41.0, 50.8, 45.9, match_on="masks"),
    "loss-on-masks": _loss(43.1, 51.4, 47.3, loss_on="masks"),
    "queries-50": _decoder("XI a", 42.4, 50.5, 46.2, num_queries=50),
    "queries-200": _decoder("XI a", 43.5, 52.2, 47.0, num_queries=200),
    "queries-300": _decoder("XI a", 43.5, 52.1, 46.5, num_queries=300),
    "queries-1000": _decoder("XI a", 40.3, 50.7, 44.8, num_queries=1000),
}
"""Rows that are settings of the masked decoder or the loss, by the last part of their names."""


def _pixels(part: Strict, *figures: float) -> Ablation:
    return Ablation("4e", {"model.pixel_decoder": part}, figures)


def _per_pixel(part: Strict) -> Ablation:
    settings: dict[str, Any] = {"model.pixel_decoder": FPNConfig(), "model.transformer_decoder": part}
    settings |= {"model.inference.tasks": ("semantic",)}
    settings |= {"evaluation.tasks": ("semantic",), "evaluation.monitor": "semantic/mIoU"}
    return Ablation("", settings, None, is_semantic=True)


PARTS: Mapping[str, Ablation] = {
    "pixel-decoder-fpn": _pixels(FPNConfig(), 41.5, 50.7, 45.6),
    "pixel-decoder-semantic-fpn": _pixels(SemanticFPNConfig(), 42.1, 51.2, 46.2),
    "pixel-decoder-fapn": _pixels(FaPNConfig(), 42.4, 51.8, 46.8),
    "pixel-decoder-bifpn": _pixels(BiFPNConfig(), 43.5, 51.8, 45.6),
    "maskformer-decoder": Ablation(
        "XII d",
        {"model.pixel_decoder": FPNConfig(), "model.transformer_decoder": StandardDecoderConfig()},
        (37.8, 48.2, 45.3),
    ),
    "per-pixel": _per_pixel(PerPixelConfig()),
    "per-pixel-plus": _per_pixel(PerPixelPlusConfig(source="res5")),
}
"""Rows that replace complete parts, by the last part of their names."""

_VIT, _SMALL = "vit_tiny_patch16_224", {"embed_dim": 192, "depth": 4, "num_heads": 3}

SINCE: Mapping[str, Ablation] = {
    "mask-piloted": Ablation("", {"model.transformer_decoder.pilots": 100}, None),
    "token-scaling": Ablation("", {"model.pixel_decoder.stages": (1, 1, 1)}, None),
    "plain-vit": Ablation("", {"model.backbone": TimmConfig(model=_VIT, kwargs=_SMALL, pyramid=128)}, None),
    "encoder-only": Ablation(
        "",
        {
            "model.backbone": TimmConfig(model=_VIT, kwargs=_SMALL, joint_blocks=2),
            "model.pixel_decoder": NoPixelDecoderConfig(),
            "model.transformer_decoder": EncoderOnlyConfig(),
            "optim.backbone_multiplier": 1.0,
        },
        None,
    ),
}
"""Later work, at the size of the scenes and from random weights; these are no recipes, and run only if named."""

ROWS: Mapping[str, Ablation] = {**ABLATIONS, **PARTS, **SINCE}
"""All rows."""

_QUERIES, _LAYERS = 100, 9  # of the models in the paper that rows change


def ablation_recipes() -> dict[str, Callable[[], RunConfig]]:
    """Complete training runs by name; the docstring of each has the paper's results."""
    runs: dict[str, Callable[[], RunConfig]] = {}
    for index, (family, (metric, plain)) in enumerate(BASES.items()):
        for row, ablation in {**ABLATIONS, **PARTS}.items():
            if ablation.is_semantic and metric != "mIoU":
                continue
            name = f"ablation/{family}/{row}"
            runs[name] = run = partial(_run, name, f"{family}/r50", ablation)
            first = "Baseline of MaskFormer with the training of Mask2Former, for which nothing is published."
            if ablation.figures is not None:
                reached = f"{metric} {ablation.figures[index]} in the paper, and {plain} without it"
                first = f"Ablation of Mask2Former, Table {ablation.table}: {reached}."
            lines = [
                first,
                f"Differs from the recipe {family}/r50, which says how the published model was trained, in:",
                *(f"  {setting}: {_shown(value)}" for setting, value in ablation.described.items()),
            ]
            run.__doc__ = "\n".join(lines)
    return runs


def _shown(value: Any) -> Any:
    return f"[{', '.join(value)}]" if isinstance(value, list) else value


def _run(name: str, base: str, ablation: Ablation) -> RunConfig:
    return ablated(changed(recipe(base).run, {"output": f"runs/{name}"}), ablation)


def ablated(run: RunConfig, ablation: Ablation) -> RunConfig:
    """A run with the settings of a row; numbers of queries and layers are scaled from the paper's 100 and 9.

    Raises:
        UserError: the rows cannot change the decoder of the run, or one of its settings excludes them.
    """
    decoder = run.model.transformer_decoder
    if not isinstance(decoder, MaskedDecoderConfig):
        raise UserError(f"ablations change the transformer decoder 'masked', but the run has '{decoder.name}'")
    for setting, value in ablation.settings.items():
        if setting.endswith((".num_queries", ".pilots")):
            value = max(1, round(value * decoder.num_queries / _QUERIES))
        if setting.endswith(".stages"):
            layers = getattr(run.model.pixel_decoder, "num_layers", 3)
            value = (layers // 3, layers // 3, layers - 2 * (layers // 3))
        if setting == "model.transformer_decoder" and isinstance(value, Strict):
            layers = max(1, round(getattr(value, "num_layers", 0) * decoder.num_layers / _LAYERS))
            value = _sized(value, decoder, "num_layers", layers)
        elif setting == "model.pixel_decoder" and isinstance(value, Strict):
            value = _sized(value, run.model.pixel_decoder)
        run = changed(run, {setting: value})
    parse(RunConfig, run.model_dump(mode="json"), "the run with " + ", ".join(ablation.settings))
    return run


def _sized(part: ConfigT, before: Strict, name: str = "", value: int = 0) -> ConfigT:
    """A part with the sizes of the one that it replaces, and optionally one more setting."""
    kept = [size for size in ("dim", "mask_dim", "num_queries", "num_heads", "feedforward_dim") if hasattr(part, size)]
    sizes = {size: getattr(before, size) for size in kept if hasattr(before, size)}
    return part.model_copy(update=sizes | ({name: value} if hasattr(part, name) else {}))
