"""The four pixels around each sampling location, and what each of them counts.

In whole numbers; exported graphs, where every operator counts, have their own form. Must not know which kernel is in
use.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mask2former.ops.filled import filled

__all__ = ["corners", "rows_of"]


def corners(
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
    x0, x1, weight_x0, weight_x1 = _neighbours(locations[..., 0], sizes_hw[..., 1])
    y0, y1, weight_y0, weight_y1 = _neighbours(locations[..., 1], sizes_hw[..., 0])
    row0, row1 = starts + y0 * widths, starts + y1 * widths
    pixel = torch.stack((row0 + x0, row0 + x1, row1 + x0, row1 + x1), dim=-1)
    weight = torch.stack(
        (weight_y0 * weight_x0, weight_y0 * weight_x1, weight_y1 * weight_x0, weight_y1 * weight_x1), dim=-1
    )
    return pixel, weight


def _neighbours(
    normalised: Float[Tensor, "B Q M L P"], size: Float[Tensor, "L 1"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clamped indices (int64) of the two pixels beside a coordinate, and their linear weights (zero outside)."""
    coordinate = normalised * size - 0.5
    # Two pixels outside neither neighbour counts; the bound keeps 1e30 out of the conversion to int.
    coordinate = coordinate.nan_to_num(nan=-2.0).clamp(min=-2.0).minimum(size + 1)
    left = coordinate.detach().floor()
    fraction = coordinate - left
    right = left + 1
    weight_left = (1 - fraction) * ((left >= 0) & (left < size))
    weight_right = fraction * ((right >= 0) & (right < size))
    last = size - 1
    return (
        left.clamp(min=0).minimum(last).long(),
        right.clamp(min=0).minimum(last).long(),
        weight_left,
        weight_right,
    )


def rows_of(pixel: Int64[Tensor, "B Q M L P 4"], pixels: int) -> Int64[Tensor, "B Q M L P 4"]:
    """Where the pixels of each image and head lie in ``value`` seen as rows ``(B * S * M, D)``; S is ``pixels``."""
    batch, heads = pixel.shape[0], pixel.shape[2]
    image = torch.arange(batch, device=pixel.device).view(-1, 1, 1, 1, 1, 1)
    head = torch.arange(heads, device=pixel.device).view(1, 1, -1, 1, 1, 1)
    return (image * pixels + pixel) * heads + head
