"""Published names of the MaskFormer parts that replace those of Mask2Former, and these parts from names and shapes.

Like ``original.py``, which calls it, for its pixel decoders, its transformer decoder and the per-pixel baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from mask2former.config import (
    FPNConfig,
    PerPixelConfig,
    PerPixelPlusConfig,
    PixelDecoderConfig,
    StandardDecoderConfig,
    TransformerFPNConfig,
)
from mask2former.errors import UserError

__all__ = ["decoder_kind", "decoder_names", "infer_decoder", "infer_pixel_decoder", "pixel_kind", "pixel_names"]

_PIXEL = "sem_seg_head.pixel_decoder."
_PREDICTOR = "sem_seg_head.predictor."
_ENCODER = f"{_PIXEL}transformer.encoder.layers"
_DECODER = f"{_PREDICTOR}transformer.decoder.layers"
_ENCODER_OF_DECODER = f"{_PREDICTOR}transformer.encoder.layers"
_ATTENTION = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")

Pair = tuple[str, str | None]
_Shape = Callable[[str, int], tuple[int, ...]]
_Count = Callable[[str], int]


def _both(original: str, ours: str) -> Iterator[Pair]:
    for leaf in ("weight", "bias"):
        yield f"{original}.{leaf}", f"{ours}.{leaf}"


def _attention(original: str, ours: str) -> Iterator[Pair]:
    for leaf in _ATTENTION:
        yield f"{original}.{leaf}", f"{ours}.{leaf}"


# --- names -----------------------------------------------------------------------------------------------------------


def pixel_names(config: PixelDecoderConfig) -> Iterator[Pair]:
    """``(original name, our name)`` of a feature pyramid, in the published order.

    Raises:
        UserError: the original layout does not support it.
    """
    if not isinstance(config, FPNConfig | TransformerFPNConfig):
        raise UserError(
            f"pixel decoder '{config.name}' exists in our own format only; other layouts support msdeformattn, fpn "
            "and transformer-fpn. Save as .safetensors instead"
        )

    def convolution(original: str, ours: str) -> Iterator[Pair]:
        yield f"{_PIXEL}{original}.weight", f"pixel_decoder.{ours}.0.weight"
        yield from _both(f"{_PIXEL}{original}.norm", f"pixel_decoder.{ours}.1")

    for level in (1, 2, 3):  # theirs are counted from the finest, ours from the coarsest
        yield from convolution(f"adapter_{level}", f"laterals.{3 - level}")
        yield from convolution(f"layer_{level}", f"outputs.{4 - level}")
    coarsest = convolution("layer_4", "outputs.0")
    if isinstance(config, FPNConfig):
        yield from coarsest
    yield from _both(f"{_PIXEL}mask_features", "pixel_decoder.mask_projection")
    if isinstance(config, TransformerFPNConfig):
        yield from _both(f"{_PIXEL}input_proj", "pixel_decoder.input_projection")
        yield from _encoder(f"{_PIXEL}transformer.encoder", "pixel_decoder.encoder", config.num_layers, config.pre_norm)
        yield from coarsest


def _encoder(original: str, ours: str, num_layers: int, pre_norm: bool) -> Iterator[Pair]:
    for layer in range(num_layers):
        theirs, here = f"{original}.layers.{layer}", f"{ours}.layers.{layer}"
        yield from _attention(f"{theirs}.self_attn", f"{here}.attention")
        for part in ("linear1", "linear2", "norm1", "norm2"):
            yield from _both(f"{theirs}.{part}", f"{here}.{part}")
    if pre_norm:
        yield from _both(f"{original}.norm", f"{ours}.norm")


def decoder_names(
    config: StandardDecoderConfig | PerPixelConfig | PerPixelPlusConfig, *, is_projected: bool
) -> Iterator[Pair]:
    """``(original name, our name)`` of the module that predicts from pixel features, in the published order.

    Args:
        config: its configuration.
        is_projected: whether the map that it attends to passes through a convolution first.
    """
    if isinstance(config, PerPixelConfig):
        yield from _both(_PREDICTOR.removesuffix("."), "transformer_decoder.class_head")
        return
    ours = "transformer_decoder.transformer"
    if config.num_encoder_layers:
        encoder = f"{_PREDICTOR}transformer.encoder"
        yield from _encoder(encoder, f"{ours}.encoder", config.num_encoder_layers, config.pre_norm)
    for layer in range(config.num_layers):
        theirs, here = f"{_DECODER}.{layer}", f"{ours}.layers.{layer}"
        yield from _attention(f"{theirs}.self_attn", f"{here}.self_attention")
        yield from _attention(f"{theirs}.multihead_attn", f"{here}.cross_attention")
        for their_part, our_part in (
            ("linear1", "linear1"),
            ("linear2", "linear2"),
            ("norm1", "self_norm"),
            ("norm2", "cross_norm"),
            ("norm3", "feedforward_norm"),
        ):
            yield from _both(f"{theirs}.{their_part}", f"{here}.{our_part}")
    yield from _both(f"{_PREDICTOR}transformer.decoder.norm", f"{ours}.norm")
    yield f"{_PREDICTOR}query_embed.weight", f"{ours}.query_positions.weight"
    if is_projected:
        yield from _both(f"{_PREDICTOR}input_proj", f"{ours}.input_projection")
    if isinstance(config, StandardDecoderConfig):
        yield from _both(f"{_PREDICTOR}class_embed", "transformer_decoder.class_head")
    for index in range(3):  # ours include the activations between them
        yield from _both(f"{_PREDICTOR}mask_embed.layers.{index}", f"transformer_decoder.mask_head.{2 * index}")


# --- recognising -----------------------------------------------------------------------------------------------------


def pixel_kind(names: Mapping[str, object]) -> str:
    """The kind of pixel decoder with these names; that of Mask2Former if no other matches."""
    if f"{_PIXEL}input_proj.weight" in names:
        return "transformer-fpn"
    return "fpn" if f"{_PIXEL}layer_4.weight" in names else "msdeformattn"


def decoder_kind(names: Mapping[str, object]) -> str:
    """The kind of transformer decoder, or of the module in its place, with these names; as :func:`pixel_kind`."""
    if f"{_PREDICTOR}weight" in names:
        return "per-pixel"
    if not any(name.startswith(f"{_PREDICTOR}transformer.decoder.") for name in names):
        return "masked"
    return "standard" if f"{_PREDICTOR}class_embed.weight" in names else "per-pixel-plus"


def infer_pixel_decoder(
    names: Mapping[str, object], shape: _Shape, count: _Count, kind: str, num_heads: int
) -> FPNConfig | TransformerFPNConfig:
    """The feature pyramid in a file with these names; ``shape`` and ``count`` examine its entries."""
    dim, mask_dim = shape(f"{_PIXEL}layer_4.weight", 4)[0], shape(f"{_PIXEL}mask_features.weight", 4)[0]
    if kind == "fpn":
        return FPNConfig(dim=dim, mask_dim=mask_dim)
    return TransformerFPNConfig(
        dim=dim,
        mask_dim=mask_dim,
        num_layers=count(f"{_ENCODER}.*.norm1.weight"),
        num_heads=num_heads,
        feedforward_dim=shape(f"{_ENCODER}.0.linear1.weight", 2)[0],
        pre_norm=f"{_PIXEL}transformer.encoder.norm.weight" in names,
    )


def infer_decoder(
    names: Mapping[str, object],
    shape: _Shape,
    count: _Count,
    kind: str,
    channels: Sequence[int],
    has_encoder: bool,
    num_heads: int,
) -> StandardDecoderConfig | PerPixelConfig | PerPixelPlusConfig:
    """The module in a file that makes the predictions.

    Where the map that it attends to has as many channels as the decoder, nothing reveals which map it is: the map of
    the encoder is assumed if there is one, else the pixel embeddings.

    Args:
        names: of the entries.
        shape: returns the shape of one of them.
        count: returns how many there are of a numbered one.
        kind: as of :func:`decoder_kind`.
        channels: of the four maps of the backbone.
        has_encoder: whether the pixel decoder has an encoder.
        num_heads: of its attention, which is not visible.
    """
    if kind == "per-pixel":
        return PerPixelConfig()
    dim = shape(f"{_PREDICTOR}transformer.decoder.norm.weight", 1)[0]
    projection = f"{_PREDICTOR}input_proj.weight"
    width = shape(projection, 4)[1] if projection in names else dim
    source = "encoder" if has_encoder else "mask_features"
    if width != dim and width in channels:
        source = f"res{2 + list(channels).index(width)}"
    settings = {
        "dim": dim,
        "num_layers": count(f"{_DECODER}.*.norm1.weight"),
        "num_encoder_layers": count(f"{_ENCODER_OF_DECODER}.*.norm1.weight"),
        "num_heads": num_heads,
        "feedforward_dim": shape(f"{_DECODER}.0.linear1.weight", 2)[0],
        "pre_norm": f"{_PREDICTOR}transformer.encoder.norm.weight" in names,
        "source": source,
        "project_source": projection in names and width == dim,
    }
    if kind == "per-pixel-plus":
        return PerPixelPlusConfig.model_validate(settings)
    queries = shape(f"{_PREDICTOR}query_embed.weight", 2)[0]
    return StandardDecoderConfig.model_validate(settings | {"num_queries": queries})
