"""Multi-scale deformable sampling as the definition reads, one ``grid_sample`` per level.

Every other kernel is tested against this one. It runs on any device and consists of exportable operators, but it is
several times slower on a CPU than the others. Must not know which kernel is in use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

__all__ = ["deformable_sampling_reference"]


def deformable_sampling_reference(
    value: Float[Tensor, "B S M D"],
    shapes: Sequence[tuple[int, int]],
    locations: Float[Tensor, "B Q M L P 2"],
    weights: Float[Tensor, "B Q M L P"],
) -> Float[Tensor, "B Q MD"]:
    """Attention-weighted sum of bilinear samples, heads concatenated; arguments as in ``deformable_sampling``.

    Arithmetic is done in at least float32: a bf16 location is up to a fifth of a pixel off at the right edge of a
    map of 100 pixels, and ``grid_sample`` would round its grid again.

    Reference: Deformable DETR (Zhu et al., 2021), Eq. 3.
    """
    compute = torch.promote_types(value.dtype, torch.float32)
    batch, _, heads, channels = value.shape
    _, queries, _, _, points, _ = locations.shape
    grids = 2 * locations.to(compute) - 1
    weights = weights.to(compute)
    total = value.new_zeros((batch * heads, channels, queries), dtype=compute)
    start = 0
    for level, (height, width) in enumerate(shapes):
        level_value = value[:, start : start + height * width].to(compute)
        start += height * width
        level_map = level_value.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points, 2)
        sampled = grid_sample(level_map, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        level_weights = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        total = total + (sampled * level_weights).sum(-1)  # (B*M, D, Q)
    out = total.reshape(batch, heads * channels, queries).transpose(1, 2)
    return out.contiguous().to(value.dtype)
