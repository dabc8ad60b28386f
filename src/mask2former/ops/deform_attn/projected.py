"""What a projection of pixels says of their samples: offsets and logits to locations and weights.

The readable form of what the fused kernels compute inside. Must not know which kernel is in use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mask2former.ops.filled import filled
from mask2former.ops.points import pixel_centers

__all__ = ["samples_of"]


def samples_of(
    projected: Float[Tensor, "B S MLP3"], shapes: Sequence[tuple[int, int]], heads: int
) -> tuple[Float[Tensor, "B S M L P 2"], Float[Tensor, "B S M L P"]]:
    """Locations and weights, in at least float32, as ``deformable_sampling`` takes them.

    Args:
        projected: Of each pixel of the levels, row-major and one level after the other: offsets (M, L, P, 2), xy in
            pixels of the level that is sampled, then logits (M, L, P), whose softmax over L and P together is taken.
        shapes: Height and width of every level.
        heads: M; P follows from the size of ``projected``.
    """
    projected = projected.to(torch.promote_types(projected.dtype, torch.float32))
    levels, samples = len(shapes), projected.shape[2] // 3
    offsets = projected[..., : 2 * samples].unflatten(2, (heads, levels, -1, 2))
    logits = projected[..., 2 * samples :].unflatten(2, (heads, samples // heads))
    weights = logits.softmax(3).unflatten(3, (levels, -1))
    sizes_xy = filled([side for h, w in shapes for side in (w, h)], projected.dtype, projected.device).view(-1, 2)
    centers = torch.cat([pixel_centers(shape, projected) for shape in shapes], dim=1)
    return centers[:, :, None, None, None, :] + offsets / sizes_xy[:, None, :], weights
