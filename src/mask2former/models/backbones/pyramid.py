"""A pyramid of four strides from the single map of a plain vision transformer.

Reference: ViTDet (Li et al., Exploring Plain Vision Transformer Backbones for Object Detection, ECCV 2022), Sec. 3.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ChannelNorm", "SimpleFeaturePyramid"]


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel."""

    def forward(self, input: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:  # names as in torch
        return super().forward(input.movedim(1, 3)).movedim(3, 1)


class SimpleFeaturePyramid(nn.Module):
    """The map of stride 16 at strides 4, 8, 16 and 32, all computed from it alone, without connections between them.

    Transposed convolutions for the finer maps, pooling for the coarser one, then for each a 1x1 and a 3x3 convolution
    with norms over channels.

    Args:
        channels: of the map.
        dim: of the four maps.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        half, quarter = max(1, channels // 2), max(1, channels // 4)
        resizing = (
            nn.Sequential(
                nn.ConvTranspose2d(channels, half, 2, 2),
                ChannelNorm(half),
                nn.GELU(),
                nn.ConvTranspose2d(half, quarter, 2, 2),
            ),
            nn.ConvTranspose2d(channels, half, 2, 2),
            nn.Identity(),
            nn.MaxPool2d(2, 2),
        )
        self.levels = nn.ModuleList(
            nn.Sequential(
                resize,
                nn.Conv2d(width, dim, 1, bias=False),
                ChannelNorm(dim),
                nn.Conv2d(dim, dim, 3, padding=1, bias=False),
                ChannelNorm(dim),
            )
            for resize, width in zip(resizing, (quarter, half, channels, channels), strict=True)
        )

    def forward(self, feature: Float[Tensor, "N C h w"]) -> list[Float[Tensor, "N _D _h _w"]]:
        """Finest first; ``feature`` has even sides."""
        return [level(feature) for level in self.levels]
