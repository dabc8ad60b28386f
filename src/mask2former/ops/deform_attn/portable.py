"""Multi-scale deformable sampling from ordinary torch operators, for when no kernel can be used.

That is on CPUs without the compiled one, and in deterministic runs on CUDA devices. A sample is a weighted sum of four
rows of ``value``, so all samples of a query and head are one bag of ``embedding_bag``, which never materialises the
rows. Two to three times as fast as ``grid_sample`` in the forward pass. Must not know which kernel is in use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

from mask2former.ops.deform_attn.gather import neighbours
from mask2former.ops.filled import filled

__all__ = ["deformable_sampling_portable"]


def deformable_sampling_portable(
    value: Float[Tensor, "B S M D"],
    shapes: Sequence[tuple[int, int]],
    locations: Float[Tensor, "B Q M L P 2"],
    weights: Float[Tensor, "B Q M L P"],
) -> Float[Tensor, "B Q MD"]:
    """Attention-weighted sum of bilinear samples, heads concatenated; arguments as in ``deformable_sampling``.

    Differentiable by ``value``, ``locations`` and ``weights``. Arithmetic is done in at least float32.
    """
    compute = torch.promote_types(value.dtype, torch.float32)
    batch, pixels, heads, channels = value.shape
    queries = locations.shape[1]
    if value.numel() == 0 or weights.numel() == 0:
        # embedding_bag refuses empty tables; the sum keeps an (empty) gradient for every input.
        zero = value.sum() + locations.sum() + weights.sum()
        return value.new_zeros((batch, queries, heads * channels)) + zero.to(value.dtype)
    pixel, corner_weight = _corners(shapes, locations.to(compute))
    rows = _rows_of(pixel, pixels)
    corner_weight = corner_weight * weights.to(compute).unsqueeze(-1)
    out = embedding_bag(
        rows.flatten(3).flatten(0, 2),
        value.to(compute).reshape(batch * pixels * heads, channels),
        per_sample_weights=corner_weight.flatten(3).flatten(0, 2),
        mode="sum",
    )
    return out.view(batch, queries, heads * channels).to(value.dtype)


def _corners(
    shapes: Sequence[tuple[int, int]], locations: Float[Tensor, "B Q M L P 2"]
) -> tuple[Int64[Tensor, "B Q M L P 4"], Float[Tensor, "B Q M L P 4"]]:
    """Pixel indices into the concatenated levels, and bilinear weights, of the corners around each location.

    A corner outside its level has weight zero and the index of some pixel inside.
    """
    sides = [side for shape in shapes for side in shape]
    sizes_hw = filled(sides, locations.dtype, locations.device).view(-1, 1, 2)  # (L, 1, 2)
    heights, widths = sizes_hw.long().unbind(-1)  # (L, 1) each
    areas = heights * widths
    starts = areas.cumsum(0) - areas
    x0, x1, weight_x0, weight_x1 = neighbours(locations[..., 0], sizes_hw[..., 1])
    y0, y1, weight_y0, weight_y1 = neighbours(locations[..., 1], sizes_hw[..., 0])
    row0, row1 = (starts + y.long() * widths for y in (y0, y1))
    left, right = x0.long(), x1.long()
    pixel = torch.stack((row0 + left, row0 + right, row1 + left, row1 + right), dim=-1)
    weight = torch.stack(
        (weight_y0 * weight_x0, weight_y0 * weight_x1, weight_y1 * weight_x0, weight_y1 * weight_x1), dim=-1
    )
    return pixel, weight


def _rows_of(pixel: Int64[Tensor, "B Q M L P 4"], pixels: int) -> Int64[Tensor, "B Q M L P 4"]:
    """Where the pixels of each image and head lie in ``value`` seen as rows ``(B * S * M, D)``; S is ``pixels``."""
    batch, heads = pixel.shape[0], pixel.shape[2]
    image = torch.arange(batch, device=pixel.device).view(-1, 1, 1, 1, 1, 1)
    head = torch.arange(heads, device=pixel.device).view(1, 1, -1, 1, 1, 1)
    return (image * pixels + pixel) * heads + head
