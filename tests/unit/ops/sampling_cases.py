"""Shared by tests of the kernels of deformable sampling: levels, output with gradients, and tolerances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mask2former.ops.deform_attn import deformable_sampling
from mask2former.ops.deform_attn.api import Kernel

SHAPES = ((3, 5), (7, 4), (1, 1))  # odd sides and a level of one pixel


def upstream(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A gradient of the output, rounded to bfloat16 first so that all dtypes get the same values."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=torch.float64).bfloat16().to(dtype)


def with_gradients(
    kernel: Kernel, inputs: Sequence[Tensor], shapes: Sequence[tuple[int, int]] = SHAPES
) -> list[Tensor]:
    """The output, and gradients by value, locations and weights."""
    value, locations, weights = (tensor.detach().clone().requires_grad_() for tensor in inputs)
    out = deformable_sampling(value, shapes, locations, weights, kernel=kernel)
    grad = upstream(out.shape, out.dtype)
    return [out.detach(), *torch.autograd.grad(out, (value, locations, weights), grad)]


def assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.isfinite().all()
        if other.numel():
            error = (one.double() - other.double()).abs().max()
            assert error <= tolerance * max(1.0, other.double().abs().max().item())
