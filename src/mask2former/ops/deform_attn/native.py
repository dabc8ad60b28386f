"""Multi-scale deformable sampling in C: loads the library beside this file and registers it with torch.

The library (``csrc/``) is built at installation if a compiler is available; without it ``available()`` is False and
``why_unavailable()`` gives the reason. Registered as ``torch.library`` operators with fake and autograd
implementations, so ``torch.compile`` and ``torch.export`` can trace them. Must not know which kernel is in use.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mask2former.ops.deform_attn.operators import check_sizes, fill, register_sampling
from mask2former.ops.deform_attn.projected import samples_of
from mask2former.ops.onednn import is_plain_inference

__all__ = [
    "available",
    "deformable_sampling_native",
    "deformable_self_attention_native",
    "load_library",
    "run_backward",
    "run_forward",
    "run_projected",
    "supports",
    "why_unavailable",
]

_ELEMENTS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
_BEST = -1  # instruction set


def load_library(folder: Path) -> tuple[ctypes.CDLL | None, str]:
    """The library in ``folder``, or None and the reason."""
    candidates = sorted(path for path in folder.glob("_deform_attn*") if path.suffix in {".so", ".dylib", ".pyd"})
    if not candidates:
        return None, f"the compiled kernel is not in {folder} (was there no C compiler when mask2former was installed?)"
    try:
        library = ctypes.CDLL(str(candidates[0]))
    except OSError as error:
        return None, f"{candidates[0]} cannot be loaded: {error}"
    integers = [ctypes.c_int] * 3
    try:
        library.deform_attn_forward.argtypes = [ctypes.c_void_p] * 3 + integers + [ctypes.c_void_p] * 4
        library.deform_attn_projected.argtypes = [ctypes.c_void_p] * 3 + integers + [ctypes.c_void_p] * 3
        library.deform_attn_backward.argtypes = [ctypes.c_void_p] * 3 + integers + [ctypes.c_void_p] * 7
    except AttributeError as error:
        return None, f"{candidates[0]} was built from an older version of mask2former ({error})"
    return library, ""


# At import, not on first use: a plain global is what torch.compile can read.
_LIBRARY, _WHY_UNAVAILABLE = load_library(Path(__file__).parent)


def available() -> bool:
    """Whether the compiled kernel can be used in this installation."""
    return _LIBRARY is not None


def why_unavailable() -> str:
    """One sentence; empty when the kernel is available."""
    return _WHY_UNAVAILABLE


def supports(value: Tensor) -> bool:
    """Whether the kernel, if available, supports this tensor's device and dtype."""
    return value.device.type == "cpu" and value.dtype in _ELEMENTS


def deformable_sampling_native(
    value: Float[Tensor, "B S M D"],
    shapes: Sequence[tuple[int, int]],
    locations: Float[Tensor, "B Q M L P 2"],
    weights: Float[Tensor, "B Q M L P"],
) -> Float[Tensor, "B Q MD"]:
    """Attention-weighted sum of bilinear samples, heads concatenated; arguments as in ``deformable_sampling``.

    Tensors on the CPU, ``value`` in float32, float64 or bfloat16. Sums are in float32 at least; a bf16 output is
    rounded once, at the end. Results do not depend on the number of threads (``torch.get_num_threads()``).
    """
    compute = torch.promote_types(value.dtype, torch.float32)
    flat_shapes = [side for shape in shapes for side in shape]
    return torch.ops.mask2former.deform_attn(value, flat_shapes, locations.to(compute), weights.to(compute))


def deformable_self_attention_native(
    value: Float[Tensor, "B S M D"], shapes: Sequence[tuple[int, int]], projected: Float[Tensor, "B S MLP3"]
) -> Float[Tensor, "B S MD"]:
    """Softmax, positions and sums in one pass; arguments as in ``deformable_self_attention``, of one dtype.

    Arithmetic is in float32 at least, and as independent of threads as above.
    """
    flat_shapes = [side for shape in shapes for side in shape]
    if is_plain_inference() and type(value) is type(projected) is Tensor:  # the operator imports torch._dynamo, 2 s
        return run_projected(value, flat_shapes, projected)
    return torch.ops.mask2former.deform_attn_projected(value, flat_shapes, projected)


def _setup_projected(ctx, inputs: tuple, output: Tensor) -> None:
    value, ctx.shapes, projected = inputs
    ctx.save_for_backward(value, projected)


def _autograd_projected(ctx, grad_output: Tensor) -> tuple[Tensor, None, Tensor]:
    value, projected = ctx.saved_tensors
    pairs = list(zip(ctx.shapes[0::2], ctx.shapes[1::2], strict=True))
    locations, weights = samples_of(projected, pairs, value.shape[2])
    grad_value, grad_locations, grad_weights = torch.ops.mask2former.deform_attn_backward(
        grad_output, value, ctx.shapes, locations, weights
    )
    sizes_xy = locations.new_tensor([(width, height) for height, width in pairs]).view(-1, 1, 2)
    grad_offsets = grad_locations / sizes_xy
    grad_weights = grad_weights - (grad_weights * weights).sum((3, 4), keepdim=True)
    grad_projected = torch.cat((grad_offsets.flatten(2), (grad_weights * weights).flatten(2)), dim=2)
    return grad_value, None, grad_projected.to(projected.dtype)


def run_forward(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor, level: int = _BEST) -> Tensor:
    """Calls the library; ``level`` picks an instruction set, counted from the baseline, -1 the best."""
    assert _LIBRARY is not None
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    sizes = check_sizes(value, shapes, locations, weights, _ELEMENTS)
    batch, _, queries, heads, channels, _, _ = sizes
    output = value.new_empty((batch, queries, heads * channels))
    if 0 in sizes:
        return output.zero_()
    _call(_LIBRARY.deform_attn_forward, sizes, shapes, level, (value, locations, weights, output))
    return output


def run_projected(value: Tensor, shapes: Sequence[int], projected: Tensor, level: int = _BEST) -> Tensor:
    """As ``run_forward``, for queries that are the pixels.

    Raises:
        ValueError: Shapes or dtypes disagree. C would read or write out of bounds.
    """
    assert _LIBRARY is not None
    value, projected = value.contiguous(), projected.contiguous()
    batch, pixels, heads, channels = value.shape
    levels = len(shapes) // 2
    points, rest = divmod(projected.shape[2], 3 * max(heads * levels, 1))
    consistent = (
        value.dtype in _ELEMENTS
        and projected.dtype == value.dtype
        and projected.shape[:2] == (batch, pixels)
        and rest == 0
        and fill(shapes, pixels)
    )
    if not consistent:
        raise ValueError(
            "deform_attn: expected value (B, S, M, D) with S the sum of the levels' H * W, and projected"
            f" (B, S, 3 * M * L * P) in its dtype; got value {tuple(value.shape)} {value.dtype}, levels"
            f" {list(zip(shapes[0::2], shapes[1::2], strict=False))}, projected {tuple(projected.shape)}"
            f" {projected.dtype}"
        )
    output = value.new_empty((batch, pixels, heads * channels))
    sizes = (batch, pixels, pixels, heads, channels, levels, points)
    if 0 in sizes:
        return output.zero_()
    _call(_LIBRARY.deform_attn_projected, sizes, shapes, level, (value, projected, output))
    return output


def run_backward(
    grad_output: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor, level: int = _BEST
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights; ``level`` as in ``run_forward``."""
    assert _LIBRARY is not None
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    grad_output = grad_output.to(value.dtype).contiguous()
    sizes = check_sizes(value, shapes, locations, weights, _ELEMENTS)
    # Sums of many small terms: bf16 gradients are gathered in float32 and rounded once.
    grad_value = torch.zeros_like(value, dtype=locations.dtype)
    grad_locations, grad_weights = torch.empty_like(locations), torch.empty_like(weights)
    if 0 in sizes:
        return grad_value.to(value.dtype), grad_locations.zero_(), grad_weights.zero_()
    tensors = (grad_output, value, locations, weights, grad_value, grad_locations, grad_weights)
    _call(_LIBRARY.deform_attn_backward, sizes, shapes, level, tensors)
    return grad_value.to(value.dtype), grad_locations, grad_weights


def _call(
    function: Callable[..., int], sizes: Sequence[int], shapes: Sequence[int], level: int, tensors: Sequence[Tensor]
) -> None:
    """A function of the library; the first tensor says the type of elements.

    Raises:
        MemoryError: There is none for the threads' work space.
    """
    areas = [height * width for height, width in zip(shapes[0::2], shapes[1::2], strict=True)]
    starts = list(accumulate(areas, initial=0))
    arrays = [(ctypes.c_int64 * len(numbers))(*numbers) for numbers in (sizes, shapes, starts)]
    pointers = [tensor.data_ptr() for tensor in tensors]
    if function(*arrays, _ELEMENTS[tensors[0].dtype], level, torch.get_num_threads(), *pointers):
        raise MemoryError("deform_attn: no memory for the threads' work space")


register_sampling("deform_attn", run_forward, run_backward, "cpu")
_projected = torch.library.custom_op(
    "mask2former::deform_attn_projected",
    run_projected,
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor value, int[] shapes, Tensor projected) -> Tensor",
)
_projected.register_autograd(_autograd_projected, setup_context=_setup_projected)


@_projected.register_fake
def _(value: Tensor, shapes: Sequence[int], projected: Tensor) -> Tensor:
    return value.new_empty((value.shape[0], value.shape[1], value.shape[2] * value.shape[3]))
