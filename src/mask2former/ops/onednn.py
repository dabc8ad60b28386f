"""Linear layers and convolutions with what follows inside them, for inference on a CPU.

torch has oneDNN's fused operators for its compiler only: they are private, so they can change or go. Each is tried on a
tiny input first, once for each dtype, and what is missing, refused or wrong is computed by plain torch: another torch
can make these functions slower, never wrong. Plain torch also computes everything that has gradients, is compiled,
exported or under autocast, other devices, and other dtypes than float32 and bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["Activation", "convolution", "convolution_add_relu", "is_plain_inference", "linear"]

Activation = Literal["none", "relu", "gelu"]

# Not float16: values beyond its range are common, and a NaN that they make must be seen.
_DTYPES = {torch.float32: 1e-4, torch.bfloat16: 0.05}  # and how close the trial must come to float64
# oneDNN's relu turns NaN into 0, which would hide damaged weights. Its leaky form keeps NaN and costs the same; what it
# leaves of negative values is below any rounding, and far from the denormal numbers, which are slow.
_ATTRIBUTES = {"none": ("none", [], ""), "relu": ("leaky_relu", [1e-30], ""), "gelu": ("gelu", [], "none")}


def is_plain_inference() -> bool:
    """Whether nothing but results is wanted: no gradients, no compiled or exported program, no autocast."""
    return not (
        torch.compiler.is_compiling()
        or torch.is_grad_enabled()
        or torch.jit.is_tracing()
        or torch.is_autocast_enabled("cpu")
    )


def linear(
    x: Float[Tensor, "*rows inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None = None,
    activation: Activation = "none",
) -> Float[Tensor, "*rows outputs"]:
    """``F.linear`` and ReLU or exact GELU in one.

    Negative values under "relu" become ``-1e-30`` of themselves where it is fused, NaN stays NaN.
    """
    if x.ndim > 1 and _suits("linear", x, weight, bias):
        return _linear(x, weight, bias, activation)
    return _activated(F.linear(x, weight, bias), activation)


def convolution(
    x: Float[Tensor, "N inputs H W"],
    weight: Float[Tensor, "outputs inputs_of_group kh kw"],
    bias: Float[Tensor, " outputs"] | None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    activation: Literal["none", "relu"] = "none",
) -> Float[Tensor, "N outputs h w"]:
    """``F.conv2d`` and ReLU in one; as :func:`linear` for negative values and NaN."""
    if x.ndim == 4 and _suits("convolution", x, weight, bias):
        return _convolution(x, weight, bias, stride, padding, dilation, groups, activation)
    return _activated(F.conv2d(x, weight, bias, stride, padding, dilation, groups), activation)


def convolution_add_relu(
    x: Float[Tensor, "N inputs H W"],
    weight: Float[Tensor, "outputs inputs kh kw"],
    bias: Float[Tensor, " outputs"] | None,
    other: Float[Tensor, "N outputs h w"],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    *,
    overwrite: bool = False,
) -> Float[Tensor, "N outputs h w"]:
    """``F.relu(F.conv2d(x, ...) + other)``. Unlike there, NaN may become 0: check ``x`` where that matters.

    With ``overwrite`` the result may take the memory of ``other``, which saves a pass over it. Fused where both have
    their channels last.
    """
    if (
        _has_channels_last(x)
        and _has_channels_last(other)
        and _suits("add_relu", x, weight, bias)
        and other.dtype == x.dtype
    ):
        return _convolution_add_relu(x, weight, bias, other, stride, padding, dilation, overwrite)
    return F.relu(F.conv2d(x, weight, bias, stride, padding, dilation) + other)


def _has_channels_last(x: Tensor) -> bool:
    """Whether it has, and nothing but that: with a side of 1, other layouts have the same memory, and torch errs."""
    return x.ndim == 4 and min(x.shape[1:]) > 1 and x.is_contiguous(memory_format=torch.channels_last)


def _activated(y: Tensor, activation: Activation) -> Tensor:
    return F.relu(y) if activation == "relu" else F.gelu(y) if activation == "gelu" else y


def _suits(kind: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the fused operator is to compute this call."""
    return (
        is_plain_inference()
        and x.device.type == "cpu"
        and x.dtype in _DTYPES
        and weight.dtype == x.dtype
        and (bias is None or bias.dtype == x.dtype)
        and x.numel() > 0
        and type(x) is Tensor  # others do what they like: they pretend, count or distribute
        and torch.backends.mkldnn.enabled
        and _works(kind, x.dtype)
    )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *_ATTRIBUTES[activation])


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: Activation,
) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, dilation, groups, *_ATTRIBUTES[activation]
    )


def _convolution_add_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    other: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    overwrite: bool,
) -> Tensor:
    arguments = (weight, bias, padding, stride, dilation, 1, "add", 1.0, "relu", [], "")
    if overwrite:
        return torch.ops.mkldnn._convolution_pointwise_.binary(other, x, *arguments)
    return torch.ops.mkldnn._convolution_pointwise.binary(x, other, *arguments)


@cache
def _works(kind: str, dtype: torch.dtype) -> bool:
    """Whether torch has the operator, takes the dtype on this processor and computes what it should."""
    try:
        return all(_is_close(*pair, dtype) for pair in _TRIALS[kind](dtype))
    except (AttributeError, RuntimeError, TypeError, ValueError):  # gone, refused, or with other arguments
        return False


def _is_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    tolerance = _DTYPES[dtype]
    return found.dtype == dtype and torch.allclose(
        found.double(), expected, rtol=tolerance, atol=tolerance, equal_nan=True
    )


def _random(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)  # whoever computes has seeds of their own
    return [torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu").to(dtype) for shape in shapes]


def _try_linear(dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    x, weight, bias = _random(dtype, (2, 5, 16), (8, 16), (8,))
    x[0, 0, 0] = torch.nan
    expected = F.linear(x.double(), weight.double(), bias.double())
    kinds: tuple[Activation, ...] = ("none", "relu", "gelu")
    return [(_linear(x, weight, bias, kind), _activated(expected, kind)) for kind in kinds]


def _try_convolution(dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    x, weight, bias = _random(dtype, (2, 8, 7, 9), (16, 8, 3, 3), (16,))
    x[0, 0, 0, 0] = torch.nan
    x = x.to(memory_format=torch.channels_last)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), 2, 1)
    steps = ((2, 2), (1, 1), (1, 1), 1)
    kinds: tuple[Activation, ...] = ("none", "relu")
    return [(_convolution(x, weight, bias, *steps, kind), _activated(expected, kind)) for kind in kinds]


def _try_add_relu(dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    x, weight, bias, other = _random(dtype, (2, 8, 7, 9), (16, 8, 3, 3), (16,), (2, 16, 4, 5))
    x, other = (tensor.to(memory_format=torch.channels_last) for tensor in (x, other))
    expected = F.relu(F.conv2d(x.double(), weight.double(), bias.double(), 2, 1) + other.double())
    steps = ((2, 2), (1, 1), (1, 1))
    return [
        (_convolution_add_relu(x, weight, bias, given, *steps, overwrite), expected)
        for overwrite, given in ((False, other), (True, other.clone()))
    ]


_TRIALS: dict[str, Callable[[torch.dtype], list[tuple[Tensor, Tensor]]]] = {
    "linear": _try_linear,
    "convolution": _try_convolution,
    "add_relu": _try_add_relu,
}
