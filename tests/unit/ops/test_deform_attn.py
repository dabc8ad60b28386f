"""Every kernel of deformable sampling and attention compared with the reference, and that with manual cases."""

from __future__ import annotations

import _ctypes
import logging
from pathlib import Path

import pytest
import torch
from sampling_cases import SHAPES, assert_close, upstream, with_gradients
from torch import Tensor

from mask2former.errors import UserError
from mask2former.ops.deform_attn import api, deformable_sampling, deformable_self_attention, native
from mask2former.ops.deform_attn.api import Kernel
from mask2former.ops.deform_attn.projected import samples_of

needs_native = pytest.mark.skipif(not native.available(), reason=native.why_unavailable())
KERNELS = [pytest.param("native", marks=needs_native), "portable", "gather"]

# Largest error of the output and of the gradients by value, locations, weights, as a share of the largest entry.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 8e-3}


def make_inputs(
    dtype: torch.dtype, batch: int = 2, queries: int = 70, heads: int = 3, channels: int = 32, points: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """Value in ``dtype``; locations, a third of them outside, and weights in at least float32."""
    generator = torch.Generator().manual_seed(0)
    pixels = sum(height * width for height, width in SHAPES)
    samples = (batch, queries, heads, len(SHAPES), points)
    value = torch.randn((batch, pixels, heads, channels), generator=generator, dtype=torch.float64)
    locations = torch.rand((*samples, 2), generator=generator, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.randn(samples, generator=generator, dtype=torch.float64).flatten(3).softmax(-1).view(samples)
    compute = torch.promote_types(dtype, torch.float32)
    return value.to(dtype), locations.to(compute), weights.to(compute)


def test_reference_by_hand() -> None:
    value = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    # Centre of the map, centre of the last pixel, the left edge (half of a column is outside), far outside.
    locations = torch.tensor([[0.5, 0.5], [0.75, 0.75], [0.0, 0.25], [5.0, 0.5]]).view(1, 4, 1, 1, 1, 2)
    out = deformable_sampling(value, [(2, 2)], locations, torch.ones(1, 4, 1, 1, 1), kernel="reference")
    torch.testing.assert_close(out.flatten(), torch.tensor([2.5, 4.0, 0.5, 0.0]))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("channels", [32, 1, 19, 131])
def test_equals_reference(kernel: Kernel, dtype: torch.dtype, channels: int) -> None:
    inputs = make_inputs(dtype, channels=channels)
    assert_close(with_gradients(kernel, inputs), with_gradients("reference", inputs), TOLERANCE[dtype])


@pytest.mark.parametrize("kernel", KERNELS)
def test_bf16_is_near_float64(kernel: Kernel) -> None:
    value, locations, weights = make_inputs(torch.bfloat16)
    exact = with_gradients("reference", (value.double(), locations.double(), weights.double()))
    actual = [tensor.double() for tensor in with_gradients(kernel, (value, locations, weights))]
    assert_close(actual, exact, TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("kernel", [*KERNELS, "reference"])
@pytest.mark.parametrize("location_dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_mixed_dtypes(kernel: Kernel, location_dtype: torch.dtype) -> None:
    value, locations, weights = make_inputs(torch.bfloat16)
    locations, weights = locations.to(location_dtype), weights.to(location_dtype)
    actual = with_gradients(kernel, (value, locations, weights))
    assert [tensor.dtype for tensor in actual] == [torch.bfloat16, torch.bfloat16, location_dtype, location_dtype]
    promoted = (value, locations.float(), weights.float())
    expected = with_gradients("reference", promoted)
    tensors = [tensor.to(one.dtype) for tensor, one in zip(expected, actual, strict=True)]
    assert_close(actual, tensors, TOLERANCE[torch.bfloat16])


def num_instruction_sets() -> int:
    """How many of the kernel's instruction sets this processor can run."""
    library, reason = native.load_library(Path(native.__file__).parent)
    assert library is not None, reason
    return library.deform_attn_levels()


@needs_native
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_every_instruction_set(dtype: torch.dtype) -> None:
    value, locations, weights = make_inputs(dtype)
    shapes = [side for shape in SHAPES for side in shape]
    grad = upstream((2, 70, 96), dtype)
    expected = with_gradients("reference", (value, locations, weights))
    for level in range(num_instruction_sets()):
        out = native.run_forward(value, shapes, locations, weights, level)
        grads = native.run_backward(grad, value, shapes, locations, weights, level)
        assert_close([out, *grads], expected, TOLERANCE[dtype])


@needs_native
def test_same_bits_for_any_number_of_threads() -> None:
    inputs = make_inputs(torch.float32, queries=1300)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(with_gradients("native", inputs))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(one, other) for one, other in zip(result, results[0], strict=True))


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradcheck(kernel: Kernel) -> None:
    value, locations, weights = make_inputs(torch.float64, batch=1, queries=3, heads=2, channels=5, points=2)

    def sample(*tensors: Tensor) -> Tensor:
        return deformable_sampling(tensors[0], SHAPES, tensors[1], tensors[2], kernel=kernel)

    assert torch.autograd.gradcheck(sample, [tensor.requires_grad_() for tensor in (value, locations, weights)])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
def test_far_outside_is_zero(kernel: Kernel, dtype: torch.dtype) -> None:
    value, locations, weights = make_inputs(dtype)
    far = torch.tensor([1e30, -1e30, 3e38, -1e9, 2.0**31, -0.5, float("inf"), -float("inf"), float("nan")])
    far = far.to(locations.dtype).repeat(locations.numel() // len(far) + 1)
    locations = far[: locations.numel()].view_as(locations)
    for tensor in with_gradients(kernel, (value, locations, weights)):
        assert torch.equal(tensor, torch.zeros_like(tensor))


@pytest.mark.parametrize("kernel", KERNELS)
def test_at_borders_and_pixel_centres(kernel: Kernel) -> None:
    """At borders and pixel centres, where the derivative jumps, every kernel agrees with the reference."""
    value, _, weights = make_inputs(torch.float64, queries=49)
    steps = torch.tensor([-0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 1.5], dtype=torch.float64)  # exact in binary
    grid = torch.cartesian_prod(steps, steps).view(1, 49, 1, 1, 1, 2).expand(2, 49, 3, 1, 4, 2).contiguous()
    shapes, weights = ((2, 4),), weights[:, :, :, :1].contiguous()
    inputs = (value[:, :8].contiguous(), grid, weights)
    assert_close(with_gradients(kernel, inputs, shapes), with_gradients("reference", inputs, shapes), 1e-13)


@pytest.mark.parametrize("kernel", [*KERNELS, "reference"])
@pytest.mark.parametrize(("batch", "queries"), [(0, 5), (2, 0), (0, 0)])
def test_empty(kernel: Kernel, batch: int, queries: int) -> None:
    inputs = make_inputs(torch.float32, batch=batch, queries=queries)
    out, *grads = with_gradients(kernel, inputs)
    assert out.shape == (batch, queries, 96)
    assert [grad.shape for grad in grads] == [tensor.shape for tensor in inputs]
    assert not grads[0].any()


@pytest.mark.parametrize("kernel", KERNELS)
def test_non_contiguous(kernel: Kernel) -> None:
    value, locations, weights = make_inputs(torch.float32)
    strided = (
        value.transpose(1, 3).contiguous().transpose(1, 3),
        locations.flip(-1).contiguous().flip(-1).transpose(1, 2).contiguous().transpose(1, 2),
        weights.transpose(0, 4).contiguous().transpose(0, 4),
    )
    assert not any(tensor.is_contiguous() for tensor in strided)
    actual = [deformable_sampling(strided[0], SHAPES, strided[1], strided[2], kernel=kernel)]
    tensors = [tensor.requires_grad_() for tensor in strided]
    out = deformable_sampling(tensors[0], SHAPES, tensors[1], tensors[2], kernel=kernel)
    # A gradient that is an expanded scalar, as from sum(), has strides of zero.
    actual += torch.autograd.grad(out.sum(), tensors)
    copies = [tensor.detach().clone().contiguous().requires_grad_() for tensor in (value, locations, weights)]
    out = deformable_sampling(copies[0], SHAPES, copies[1], copies[2], kernel="reference")
    assert_close(actual, [out, *torch.autograd.grad(out.sum(), copies)], TOLERANCE[torch.float32])


@pytest.mark.unchecked
@pytest.mark.parametrize("kernel", ["auto", *KERNELS])
def test_compiles_into_one_graph(kernel: Kernel) -> None:
    inputs = make_inputs(torch.float32)

    def sample(*tensors: Tensor) -> Tensor:
        return deformable_sampling(tensors[0], SHAPES, tensors[1], tensors[2], kernel=kernel)

    eager, compiled = [
        [out.detach(), *torch.autograd.grad(out.square().sum(), tensors)]
        for function in (sample, torch.compile(sample, fullgraph=True, backend="eager"))
        for tensors in [[tensor.clone().requires_grad_() for tensor in inputs]]
        for out in [function(*tensors)]
    ]
    assert_close(compiled, eager, 0.0)


def test_exports_without_our_operators() -> None:
    class Sample(torch.nn.Module):
        def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
            return deformable_sampling(value, SHAPES, locations, weights)

    inputs = make_inputs(torch.float32)
    program = torch.export.export(Sample(), inputs)
    assert "mask2former" not in str(program.graph)
    assert_close([program.module()(*inputs)], [deformable_sampling(inputs[0], SHAPES, *inputs[1:])], 3e-6)


@pytest.mark.long
@needs_native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own doing
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    value, locations, weights = make_inputs(dtype, batch=1, queries=4)
    shapes = [side for shape in SHAPES for side in shape]
    tensors = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    torch.library.opcheck(torch.ops.mask2former.deform_attn, (tensors[0], shapes, tensors[1], tensors[2]))
    grad = torch.randn(1, 4, 96).to(dtype)
    detached = [tensor.detach() for tensor in tensors]
    torch.library.opcheck(
        torch.ops.mask2former.deform_attn_backward, (grad, detached[0], shapes, detached[1], detached[2])
    )


@pytest.mark.unchecked
@needs_native
def test_sizes_that_disagree_are_refused() -> None:
    value, locations, weights = make_inputs(torch.float32)
    with pytest.raises(ValueError, match="sum of the levels"):
        deformable_sampling(value[:, :-1], SHAPES, locations, weights, kernel="native")
    with pytest.raises(ValueError, match="sum of the levels"):
        deformable_sampling(value, SHAPES, locations[:, :-1], weights, kernel="native")


@pytest.mark.unchecked
def test_forcing_a_missing_kernel_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_LIBRARY", None)
    monkeypatch.setattr(native, "_WHY_UNAVAILABLE", "there is none")
    value, locations, weights = make_inputs(torch.float32)
    with pytest.raises(UserError, match=r"there is none.*kernel='auto'"):
        deformable_sampling(value, SHAPES, locations, weights, kernel="native")
    expected = deformable_sampling(value, SHAPES, locations, weights, kernel="portable")
    assert torch.equal(deformable_sampling(value, SHAPES, locations, weights), expected)
    with pytest.raises(UserError, match="unknown"):
        deformable_sampling(value, SHAPES, locations, weights, kernel="fast")  # pyright: ignore[reportArgumentType]


@needs_native
def test_forcing_native_on_another_dtype_says_what_it_got() -> None:
    value, locations, weights = make_inputs(torch.float16)
    with pytest.raises(UserError, match=r"torch\.float16"):
        deformable_sampling(value, SHAPES, locations, weights, kernel="native")
    assert deformable_sampling(value, SHAPES, locations, weights).dtype == torch.float16  # auto chooses another


def test_missing_and_broken_libraries_are_explained(tmp_path) -> None:
    assert native.load_library(tmp_path)[0] is None
    assert "not in" in native.load_library(tmp_path)[1]
    (tmp_path / "_deform_attn.so").write_text("not a library")
    library, reason = native.load_library(tmp_path)
    assert library is None
    assert "cannot be loaded" in reason
    (tmp_path / "_deform_attn.so").unlink()
    (tmp_path / "_deform_attn.so").symlink_to(_ctypes.__file__)  # a library without our functions
    library, reason = native.load_library(tmp_path)
    assert library is None
    assert "built from an older version" in reason


def test_path_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    api._announce.cache_clear()
    inputs = make_inputs(torch.float32)
    with caplog.at_level(logging.INFO, logger="mask2former"):
        for _ in range(2):
            deformable_sampling(inputs[0], SHAPES, *inputs[1:], kernel="portable")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "portable" in messages[0]


def make_projected(
    dtype: torch.dtype, batch: int = 2, heads: int = 3, channels: int = 32, points: int = 4, shapes=SHAPES
) -> tuple[Tensor, Tensor]:
    """Value and projection, with offsets of about three pixels, so that many samples are outside."""
    generator = torch.Generator().manual_seed(0)
    pixels = sum(height * width for height, width in shapes)
    value = torch.randn((batch, pixels, heads, channels), generator=generator, dtype=torch.float64)
    numbers = 3 * heads * len(shapes) * points
    projected = 3 * torch.randn((batch, pixels, numbers), generator=generator, dtype=torch.float64)
    return value.to(dtype), projected.to(dtype)


def attend(kernel: Kernel, inputs: tuple[Tensor, Tensor], shapes=SHAPES) -> list[Tensor]:
    """The output of self-attention, and gradients by value and projection."""
    value, projected = (tensor.detach().clone().requires_grad_() for tensor in inputs)
    out = deformable_self_attention(value, shapes, projected, kernel)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, (value, projected), grad)]


def test_samples_by_hand() -> None:
    # One head, levels of 1x2 and 1x1 pixels, one point each: offsets (x, y) of both, then two logits.
    row = torch.tensor([1.0, 0.0, 0.5, -0.5, 0.0, 3.0])
    locations, weights = samples_of(row.expand(1, 3, -1), [(1, 2), (1, 1)], heads=1)
    expected = torch.tensor([[[0.75, 0.5], [0.75, 0.0]], [[1.25, 0.5], [1.25, 0.0]], [[1.0, 0.5], [1.0, 0.0]]])
    torch.testing.assert_close(locations[0, :, 0, :, 0], expected)
    torch.testing.assert_close(weights[0, 0, 0, :, 0], torch.tensor([0.0, 3.0]).softmax(0))


@needs_native
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("channels", "points", "shapes"), [(32, 4, SHAPES), (19, 1, SHAPES), (131, 3, ((7, 23),))])
def test_self_attention_equals_reference(dtype: torch.dtype, channels: int, points: int, shapes) -> None:
    inputs = make_projected(dtype, channels=channels, points=points, shapes=shapes)
    assert_close(attend("native", inputs, shapes), attend("reference", inputs, shapes), 3 * TOLERANCE[dtype])


@needs_native
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("channels", [32, 48, 23])
def test_self_attention_with_every_instruction_set(dtype: torch.dtype, channels: int) -> None:
    value, projected = make_projected(dtype, channels=channels)
    shapes = [side for shape in SHAPES for side in shape]
    expected = deformable_self_attention(value.double(), SHAPES, projected.double(), "reference")
    for level in range(num_instruction_sets()):
        out = native.run_projected(value, shapes, projected, level)
        assert_close([out.double()], [expected], TOLERANCE[dtype])


@needs_native
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_self_attention_has_the_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    shapes = ((17, 19), (3, 5))
    inputs = make_projected(dtype, shapes=shapes)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(deformable_self_attention(inputs[0], shapes, inputs[1], "native"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@needs_native
def test_gradcheck_of_self_attention() -> None:
    value, projected = make_projected(torch.float64, batch=1, heads=2, channels=3, points=2, shapes=((1, 3), (2, 1)))

    def attention(*tensors: Tensor) -> Tensor:
        return deformable_self_attention(tensors[0], ((1, 3), (2, 1)), tensors[1], "native")

    assert torch.autograd.gradcheck(attention, [value.requires_grad_(), projected.requires_grad_()])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
def test_offsets_far_outside_give_zero(kernel: Kernel, dtype: torch.dtype) -> None:
    value, projected = make_projected(dtype)
    far = torch.tensor([1e30, -1e30, 3e38, -1e9, 2.0**31, -9.0, float("inf"), -float("inf"), float("nan")])
    offsets = projected.shape[2] // 3 * 2
    projected[..., :offsets] = far.repeat(offsets)[:offsets].to(dtype)
    out = deformable_self_attention(value, SHAPES, projected, kernel)
    assert torch.equal(out, torch.zeros_like(out))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
def test_extreme_logits(kernel: Kernel, dtype: torch.dtype) -> None:
    value, projected = make_projected(dtype)
    logits = projected[..., projected.shape[2] // 3 * 2 :].unflatten(2, (3, 12))  # a view
    logits[0, :, 0, ::2] = -float("inf")
    logits[0, :, 1, 3] = 1e30
    logits[1, :, 0, 5] = float("nan")
    logits[1, :, 1] = -float("inf")
    logits[1, :, 2, 2] = float("inf")
    logits[0, :, 2] = torch.linspace(-3e4, 3e4, 12)
    actual, expected = (deformable_self_attention(value, SHAPES, projected, kind) for kind in (kernel, "reference"))
    assert expected.isnan().any()
    assert torch.equal(actual.isnan(), expected.isnan())
    assert_close([actual.nan_to_num()], [expected.nan_to_num()], 3 * TOLERANCE[dtype])


@pytest.mark.parametrize("kernel", KERNELS)
def test_self_attention_of_odd_tensors(kernel: Kernel) -> None:
    """Empty batches, tensors that are not contiguous and different dtypes are accepted."""
    value, projected = make_projected(torch.float32)
    out = deformable_self_attention(value[:0], SHAPES, projected[:0], kernel)
    assert out.shape == (0, value.shape[1], 96)
    expected = deformable_self_attention(value, SHAPES, projected, kernel)
    strided = value.transpose(1, 3).contiguous().transpose(1, 3), projected.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(deformable_self_attention(strided[0], SHAPES, strided[1], kernel), expected)
    mixed = deformable_self_attention(value.bfloat16(), SHAPES, projected, kernel)
    assert mixed.dtype == torch.bfloat16
    assert_close([mixed.float()], [expected], 2 * TOLERANCE[torch.bfloat16])


@pytest.mark.unchecked
@needs_native
def test_self_attention_compiles_into_one_graph_and_exports_without_our_operators() -> None:
    class Attention(torch.nn.Module):
        def forward(self, value: Tensor, projected: Tensor) -> Tensor:
            return deformable_self_attention(value, SHAPES, projected)

    inputs = make_projected(torch.float32)
    eager, compiled = [
        [out.detach(), *torch.autograd.grad(out.square().sum(), tensors)]
        for function in (Attention(), torch.compile(Attention(), fullgraph=True, backend="eager"))
        for tensors in [[tensor.clone().requires_grad_() for tensor in inputs]]
        for out in [function(*tensors)]
    ]
    assert_close(compiled, eager, 1e-6)
    program = torch.export.export(Attention(), inputs)
    assert "mask2former" not in str(program.graph)
    assert_close([program.module()(*inputs)], [eager[0]], 1e-5)


@pytest.mark.unchecked
@needs_native
@pytest.mark.parametrize("change", [lambda v, p: (v[:, 1:], p[:, 1:]), lambda v, p: (v, p[..., 1:])])
def test_projections_that_disagree_are_refused(change) -> None:
    value, projected = change(*make_projected(torch.float32))
    with pytest.raises(ValueError, match="sum of the levels"):
        deformable_self_attention(value, SHAPES, projected, kernel="native")


@pytest.mark.long
@pytest.mark.unchecked  # opcheck passes symbolic sizes
@needs_native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own doing
def test_opcheck_of_self_attention() -> None:
    value, projected = make_projected(torch.float32, batch=1)
    shapes = [side for shape in SHAPES for side in shape]
    operator = torch.ops.mask2former.deform_attn_projected
    torch.library.opcheck(operator, (value.requires_grad_(), shapes, projected.requires_grad_()))
