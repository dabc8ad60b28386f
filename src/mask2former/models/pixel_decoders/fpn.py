"""Feature pyramids as pixel decoders, plain (FPN) and with a transformer encoder over the coarsest map.

The first is a row of Table 4e of Mask2Former, and is used by MaskFormer for semantic segmentation and with Swin; the
second is used by MaskFormer for panoptic segmentation with ResNets (Sec. 4.2 there). Frames of clips are independent
here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mask2former.config import FPNConfig, TransformerFPNConfig
from mask2former.models.layers import conv_kaiming
from mask2former.models.pixel_decoders.convolutions import PrecisionDecoder, conv_norm
from mask2former.models.pixel_decoders.features import PixelFeatures
from mask2former.models.position_encoding import token_encoding
from mask2former.models.transformer_layers import TransformerEncoder

__all__ = ["FPNPixelDecoder", "TransformerFPNPixelDecoder"]

_DEFAULT, _ENCODER = FPNConfig(), TransformerFPNConfig()


class FPNPixelDecoder(PrecisionDecoder):
    """Backbone maps of strides 4, 8, 16, 32 to :class:`PixelFeatures`.

    From the coarsest map to the finest: the previous map, upsampled by nearest neighbour, plus a 1x1 convolution of
    the backbone's map, then a 3x3 convolution; each with a group norm.

    Args:
        channels: of the four backbone maps, finest first.
        dim: channels of the multi-scale features.
        mask_dim: channels of the per-pixel embeddings.
    """

    def __init__(self, channels: Sequence[int], dim: int = _DEFAULT.dim, mask_dim: int = _DEFAULT.mask_dim) -> None:
        super().__init__(dim, mask_dim)
        self.laterals = nn.ModuleList(conv_norm(channel, dim, 1) for channel in reversed(channels[:3]))
        self.outputs = nn.ModuleList(
            conv_norm(channel, dim, 3, activate=True) for channel in (channels[3], dim, dim, dim)
        )
        self.mask_projection = conv_kaiming(nn.Conv2d(dim, mask_dim, 3, padding=1))

    def _coarsest(self, feature: Tensor) -> tuple[Tensor, Tensor | None]:
        """The input of the pyramid and the map of an encoder, if there is one."""
        return feature, None

    def _decode(self, features: Sequence[Tensor]) -> PixelFeatures:
        (*multi_scale, finest), encoded = self._pyramid(features)
        return PixelFeatures(self.mask_projection(finest), multi_scale, encoded, features)

    def _pyramid(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor | None]:
        """The maps of strides 32, 16, 8 and 4, and that of an encoder."""
        coarsest, encoded = self._coarsest(features[3])
        maps = [self.outputs[0](coarsest)]
        for lateral, output, feature in zip(self.laterals, self.outputs[1:], reversed(features[:3]), strict=True):
            finer = lateral(feature)
            maps.append(output(finer + F.interpolate(maps[-1], size=finer.shape[2:], mode="nearest")))
        return maps, encoded


class TransformerFPNPixelDecoder(FPNPixelDecoder):
    """The same with a transformer encoder over the map of stride 32 (MaskFormer, Sec. 4.2).

    Args:
        channels: of the four backbone maps, finest first.
        dim: channels of the multi-scale features and of the encoder.
        mask_dim: channels of the per-pixel embeddings.
        num_layers: of the encoder.
        num_heads: of its attention.
        feedforward_dim: hidden channels of its feed-forward networks.
        dropout: in the encoder, also of its attention.
        pre_norm: norms come before attention and feed-forward, and once at the end.
    """

    def __init__(
        self,
        channels: Sequence[int],
        dim: int = _ENCODER.dim,
        mask_dim: int = _ENCODER.mask_dim,
        num_layers: int = _ENCODER.num_layers,
        num_heads: int = _ENCODER.num_heads,
        feedforward_dim: int = _ENCODER.feedforward_dim,
        dropout: float = _ENCODER.dropout,
        *,
        pre_norm: bool = _ENCODER.pre_norm,
    ) -> None:
        super().__init__((*channels[:3], dim), dim, mask_dim)
        self.input_projection = conv_kaiming(nn.Conv2d(channels[3], dim, 1))
        self.encoder = TransformerEncoder(dim, num_layers, num_heads, feedforward_dim, dropout, pre_norm=pre_norm)

    def _coarsest(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        projected = self.input_projection(feature)
        position = token_encoding(projected.shape[2:], self.dim, projected)
        tokens = self.encoder(projected.flatten(2).transpose(1, 2), position)
        encoded = tokens.transpose(1, 2).unflatten(2, feature.shape[2:])
        return encoded, encoded
