"""The only function that resizes mask logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["resize_masks"]


def resize_masks(logits: Float[Tensor, "*batch h w"], size_hw: tuple[int, int]) -> Float[Tensor, "*batch H W"]:
    """Mask logits (or class scores) at another size: bilinear, ``align_corners=False``, at least float32.

    Half precision is promoted, because thresholds at 0 and 0.5 flip with it; float64 stays float64.
    """
    promoted = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if tuple(promoted.shape[-2:]) == tuple(size_hw):
        return promoted
    leading = promoted.shape[:-2]
    planes = promoted.reshape(1, -1, *promoted.shape[-2:])  # (1, batch, h, w)
    if planes.shape[1] == 0:  # interpolate refuses an empty batch
        return promoted.new_zeros((*leading, *size_hw))
    resized = F.interpolate(planes, size=size_hw, mode="bilinear", align_corners=False)
    return resized.reshape(*leading, *size_hw)
