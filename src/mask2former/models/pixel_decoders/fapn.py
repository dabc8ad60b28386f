"""FaPN as a pixel decoder (Huang et al., Feature-Aligned Pyramid Network, ICCV 2021, Sec. 3).

A feature pyramid whose lateral connections select channels, and which aligns the coarser map with the finer one before
both are summed: a modulated deformable convolution whose offsets are computed from both maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mask2former.config import FaPNConfig
from mask2former.models.layers import conv_kaiming
from mask2former.models.pixel_decoders.convolutions import NORM_GROUPS, PrecisionDecoder, conv_norm
from mask2former.models.pixel_decoders.features import PixelFeatures

__all__ = ["DeformableConvolution", "FaPNPixelDecoder", "FeatureSelection"]

_DEFAULT = FaPNConfig()
_TAPS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


class FeatureSelection(nn.Module):
    """A lateral connection: channels weighted by their content over the map, then a 1x1 convolution (FaPN, Eq. 5)."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.importance = conv_kaiming(nn.Conv2d(channels, channels, 1, bias=False))
        self.selection = conv_norm(channels, dim, 1)

    def forward(self, feature: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D H W"]:
        weights = self.importance(feature.mean((2, 3), keepdim=True)).sigmoid()
        return self.selection(feature + feature * weights)


class DeformableConvolution(nn.Module):
    """A 3x3 convolution with learned, weighted sampling positions (Deformable ConvNets v2, Eq. 1).

    Args:
        dim: channels, in and out.
        num_groups: of channels that share offsets and weights.
    """

    def __init__(self, dim: int, num_groups: int) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.offsets = nn.Conv2d(dim, num_groups * len(_TAPS) * 3, 3, padding=1)
        self.weight = nn.Parameter(torch.empty(dim, dim * len(_TAPS)))
        self.bias = nn.Parameter(torch.zeros(dim))
        nn.init.zeros_(self.offsets.weight)
        bias = self.offsets.bias
        assert bias is not None
        nn.init.zeros_(bias)
        nn.init.kaiming_uniform_(self.weight, a=1)

    def forward(self, feature: Float[Tensor, "N C H W"], guide: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        """``feature`` sampled at the positions given by ``guide``, as offsets in pixels; outside the map are zeros."""
        count, _, height, width = feature.shape
        read = self.offsets(guide).unflatten(1, (self.num_groups, len(_TAPS), 3))  # dy, dx, weight
        rows = torch.arange(height, dtype=feature.dtype, device=feature.device)[:, None]
        columns = torch.arange(width, dtype=feature.dtype, device=feature.device)
        groups = feature.unflatten(1, (self.num_groups, -1)).flatten(0, 1)
        taps = []
        for tap, (dy, dx) in enumerate(_TAPS):
            y = (rows + dy + read[:, :, tap, 0] + 0.5) * (2 / height) - 1
            x = (columns + dx + read[:, :, tap, 1] + 0.5) * (2 / width) - 1
            grid = torch.stack((x, y), -1).flatten(0, 1)
            sampled = F.grid_sample(groups, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            taps.append(sampled.unflatten(0, (count, -1)) * read[:, :, tap, 2].sigmoid()[:, :, None])
        columns_of = torch.stack(taps, 3).flatten(1, 3)  # (N, C * taps, H, W)
        return F.conv2d(columns_of, self.weight[:, :, None, None], self.bias)


class _Alignment(nn.Module):
    """The coarser map, upsampled and aligned with the selected features of the finer one (FaPN, Eq. 3 and 4)."""

    def __init__(self, channels: int, dim: int, num_groups: int) -> None:
        super().__init__()
        self.lateral = FeatureSelection(channels, dim)
        self.difference = conv_kaiming(nn.Conv2d(2 * dim, dim, 1, bias=False))
        self.align = DeformableConvolution(dim, num_groups)
        self.norm = nn.GroupNorm(NORM_GROUPS, dim)

    def forward(self, feature: Tensor, coarser: Tensor) -> Tensor:
        selected = self.lateral(feature)
        upsampled = F.interpolate(coarser, size=selected.shape[2:], mode="bilinear", align_corners=False)
        guide = self.difference(torch.cat((selected, upsampled), 1))
        return selected + F.relu(self.norm(self.align(upsampled, guide)))


class FaPNPixelDecoder(PrecisionDecoder):
    """Backbone maps of strides 4, 8, 16, 32 to :class:`PixelFeatures`.

    Args:
        channels: of the four backbone maps, finest first.
        dim: channels of all maps.
        mask_dim: channels of the per-pixel embeddings.
        num_groups: of channels that share the offsets of a deformable convolution.
    """

    def __init__(
        self,
        channels: Sequence[int],
        dim: int = _DEFAULT.dim,
        mask_dim: int = _DEFAULT.mask_dim,
        num_groups: int = _DEFAULT.num_groups,
    ) -> None:
        super().__init__(dim, mask_dim)
        self.coarsest = conv_norm(channels[3], dim, 1)
        self.alignments = nn.ModuleList(_Alignment(channel, dim, num_groups) for channel in reversed(channels[:3]))
        self.outputs = nn.ModuleList(conv_norm(dim, dim, 3, activate=True) for _ in range(4))
        self.mask_projection = conv_kaiming(nn.Conv2d(dim, mask_dim, 3, padding=1))

    def _decode(self, features: Sequence[Tensor]) -> PixelFeatures:
        maps = [self.coarsest(features[3])]
        for alignment, feature in zip(self.alignments, reversed(features[:3]), strict=True):
            maps.append(alignment(feature, maps[-1]))
        *multi_scale, finest = (output(one) for output, one in zip(self.outputs, maps, strict=True))
        return PixelFeatures(self.mask_projection(finest), multi_scale, backbone=features)
