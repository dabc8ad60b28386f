"""The output of pixel decoders and input of transformer decoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["PixelFeatures", "TokenFeatures"]


@dataclass(frozen=True, slots=True)
class PixelFeatures:
    """Per-pixel embeddings at stride 4 and feature maps of strides 32, 16 and 8 (in this order).

    N counts images, or frames of all clips (clip-major). The last two are for the decoder of MaskFormer, which may
    attend to one of them: the map of an encoder at stride 32, and the four maps of the backbone, finest first. They are
    None where the pixel decoder does not provide them.
    """

    mask_features: Float[Tensor, "N C_mask h w"]
    multi_scale: list[Float[Tensor, "N C _h_l _w_l"]]
    encoded: Float[Tensor, "N _C _h _w"] | None = None
    backbone: Sequence[Float[Tensor, "N _C_b _h_b _w_b"]] | None = None

    def embeddings(self, num_frames: int) -> Float[Tensor, "B T C_mask h w"]:
        """The embeddings of clips; pixels are read one by one, so the channels of each are contiguous."""
        pixels = self.mask_features.contiguous(memory_format=torch.channels_last)
        return pixels.unflatten(0, (-1, num_frames))


class TokenFeatures(NamedTuple):
    """Tokens of a plain vision transformer before its last blocks, and what remains to be computed (EoMT).

    N counts images, or frames of all clips (clip-major).

    Attributes:
        prefix: class and register tokens, P of them or none.
        patches: the map of stride 16, row by row.
        grid: its height and width.
        blocks: the last blocks, which accept tokens, ``attn_mask`` and, where used, ``rope``.
        ropes: rotary positions of the patches for each of these blocks; None where positions are included in the
            tokens. The first P tokens have none.
        norm: applied after the last block.
        checkpointing: whether blocks are recomputed in the backward pass.
    """

    prefix: Float[Tensor, "N P C"]
    patches: Float[Tensor, "N S C"]
    grid: tuple[int, int]
    blocks: Sequence[nn.Module]
    ropes: Sequence[Float[Tensor, "*heads S _D"]] | None
    norm: nn.Module
    checkpointing: bool
