"""The Triton kernel of deformable sampling: in Triton's interpreter, compiled without a device, and on a device."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mask2former.errors import UserError
from mask2former.ops.deform_attn import deformable_sampling, triton

pytestmark = pytest.mark.long

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed; torch brings it on Linux with CUDA"
)


@needs_triton
def test_in_the_interpreter() -> None:
    """The kernel passes its tests in the interpreter: in a new process, since it is chosen when Triton is imported."""
    tests = Path(__file__).with_name("interpreted_triton.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "xdist.plugin", str(tests)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"TRITON_INTERPRET": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # whose imports take seconds
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_forcing_it_on_a_cpu_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    value, locations, weights = torch.zeros(1, 4, 1, 8), torch.zeros(1, 1, 1, 1, 1, 2), torch.zeros(1, 1, 1, 1, 1)
    monkeypatch.setattr(triton, "_WHY_UNAVAILABLE", "")
    with pytest.raises(UserError, match=r"compute capability.*got torch\.float32 on cpu.*kernel='auto'"):
        deformable_sampling(value, [(2, 2)], locations, weights, kernel="triton")
    monkeypatch.setattr(triton, "_WHY_UNAVAILABLE", "there is none")
    with pytest.raises(UserError, match=r"there is none.*kernel='auto'"):
        deformable_sampling(value, [(2, 2)], locations, weights, kernel="triton")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_on_a_device(dtype: torch.dtype) -> None:
    """At sizes of a model, the kernel agrees with the reference in float64 and does not synchronise with the host."""
    shapes, heads, channels, points = ((13, 19), (25, 38), (50, 76)), 8, 32, 4
    pixels = sum(height * width for height, width in shapes)
    generator = torch.Generator("cuda").manual_seed(0)
    samples = (2, pixels, heads, len(shapes), points)
    value = torch.randn((2, pixels, heads, channels), generator=generator, device="cuda", dtype=dtype)
    locations = torch.rand((*samples, 2), generator=generator, device="cuda") * 1.4 - 0.2
    weights = torch.rand(samples, generator=generator, device="cuda")
    grad = torch.randn((2, pixels, heads * channels), generator=generator, device="cuda", dtype=dtype)
    results = []
    for kernel, kind in (("reference", torch.float64), ("triton", dtype), ("auto", dtype)):
        wide = torch.promote_types(kind, torch.float32)
        leaves = [tensor.to(k).requires_grad_() for tensor, k in ((value, kind), (locations, wide), (weights, wide))]
        torch.cuda.set_sync_debug_mode("error" if kernel != "reference" else "default")
        try:
            out = deformable_sampling(leaves[0], shapes, leaves[1], leaves[2], kernel=kernel)  # pyright: ignore[reportArgumentType]
            results.append([out.detach(), *torch.autograd.grad(out, leaves, grad.to(kind))])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    tolerance = {torch.float32: 3e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    for result in results[1:]:
        for one, exact in zip(result, results[0], strict=True):
            assert (one.double() - exact).abs().max() <= tolerance * exact.abs().max()
