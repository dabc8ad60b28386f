"""How often a device has to wait for the host, counted without a device.

The network runs on fake tensors of a CUDA device. They have no values, so any code that reads one is found, and every
copy between devices is detected. The loss needs values for its assignment; for it, calls that read values are counted.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mask2former.config import MaskedDecoderConfig, ModelConfig, MSDeformAttnConfig, SwinConfig, TimmConfig
from mask2former.losses import Criterion
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.ops.deform_attn import triton
from mask2former.structures import Target

# Methods that read values on the host.
READING = ("item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__", "nonzero", "masked_select")

BACKBONES = {
    "resnet": TimmConfig(model="resnet10t", norm="frozen", kwargs={"channels": [16, 24, 32, 40]}),
    "swin": SwinConfig(embed_dim=8, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4), window_size=3),
}


def small_model(backbone: str) -> Mask2Former:
    config = ModelConfig(
        backbone=BACKBONES[backbone],
        pixel_decoder=MSDeformAttnConfig(dim=64, mask_dim=48, num_layers=2, num_heads=4, feedforward_dim=64),
        transformer_decoder=MaskedDecoderConfig(dim=64, num_queries=10, num_layers=4, num_heads=4, feedforward_dim=64),
    )
    return build_model(config, 4)


class Copies(TorchDispatchMode):
    """Records operators that move values between host and device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func)
        if "lift_fresh" in name:  # of torch.tensor and new_tensor
            self.found.append(name)
        if "_to_copy" in name and result.device != args[0].device:
            self.found.append(f"{name} from {args[0].device} to {result.device}")
        return result


class Reads(TorchFunctionMode):
    """Records calls of tensors that read values on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READING:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def on_a_fake_device(model: Mask2Former, mode: FakeTensorMode) -> Mask2Former:
    with mode, torch.device("cuda"):
        for module in model.modules():
            for kind in (module._parameters, module._buffers):
                for name, tensor in kind.items():
                    if tensor is not None:
                        fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
                        is_parameter = isinstance(tensor, torch.nn.Parameter)
                        kind[name] = torch.nn.Parameter(fake) if is_parameter else fake  # pyright: ignore[reportArgumentType]
    return model


@pytest.mark.long
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_network_never_waits(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "available", lambda: True)
    monkeypatch.setattr(triton, "supports", lambda value: True)
    mode = FakeTensorMode()
    model = on_a_fake_device(small_model(backbone).eval(), mode)
    with mode, Copies() as copies, torch.inference_mode():
        images = [torch.empty(3, *size, dtype=torch.uint8, device="cuda") for size in ((70, 50), (41, 90))]
        output = model(images)
    assert isinstance(output.class_logits, FakeTensor)
    assert output.class_logits.device.type == "cuda"
    assert copies.found == []


def test_the_loss_waits_once() -> None:
    """The loss waits for the device once: for the costs of all assignments, and whether all values are finite."""
    model = small_model("resnet")
    criterion = Criterion(4, num_points=32)
    images = [torch.zeros(3, 64, 64), torch.ones(3, 64, 64)]
    targets = [
        Target(torch.tensor([1, 3]), torch.rand(2, 1, 64, 64) > 0.5, torch.zeros(1, 64, 64, dtype=torch.bool)),
        Target(torch.tensor([2]), torch.rand(1, 1, 64, 64) > 0.5),
    ]
    with Reads() as reads, Copies() as copies:
        loss = criterion(model(images), targets).total
    assert isinstance(loss, Tensor)
    assert sorted(reads.found) == ["cpu", "tolist"]  # tolist reads what is on the host then
    assert len(copies.found) <= 2 * 5 * len(targets)  # the assigned pairs of each depth and image, made on the host
