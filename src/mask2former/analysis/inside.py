"""What happens inside a model in one pass: predictions of every decoder depth, attention, and sampling locations.

Observed through hooks that are removed after the pass; the computation of the model does not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mask2former.errors import UserError
from mask2former.inference.predicted_image import Shown
from mask2former.inference.predictor import to_pixels
from mask2former.models.mask2former import Mask2Former
from mask2former.models.pixel_decoders import PixelFeatures
from mask2former.models.pixel_decoders.msdeformattn import DeformableAttention
from mask2former.models.transformer_decoders import MaskedTransformerDecoder
from mask2former.ops.deform_attn.projected import samples_of
from mask2former.structures import MaskOutput, Prediction

__all__ = ["LayerAttention", "LayerSamples", "attention_of", "depth_names", "predictions_of_depths", "sampling_of"]


class LayerAttention(NamedTuple):
    """What the queries of an image attend to in one decoder layer, averaged over heads.

    Attributes:
        grids: (height, width) of the tokens of each scale to which the layer attends, one after the other.
        weights: attention weights; those of each query sum to 1.
        everywhere: the weights of the same scores without the mask (or without the Gaussian of SMCA).
    """

    grids: tuple[tuple[int, int], ...]
    weights: Float[Tensor, "Q S"]
    everywhere: Float[Tensor, "Q S"]


class LayerSamples(NamedTuple):
    """Where the tokens of an image sample in one encoder layer of the pixel decoder.

    Attributes:
        grids: (height, width) of each of the L levels, coarsest first; S is the sum of their products.
        locations: (x, y) in 0..1 of the padded image; they may be outside.
        weights: weights of the points of a head; they sum to 1 over levels and points.
    """

    grids: tuple[tuple[int, int], ...]
    locations: Float[Tensor, "S M L P 2"]
    weights: Float[Tensor, "S M L P"]


@dataclass(frozen=True, slots=True)
class _Watched:
    """A module to be observed, and the arguments of its call."""

    module: nn.Module
    arguments: tuple[Any, ...]


def predictions_of_depths(model: Mask2Former, images: Sequence[UInt8[Tensor, "C h w"]]) -> list[list[Prediction]]:
    """The predictions of each decoder depth for each image, the last depth last.

    Raises:
        UserError: the model classifies pixels.
    """
    with torch.inference_mode():
        output = model([image.to(model.device) for image in images], aux_outputs=True)
    if not isinstance(output, MaskOutput):
        raise UserError("the model classifies pixels, so it has no queries to analyze; choose one with queries")
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    return [depth.predictions(sizes) for depth in (*output.aux_outputs, output)]


def depth_names(model: Mask2Former, count: int) -> list[str]:
    """Names of ``count`` depths: the queries before the first layer, if they predict something, then the layers."""
    first = 0 if getattr(model.transformer_decoder, "supervise_queries", False) else 1
    return ["queries" if index == 0 else f"layer {index}" for index in range(first, first + count)]


def attention_of(model: Mask2Former, shown: Shown) -> tuple[list[Prediction], list[LayerAttention]]:
    """The predictions of each depth for an image, and the cross-attention of each decoder layer.

    Raises:
        UserError: the decoder is not the masked one, a custom layer has no ``cross_attention``, or a custom attention
            has no method ``weights``.
    """
    decoder = model.transformer_decoder
    if not isinstance(decoder, MaskedTransformerDecoder):
        raise UserError(
            f"the attention of a {type(decoder).__name__} cannot be shown; choose a model with the transformer decoder "
            "'masked'"
        )
    layers: list[Any] = list(decoder.layers)
    for layer in layers:
        attention = getattr(layer, "cross_attention", None)
        if attention is None:
            raise UserError(
                f"the decoder layer {type(layer).__name__} has no module cross_attention, whose weights could be shown"
            )
        if not callable(getattr(attention, "weights", None)):
            raise UserError(
                f"the cross-attention {type(attention).__name__} has no method weights(query, key, "
                "guide), which returns (B, heads, Q, S); add one"
            )
    modules = [decoder, *(layer.cross_attention for layer in layers)]
    predictions, calls = _watched(model, shown, modules)
    features = calls[0].arguments[0]
    assert isinstance(features, PixelFeatures)
    sizes = [(feature.shape[2], feature.shape[3]) for feature in features.multi_scale]
    found = []
    with torch.inference_mode():
        for index, call in enumerate(calls[1:]):
            query, key, _, guide = call.arguments
            module: Any = call.module
            weights, everywhere = (module.weights(query, key, one)[0].mean(0).cpu() for one in (guide, None))
            grids = tuple(sizes[level] for level in decoder.scales[index % len(decoder.scales)])
            found.append(LayerAttention(grids, weights, everywhere))
    return predictions, found


def sampling_of(model: Mask2Former, shown: Shown) -> list[LayerSamples]:
    """The sampling locations of each encoder layer of the pixel decoder for an image.

    Raises:
        UserError: the pixel decoder has no deformable attention.
    """
    modules = [module for module in model.pixel_decoder.modules() if isinstance(module, DeformableAttention)]
    if not modules:
        raise UserError(
            f"the pixel decoder {type(model.pixel_decoder).__name__} has no deformable attention, so it samples "
            "nowhere; choose a model with 'msdeformattn'"
        )
    _, calls = _watched(model, shown, modules)
    found = []
    with torch.inference_mode():
        for call in calls:
            module, (query, _, shapes) = call.module, call.arguments
            assert isinstance(module, DeformableAttention)
            projected = torch.cat((module.sampling_offsets(query), module.attention_weights(query)), dim=2)
            locations, weights = samples_of(projected, shapes, module.shape[0])
            grids = tuple((int(height), int(width)) for height, width in shapes)
            found.append(LayerSamples(grids, locations[0].cpu(), weights[0].cpu()))
    return found


def _watched(model: Mask2Former, shown: Shown, modules: Sequence[nn.Module]) -> tuple[list[Prediction], list[_Watched]]:
    """The predictions of each depth for an image, and the calls of some modules in order; layers may share one."""
    calls: list[_Watched] = []

    def remember(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        calls.append(_Watched(module, arguments))

    hooks = [module.register_forward_pre_hook(remember) for module in dict.fromkeys(modules)]
    try:
        depths = predictions_of_depths(model, [to_pixels(shown.resized)])
    finally:
        for hook in hooks:
            hook.remove()
    return [depth[0] for depth in depths], calls
