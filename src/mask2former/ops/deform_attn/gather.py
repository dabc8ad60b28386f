"""Multi-scale deformable sampling from operators that every runtime has: rows are gathered, weighted and added.

For graphs that leave PyTorch: some runtimes lack ``GridSample``, others compute it wrongly. They fuse little, so what
counts is the number of operators over all samples: positions stay in floating point to the end, and samples are
weighted and added in one product. One level at a time, since gathered rows take as much memory as there are samples.
Must not know which kernel is in use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding

from mask2former.ops.filled import filled

__all__ = ["deformable_sampling_gather", "neighbours"]


def deformable_sampling_gather(
    value: Float[Tensor, "B S M D"],
    shapes: Sequence[tuple[int, int]],
    locations: Float[Tensor, "B Q M L P 2"],
    weights: Float[Tensor, "B Q M L P"],
) -> Float[Tensor, "B Q MD"]:
    """Attention-weighted sum of bilinear samples, heads concatenated; arguments as in ``deformable_sampling``.

    Differentiable by ``value``, ``locations`` and ``weights``. Arithmetic is done in at least float32, which counts
    rows of one image exactly up to 16 million: 100 megapixels and eight heads. The sizes of levels may be symbolic.
    """
    compute = torch.promote_types(value.dtype, torch.float32)
    locations, weights = locations.to(compute), weights.to(compute)
    batch, pixels, heads = value.shape[:3]
    sides = [side for shape in shapes for side in shape]
    heights, widths = filled(sides, compute, value.device).view(-1, 1, 2).unbind(-1)  # (L, 1) each
    areas = heights * widths
    starts = areas.cumsum(0) - areas
    x0, x1, weight_x0, weight_x1 = neighbours(locations[..., 0], widths)
    y0, y1, weight_y0, weight_y1 = neighbours(locations[..., 1], heights)
    # Rows of (S * M, D): a pixel has one for each head.
    head = torch.arange(heads, dtype=compute, device=value.device).view(-1, 1, 1)
    upper, lower = ((starts + y * widths) * heads + head for y in (y0, y1))
    left, right = x0 * heads, x1 * heads
    rows = torch.stack((upper + left, upper + right, lower + left, lower + right), dim=-1).long()
    image = torch.arange(batch, device=value.device).view(-1, 1, 1, 1, 1, 1)
    rows = rows + image * (pixels * heads)
    upper_weight, lower_weight = weights * weight_y0, weights * weight_y1
    corner_weight = torch.stack(
        (upper_weight * weight_x0, upper_weight * weight_x1, lower_weight * weight_x0, lower_weight * weight_x1), dim=-1
    )
    table = value.to(compute).flatten(0, 2)  # (B * S * M, D)
    total = value.new_zeros((), dtype=compute)
    for level in range(len(shapes)):
        gathered = embedding(rows[:, :, :, level].flatten(3), table)  # (B, Q, M, 4P, D)
        total = total + torch.matmul(corner_weight[:, :, :, level].flatten(3).unsqueeze(3), gathered)
    return total.squeeze(3).flatten(2).to(value.dtype)


def neighbours(
    normalised: Float[Tensor, "B Q M L P"], size: Float[Tensor, "L 1"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clamped indices, whole numbers, of the two pixels beside a coordinate; and their weights (zero outside)."""
    coordinate = normalised * size - 0.5
    # Two pixels outside neither neighbour counts; the bound keeps 1e30 out of the conversion to int.
    coordinate = torch.where(coordinate.isnan(), -2.0, coordinate).clamp(min=-2.0).minimum(size + 1)
    left = coordinate.detach().floor()
    fraction = coordinate - left
    right = left + 1
    inside_left, inside_right = (side.clamp(min=0).minimum(size - 1) for side in (left, right))
    return (
        inside_left,
        inside_right,
        torch.where(left == inside_left, 1 - fraction, 0.0),
        torch.where(right == inside_right, fraction, 0.0),
    )
