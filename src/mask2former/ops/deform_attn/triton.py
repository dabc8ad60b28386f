"""Multi-scale deformable sampling in Triton, for CUDA devices; registered with torch like the native kernel.

torch brings Triton on Linux with CUDA, and the programs (``triton_kernels.py``) are compiled for the device when they
first run, which takes seconds and is remembered on disk by Triton. Nothing is copied from or to the host and nothing
waits for the device. Must not know which kernel is in use.

The backward pass adds to the gradient of ``value`` atomically, in any order, so its last bits differ from run to run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["available", "deformable_sampling_triton", "supports", "why_unavailable"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_OLDEST = 8  # major compute capability that Triton supports
_ELEMENTS = 512  # of a tile; 32 channels of 16 rows are four values for each of 128 threads
_WARPS = 4


def _why_unavailable() -> str:
    if find_spec("triton") is None:
        return "Triton is not installed (torch brings it on Linux with CUDA)"
    if _INTERPRETED or "CC" in os.environ or shutil.which("gcc") or shutil.which("clang"):
        return ""
    return "Triton finds no C compiler (gcc or clang), which it needs to start programs"


# At import, not on first use: plain globals are what torch.compile can read. Triton itself is not imported here.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_WHY_UNAVAILABLE = _why_unavailable()


def available() -> bool:
    """Whether Triton is there with what it needs."""
    return not _WHY_UNAVAILABLE


def why_unavailable() -> str:
    """One sentence; empty where Triton is available."""
    return _WHY_UNAVAILABLE


def supports(value: Tensor) -> bool:
    """Whether the kernel, where available, takes this tensor's device and dtype.

    With ``TRITON_INTERPRET=1`` in the environment, before anything imports Triton, it runs on the CPU, slowly.
    """
    if value.dtype not in _DTYPES:
        return False
    if _INTERPRETED:
        return True
    return value.device.type == "cuda" and torch.cuda.get_device_properties(value.device).major >= _OLDEST


def deformable_sampling_triton(
    value: Float[Tensor, "B S M D"],
    shapes: Sequence[tuple[int, int]],
    locations: Float[Tensor, "B Q M L P 2"],
    weights: Float[Tensor, "B Q M L P"],
) -> Float[Tensor, "B Q MD"]:
    """Attention-weighted sum of bilinear samples, heads concatenated; arguments as in ``deformable_sampling``.

    Sums are in float32 at least and rounded once, at the end. The gradient of ``value`` is gathered in float32 at least
    by atomic additions: it is not deterministic.
    """
    compute = torch.promote_types(value.dtype, torch.float32)
    flat_shapes = [side for shape in shapes for side in shape]
    return torch.ops.mask2former.deform_attn_triton(value, flat_shapes, locations.to(compute), weights.to(compute))


@torch.library.custom_op(
    "mask2former::deform_attn_triton",
    mutates_args=(),
    schema="(Tensor value, int[] shapes, Tensor locations, Tensor weights) -> Tensor",
)
def _forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    from mask2former.ops.deform_attn import triton_kernels

    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    batch, _, queries, heads, channels, _, _ = _sizes(value, shapes, locations, weights)
    output = value.new_empty((batch, queries, heads * channels))
    if 0 in value.shape or 0 in locations.shape:
        return output.zero_()
    _launch(triton_kernels.forward, (value, locations, weights, output), value, shapes, locations)
    return output


@_forward.register_fake
def _(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty((value.shape[0], locations.shape[1], value.shape[2] * value.shape[3]))


@torch.library.custom_op(
    "mask2former::deform_attn_triton_backward",
    mutates_args=(),
    schema="(Tensor grad_output, Tensor value, int[] shapes, Tensor locations, Tensor weights)"
    " -> (Tensor, Tensor, Tensor)",
)
def _backward(
    grad_output: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from mask2former.ops.deform_attn import triton_kernels

    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    grad_output = grad_output.to(value.dtype).contiguous()
    _sizes(value, shapes, locations, weights)
    grad_value = torch.zeros_like(value, dtype=locations.dtype)
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    if 0 in value.shape or 0 in locations.shape:
        return grad_value.to(value.dtype), grad_locations.zero_(), grad_weights.zero_()
    tensors = (grad_output, value, locations, weights, grad_value, grad_locations, grad_weights)
    _launch(triton_kernels.backward, tensors, value, shapes, locations)
    return grad_value.to(value.dtype), grad_locations, grad_weights


@_backward.register_fake
def _(
    grad_output: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def _setup_context(ctx, inputs: tuple, output: Tensor) -> None:
    value, ctx.shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _autograd(ctx, grad_output: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    value, locations, weights = ctx.saved_tensors
    grads = torch.ops.mask2former.deform_attn_triton_backward(grad_output, value, ctx.shapes, locations, weights)
    return grads[0], None, grads[1], grads[2]


_forward.register_autograd(_autograd, setup_context=_setup_context)


def _launch(program, tensors: Sequence[Tensor], value: Tensor, shapes: Sequence[int], locations: Tensor) -> None:
    batch, pixels, heads, channels = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    sizes, start = [], 0
    for height, width in zip(shapes[0::2], shapes[1::2], strict=True):
        sizes += [height, width, start]
        start += height * width
    block = 1 << (channels - 1).bit_length()
    rows = max(_ELEMENTS // block, 1)
    num_rows = batch * queries * heads
    with torch.cuda.device_of(value):  # Triton starts programs on the current device
        program[(-(-num_rows // rows),)](
            *tensors, num_rows, queries, pixels, tuple(sizes), heads, channels, levels, points, rows, block,
            num_warps=_WARPS, enable_fp_fusion=True,
        )  # fmt: skip


def _sizes(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> tuple[int, ...]:
    """Batch, pixels, queries, heads, channels, levels, points.

    Raises:
        ValueError: Shapes or dtypes disagree. The device would read or write out of bounds.
    """
    batch, pixels, heads, channels = value.shape
    _, queries, _, levels, points, _ = locations.shape
    compute = torch.promote_types(value.dtype, torch.float32)
    heights, widths = shapes[0::2], shapes[1::2]
    consistent = (
        value.dtype in _DTYPES
        and locations.dtype == weights.dtype == compute
        and locations.device == weights.device == value.device
        and locations.shape == (batch, queries, heads, levels, points, 2)
        and weights.shape == locations.shape[:-1]
        and len(shapes) == 2 * levels
        and min(shapes, default=1) > 0
        and sum(height * width for height, width in zip(heights, widths, strict=True)) == pixels < 2**31
    )
    if not consistent:
        raise ValueError(
            "deform_attn_triton: expected value (B, S, M, D) with S the sum of the levels' H * W, locations"
            f" (B, Q, M, L, P, 2) and weights (B, Q, M, L, P) in {compute} on one device; got value"
            f" {tuple(value.shape)} {value.dtype}, levels {list(zip(heights, widths, strict=False))}, locations"
            f" {tuple(locations.shape)} {locations.dtype}, weights {tuple(weights.shape)} {weights.dtype}"
        )
    return batch, pixels, queries, heads, channels, levels, points
