"""BiFPN as a pixel decoder (Tan et al., EfficientDet, CVPR 2020, Sec. 3): pyramids down and up, several times.

Inputs of a node are weighted by learned numbers that are kept positive and divided by their sum ("fast normalized
fusion"), and convolutions are separable. Norms are group norms, as in the other pixel decoders here, not batch norms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2former.config import BiFPNConfig
from mask2former.models.layers import conv_kaiming
from mask2former.models.pixel_decoders.convolutions import NORM_GROUPS, PrecisionDecoder, conv_norm
from mask2former.models.pixel_decoders.features import PixelFeatures

__all__ = ["BiFPNPixelDecoder", "Fusion"]

_DEFAULT = BiFPNConfig()
_EPSILON = 1e-4  # as in the paper


class Fusion(nn.Module):
    """A node: the weighted mean of its inputs, SiLU, a separable convolution and a norm (EfficientDet, Sec. 3.3)."""

    def __init__(self, dim: int, num_inputs: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(num_inputs))
        self.depthwise = conv_kaiming(nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False))
        self.pointwise = conv_kaiming(nn.Conv2d(dim, dim, 1, bias=False))
        self.norm = nn.GroupNorm(NORM_GROUPS, dim)

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """``others`` are resized to the first: nearest neighbour when upsampling, maximum pooling when downsampling."""
        weights = F.relu(self.weights)
        weights = weights / (weights.sum() + _EPSILON)
        size = first.shape[2:]
        total = weights[0] * first
        for weight, other in zip(weights[1:], others, strict=True):
            if other.shape[2] < size[0] or other.shape[3] < size[1]:
                other = F.interpolate(other, size=size, mode="nearest")
            elif other.shape[2:] != size:
                other = F.adaptive_max_pool2d(other, size)
            total = total + weight * other
        return self.norm(self.pointwise(self.depthwise(F.silu(total))))


class _Layer(nn.Module):
    """One top-down and one bottom-up pass (EfficientDet, Fig. 2 d)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(Fusion(dim, 2) for _ in range(3))  # strides 16, 8 and 4
        self.up = nn.ModuleList(Fusion(dim, inputs) for inputs in (3, 3, 2))  # strides 8, 16 and 32

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """``maps``: four, coarsest first; so are the results."""
        down = [maps[0]]
        for fusion, one in zip(self.down, maps[1:], strict=True):
            down.append(fusion(one, down[-1]))
        up = [down[3]]
        for fusion, level in zip(self.up, (2, 1, 0), strict=True):
            inputs = (maps[level], down[level], up[-1]) if level else (maps[level], up[-1])
            up.append(fusion(*inputs))
        return up[::-1]


class BiFPNPixelDecoder(PrecisionDecoder):
    """Backbone maps of strides 4, 8, 16, 32 to :class:`PixelFeatures`.

    Args:
        channels: of the four backbone maps, finest first.
        dim: channels of all maps.
        mask_dim: channels of the per-pixel embeddings.
        num_layers: number of passes down and up.
    """

    def __init__(
        self,
        channels: Sequence[int],
        dim: int = _DEFAULT.dim,
        mask_dim: int = _DEFAULT.mask_dim,
        num_layers: int = _DEFAULT.num_layers,
    ) -> None:
        super().__init__(dim, mask_dim)
        self.laterals = nn.ModuleList(conv_norm(channel, dim, 1) for channel in reversed(channels))
        self.layers = nn.ModuleList(_Layer(dim) for _ in range(num_layers))
        self.mask_projection = conv_kaiming(nn.Conv2d(dim, mask_dim, 3, padding=1))

    def _decode(self, features: Sequence[Tensor]) -> PixelFeatures:
        maps = [lateral(feature) for lateral, feature in zip(self.laterals, reversed(features), strict=True)]
        for layer in self.layers:
            maps = layer(maps)
        *multi_scale, finest = maps
        return PixelFeatures(self.mask_projection(finest), multi_scale, backbone=features)
