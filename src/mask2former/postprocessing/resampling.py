"""Maps of the network at the output size, a strip of rows at a time: upsampled, cropped, resized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from mask2former.structures import PixelPrediction, Prediction

__all__ = ["Size", "count", "first_argmax", "full_precision", "parts", "resize_last", "row_strips", "strips"]

Size = tuple[int, int]

# Number of values of one strip, over all its maps. On a CPU a strip should stay in the second-level cache (2**19 to
# 2**21 are equally fast, a complete image at once is five times slower); an accelerator needs few, large kernels.
_STRIP_VALUES_CPU = 2**20
_STRIP_VALUES_ACCELERATOR = 2**27

_PART_VALUES = 2**24  # of maps with the result's width and the network's height; 130 queries for ordinary images


def full_precision(prediction: Prediction | PixelPrediction) -> torch.autocast:
    """Thresholds are applied to these products, so a surrounding autocast must not affect them."""
    return torch.autocast(prediction.device.type, enabled=False)


def resize_last(values: Float[Tensor, "N n"], padded: int, size: int, target: int) -> Float[Tensor, "N target"]:
    """Bilinear resizing along one axis in the three published steps: to ``padded``, crop to ``size``, to ``target``."""
    if values.shape[-1] != padded:
        values = F.interpolate(values[None], size=padded, mode="linear", align_corners=False)[0]
    values = values[:, :size]
    if size != target:
        values = F.interpolate(values[None], size=target, mode="linear", align_corners=False)[0]
    return values


def row_strips(
    height: int, padded: int, size: int, target: int, values_per_row: int, like: Tensor
) -> Iterator[tuple[slice, slice, Float[Tensor, "rows source"]]]:
    """Resizing of rows as small matrix products.

    Yields:
        Rows of the output, the source rows that they need, and the weights between the two: the resized unit vectors,
        with at most four nonzero values per output row.
    """
    # On the host, so that the source rows of a strip are known without waiting for the device.
    weights = resize_last(torch.eye(height, dtype=like.dtype), padded, size, target).T  # (target, height)
    used = (weights != 0).int()
    first = used.argmax(dim=1).tolist()
    last = (height - 1 - used.flip(1).argmax(dim=1)).tolist()
    weights = weights.to(like.device)
    budget = _STRIP_VALUES_CPU if like.device.type == "cpu" else _STRIP_VALUES_ACCELERATOR
    step = max(1, budget // values_per_row)
    for start in range(0, target, step):
        rows = slice(start, min(start + step, target))
        source = slice(min(first[rows]), max(last[rows]) + 1)
        yield rows, source, weights[rows, source]


def parts(queries: Int64[Tensor, " N"], prediction: Prediction, output_size: Size) -> Sequence[Int64[Tensor, " _n"]]:
    """Queries split into parts for which :func:`strips` needs little memory; without queries, one empty part."""
    return queries.split(max(1, _PART_VALUES // (prediction.masks.shape[2] * output_size[1])))


def strips(
    maps: Float[Tensor, "C h w"], prediction: Prediction | PixelPrediction, output_size: Size
) -> Iterator[tuple[slice, Float[Tensor, "rows C W"]]]:
    """Network maps at the output size, a strip of rows at a time: upsampled to the padded size, cropped, resized.

    Bilinear resizing treats the axes one by one, so columns are resized once, at the few rows of the network.

    Args:
        maps: maps that cover the padded input.
        prediction: its sizes are those of the input before and after padding.
        output_size: height and width in pixels.

    Yields:
        Rows of the output and their values, which the caller may overwrite.
    """
    num_maps, height, width = maps.shape
    padded, cropped = prediction.padded_size, prediction.image_size
    output_height, output_width = output_size
    if num_maps == 0:  # interpolate refuses empty input
        yield slice(0, output_height), maps.new_empty((output_height, 0, output_width))
        return
    columns = maps.transpose(0, 1).reshape(-1, width)  # (h * C, w)
    columns = resize_last(columns, padded[1], cropped[1], output_width).reshape(height, -1)  # (h, C * W)
    sides = (height, padded[0], cropped[0], output_height)
    for rows, source, weights in row_strips(*sides, num_maps * output_width, maps):
        yield rows, (weights @ columns[source]).view(-1, num_maps, output_width)


def first_argmax(values: Float[Tensor, "rows C W"]) -> Int64[Tensor, "rows W"]:
    """Index of the largest value along the middle axis, the first if several are equal; overwrites ``values``.

    Two passes over floats are eight times faster than ``argmax`` over a strided axis on a CPU.
    """
    if values.device.type != "cpu":
        return values.argmax(dim=1)
    number = values.shape[1]
    rank = torch.arange(number, 0, -1, dtype=values.dtype)[:, None]
    best = torch.eq(values, values.amax(dim=1, keepdim=True), out=values).mul_(rank).amax(dim=1)
    return (number - best.to(torch.int64)).clamp_(max=number - 1)  # no value equals its maximum where it is NaN


def count(zeros_and_ones: Float[Tensor, "rows C W"]) -> Int64[Tensor, " C"]:
    """Number of ones in each map. Rows are summed as floats (exact, and fast on a CPU), their sums as integers."""
    return zeros_and_ones.sum(dim=2).to(torch.int64).sum(dim=0)
