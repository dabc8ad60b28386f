"""Multi-scale deformable sampling from ordinary torch operators, for when no kernel can be used.

That is on CPUs without the compiled one, and in deterministic runs on CUDA devices. A sample is a weighted sum of four
rows of ``value``, so all samples of a query and head are one bag of ``embedding_bag``, which never materialises the
rows. Two to three times as fast as ``grid_sample`` in the forward pass. Must not know which kernel is in use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag

from mask2former.ops.deform_attn.corners import corners, rows_of

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
    pixel, corner_weight = corners(shapes, locations.to(compute))
    rows = rows_of(pixel, pixels)
    corner_weight = corner_weight * weights.to(compute).unsqueeze(-1)
    out = embedding_bag(
        rows.flatten(3).flatten(0, 2),
        value.to(compute).reshape(batch * pixels * heads, channels),
        per_sample_weights=corner_weight.flatten(3).flatten(0, 2),
        mode="sum",
    )
    return out.view(batch, queries, heads * channels).to(value.dtype)
