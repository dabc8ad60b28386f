"""What every pixel decoder returns and every transformer decoder takes."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

__all__ = ["PixelFeatures"]


@dataclass(frozen=True, slots=True)
class PixelFeatures:
    """Per-pixel embeddings at stride 4 and feature maps of strides 32, 16 and 8 (in this order).

    N counts images, or frames of all clips (clip-major).
    """

    mask_features: Float[Tensor, "N C_mask h w"]
    multi_scale: list[Float[Tensor, "N C _h_l _w_l"]]
