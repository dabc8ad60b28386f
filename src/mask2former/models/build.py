"""Configuration to modules: the only place that knows kinds by their names."""

from __future__ import annotations

import torch
from torch import nn

from mask2former.config import MaskedDecoderConfig, ModelConfig, MSDeformAttnConfig, SwinConfig, TimmConfig
from mask2former.errors import RequestError
from mask2former.models.backbones import SwinTransformer, TimmBackbone
from mask2former.models.mask2former import Mask2Former
from mask2former.models.pixel_decoders import MSDeformAttnPixelDecoder
from mask2former.models.transformer_decoders import MaskedTransformerDecoder

__all__ = ["build_model"]


def _settings(config: TimmConfig | SwinConfig | MSDeformAttnConfig | MaskedDecoderConfig) -> dict:
    """Constructor arguments: the fields of a configuration without its kind."""
    return {name: getattr(config, name) for name in type(config).model_fields if name != "name"}


_BACKBONES: dict[str, type[nn.Module]] = {"timm": TimmBackbone, "swin": SwinTransformer}
_PIXEL_DECODERS: dict[str, type[nn.Module]] = {"msdeformattn": MSDeformAttnPixelDecoder}
_TRANSFORMER_DECODERS: dict[str, type[nn.Module]] = {"masked": MaskedTransformerDecoder}


def build_model(config: ModelConfig, num_classes: int) -> Mask2Former:
    """A freshly initialised model; ``num_classes`` is the length of the class list.

    Raises:
        RequestError: the backbone does not exist or cannot serve, or the model does not fit the memory.
    """
    try:
        return _build(config, num_classes)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise RequestError(
                "there is not enough memory for the parameters of this model alone; look at the sizes in its "
                f"configuration (num_queries, dim, feedforward_dim, window_size): {' '.join(str(error).split()):.120}"
            ) from error
        raise


def _build(config: ModelConfig, num_classes: int) -> Mask2Former:
    backbone = _BACKBONES[config.backbone.name](**_settings(config.backbone))
    pixel_decoder = _PIXEL_DECODERS[config.pixel_decoder.name](backbone.channels, **_settings(config.pixel_decoder))
    decoder = _settings(config.transformer_decoder)
    temporal = decoder.pop("position_encoding") == "3d"
    transformer_decoder = _TRANSFORMER_DECODERS[config.transformer_decoder.name](
        channels=config.pixel_decoder.dim,
        mask_dim=config.pixel_decoder.mask_dim,
        num_classes=num_classes,
        temporal=temporal,
        **decoder,
    )
    model = Mask2Former(backbone, pixel_decoder, transformer_decoder)
    model.config = config
    return model
