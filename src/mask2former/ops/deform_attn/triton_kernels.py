"""The two Triton programs behind ``triton.py``, which imports this file (and with it Triton) when one first runs.

A program has ROWS pairs of query and head and all channels of them, so the four pixels around a sample are read as
whole rows of ``value``. Sums are in the dtype of the locations, float32 at least. Numbers that change with the size of
an image are ordinary arguments: a program is compiled once for a model and not once for a size.
"""

# Constants of a program are arguments in capitals; the types of its loops are Triton's own.
# ruff: noqa: N803
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["backward", "forward"]

_OF_THE_SIZE = ["num_rows", "queries", "pixels", "sizes"]


@triton.jit
def _neighbours(normalised, size):
    """Index of the pixel before a coordinate, the share of the one after it, and which of both lie inside."""
    compute = normalised.dtype
    coordinate = normalised * size.to(compute) - 0.5
    # Two pixels outside neither neighbour counts; the bounds keep 1e30 out of the conversion, NaN takes the lower one.
    coordinate = tl.where(coordinate > -2.0, coordinate, -2.0)
    coordinate = tl.minimum(coordinate, size.to(compute) + 1.0)
    before = tl.floor(coordinate)
    index = before.to(tl.int32)
    return index, coordinate - before, (index >= 0) & (index < size), (index >= -1) & (index < size - 1)


@triton.jit(do_not_specialize=_OF_THE_SIZE)
def forward(
    value,  # (B, S, M, D)
    locations,  # (B, Q, M, L, P, 2)
    weights,  # (B, Q, M, L, P)
    output,  # (B, Q, M, D)
    num_rows,  # B * Q * M
    queries,
    pixels,
    sizes,  # (height, width, first pixel) of every level, one after the other
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,  # CHANNELS up to a power of two
):
    """Weighted sums of samples."""
    compute = locations.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    alive = row < num_rows
    channel = tl.arange(0, BLOCK)
    kept = channel < CHANNELS
    image = value + row // (queries * HEADS) * pixels * (HEADS * CHANNELS) + row % HEADS * CHANNELS  # pixel 0
    total = tl.zeros((ROWS, BLOCK), dtype=compute)
    for level in tl.static_range(LEVELS):
        height, width, start = sizes[3 * level], sizes[3 * level + 1], sizes[3 * level + 2]
        for point in range(POINTS):  # a loop, because unrolled it compiles for 15 s
            sample = row * (LEVELS * POINTS) + level * POINTS + point
            weight = tl.load(weights + sample, mask=alive, other=0.0)
            x, right, x0_inside, x1_inside = _neighbours(tl.load(locations + 2 * sample, alive, 0.0), width)
            y, below, y0_inside, y1_inside = _neighbours(tl.load(locations + 2 * sample + 1, alive, 0.0), height)
            for corner in tl.static_range(4):
                if corner % 2 == 0:
                    share, inside, column = 1.0 - right, x0_inside, x
                else:
                    share, inside, column = right, x1_inside, x + 1
                if corner < 2:
                    share, inside, line = share * (1.0 - below), inside & y0_inside, y
                else:
                    share, inside, line = share * below, inside & y1_inside, y + 1
                pixel = start + line.to(tl.int64) * width + column
                pointer = image[:, None] + pixel[:, None] * (HEADS * CHANNELS) + channel[None, :]
                found = tl.load(pointer, mask=(alive & inside)[:, None] & kept[None, :], other=0.0)
                total += found.to(compute) * (share * weight)[:, None]
    pointer = output + row[:, None] * CHANNELS + channel[None, :]
    tl.store(pointer, total.to(output.dtype.element_ty), mask=alive[:, None] & kept[None, :])


@triton.jit(do_not_specialize=_OF_THE_SIZE)
def backward(
    grad_output,  # (B, Q, M, D)
    value,  # (B, S, M, D)
    locations,  # (B, Q, M, L, P, 2)
    weights,  # (B, Q, M, L, P)
    grad_value,  # (B, S, M, D), zeros in the dtype of the locations
    grad_locations,
    grad_weights,
    num_rows,
    queries,
    pixels,
    sizes,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of all three inputs; arguments as of ``forward``."""
    compute = locations.dtype.element_ty
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    alive = row < num_rows
    channel = tl.arange(0, BLOCK)
    kept = channel < CHANNELS
    image = row // (queries * HEADS) * pixels * (HEADS * CHANNELS) + row % HEADS * CHANNELS
    pointer = grad_output + row[:, None] * CHANNELS + channel[None, :]
    upstream = tl.load(pointer, mask=alive[:, None] & kept[None, :], other=0.0).to(compute)
    for level in tl.static_range(LEVELS):
        height, width, start = sizes[3 * level], sizes[3 * level + 1], sizes[3 * level + 2]
        for point in range(POINTS):  # a loop, because unrolled it compiles for 15 s
            sample = row * (LEVELS * POINTS) + level * POINTS + point
            weight = tl.load(weights + sample, mask=alive, other=0.0)
            x, right, x0_inside, x1_inside = _neighbours(tl.load(locations + 2 * sample, alive, 0.0), width)
            y, below, y0_inside, y1_inside = _neighbours(tl.load(locations + 2 * sample + 1, alive, 0.0), height)
            # The sample and its derivatives by x and y in pixels, before the sum over channels.
            sampled = tl.zeros((ROWS, BLOCK), dtype=compute)
            by_x = tl.zeros((ROWS, BLOCK), dtype=compute)
            by_y = tl.zeros((ROWS, BLOCK), dtype=compute)
            for corner in tl.static_range(4):
                if corner % 2 == 0:
                    share_x, sign_x, inside, column = 1.0 - right, -1.0, x0_inside, x
                else:
                    share_x, sign_x, inside, column = right, 1.0, x1_inside, x + 1
                if corner < 2:
                    share_y, sign_y, inside, line = 1.0 - below, -1.0, inside & y0_inside, y
                else:
                    share_y, sign_y, inside, line = below, 1.0, inside & y1_inside, y + 1
                pixel = start + line.to(tl.int64) * width + column
                offset = image[:, None] + pixel[:, None] * (HEADS * CHANNELS) + channel[None, :]
                mask = (alive & inside)[:, None] & kept[None, :]
                found = tl.load(value + offset, mask=mask, other=0.0).to(compute)
                sampled += found * (share_x * share_y)[:, None]
                by_x += found * (sign_x * share_y)[:, None]
                by_y += found * (sign_y * share_x)[:, None]
                share = (share_x * share_y * weight)[:, None]
                tl.atomic_add(grad_value + offset, upstream * share, mask=mask, sem="relaxed")
            tl.store(grad_weights + sample, tl.sum(sampled * upstream, axis=1), mask=alive)
            x_gradient = tl.sum(by_x * upstream, axis=1) * weight * width.to(compute)
            y_gradient = tl.sum(by_y * upstream, axis=1) * weight * height.to(compute)
            tl.store(grad_locations + 2 * sample, x_gradient, mask=alive)
            tl.store(grad_locations + 2 * sample + 1, y_gradient, mask=alive)
