"""The inference form of ResNets gives the maps of the plain backbone, and leaves other modules alone."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from mask2former.models.backbones import TimmBackbone
from mask2former.models.backbones.resnet_inference import FoldedResNet
from mask2former.models.parts import for_inference

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.08}  # of the largest value of a map
SMALL: dict[str, Any] = {"channels": [16, 24, 32, 40], "layers": [1, 2, 1, 1]}


def backbone(
    model: str, norm: Literal["frozen", "sync", "batch"] = "frozen", dtype: torch.dtype = torch.float32, **kwargs: Any
) -> TimmBackbone:
    """A backbone whose norms have random statistics, weights and biases, positive where they must be."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = TimmBackbone(model, norm, kwargs=kwargs).double().eval()
    for name, value in made.state_dict().items():
        if value.is_floating_point() and value.dim() == 1:
            drawn = torch.rand(value.shape, generator=generator, dtype=value.dtype)
            value.copy_(drawn + 0.5 if name.endswith(("var", "weight")) else drawn - 0.5)
    return made.to(dtype)


def images(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def check(form: nn.Module, plain: nn.Module, pixels: Tensor) -> None:
    before = pixels.clone()
    with torch.inference_mode():
        maps, expected = form(pixels), plain(pixels)
        assert torch.equal(pixels, before)
        assert maps[0].is_contiguous(memory_format=torch.channels_last)
        for found, wanted in zip(maps, expected, strict=True):
            assert found.dtype == wanted.dtype
            tolerance = TOLERANCES[found.dtype] * wanted.abs().max().item()
            torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)


KINDS: list[tuple[str, str, dict[str, Any]]] = [
    ("resnet10t", "batch", SMALL),  # deep stem, pooled shortcuts, basic blocks
    ("resnet14t", "frozen", SMALL),  # bottlenecks
    ("resnet18", "sync", {}),
    ("resnet26", "frozen", {**SMALL, "drop_path_rate": 0.2}),
    ("resnet26", "frozen", {**SMALL, "cardinality": 4, "base_width": 16, "stem_type": "deep", "stem_width": 8}),
    ("resnet26", "frozen", {**SMALL, "replace_stem_pool": True}),
]


@pytest.mark.parametrize(
    ("model", "norm", "kwargs", "dtype"),
    [  # every kind in float32, and every dtype with both kinds of blocks; slow: all combinations
        pytest.param(*kind, dtype, marks=[] if dtype == torch.float32 or kind in KINDS[:2] else [pytest.mark.slow])
        for kind in KINDS
        for dtype in TOLERANCES
    ],
)
def test_maps_are_those_of_the_plain_backbone(model: str, norm: Any, kwargs: dict, dtype: torch.dtype) -> None:
    plain = backbone(model, norm, dtype, **kwargs)
    form = for_inference(plain)
    assert isinstance(form, FoldedResNet)
    threads = torch.get_num_threads()
    try:
        for count, size, width, height in ((1, 2, 97, 70), (3, 1, 64, 65)):
            torch.set_num_threads(size)
            check(form, plain, images(count, 3, height, width, dtype=dtype))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.long  # both kinds of their blocks have one above
def test_the_published_depths_have_a_form() -> None:
    for model in ("resnet50s", "resnet101"):
        assert for_inference(made := TimmBackbone(model).eval()) is not made


def replaced(made: TimmBackbone, name: str, module: nn.Module | None) -> TimmBackbone:
    parent, _, child = name.rpartition(".")
    setattr(made.get_submodule(parent), child, module)
    return made.eval()


@pytest.mark.parametrize(
    "other",
    [
        lambda: backbone("seresnet18", layers=[1, 1, 1, 1]),
        lambda: backbone("resnet18", act_layer="gelu"),
        lambda: backbone("resnetblur18"),
        lambda: replaced(backbone("resnet18"), "body.layer2.0.act1", nn.SiLU()),
        lambda: replaced(backbone("resnet18"), "body.layer2.0.bn2", nn.GroupNorm(2, 128)),
        lambda: replaced(backbone("resnet18"), "body.layer3.1.conv1", nn.Conv2d(256, 256, 3, 1, "same")),
        lambda: replaced(backbone("resnet18"), "body.layer1", nn.Sequential(nn.Conv2d(64, 64, 1), nn.ReLU())),
        lambda: replaced(backbone("resnet18"), "body.bn1", nn.BatchNorm2d(64, track_running_stats=False)),
        lambda: backbone("regnetx_002"),
    ],
)
def test_other_bodies_stay_as_they_are(other: Any) -> None:
    made = other()
    assert for_inference(made) is made


def test_norms_in_training_and_other_devices_and_float16_stay_as_they_are() -> None:
    made = backbone("resnet10t", "batch", **SMALL)
    norm = made.get_submodule("body.layer2.0.bn1").train()
    assert for_inference(made) is made
    assert made.for_inference() is made
    norm.eval()
    assert for_inference(made) is not made
    assert for_inference(made.half()) is made
    assert for_inference(made.to("meta")) is made


def test_what_is_attached_to_a_module_is_called() -> None:
    made = backbone("resnet10t", "batch", **SMALL)
    called = []
    handle = made.get_submodule("body.layer2").register_forward_hook(lambda *_: called.append(1))
    with torch.inference_mode():
        for_inference(made)(images(1, 3, 32, 32, dtype=torch.float32))
    assert called
    handle.remove()
    assert for_inference(made) is not made


def test_gradients_and_the_compiler_get_the_plain_backbone() -> None:
    made = backbone("resnet10t", "batch", **SMALL)
    form = for_inference(made)
    maps = form(images(1, 3, 32, 32, dtype=torch.float32))
    maps[3].sum().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    assert {id(parameter) for parameter in form.parameters()} == {id(parameter) for parameter in made.parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("where", ["image", "weight", "overflow", "last"])
def test_what_is_not_finite_is_not_hidden(where: str, dtype: torch.dtype) -> None:
    # Fused sums turn NaN into 0, and a damaged checkpoint would give results that look valid.
    made = backbone("resnet10t", "frozen", dtype, **SMALL)
    pixels = images(1, 3, 64, 64, dtype=dtype)
    with torch.inference_mode():
        if where == "image":
            pixels[0, 0, 5, 5] = torch.nan
        elif where == "weight":
            made.get_parameter("body.layer4.0.conv2.weight")[0, 0, 0, 0] = torch.nan
        elif where == "last":
            made.get_parameter("body.layer4.0.conv2.weight")[0, 0, 0, 0] = torch.inf
        else:
            made.get_parameter("body.layer2.0.conv1.weight").mul_(1e38)
        found, expected = for_inference(made)(pixels), made(pixels)
        assert not all(level.isfinite().all() for level in expected)
        for level, wanted in zip(found, expected, strict=True):
            assert torch.equal(level.isfinite(), wanted.isfinite())
