"""Multi-scale deformable sampling in Triton, for CUDA devices; registered with torch like the native kernel.

Triton comes with torch on Linux with CUDA, and the programs (``triton_kernels.py``) are compiled for the device when
they first run, which takes seconds and is cached on disk by Triton. Nothing is copied from or to the host and nothing
waits for the device. Must not know which kernel is in use.

The backward pass adds to the gradient of ``value`` atomically, in any order, so its last bits differ from run to run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mask2former.extras import is_installed
from mask2former.ops.deform_attn.operators import check_sizes, register_sampling

__all__ = ["available", "deformable_sampling_triton", "supports", "why_unavailable"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_OLDEST = 8  # major compute capability that Triton supports
_ELEMENTS = 512  # of a tile; 32 channels of 16 rows are four values for each of 128 threads
_WARPS = 4


def _why_unavailable() -> str:
    if not is_installed("triton"):
        return "Triton is not installed (it comes with torch on Linux with CUDA)"
    if _INTERPRETED or "CC" in os.environ or shutil.which("gcc") or shutil.which("clang"):
        return ""
    return "Triton cannot find a C compiler (gcc or clang), which it needs to start programs"


# At import, not on first use: plain globals are what torch.compile can read. Triton itself is not imported here.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_WHY_UNAVAILABLE = _why_unavailable()


def available() -> bool:
    """Whether Triton and what it needs are available."""
    return not _WHY_UNAVAILABLE


def why_unavailable() -> str:
    """One sentence; empty where Triton is available."""
    return _WHY_UNAVAILABLE


def supports(value: Tensor) -> bool:
    """Whether the kernel, if available, supports this tensor's device and dtype.

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


def _forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    from mask2former.ops.deform_attn import triton_kernels

    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    batch, _, queries, heads, channels, _, _ = check_sizes(value, shapes, locations, weights, _DTYPES)
    output = value.new_empty((batch, queries, heads * channels))
    if 0 in value.shape or 0 in locations.shape:
        return output.zero_()
    _launch(triton_kernels.forward, (value, locations, weights, output), value, shapes, locations)
    return output


def _backward(
    grad_output: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from mask2former.ops.deform_attn import triton_kernels

    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    grad_output = grad_output.to(value.dtype).contiguous()
    check_sizes(value, shapes, locations, weights, _DTYPES)
    grad_value = torch.zeros_like(value, dtype=locations.dtype)
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    if 0 in value.shape or 0 in locations.shape:
        return grad_value.to(value.dtype), grad_locations.zero_(), grad_weights.zero_()
    tensors = (grad_output, value, locations, weights, grad_value, grad_locations, grad_weights)
    _launch(triton_kernels.backward, tensors, value, shapes, locations)
    return grad_value.to(value.dtype), grad_locations, grad_weights


register_sampling("deform_attn_triton", _forward, _backward)


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
