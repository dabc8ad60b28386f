"""The timm backbones, compared with torchvision's ResNets, an independent implementation with the same names."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from mask2former.errors import UserError
from mask2former.models.backbones import TimmBackbone
from mask2former.models.backbones import timm as backbones_timm

Norm = Literal["frozen", "sync", "batch"]
NORM_LAYERS: dict[Norm, type[nn.Module]] = {
    "frozen": FrozenBatchNorm2d,
    "sync": nn.SyncBatchNorm,
    "batch": nn.BatchNorm2d,
}


def torchvision_resnet(model: str, norm_layer: Any) -> nn.Module:
    return torchvision.models.get_model(model, weights=None, norm_layer=norm_layer)


def torchvision_maps(model: Any, images: Tensor) -> list[Tensor]:
    grid = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    maps = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        grid = stage(grid)
        maps.append(grid)
    return maps


def randomised(module: nn.Module) -> nn.Module:
    """Give norms random statistics, weights and biases, positive where they must be."""
    generator = torch.Generator().manual_seed(1)
    for name, value in module.state_dict().items():
        if value.is_floating_point() and value.dim() == 1:
            random = torch.rand(value.shape, generator=generator, dtype=value.dtype)
            value.copy_(random + 0.5 if name.endswith(("var", "weight")) else random - 0.5)
    return module


# Slow: bottlenecks with the other norms, which both kinds of blocks have at the same positions. Long: the norm that is
# "batch" on one device.
@pytest.mark.parametrize(
    ("model", "norm"),
    [
        *(
            pytest.param("resnet18", norm, marks=[pytest.mark.long] if norm == "sync" else [])
            for norm in get_args(Norm)
        ),
        *(
            pytest.param("resnet50", norm, marks=[pytest.mark.slow] if norm != "frozen" else [])
            for norm in get_args(Norm)
        ),
    ],
)
def test_maps_are_those_of_torchvision(model: str, norm: Norm) -> None:
    torch.manual_seed(0)
    ours = TimmBackbone(model, norm).double().eval()
    reference = torchvision_resnet(model, FrozenBatchNorm2d if norm == "frozen" else nn.BatchNorm2d).double()
    randomised(ours.body)
    missing, unexpected = reference.load_state_dict(ours.body.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("fc.") for name in missing)
    images = torch.randn(2, 3, 70, 45, dtype=torch.float64)
    with torch.inference_mode():
        maps, expected = ours(images), torchvision_maps(reference.eval(), images)
    for got, wanted, channels, stride in zip(maps, expected, ours.channels, ours.strides, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
        assert got.shape == (2, channels, math.ceil(70 / stride), math.ceil(45 / stride))


@pytest.mark.parametrize("model", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_every_depth_has_the_layers_of_torchvision(model: str) -> None:
    with torch.device("meta"):
        ours = TimmBackbone(model, "batch").body
        reference = torchvision_resnet(model, None)
    shapes = {name: value.shape for name, value in reference.state_dict().items() if not name.startswith("fc.")}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes


def test_deep_stem_has_three_convolutions_and_128_channels() -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone("resnet50s").eval()
    shapes = [
        tuple(module.weight.shape)
        for module in backbone.get_submodule("body.conv1").modules()
        if isinstance(module, nn.Conv2d)
    ]
    assert shapes == [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3)]
    assert backbone.channels == (256, 512, 1024, 2048)
    with torch.inference_mode():
        maps = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(level.shape[2:]) for level in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize("norm", get_args(Norm))
def test_norms_are_of_the_chosen_kind(norm: Norm) -> None:
    with torch.device("meta"):
        backbone = TimmBackbone("resnet18", norm)
    kinds = {type(module) for module in backbone.modules() if "Norm" in type(module).__name__}
    assert kinds == {NORM_LAYERS[norm]}
    trained = [name for name, _ in backbone.named_parameters() if "bn" in name or "downsample.1" in name]
    assert bool(trained) == (norm != "frozen")


def test_a_fresh_frozen_norm_is_the_identity() -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone("resnet18", "frozen")
    norms = [module for module in backbone.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert len(norms) == 20
    for norm in norms:
        x = torch.randn(1, len(norm.get_buffer("weight")), 4, 5)
        torch.testing.assert_close(norm(x), x, rtol=1e-6, atol=0)


def test_a_frozen_norm_never_changes_and_has_no_gradient() -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone("resnet18", "frozen").train()
    norms = {name: value.clone() for name, value in backbone.state_dict().items() if value.dim() == 1}
    assert len(norms) == 20 * 4
    torch.stack([level.sum() for level in backbone(torch.randn(2, 3, 64, 64))]).sum().backward()
    assert all(parameter.grad is not None and parameter.dim() == 4 for parameter in backbone.parameters())
    for name, value in norms.items():
        assert torch.equal(backbone.state_dict()[name], value)


@pytest.mark.parametrize("norm", get_args(Norm))
def test_residual_branches_are_not_silenced_at_the_start(norm: Norm) -> None:
    backbone = TimmBackbone("resnet18", norm)
    scales = [value for name, value in backbone.state_dict().items() if name.endswith("bn2.weight")]
    assert len(scales) == 8
    assert all(torch.equal(scale, torch.ones_like(scale)) for scale in scales)


def test_convolutions_start_kaiming_normal_by_fan_out() -> None:
    torch.manual_seed(0)
    weight = TimmBackbone("resnet18").state_dict()["body.layer4.1.conv2.weight"]
    expected = math.sqrt(2 / (512 * 9))
    assert weight.std().item() == pytest.approx(expected, rel=0.01)
    assert weight.abs().max() > 4 * expected  # normal, not uniform


@pytest.mark.parametrize("norm", get_args(Norm))
@pytest.mark.parametrize("model", ["convnext_atto", "mobilenetv3_small_100"])
def test_other_models_of_timm_give_the_four_strides(model: str, norm: Norm) -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone(model, norm).eval()
    assert backbone.strides == (4, 8, 16, 32)
    with torch.inference_mode():
        maps = backbone(torch.randn(1, 3, 64, 96))
    for level, channels, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        assert level.shape == (1, channels, 64 // stride, 96 // stride)


@pytest.mark.parametrize("norm", ["frozen", "sync"])
def test_replacing_the_norms_keeps_what_surrounds_them(norm: Norm) -> None:
    # timm's batch norms of this family contain the activation.
    torch.manual_seed(0)
    plain = TimmBackbone("mobilenetv3_small_100", "batch").double().eval()
    other = TimmBackbone("mobilenetv3_small_100", norm).double().eval()
    randomised(plain.body)
    other.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        for got, wanted in zip(other(images), plain(images), strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)


def test_arguments_reach_timm() -> None:
    with torch.device("meta"):
        backbone = TimmBackbone("resnet18", kwargs={"channels": [32, 64, 128, 256]})
    assert backbone.channels == (32, 64, 128, 256)


@pytest.mark.parametrize(
    ("model", "kwargs", "message"),
    [
        ("resnet5o", {}, "backbone 'resnet5o': timm could not create it"),
        (
            "vit_tiny_patch16_224",
            {},
            r"patch16_224' has maps of strides .*expected maps of strides \[4, 8, 16, 32\]",
        ),
        (
            "resnet18",
            {"output_stride": 16},
            r"has maps of strides \[2, 4, 8, 16, 16\]; expected maps of strides \[4, 8, 16, 32\]",
        ),
        ("resnet18", {"width": 3}, "backbone 'resnet18': timm could not create it: .*width"),
    ],
)
def test_what_cannot_serve_is_refused(model: str, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message), torch.device("meta"):
        TimmBackbone(model, kwargs=kwargs)


# --- images of any size ----------------------------------------------------------------------------------------------

SWIN: dict[str, Any] = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4]}


@pytest.mark.parametrize(
    ("model", "kwargs"),
    [
        ("swin_tiny_patch4_window7_224", {**SWIN, "strict_img_size": False}),
        ("swinv2_tiny_window8_256", {**SWIN, "strict_img_size": False}),
        ("test_mambaout", {}),
    ],
)
@pytest.mark.parametrize("size", [(32, 32), (64, 352), (96, 160)], ids=str)
def test_maps_with_channels_last_are_permuted(model: str, kwargs: dict[str, Any], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone(model, "batch", kwargs).eval()
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        maps, raw = backbone(images), backbone.body(images)
    for level, plain, channels, stride in zip(maps, raw[-4:], backbone.channels, backbone.strides, strict=True):
        assert level.shape == (2, channels, size[0] // stride, size[1] // stride)
        assert torch.equal(level, plain.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("model", "kwargs", "message"),
    [
        (
            "swin_tiny_patch4_window7_224",
            SWIN,
            r"arbitrary size .* set model.backbone.kwargs=\{strict_img_size: false\}$",
        ),
        (
            "test_coatnet",
            {},
            r"^backbone 'test_coatnet' does not accept images of arbitrary size .*; choose another model$",
        ),
        (
            "efficientformer_l1",
            {},
            r"'efficientformer_l1' does not accept images of arbitrary size .*; choose another model$",
        ),
        (
            "mobilevitv2_050",
            {},
            r"'mobilevitv2_050' returns maps of .*256x2x34 .* not of 8x264, .*, 1x33; choose another",
        ),
        # Its position biases are made for 224 pixels, and it fails only beyond twice that.
        ("mvitv2_tiny", {}, r"'mvitv2_tiny' does not accept images of arbitrary size \(of 32x1056"),
    ],
)
def test_models_that_need_one_size_or_have_other_grids_are_refused(
    model: str, kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        TimmBackbone(model, kwargs=kwargs)


@pytest.mark.parametrize("model", ["test_convnext", "test_byobnet", "mobilenetv3_small_050"])
def test_probing_a_model_changes_nothing(model: str) -> None:
    torch.manual_seed(0)
    expected = timm.create_model(model, features_only=True)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    backbone = TimmBackbone(model, "batch")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in backbone.modules())
    for name, value in expected.state_dict().items():
        assert torch.equal(value, backbone.body.state_dict()[name]), name


def test_published_models_are_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    def probed(*_: Any) -> bool:
        raise AssertionError("probed")

    monkeypatch.setattr(backbones_timm, "_probe", probed)
    TimmBackbone("resnet10t", "batch", {"channels": [16, 24, 32, 40]})
    with pytest.raises(AssertionError, match="probed"):
        TimmBackbone("test_convnext")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            {"pretrained": True},
            "remove 'pretrained' from its kwargs: the weights that training starts from",
        ),
        ({"checkpoint_path": "x.pth"}, "remove 'checkpoint_path' from its kwargs"),
        ({"pretrained_cfg": {"file": "x.pth"}}, "remove 'pretrained_cfg' from its kwargs"),
        ({"in_chans": 4}, "remove 'in_chans' from its kwargs: the number of image channels is the length of model"),
        ({"num_classes": 10}, "remove 'num_classes' from its kwargs"),
        ({"features_only": False}, "remove 'features_only' from its kwargs"),
        ({"out_indices": [1, 2, 3, 4]}, "remove 'out_indices' from its kwargs"),
        ({"channels": [3, 4]}, "timm could not create it: list index out of range"),
    ],
    ids=str,
)
def test_arguments_that_are_not_of_the_architecture_are_refused(argument: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^backbone 'resnet18': {message}"):
        TimmBackbone("resnet18", kwargs=argument)


@pytest.mark.parametrize("model", ["hf_hub:owner/name", "local-dir:folder", "owner/name"])
def test_models_are_not_read_from_elsewhere(model: str) -> None:
    with pytest.raises(UserError, match="expected the name of an architecture"):
        TimmBackbone(model)


def test_a_batch_norm_with_one_value_says_what_helps() -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone("test_resnet", "batch").train()
    expected = r"one value per channel .* with 1 image of 32x32 pixels; train with larger crops or .*norm=frozen$"
    with pytest.raises(UserError, match=expected):
        backbone(torch.randn(1, 3, 32, 32))
    assert backbone(torch.randn(2, 3, 32, 32))[3].shape == (2, backbone.channels[3], 1, 1)
    frozen = TimmBackbone("test_resnet", "frozen").train()
    assert frozen(torch.randn(1, 3, 32, 32))[3].shape[2:] == (1, 1)


def test_gradient_checkpointing_that_a_model_lacks_is_refused_when_requested() -> None:
    backbone = TimmBackbone("hrnet_w18_small")
    backbone.set_gradient_checkpointing(False)
    with pytest.raises(UserError, match="'hrnet_w18_small' of timm does not support gradient checkpointing"):
        backbone.set_gradient_checkpointing(True)
