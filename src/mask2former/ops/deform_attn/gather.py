"""Multi-scale deformable sampling from operators that every runtime has: rows are gathered, weighted and added.

For graphs that leave PyTorch: some runtimes lack ``GridSample``, others compute it wrongly. One level at a time, since
gathered rows take as much memory as there are samples. Must not know which kernel is in use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding

from mask2former.ops.deform_attn.corners import corners, rows_of

__all__ = ["deformable_sampling_gather"]


def deformable_sampling_gather(
    value: Float[Tensor, "B S M D"],
    shapes: Sequence[tuple[int, int]],
    locations: Float[Tensor, "B Q M L P 2"],
    weights: Float[Tensor, "B Q M L P"],
) -> Float[Tensor, "B Q MD"]:
    """Attention-weighted sum of bilinear samples, heads concatenated; arguments as in ``deformable_sampling``.

    Differentiable by ``value``, ``locations`` and ``weights``. Arithmetic is done in at least float32. The sizes of
    levels may be symbolic.
    """
    compute = torch.promote_types(value.dtype, torch.float32)
    pixel, corner_weight = corners(shapes, locations.to(compute))
    corner_weight = corner_weight * weights.to(compute).unsqueeze(-1)
    rows = rows_of(pixel, value.shape[1])
    table = value.to(compute).flatten(0, 2)  # (B * S * M, D)
    total = value.new_zeros((), dtype=compute)
    for level in range(len(shapes)):
        gathered = embedding(rows[:, :, :, level].flatten(3), table)  # (B, Q, M, 4P, D)
        total = total + (gathered * corner_weight[:, :, :, level].flatten(3).unsqueeze(-1)).sum(3)
    return total.flatten(2).to(value.dtype)
