"""What pixel decoders of convolutions share: a convolution with its group norm, and the precision they compute in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mask2former.errors import UserError
from mask2former.models.layers import conv_kaiming
from mask2former.models.pixel_decoders.features import PixelFeatures

__all__ = ["NORM_GROUPS", "conv_norm", "in_precision"]

NORM_GROUPS = 32


def conv_norm(in_channels: int, out_channels: int, kernel: int, *, activate: bool = False) -> nn.Sequential:
    """A convolution without bias that keeps the size, its group norm and, where wanted, ReLU."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    parts = [conv_kaiming(convolution), nn.GroupNorm(NORM_GROUPS, out_channels)]
    return nn.Sequential(*parts, nn.ReLU()) if activate else nn.Sequential(*parts)


def in_precision(
    decode: Callable[[Sequence[Tensor]], PixelFeatures],
    features: Sequence[Tensor],
    *,
    dim: int,
    dtype: torch.dtype,
    full: bool,
) -> PixelFeatures:
    """``decode(features)``, without autocast and in ``dtype`` if it is to have full precision.

    Args:
        decode: the four maps to the result.
        features: the maps, finest first.
        dim: channels of the group norms.
        dtype: of the parameters: float32 under autocast, bfloat16 if the whole model was cast.
        full: whether autocast is switched off, as published.

    Raises:
        UserError: the norm of the coarsest map has a single value to take statistics of.
    """
    device_type = features[0].device.type
    count, _, height, width = features[3].shape
    if dim // NORM_GROUPS * count * height * width == 1:
        raise UserError(
            f"one image of at most 32x32 pixels is too little for a pixel decoder of dim {dim}, whose group "
            f"norms have one value each there; use larger images, or dim {2 * dim}"
        )
    if not full:
        return decode(features)
    with torch.autocast(device_type, enabled=False):
        return decode([feature.to(dtype) for feature in features])
