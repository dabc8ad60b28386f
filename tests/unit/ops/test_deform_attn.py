"""Every kernel of deformable sampling against the reference, and the reference against a hand-made case."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from mask2former.errors import UserError
from mask2former.ops.deform_attn import api, deformable_sampling, native
from mask2former.ops.deform_attn.api import Kernel

needs_native = pytest.mark.skipif(not native.available(), reason=native.why_unavailable())
KERNELS = [pytest.param("native", marks=needs_native), "portable"]
SHAPES = ((3, 5), (7, 4), (1, 1))  # odd sides and a level of one pixel

# Largest error of the output and of the gradients by value, locations, weights, as a share of the largest entry.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 8e-3}


def make_inputs(
    dtype: torch.dtype, batch: int = 2, queries: int = 70, heads: int = 3, channels: int = 32, points: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """Value in ``dtype``; locations, a third of them outside, and weights in float32 at least."""
    generator = torch.Generator().manual_seed(0)
    pixels = sum(height * width for height, width in SHAPES)
    samples = (batch, queries, heads, len(SHAPES), points)
    value = torch.randn((batch, pixels, heads, channels), generator=generator, dtype=torch.float64)
    locations = torch.rand((*samples, 2), generator=generator, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.randn(samples, generator=generator, dtype=torch.float64).flatten(3).softmax(-1).view(samples)
    compute = torch.promote_types(dtype, torch.float32)
    return value.to(dtype), locations.to(compute), weights.to(compute)


def with_gradients(kernel: Kernel, inputs: tuple[Tensor, ...], shapes=SHAPES) -> list[Tensor]:
    """Output and gradients by value, locations and weights."""
    value, locations, weights = (tensor.detach().clone().requires_grad_() for tensor in inputs)
    out = deformable_sampling(value, shapes, locations, weights, kernel=kernel)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, (value, locations, weights), grad)]


def assert_close(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.isfinite().all()
        if other.numel():
            error = (one.double() - other.double()).abs().max()
            assert error <= tolerance * max(1.0, other.double().abs().max().item())


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


@needs_native
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_every_instruction_set(dtype: torch.dtype) -> None:
    value, locations, weights = make_inputs(dtype)
    shapes = [side for shape in SHAPES for side in shape]
    grad = torch.randn(2, 70, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    expected = with_gradients("reference", (value, locations, weights))
    assert native._LIBRARY is not None
    for level in range(native._LIBRARY.deform_attn_levels()):  # those that this processor can run
        out = native._run_forward(value, shapes, locations, weights, level)
        grads = native._run_backward(grad, value, shapes, locations, weights, level)
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
    """The derivative jumps there; every kernel takes the same side as the reference."""
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
    assert deformable_sampling(value, SHAPES, locations, weights).dtype == torch.float16  # auto takes another


def test_missing_and_broken_libraries_are_explained(tmp_path) -> None:
    assert native._load(tmp_path)[0] is None
    assert "not in" in native._load(tmp_path)[1]
    (tmp_path / "_deform_attn.so").write_text("not a library")
    library, reason = native._load(tmp_path)
    assert library is None
    assert "cannot be loaded" in reason


def test_path_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    api._announce.cache_clear()
    inputs = make_inputs(torch.float32)
    with caplog.at_level(logging.INFO, logger="mask2former"):
        for _ in range(2):
            deformable_sampling(inputs[0], SHAPES, *inputs[1:], kernel="portable")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "portable" in messages[0]
