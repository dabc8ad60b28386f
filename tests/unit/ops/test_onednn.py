"""Fused layers compared with plain torch in float64; unsuitable inputs are left to plain torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former.ops import onednn

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.02}
ACTIVATIONS: dict[Any, Callable[[Tensor], Tensor]] = {"none": lambda y: y, "relu": F.relu, "gelu": F.gelu}
# Kernel, stride, padding, dilation, groups.
STEPS = [(1, 1, 0, 1, 1), (3, 2, 1, 1, 1), (3, 1, 2, 2, 4), (7, 2, 3, 1, 1)]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype) / 2


def check(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_linear(activation: Any, dtype: torch.dtype) -> None:
    for shape in [(5, 24), (2, 3, 24), (24,), (2, 0, 24), (1, 2, 2, 24)]:
        x, weight, bias = random(*shape, dtype=dtype), random(7, 24, dtype=dtype), random(7, dtype=dtype)
        with torch.inference_mode():
            for given in (bias, None):
                expected = F.linear(x.double(), weight.double(), None if given is None else given.double())
                check(onednn.linear(x, weight, given, activation), ACTIVATIONS[activation](expected), dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_linear_takes_what_is_not_contiguous(dtype: torch.dtype) -> None:
    x, weight = random(2, 24, 5, dtype=dtype).mT, random(24, 7, dtype=dtype).T
    with torch.inference_mode():
        check(onednn.linear(x, weight), F.linear(x.double(), weight.double()), dtype)
        part, expected = x[:, ::2, 3:20], x[:, ::2, 3:20].double()
        check(onednn.linear(part, weight[:, 3:20]), F.linear(expected, weight[:, 3:20].double()), dtype)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "groups"), STEPS)
def test_convolutions(
    kernel: int, stride: int, padding: int, dilation: int, groups: int, layout: Any, dtype: torch.dtype
) -> None:
    weight, bias = random(12, 8 // groups, kernel, kernel, dtype=dtype), random(12, dtype=dtype)
    steps = ((stride, stride), (padding, padding), (dilation, dilation))
    for batch, given in ((0, bias), (1, None), (3, bias)):
        x = random(batch, 8, 11, 14, dtype=dtype).contiguous(memory_format=layout)
        with torch.inference_mode():
            expected = F.conv2d(x.double(), weight.double(), None if given is None else given.double(), *steps, groups)
            check(onednn.convolution(x, weight, given, *steps, groups), expected, dtype)
            check(onednn.convolution(x, weight, given, *steps, groups, activation="relu"), F.relu(expected), dtype)
            if groups == 1:
                other = random(*expected.shape, dtype=dtype).contiguous(memory_format=layout)
                wanted, kept = F.relu(expected + other.double()), other.clone()
                check(onednn.convolution_add_relu(x, weight, given, other, *steps), wanted, dtype)
                assert torch.equal(other, kept)
                check(onednn.convolution_add_relu(x, weight, given, other, *steps, overwrite=True), wanted, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays_nan(activation: Any, dtype: torch.dtype) -> None:
    x = random(1, 8, 3, 3, dtype=dtype)
    x[0, 0, 0, 0] = torch.nan
    with torch.inference_mode():
        assert onednn.linear(x.flatten(1), random(4, 72, dtype=dtype), None, activation).isnan().all()
        if activation != "gelu":
            y = onednn.convolution(x, random(4, 8, 1, 1, dtype=dtype), None, activation=activation)
            assert y[..., 0, 0].isnan().all()
            assert not y[..., 1:, :].isnan().any()


def functions(dtype: torch.dtype = torch.float32) -> list[Callable[[], Tensor]]:
    x, weight, bias = random(2, 8, 5, 5, dtype=dtype), random(8, 8, 3, 3, dtype=dtype), random(8, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    return [
        lambda: onednn.linear(x.flatten(0, 2), weight[0, 0, :, :].repeat(1, 2)[:, :5], None, "relu"),
        lambda: onednn.convolution(x, weight, bias, padding=(1, 1), activation="relu"),
        lambda: onednn.convolution_add_relu(x, weight, bias, x, padding=(1, 1)),
    ]


@pytest.fixture
def untried():
    onednn._works.cache_clear()
    yield
    onednn._works.cache_clear()


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize("fault", ["gone", "refused", "wrong", "other arguments"])
def test_an_operator_that_fails_its_trial_is_plain_torch_s(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def operator(*arguments: Any) -> Tensor:
        if fault == "refused":
            raise RuntimeError("no such dtype on this processor")
        if fault == "other arguments":
            raise TypeError("unexpected argument")
        x = arguments[0]
        return torch.zeros_like(x)

    namespace = type("Operators", (), {})() if fault == "gone" else type("Operators", (), {
        name: staticmethod(operator) for name in ("_linear_pointwise", "_convolution_pointwise")
    })()  # fmt: skip
    with torch.inference_mode():
        expected = [function() for function in functions(torch.float64)]
        monkeypatch.setattr(torch.ops, "mkldnn", namespace)
        for function, wanted in zip(functions(), expected, strict=True):
            check(function(), wanted, torch.float32)


@pytest.mark.usefixtures("untried")
def test_gradients_autocast_and_the_compiler_get_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", None)
    monkeypatch.setattr(onednn, "_works", lambda *_: True)  # calling an operator now fails
    for function in functions():
        function()
        with torch.no_grad():
            with torch.autocast("cpu", torch.bfloat16):
                function()
            with monkeypatch.context() as patch:
                patch.setattr(torch.compiler, "is_compiling", lambda: True)
                function()
            with pytest.raises(AttributeError):
                function()
