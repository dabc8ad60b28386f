"""Names of mmdetection 2.x and 3.x and of mmsegmentation.

Their Swin orders the channels of a 2x2 block differently when it merges patches; everything else is names. mmdetection
calls the head ``panoptic_head``, mmsegmentation ``decode_head``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from mask2former import limits
from mask2former.checkpoints.formats.resnet import resnet_table
from mask2former.checkpoints.normalisation import Normalisation
from mask2former.checkpoints.rules import Change, Layout, Rule, rules
from mask2former.errors import UserError
from mask2former.recipes import Provider

__all__ = ["MMDET", "MMDET_2", "MMSEG", "MMSEG_2", "configuration_of", "edges_of", "normalisation_of", "swin_rules"]

_SWAPPED = [0, 2, 1, 3]  # of the corners of a 2x2 block; its own inverse


def _rows_to_original(value: Tensor) -> Tensor:
    return value.unflatten(-1, (-1, 4)).transpose(-1, -2)[..., _SWAPPED, :].flatten(-2)


def _rows_from_original(value: Tensor) -> Tensor:
    return value.unflatten(-1, (4, -1))[..., _SWAPPED, :].transpose(-1, -2).flatten(-2)


# They unfold: channel, then corner; the original concatenates: corner, then channel, columns before rows.
_MERGING = Change(_rows_to_original, _rows_from_original)


def swin_rules(prefix: str) -> tuple[Rule, ...]:
    """The Swin of this family, which others use too."""
    block, theirs = "layers.{}.blocks.{}", "stages.{}.blocks.{}"
    return rules(
        prefix,
        "backbone.",
        {
            "patch_embed.projection.*": "patch_embed.proj.*",
            "patch_embed.norm.*": "patch_embed.norm.*",
            f"{theirs}.norm1.*": f"{block}.norm1.*",
            f"{theirs}.norm2.*": f"{block}.norm2.*",
            f"{theirs}.attn.w_msa.*": f"{block}.attn.*",  # bias table and index
            f"{theirs}.attn.w_msa.qkv.*": f"{block}.attn.qkv.*",
            f"{theirs}.attn.w_msa.proj.*": f"{block}.attn.proj.*",
            f"{theirs}.ffn.layers.0.0.*": f"{block}.mlp.fc1.*",
            f"{theirs}.ffn.layers.1.*": f"{block}.mlp.fc2.*",
            "norm{}.*": "norm{}.*",
        },
    ) + rules(
        prefix,
        "backbone.",
        {
            "stages.{}.downsample.reduction.*": "layers.{}.downsample.reduction.*",
            "stages.{}.downsample.norm.*": "layers.{}.downsample.norm.*",
        },
        _MERGING,
    )


def _head(prefix: str, encoder: dict[str, str], decoder: dict[str, str]) -> tuple[Rule, ...]:
    """``encoder`` and ``decoder`` contain what differs between the generations, within a layer."""
    pixel = rules(
        f"{prefix}.pixel_decoder.",
        "sem_seg_head.pixel_decoder.",
        {
            "input_convs.{}.conv.*": "input_proj.{}.0.*",
            "input_convs.{}.gn.*": "input_proj.{}.1.*",
            "level_encoding.weight": "transformer.level_embed",
            "lateral_convs.0.conv.*": "adapter_1.*",
            "lateral_convs.0.gn.*": "adapter_1.norm.*",
            "output_convs.0.conv.*": "layer_1.*",
            "output_convs.0.gn.*": "layer_1.norm.*",
            "mask_feature.*": "mask_features.*",
            "encoder.layers.{}.norms.0.*": "transformer.encoder.layers.{}.norm1.*",
            "encoder.layers.{}.norms.1.*": "transformer.encoder.layers.{}.norm2.*",
            **{
                f"encoder.layers.{{}}.{theirs}.*": f"transformer.encoder.layers.{{}}.{original}.*"
                for theirs, original in encoder.items()
            },
        },
    )
    predictor = rules(
        f"{prefix}.",
        "sem_seg_head.predictor.",
        {
            "transformer_decoder.layers.{}.norms.0.*": "transformer_cross_attention_layers.{}.norm.*",
            "transformer_decoder.layers.{}.norms.1.*": "transformer_self_attention_layers.{}.norm.*",
            "transformer_decoder.layers.{}.norms.2.*": "transformer_ffn_layers.{}.norm.*",
            **{
                f"transformer_decoder.layers.{{}}.{theirs}.*": f"transformer_{original}.*"
                for theirs, original in decoder.items()
            },
            "transformer_decoder.post_norm.*": "decoder_norm.*",
            "query_feat.weight": "query_feat.weight",
            "query_embed.weight": "query_embed.weight",
            "level_embed.weight": "level_embed.weight",
            "cls_embed.*": "class_embed.*",
            "mask_embed.0.*": "mask_embed.layers.0.*",
            "mask_embed.2.*": "mask_embed.layers.1.*",
            "mask_embed.4.*": "mask_embed.layers.2.*",
        },
    )
    return pixel + predictor


_DEFORMABLE = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
_ENCODER_3 = {
    **{f"self_attn.{part}": f"self_attn.{part}" for part in _DEFORMABLE},
    "ffn.layers.0.0": "linear1",
    "ffn.layers.1": "linear2",
}
_ENCODER_2 = {
    **{f"attentions.0.{part}": f"self_attn.{part}" for part in _DEFORMABLE},
    "ffns.0.layers.0.0": "linear1",
    "ffns.0.layers.1": "linear2",
}
_DECODER_3 = {
    "cross_attn.attn": "cross_attention_layers.{}.multihead_attn",
    "cross_attn.attn.out_proj": "cross_attention_layers.{}.multihead_attn.out_proj",
    "self_attn.attn": "self_attention_layers.{}.self_attn",
    "self_attn.attn.out_proj": "self_attention_layers.{}.self_attn.out_proj",
    "ffn.layers.0.0": "ffn_layers.{}.linear1",
    "ffn.layers.1": "ffn_layers.{}.linear2",
}
_DECODER_2 = {
    "attentions.0.attn": "cross_attention_layers.{}.multihead_attn",
    "attentions.0.attn.out_proj": "cross_attention_layers.{}.multihead_attn.out_proj",
    "attentions.1.attn": "self_attention_layers.{}.self_attn",
    "attentions.1.attn.out_proj": "self_attention_layers.{}.self_attn.out_proj",
    "ffns.0.layers.0.0": "ffn_layers.{}.linear1",
    "ffns.0.layers.1": "ffn_layers.{}.linear2",
}


def _layout(key: str, title: str, provider: Provider, generation: int) -> Layout:
    prefix = "panoptic_head" if provider == "mmdet" else "decode_head"
    encoder, decoder = (_ENCODER_3, _DECODER_3) if generation == 3 else (_ENCODER_2, _DECODER_2)
    other_encoder, other_decoder = (_ENCODER_2, _DECODER_2) if generation == 3 else (_ENCODER_3, _DECODER_3)
    backbone = rules("backbone.", "backbone.", resnet_table()) + swin_rules("backbone.")
    decoding = "cross_attn.attn" if generation == 3 else "attentions.0.attn"
    return Layout(
        key=key,
        title=title,
        signature=(f"{prefix}.transformer_decoder.layers.0.{decoding}.in_proj_weight",),
        rules=backbone + _head(prefix, encoder, decoder),
        # Which spelling a generation uses is certain for the decoder's layers, but not for those of the pixel decoder,
        # so both are read.
        also_read=_head(prefix, other_encoder, other_decoder),
        not_written=("criterion.empty_weight",),
        provider=provider,
        has_counters=True,
    )


MMDET = _layout("mmdet", "mmdet 3.x", "mmdet", 3)
MMDET_2 = _layout("mmdet2", "mmdet 2.x", "mmdet", 2)
MMSEG = _layout("mmseg", "mmsegmentation 1.x", "mmseg", 3)
MMSEG_2 = _layout("mmseg0", "mmsegmentation with the names of mmdet 2.x", "mmseg", 2)


# --- the configuration that training checkpoints carry as text -------------------------------------------------------


_PREPROCESSORS = {"mmdet": "DetDataPreprocessor", "mmseg": "SegDataPreProcessor"}


def configuration_of(layout: Layout, normalisation: Normalisation) -> str:
    """What a checkpoint must contain for a model whose images are normalised this way."""
    mean, std = list(normalisation.pixel_mean), list(normalisation.pixel_std)
    preprocessor = f"dict(type={_PREPROCESSORS[layout.key]!r}, mean={mean}, std={std}, bgr_to_rgb=True)"
    return f"model = dict(data_preprocessor={preprocessor})\n"


def _parsed(text: str) -> ast.Module:
    """A configuration written as Python, none of which is executed; empty if it is not such a text.

    Raises:
        UserError: it is too long to be a configuration.
    """
    limits.check_limit(
        "its configuration has too many characters:", len(text), limits.CONFIG_TEXT, "is it the right file?"
    )
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.Module([], [])


def normalisation_of(text: str) -> Normalisation | None:
    """Mean and deviation of images, from a configuration written as Python; None if it gives none.

    Raises:
        UserError: they are invalid, images are not converted to R, G, B, or two places contradict each other.
    """
    found: list[Normalisation] = []
    for values in _mappings(_parsed(text)):
        if values.get("type") not in (*_PREPROCESSORS.values(), "Normalize") and "bgr_to_rgb" not in values:
            continue
        for key in ("bgr_to_rgb", "to_rgb"):
            if values.get(key) is False:
                raise UserError(f"its configuration has {key}=False: the model expects BGR, but ours expect RGB")
        if values.keys() & {"mean", "std"}:
            found.append(Normalisation.read(values.get("mean"), values.get("std"), "its configuration"))
    if len(set(found)) > 1:
        raise UserError(
            f"its configuration normalises images with {found[0]} in one place and with "
            f"{next(one for one in found if one != found[0])} in another; keep only one of them"
        )
    return found[0] if found else None


def edges_of(text: str) -> tuple[int, int] | None:
    """Short and long edge in pixels of images at test time, from a configuration written as Python.

    Returns:
        None if it gives none that keep proportions, or is not such a text.

    Raises:
        UserError: it is too long to be a configuration.
    """
    tree = _parsed(text)
    pipelines = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(isinstance(name, ast.Name) and name.id == "test_pipeline" for name in node.targets)
    ]
    scales = [
        values.get("scale", values.get("img_scale"))
        for pipeline in pipelines
        for values in _mappings(pipeline)
        if values.get("type") in ("Resize", "MultiScaleFlipAug") and values.get("keep_ratio", True) is True
    ]
    known = [scale for scale in scales if isinstance(scale, tuple | list) and len(scale) == 2
             and all(isinstance(side, int) and 0 < side < 1 << 20 for side in scale)]  # fmt: skip
    return (min(known[0]), max(known[0])) if known else None


def _mappings(tree: ast.AST) -> Iterator[dict[str, Any]]:
    """The constant entries of every ``dict(...)`` and ``{...}``: words, numbers and flat lists of them."""
    for node in ast.walk(tree):
        pairs: list[tuple[Any, ast.expr]] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
            pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
        elif isinstance(node, ast.Dict):
            pairs = [(key.value, value) for key, value in zip(node.keys, node.values, strict=True)
                     if isinstance(key, ast.Constant)]  # fmt: skip
        values: dict[str, Any] = {}
        for key, value in pairs:
            try:
                if not _is_nested(value):  # otherwise each level would be evaluated once more for every level around it
                    values[key] = ast.literal_eval(value)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue
        if values:
            yield values


def _is_nested(value: ast.expr) -> bool:
    inner = value.elts if isinstance(value, ast.List | ast.Tuple) else [value]
    return any(not isinstance(part, ast.Constant | ast.UnaryOp) for part in inner)
