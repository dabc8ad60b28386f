"""Semantic FPN as a pixel decoder (Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, Sec. 3 and Fig. 3).

Every map of a feature pyramid is brought to stride 4 by alternating convolutions and upsampling by two, and all are
summed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mask2former.config import SemanticFPNConfig
from mask2former.models.pixel_decoders.convolutions import conv_norm
from mask2former.models.pixel_decoders.features import PixelFeatures
from mask2former.models.pixel_decoders.fpn import FPNPixelDecoder

__all__ = ["SemanticFPNPixelDecoder"]

_DEFAULT = SemanticFPNConfig()


class SemanticFPNPixelDecoder(FPNPixelDecoder):
    """Backbone maps of strides 4, 8, 16, 32 to :class:`PixelFeatures`, whose embeddings combine all strides.

    Args:
        channels: of the four backbone maps, finest first.
        dim: channels of the multi-scale features and of the branches to stride 4.
        mask_dim: channels of the per-pixel embeddings.
    """

    def __init__(self, channels: Sequence[int], dim: int = _DEFAULT.dim, mask_dim: int = _DEFAULT.mask_dim) -> None:
        super().__init__(channels, dim, mask_dim)
        self.branches = nn.ModuleList(
            nn.ModuleList(conv_norm(dim, dim, 3, activate=True) for _ in range(max(1, steps))) for steps in (3, 2, 1, 0)
        )

    def _decode(self, features: Sequence[Tensor]) -> PixelFeatures:
        maps, encoded = self._pyramid(features)
        # The intermediate sizes, from the coarsest; an odd side has no exact half, so each is that of a map.
        sizes = [one.shape[2:] for one in maps]
        summed = []
        for level, (one, branch) in enumerate(zip(maps, self.branches, strict=True)):
            assert isinstance(branch, nn.ModuleList)
            for step, convolution in enumerate(branch):
                size = sizes[min(level + step + 1, len(sizes) - 1)]
                one = convolution(one)
                if one.shape[2:] != size:
                    one = F.interpolate(one, size=size, mode="bilinear", align_corners=False)
            summed.append(one)
        return PixelFeatures(self.mask_projection(sum(summed[1:], summed[0])), maps[:3], encoded, features)
