"""Sampling kernels as operators of torch: what they share, whatever computes them.

Shapes without data, and gradients, so that ``torch.compile`` and autograd can trace them, and the check that keeps a
kernel from reading out of bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

__all__ = ["check_sizes", "fill", "register_sampling"]

_FORWARD = "(Tensor value, int[] shapes, Tensor locations, Tensor weights) -> Tensor"
_BACKWARD = (
    "(Tensor grad_output, Tensor value, int[] shapes, Tensor locations, Tensor weights) -> (Tensor, Tensor, Tensor)"
)

Forward = Callable[[Tensor, Sequence[int], Tensor, Tensor], Tensor]
Backward = Callable[[Tensor, Tensor, Sequence[int], Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def register_sampling(name: str, forward: Forward, backward: Backward, device_types: str | None = None) -> None:
    """Make ``torch.ops.mask2former.NAME`` and ``NAME_backward``, the second of which gives the gradients of the first.

    Args:
        name: of the operator.
        forward: of value (B, S, M, D), the flat heights and widths of the levels, locations (B, Q, M, L, P, 2) and
            weights (B, Q, M, L, P): the samples (B, Q, M*D).
        backward: of the gradient of these and the same: gradients of value, locations and weights.
        device_types: where it runs; None: anywhere.
    """
    qualified = f"mask2former::{name}"
    options = {"mutates_args": (), "device_types": device_types}
    operator = torch.library.custom_op(qualified, forward, schema=_FORWARD, **options)
    gradients = torch.library.custom_op(f"{qualified}_backward", backward, schema=_BACKWARD, **options)

    @operator.register_fake
    def _(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
        return value.new_empty((value.shape[0], locations.shape[1], value.shape[2] * value.shape[3]))

    @gradients.register_fake
    def _(
        grad_output: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return value.new_empty(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)

    def remember(ctx, inputs: tuple, output: Tensor) -> None:
        value, ctx.shapes, locations, weights = inputs
        ctx.save_for_backward(value, locations, weights)

    def differentiate(ctx, grad_output: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        value, locations, weights = ctx.saved_tensors
        of_value, of_locations, of_weights = gradients(grad_output, value, ctx.shapes, locations, weights)
        return of_value, None, of_locations, of_weights

    operator.register_autograd(differentiate, setup_context=remember)


def check_sizes(
    value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor, dtypes: Collection[torch.dtype]
) -> tuple[int, ...]:
    """Batch, pixels, queries, heads, channels, levels, points.

    Raises:
        ValueError: Shapes, dtypes or devices disagree, so a kernel would read or write out of bounds.
    """
    batch, pixels, heads, channels = value.shape
    _, queries, _, levels, points, _ = locations.shape
    compute = torch.promote_types(value.dtype, torch.float32)
    consistent = (
        value.dtype in dtypes
        and locations.dtype == weights.dtype == compute
        and locations.device == weights.device == value.device
        and locations.shape == (batch, queries, heads, levels, points, 2)
        and weights.shape == locations.shape[:-1]
        and len(shapes) == 2 * levels
        and fill(shapes, pixels)
    )
    if not consistent:
        raise ValueError(
            "deformable sampling: expected value (B, S, M, D) with S the sum of the levels' H * W, locations"
            f" (B, Q, M, L, P, 2) and weights (B, Q, M, L, P) in {compute} on one device; got value"
            f" {tuple(value.shape)} {value.dtype}, levels {list(zip(shapes[0::2], shapes[1::2], strict=False))},"
            f" locations {tuple(locations.shape)} {locations.dtype}, weights {tuple(weights.shape)} {weights.dtype}"
        )
    return batch, pixels, queries, heads, channels, levels, points


def fill(shapes: Sequence[int], pixels: int) -> bool:
    """Whether levels of these heights and widths make up ``pixels``, which kernels count in 32 bits."""
    areas = [height * width for height, width in zip(shapes[0::2], shapes[1::2], strict=False)]
    return len(shapes) % 2 == 0 and min(shapes, default=1) > 0 and sum(areas) == pixels < 2**31
