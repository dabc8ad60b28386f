"""The Triton kernel in Triton's interpreter, on the CPU; ``test_deform_attn_triton.py`` runs this in a process whose
environment has ``TRITON_INTERPRET=1``. The interpreter takes milliseconds an operation, so sizes are small.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sampling_cases import assert_close, with_gradients
from torch import Tensor

from mask2former.errors import UserError
from mask2former.ops.deform_attn import deformable_sampling, triton

# Largest error of the output and of the gradients by value, locations, weights, as a share of the largest entry.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}

# Levels, batch, queries, heads, channels, points.
SIZES = {
    "many-levels": (((3, 5), (7, 4), (1, 1), (2, 9)), 2, 3, 1, 32, 1),
    "one-level": (((5, 3),), 1, 3, 8, 5, 5),
    "odd": (((6, 7), (3, 1)), 2, 5, 3, 19, 2),
    "wide": (((2, 3),), 1, 1, 2, 131, 1),
    "one-channel": (((4, 9),), 1, 37, 5, 1, 3),
}


def make_inputs(size: str, dtype: torch.dtype) -> tuple[Any, list[Tensor]]:
    """Levels, and inputs: value in ``dtype``; locations, a third outside, and weights in at least float32."""
    shapes, batch, queries, heads, channels, points = SIZES[size]
    generator = torch.Generator().manual_seed(0)
    pixels = sum(height * width for height, width in shapes)
    samples = (batch, queries, heads, len(shapes), points)
    value = torch.randn((batch, pixels, heads, channels), generator=generator, dtype=torch.float64)
    locations = torch.rand((*samples, 2), generator=generator, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.randn(samples, generator=generator, dtype=torch.float64)
    compute = torch.promote_types(dtype, torch.float32)
    return shapes, [value.to(dtype), locations.to(compute), weights.to(compute)]


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        ("one-level", torch.float32),
        *(pytest.param("one-level", dtype, marks=pytest.mark.slow) for dtype in TOLERANCE if dtype != torch.float32),
        ("many-levels", torch.float32),
        ("odd", torch.bfloat16),
        ("wide", torch.float16),
        ("wide", torch.float64),
        ("one-channel", torch.float32),
    ],
)
def test_equals_reference(size: str, dtype: torch.dtype) -> None:
    shapes, inputs = make_inputs(size, dtype)
    actual = with_gradients("triton", inputs, shapes)
    assert_close(actual, with_gradients("reference", inputs, shapes), TOLERANCE[dtype])
    if dtype != torch.float64:  # it is also as close to exact sums
        exact = with_gradients("reference", [tensor.double() for tensor in inputs], shapes)
        assert_close([tensor.double() for tensor in actual], exact, TOLERANCE[dtype])


@pytest.mark.filterwarnings("ignore:overflow")  # of numpy, in which the interpreter computes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_far_outside_is_zero(dtype: torch.dtype) -> None:
    shapes, inputs = make_inputs("one-level", dtype)
    far = torch.tensor([1e30, -1e30, 3e38, -1e9, 2.0**31, -0.5, float("inf"), -float("inf"), float("nan")])
    inputs[1] = far.repeat(inputs[1].numel() // len(far) + 1)[: inputs[1].numel()].view_as(inputs[1])
    for tensor in with_gradients("triton", inputs, shapes):
        assert torch.equal(tensor, torch.zeros_like(tensor))


def test_at_borders_and_pixel_centres() -> None:
    """At borders and pixel centres, where the derivative jumps, the kernel agrees with the reference."""
    steps = torch.tensor([-0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 1.5], dtype=torch.float64)  # exact in binary
    locations = torch.cartesian_prod(steps, steps).view(1, 49, 1, 1, 1, 2)
    value = torch.arange(16.0, dtype=torch.float64).square().view(1, 8, 1, 2)
    inputs = [value, locations, torch.ones(1, 49, 1, 1, 1, dtype=torch.float64)]
    assert_close(with_gradients("triton", inputs, ((2, 4),)), with_gradients("reference", inputs, ((2, 4),)), 1e-13)


@pytest.mark.parametrize(("batch", "queries"), [(0, 3), (2, 0)])
def test_empty(batch: int, queries: int) -> None:
    shapes, (value, locations, weights) = make_inputs("many-levels", torch.float32)
    inputs = [value[:batch], locations[:batch, :queries], weights[:batch, :queries]]
    out, *grads = with_gradients("triton", inputs, shapes)
    assert out.shape == (batch, queries, 32)
    assert [grad.shape for grad in grads] == [tensor.shape for tensor in inputs]
    assert not grads[0].any()


def test_non_contiguous() -> None:
    shapes, inputs = make_inputs("one-level", torch.float32)
    value, locations, weights = inputs
    strided = [
        value.transpose(1, 3).contiguous().transpose(1, 3),
        locations.flip(-1).contiguous().flip(-1).transpose(1, 2).contiguous().transpose(1, 2),
        weights.transpose(0, 4).contiguous().transpose(0, 4),
    ]
    assert not any(tensor.is_contiguous() for tensor in strided)
    expected = with_gradients("reference", inputs, shapes)
    assert_close(with_gradients("triton", strided, shapes), expected, TOLERANCE[torch.float32])
    leaves = [tensor.requires_grad_() for tensor in strided]
    # A gradient that is an expanded scalar, as from sum(), has strides of zero.
    grads = torch.autograd.grad(deformable_sampling(leaves[0], shapes, *leaves[1:], kernel="triton").sum(), leaves)
    assert all(grad.isfinite().all() for grad in grads)


def test_half_precision_of_all_inputs() -> None:
    """Locations and weights may be in half precision too, as under autocast; so are their gradients then."""
    shapes, (value, locations, weights) = make_inputs("one-level", torch.bfloat16)
    inputs = [value, locations.bfloat16(), weights.bfloat16()]
    actual = with_gradients("triton", inputs, shapes)
    assert [tensor.dtype for tensor in actual] == [torch.bfloat16] * 4
    assert_close(actual, with_gradients("reference", inputs, shapes), TOLERANCE[torch.bfloat16])


def test_compiles_into_one_graph() -> None:
    shapes, inputs = make_inputs("wide", torch.float32)

    def sample(*tensors: Tensor) -> Tensor:
        return deformable_sampling(tensors[0], shapes, tensors[1], tensors[2], kernel="triton")

    compiled = torch.compile(sample, fullgraph=True, backend="aot_eager")
    eager, traced = [
        [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]
        for function in (sample, compiled)
        for leaves in [[tensor.clone().requires_grad_() for tensor in inputs]]
        for out in [function(*leaves)]
    ]
    assert_close(traced, eager, 0.0)


def test_opcheck() -> None:
    shapes, inputs = make_inputs("wide", torch.float32)
    sides = [side for shape in shapes for side in shape]
    kinds = ("test_schema", "test_autograd_registration", "test_faketensor")
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    torch.library.opcheck(torch.ops.mask2former.deform_attn_triton, (leaves[0], sides, *leaves[1:]), test_utils=kinds)
    arguments = (torch.randn(1, 1, 262), inputs[0], sides, *inputs[1:])
    torch.library.opcheck(torch.ops.mask2former.deform_attn_triton_backward, arguments, test_utils=kinds)


def test_sizes_that_disagree_are_refused() -> None:
    shapes, (value, locations, weights) = make_inputs("odd", torch.float32)
    with pytest.raises(ValueError, match="sum of the levels"):
        deformable_sampling(value[:, :-1], shapes, locations, weights, kernel="triton")
    with pytest.raises(ValueError, match="sum of the levels"):
        deformable_sampling(value, shapes, locations[:, :-1], weights, kernel="triton")


def test_deterministic_algorithms_refuse_it() -> None:
    shapes, inputs = make_inputs("one-level", torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(UserError, match="not deterministic"):
            deformable_sampling(inputs[0], shapes, *inputs[1:], kernel="triton")
    finally:
        torch.use_deterministic_algorithms(False)


def test_it_is_interpreted() -> None:
    assert triton.available()
    assert triton.supports(torch.zeros(1))
