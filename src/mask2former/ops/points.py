"""Maps and masks at continuous points, and points where a mask is uncertain (PointRend; Mask2Former, Sec. 3.3).

Pure tensor functions; the source of uniform numbers is up to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mask2former.ops.filled import filled

__all__ = [
    "PointsCount",
    "UniformPoints",
    "pixel_centers",
    "reads_mask",
    "sample_masks",
    "sample_pixels",
    "sample_points",
    "uncertain_points",
]

PointsCount = Callable[[Tensor], Tensor]
"""``counts(points)`` returns which of ``(N, P, 2)`` points count, as booleans ``(N, P)``."""

UniformPoints = Callable[[tuple[int, ...]], Tensor]
"""``points(shape)`` gives uniform numbers in [0, 1); the last axis is (x, y)."""


def pixel_centers(size_hw: Sequence[int], like: Tensor) -> Float[Tensor, "1 P 2"]:
    """Centres (x, y) in 0..1 of all pixels of a map, row by row; at least float32, on the device of ``like``."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    y, x = ((torch.arange(length, dtype=dtype, device=like.device) + 0.5) / length for length in size_hw)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((columns, rows), 2).flatten(0, 1).unsqueeze(0)


def sample_points(maps: Float[Tensor, "N C H W"], points: Float[Tensor, "N P 2"]) -> Float[Tensor, "N C P"]:
    """``maps`` at normalised (x, y) in [0, 1], bilinear, pixel centres at +0.5, zero outside.

    The dtype is the wider of the two inputs.
    """
    dtype = torch.promote_types(maps.dtype, points.dtype)
    grid = (2.0 * points.to(dtype) - 1.0).unsqueeze(2)  # (N, P, 1, 2)
    return F.grid_sample(maps.to(dtype), grid, align_corners=False).squeeze(3)


def sample_pixels(maps: Float[Tensor, "T C H W"], points: Float[Tensor, "1 P 2"]) -> Float[Tensor, "T P C"]:
    """What :func:`sample_points` gives for the same points of every map, fast for many channels.

    Four rows of C values are gathered per point, best from channels-last maps; on a CPU that takes a fifth of the time
    of 256 sampled planes.
    """
    count, channels, height, width = maps.shape
    index, weight = _corners(points, height, width)  # (1, P, 4)
    first = torch.arange(count, device=maps.device)[:, None, None] * (height * width)
    rows = maps.movedim(1, -1).reshape(-1, channels)
    weights = weight.to(maps.dtype).expand(count, -1, -1).reshape(-1, 4)
    summed = F.embedding_bag((index + first).flatten(0, 1), rows, mode="sum", per_sample_weights=weights)
    return summed.unflatten(0, (count, -1))


def sample_masks(
    masks: Bool[Tensor, "N H W"], rows: Int64[Tensor, " M"], points: Float[Tensor, "_M P 2"]
) -> Float[Tensor, "M P"]:
    """Binary masks at points: what :func:`sample_points` gives for ``masks[rows]``, without making that array.

    Four values are gathered per point, so neither the size of the masks nor their number in all matters. Without
    gradient.

    Args:
        masks: all masks.
        rows: which mask each row of the result is of.
        points: normalised (x, y) in [0, 1] of every row, or one set (first axis of length 1) for all.
    """
    height, width = masks.shape[1:]
    index, weight = _corners(points.detach(), height, width)
    flat, first = masks.flatten(), (rows * (height * width))[:, None]
    total = points.new_zeros(())
    for corner in range(4):
        hit = flat.index_select(0, (first + index[..., corner]).flatten()).view(len(rows), points.shape[1])
        total = total + hit * weight[..., corner]
    return total


def _corners(
    points: Float[Tensor, "M P 2"], height: int, width: int
) -> tuple[Int64[Tensor, "M P 4"], Float[Tensor, "M P 4"]]:
    """The four pixels around each point, as indices row by row, and their bilinear weights, zero outside."""
    position = points * filled((width, height), points.dtype, points.device) - 0.5
    corner = position.floor()
    share = position - corner
    x, y = corner.long().unbind(2)
    indices, weights = [], []
    for right in (0, 1):
        for below in (0, 1):
            column, row = x + right, y + below
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            weight = (share[..., 0] if right else 1 - share[..., 0]) * (share[..., 1] if below else 1 - share[..., 1])
            indices.append(row.clamp(0, height - 1) * width + column.clamp(0, width - 1))
            weights.append(weight * inside)
    return torch.stack(indices, 2), torch.stack(weights, 2)


def reads_mask(
    masks: Bool[Tensor, "N H W"], rows: Int64[Tensor, " M"], points: Float[Tensor, "_M P 2"]
) -> Bool[Tensor, "M P"]:
    """Whether any of the four pixels that :func:`sample_masks` reads for a point is True; one value is gathered.

    Args:
        masks: all masks.
        rows: which mask each row of the result is of.
        points: normalised (x, y) in [0, 1] of every row, or one set (first axis of length 1) for all.
    """
    height, width = masks.shape[1:]
    padded = F.pad(masks, (1, 1, 1, 1))
    below = padded[:, :-1] | padded[:, 1:]
    fours = below[:, :, :-1] | below[:, :, 1:]  # (N, H + 1, W + 1): the four pixels around every corner of pixels
    x, y = (points.detach() * filled((width, height), points.dtype, points.device) + 0.5).long().unbind(2)
    index = y.clamp(0, height) * (width + 1) + x.clamp(0, width)
    first = (rows * ((height + 1) * (width + 1)))[:, None]
    return fours.flatten().index_select(0, (first + index).flatten()).view(len(rows), points.shape[1])


def uncertain_points(
    logits: Float[Tensor, "N 1 H W"],
    candidates: Float[Tensor, "N _C 2"],
    num_points: int,
    counts: PointsCount | None = None,
) -> Float[Tensor, "N P 2"]:
    """The candidates (x, y) in [0, 1] where the mask logit is nearest to 0; those that count come before all others.

    Reference: PointRend (Kirillov et al.), Sec. 3.1; Mask2Former, Sec. 3.3.
    """
    uncertainty = -sample_points(logits, candidates).squeeze(1).abs()  # (N, candidates)
    if counts is not None:
        uncertainty = uncertainty.masked_fill(~counts(candidates), -torch.inf)
    chosen = uncertainty.topk(num_points, dim=1, sorted=False).indices
    return candidates.gather(1, chosen.unsqueeze(2).expand(-1, -1, 2))
