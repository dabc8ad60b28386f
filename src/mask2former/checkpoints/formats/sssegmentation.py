"""Names in sssegmentation, which has semantic models with Swin: those of mmsegmentation, and nearly original heads."""

from __future__ import annotations

from mask2former.checkpoints.formats.openmmlab import swin_rules
from mask2former.checkpoints.rules import Layout, rules

__all__ = ["SSSEG"]

_ENCODER = "transformer.encoder.layers.{}"
_SAME_PIXELS = (
    "input_proj.{}.{}.*",
    "transformer.level_embed",
    *(f"{_ENCODER}.self_attn.{part}.*" for part in ("sampling_offsets", "attention_weights", "value_proj")),
    *(f"{_ENCODER}.{part}.*" for part in ("self_attn.output_proj", "norm1", "norm2", "linear1", "linear2")),
    "mask_features.*",
)
_SAME_PREDICTOR = (
    "transformer_self_attention_layers.{}.self_attn.*",
    "transformer_self_attention_layers.{}.self_attn.out_proj.*",
    "transformer_self_attention_layers.{}.norm.*",
    "transformer_cross_attention_layers.{}.multihead_attn.*",
    "transformer_cross_attention_layers.{}.multihead_attn.out_proj.*",
    "transformer_cross_attention_layers.{}.norm.*",
    *(f"transformer_ffn_layers.{{}}.{part}.*" for part in ("linear1", "linear2", "norm")),
    "decoder_norm.*",
    "query_feat.weight",
    "query_embed.weight",
    "level_embed.weight",
    "class_embed.*",
    "mask_embed.layers.{}.*",
)

SSSEG = Layout(
    key="ssseg",
    title="sssegmentation",
    signature=(
        "backbone_net.patch_embed.projection.weight",
        "predictor.transformer_self_attention_layers.0.norm.weight",
    ),
    rules=(
        *swin_rules("backbone_net."),
        *rules("pixel_decoder.", "sem_seg_head.pixel_decoder.", {name: name for name in _SAME_PIXELS}),
        *rules(
            "pixel_decoder.",
            "sem_seg_head.pixel_decoder.",
            {
                "lateral_convs.0.0.*": "adapter_1.*",
                "lateral_convs.0.1.*": "adapter_1.norm.*",
                "output_convs.0.0.*": "layer_1.*",
                "output_convs.0.1.*": "layer_1.norm.*",
            },
        ),
        *rules("predictor.", "sem_seg_head.predictor.", {name: name for name in _SAME_PREDICTOR}),
        *rules("", "", {"criterion.empty_weight": "criterion.empty_weight"}),
    ),
    provider="ssseg",
    also_read=rules("predictor.", "sem_seg_head.predictor.", {"static_query.weight": "query_feat.weight"}),
)
