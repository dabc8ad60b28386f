"""What every pixel decoder returns and every transformer decoder takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

__all__ = ["PixelFeatures"]


@dataclass(frozen=True, slots=True)
class PixelFeatures:
    """Per-pixel embeddings at stride 4 and feature maps of strides 32, 16 and 8 (in this order).

    N counts images, or frames of all clips (clip-major). The last two are for the decoder of MaskFormer, which may
    attend to one of them: the map of an encoder at stride 32, and the four maps of the backbone, finest first. They
    are None where the pixel decoder does not hand them on.
    """

    mask_features: Float[Tensor, "N C_mask h w"]
    multi_scale: list[Float[Tensor, "N C _h_l _w_l"]]
    encoded: Float[Tensor, "N _C _h _w"] | None = None
    backbone: Sequence[Float[Tensor, "N _C_b _h_b _w_b"]] | None = None
