"""Files of backbones: every variant is converted with the same values, and a model starts from them."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from conversions import SWIN, small_model
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mask2former.checkpoints.convert import convert
from mask2former.checkpoints.formats import original
from mask2former.checkpoints.formats.backbones import (
    BACKBONES,
    CAFFE2,
    DETECTRON2,
    RESNET,
    Backbone,
    read_backbone,
    start_from_backbone,
)
from mask2former.checkpoints.formats.timm import fitted
from mask2former.checkpoints.load import read
from mask2former.checkpoints.rules import from_original
from mask2former.checkpoints.transfer import resized_bias_table
from mask2former.config import TimmConfig
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former


def backbone_of(path: Path) -> Backbone:
    content = read(path).content
    assert isinstance(content, Backbone)
    return content


def start(model: Mask2Former, path: Path) -> list[str]:
    return start_from_backbone(model, backbone_of(path), path)


@pytest.fixture(scope="module")
def resnet18() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision.models.resnet18().eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean = 0.1 * torch.randn(module.num_features)
                module.running_var = 0.5 + torch.rand(module.num_features)
    return model


def test_torchvision_gives_the_same_maps(resnet18: Any, tmp_path: Path) -> None:
    torch.save(resnet18.state_dict(), tmp_path / "resnet18.pth")
    done = convert(tmp_path / "resnet18.pth", tmp_path / "backbone.safetensors")
    assert done.source == "ResNet of torchvision or timm, resnet18, a backbone alone"
    model = small_model(TimmConfig(model="resnet18"))
    assert start(model, done.path) == []
    images = torch.randn((1, 3, 64, 96), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        maps = model.backbone(images)
        x = resnet18.maxpool(resnet18.relu(resnet18.bn1(resnet18.conv1(images))))
        for level, stage in enumerate((resnet18.layer1, resnet18.layer2, resnet18.layer3, resnet18.layer4)):
            x = stage(x)
            torch.testing.assert_close(maps[level], x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrap", ["module.encoder_q.", "module.base_encoder.", "module.backbone.", "backbone.", ""])
def test_self_supervised_files(resnet18: Any, tmp_path: Path, wrap: str) -> None:
    inner = {name: value for name, value in resnet18.state_dict().items() if not name.startswith("fc.")}
    state = {f"{wrap}{name}": value for name, value in inner.items()}
    twin = {"module.encoder_q.": "module.encoder_k.", "module.base_encoder.": "module.momentum_encoder."}.get(wrap)
    title = {"module.encoder_q.": "MoCo, query encoder", "module.base_encoder.": "MoCo v3, base encoder",
             "": "ResNet of torchvision or timm"}.get(wrap, "DINO, backbone")  # fmt: skip
    if twin is not None:
        state |= {f"{twin}{name}": value + 1 for name, value in inner.items()}
        state[f"{wrap}fc.0.weight"] = torch.zeros(2, 2)
    if wrap == "module.encoder_q.":
        state |= {"module.queue": torch.zeros(3), "module.queue_ptr": torch.zeros(1)}
    if "backbone" in wrap:
        state[wrap.replace("backbone.", "head.mlp.0.weight")] = torch.zeros(2, 2)
    key = "teacher" if wrap == "backbone." else "state_dict"
    torch.save({"epoch": 3, "arch": "resnet18", key: state, "optimizer": {}}, tmp_path / "file.pth")
    found = read(tmp_path / "file.pth")
    assert found.title == f"{title}, resnet18, a backbone alone"
    assert isinstance(found.content, Backbone)
    torch.testing.assert_close(
        found.content.state["backbone.body.layer3.0.conv1.weight"], inner["layer3.0.conv1.weight"]
    )


def test_a_detector_is_no_pretraining(resnet18: Any, tmp_path: Path) -> None:
    state = {f"backbone.{name}": value for name, value in resnet18.state_dict().items()}
    torch.save({**state, "neck.fpn.weight": torch.zeros(1)}, tmp_path / "detector.pth")
    with pytest.raises(UserError, match="none of the known layouts"):
        read(tmp_path / "detector.pth")


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet50s", "resnet50d"]
)
def test_names_of_timm(name: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    layouts = [layout for layout in BACKBONES if layout.fits(state)]
    assert len(layouts) == 1
    if name == "resnet50d":  # its shortcuts have other layers
        with pytest.raises(UserError, match=r"does not have: layer1\.0\.downsample\.2"):
            read_backbone(layouts[0], state)
        return
    backbone = read_backbone(layouts[0], state)
    assert backbone.config == TimmConfig(model=name)
    with torch.device("meta"):
        own = small_model_names(name)
    assert backbone.state.keys() == own


def small_model_names(name: str) -> set[str]:
    from mask2former.models.backbones import TimmBackbone

    return {f"backbone.{entry}" for entry in TimmBackbone(name).state_dict()}


def tiny_resnet_names() -> dict[str, Tensor]:
    """Published names of R50 with small random tensors, since only names are tested."""
    state: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for name, _ in original.backbone_names(TimmConfig()):
        shape = (2, 3, 1, 1) if not name.endswith(("bias", "mean", "var")) and ".norm." not in name else (2,)
        state[name] = torch.rand(shape, generator=generator) + 0.5
    return state


@pytest.mark.parametrize("wrapped", [True, False])
def test_detectron2_names(tmp_path: Path, wrapped: bool) -> None:
    published = tiny_resnet_names()
    arrays = {name.removeprefix("backbone."): value.numpy() for name, value in published.items()}
    arrays["stem.fc.weight"] = np.zeros((2, 2), np.float32)
    payload = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True} if wrapped else arrays
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(payload, protocol=2))
    found = read(tmp_path / "R-50.pkl")
    assert found.title == "detectron2 ResNet, resnet50, a backbone alone"
    names = dict(original.backbone_names(TimmConfig()))
    assert isinstance(found.content, Backbone)
    assert list(found.content.state) == list(names.values())
    assert all(torch.equal(found.content.state[ours], published[name]) for name, ours in names.items() if ours)


def caffe2_names(published: dict[str, Tensor]) -> dict[str, np.ndarray]:
    parts = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    arrays = {"conv1_w": published["backbone.stem.conv1.weight"], "conv1_b": torch.zeros(2), "fc1000_w": torch.zeros(1)}
    for name, value in published.items():
        words = name.split(".")
        leaf = {"weight": "s", "bias": "b"}.get(words[-1])
        if words[1] == "stem" and words[-2] == "norm" and leaf:
            arrays[f"res_conv1_bn_{leaf}"] = value
        elif words[1].startswith("res") and words[-2] == "norm" and leaf:
            arrays[f"{words[1]}_{words[2]}_{parts[words[3]]}_bn_{leaf}"] = value
        elif words[1].startswith("res") and words[-2] != "norm":
            arrays[f"{words[1]}_{words[2]}_{parts[words[3]]}_w"] = value
    arrays["conv1_w_momentum"] = torch.zeros(1)
    return {name: value.numpy() for name, value in arrays.items()}


@pytest.mark.parametrize("wrapped", [True, False])
def test_caffe2_names_take_bgr(tmp_path: Path, wrapped: bool) -> None:
    published = tiny_resnet_names()
    arrays = caffe2_names(published)
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": arrays} if wrapped else arrays, protocol=2))
    found = read(tmp_path / "R-50.pkl")
    assert found.title == "caffe2 ResNet (BGR), resnet50, a backbone alone"
    assert "BGR" in found.notes[0]
    assert "1x1" in found.notes[1]
    assert isinstance(found.content, Backbone)
    state = found.content.state
    assert torch.equal(
        state["backbone.body.layer2.0.downsample.0.weight"], published["backbone.res3.0.shortcut.weight"]
    )

    # The published stem gets BGR minus the mean; ours gets RGB, also divided by the standard deviation.
    stem, std = published["backbone.stem.conv1.weight"], torch.tensor([58.395, 57.120, 57.375])
    rgb = torch.randn((1, 3, 4, 4), generator=torch.Generator().manual_seed(2)) * 60
    theirs = torch.nn.functional.conv2d(rgb.flip(1), stem)
    ours = torch.nn.functional.conv2d(rgb / std.view(3, 1, 1), state["backbone.body.conv1.weight"])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    # The published norms are a scale and a shift.
    mean, var = state["backbone.body.bn1.running_mean"], state["backbone.body.bn1.running_var"]
    scale = state["backbone.body.bn1.weight"] / (var + 1e-5).sqrt()
    torch.testing.assert_close(scale, published["backbone.stem.conv1.norm.weight"], rtol=1e-6, atol=0)
    assert not mean.any()


def test_a_bias_of_the_stem_is_not_lost_silently() -> None:
    state = {name: torch.from_numpy(value) for name, value in caffe2_names(tiny_resnet_names()).items()}
    state["conv1_b"] += 1
    with pytest.raises(UserError, match=r"1 entries that caffe2 ResNet .* does not have: conv1_b"):
        read_backbone(CAFFE2, state)


# --- Swin ------------------------------------------------------------------------------------------------------------


def original_swin(model: Mask2Former) -> OrderedDict[str, Tensor]:
    """Entries of a published classification model: without output norms, but with a final norm and a head."""
    state: OrderedDict[str, Tensor] = OrderedDict()
    for name, value in original.to_original(model).items():
        if name.startswith("backbone.") and not name.startswith("backbone.norm"):
            state[name.removeprefix("backbone.")] = value
    state["layers.1.blocks.1.attn_mask"] = torch.zeros(4, 9, 9)
    state |= {"norm.weight": torch.ones(64), "norm.bias": torch.zeros(64), "head.weight": torch.zeros(5, 64)}
    return state


@pytest.fixture(scope="module")
def swin_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swin")
    torch.save({"model": original_swin(small_model())}, folder / "swin.pth")
    done = convert(folder / "swin.pth", folder / "backbone.safetensors")
    assert done.source == "original Swin Transformer, Swin (width 8, blocks 1-2-1-1), a backbone alone"
    return done.path


def test_swin_is_taken_over(swin_file: Path) -> None:
    trained, model = small_model().state_dict(), small_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    notes = start(model, swin_file)
    assert notes == ["the norms of the backbone's outputs are newly initialised"]
    for name, value in model.state_dict().items():
        is_taken = name.startswith("backbone.") and ".norms." not in name
        assert torch.equal(value, trained[name] if is_taken else before[name]), name


def test_swin_with_another_window(swin_file: Path) -> None:
    model = small_model(SWIN.model_copy(update={"window_size": 4}))
    notes = start(model, swin_file)
    assert "position biases resized from windows of 3 to 4" in notes
    name = "backbone.layers.1.blocks.1.attn.relative_position_bias_table"
    table = small_model().state_dict()[name]
    assert torch.equal(model.state_dict()[name], resized_bias_table(table, 4))
    assert model.state_dict()[name].shape == (49, 2)


@pytest.mark.parametrize("backbone", [SWIN.model_copy(update={"embed_dim": 16}), TimmConfig(model="resnet18")])
def test_another_backbone_is_told(swin_file: Path, backbone: Any) -> None:
    with pytest.raises(UserError, match=r"do not fit.*The file is of Swin \(width 8.*set model.backbone to that"):
        start(small_model(backbone), swin_file)


def test_a_swin_of_timm_is_told(tmp_path: Path) -> None:
    """A file with timm's names is refused: timm has patch merging in the next stage, under similar names."""
    state = {name.replace("layers.0.downsample", "layers.9.downsample"): value
             for name, value in original_swin(small_model()).items()}  # fmt: skip
    torch.save(state, tmp_path / "swin.pth")
    with pytest.raises(UserError, match="none of the known layouts"):
        read(tmp_path / "swin.pth")


# --- our own files ---------------------------------------------------------------------------------------------------


def test_norms_may_be_trained_or_not(resnet18: Any, tmp_path: Path) -> None:
    torch.save(resnet18.state_dict(), tmp_path / "resnet18.pth")
    path = convert(tmp_path / "resnet18.pth", tmp_path / "backbone.safetensors").path
    model = small_model(TimmConfig(model="resnet18", norm="sync"))
    start(model, path)
    assert model.get_buffer("backbone.body.bn1.num_batches_tracked") == 0
    assert torch.equal(model.get_parameter("backbone.body.bn1.weight"), resnet18.bn1.weight)


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_variances_of_zero_are_no_trap_and_those_below_are_refused(norm: Any) -> None:
    config = TimmConfig(model="resnet10t", norm=norm, kwargs={"channels": [8, 16, 16, 16]})
    source = timm.create_model(config.model, **config.kwargs)
    state = source.state_dict()
    for name, value in state.items():
        if name.endswith("running_var"):
            value[::2] = 0.0  # dead channels
    model = small_model(config)
    backbone = Backbone(config, fitted(state, config)[0])
    start_from_backbone(model, backbone, "file")
    theirs = timm.create_model(config.model, features_only=True, **config.kwargs)
    theirs.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
    images = torch.randn((1, 3, 64, 64), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs.double().eval()(images)[-4:]
        for form in (model.double().eval(), model.prepare_for_inference()):
            for ours, their in zip(form.backbone(images), expected, strict=True):
                torch.testing.assert_close(ours, their, rtol=1e-9, atol=1e-9)

    for value in (-1e-5, -1.0):
        backbone.state["backbone.body.layer2.0.bn1.running_var"][3] = value
        with pytest.raises(UserError, match=r"1 norms have a negative variance \(backbone\.body\.layer2\.0\.bn1\.run"):
            start_from_backbone(model, backbone, "file")


def test_missing_and_unknown_entries_are_named(resnet18: Any) -> None:
    state = resnet18.state_dict()
    del state["layer2.1.bn2.running_var"]
    with pytest.raises(UserError, match=r"1 entries are missing.*: layer2\.1\.bn2\.running_var"):
        read_backbone(RESNET, state)
    with pytest.raises(UserError, match=r"does not have: layer5\.0\.conv1\.weight"):
        read_backbone(RESNET, {**resnet18.state_dict(), "layer5.0.conv1.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"does not have: neck\.weight"):
        read_backbone(DETECTRON2, {**from_original(DETECTRON2, tiny_resnet_names()), "neck.weight": torch.zeros(1)})


def test_where_a_backbone_cannot_go(swin_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a backbone alone; train a model from it: model\.init="):
        Mask2Former.from_pretrained(swin_file)
    torch.save({"model": original_swin(small_model())}, tmp_path / "swin.pth")
    with pytest.raises(UserError, match="written as ours only"):
        convert(tmp_path / "swin.pth", tmp_path / "swin.pkl", "original")
    with pytest.raises(UserError, match="leave out the recipe and the tasks"):
        convert(tmp_path / "swin.pth", tmp_path / "out.safetensors", recipe="coco-panoptic/r50")
    (tmp_path / "damaged.safetensors").write_bytes(swin_file.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged safetensors file"):
        backbone_of(tmp_path / "damaged.safetensors")


@pytest.mark.parametrize("stated", ['{"pixel_mean": [0, 0, 0], "num_queries": 5}', "[0, 0, 0]"])
def test_a_backbone_file_states_nothing_but_its_normalisation(swin_file: Path, tmp_path: Path, stated: str) -> None:
    with safe_open(swin_file, framework="pt") as file:
        metadata = {**file.metadata(), "normalisation": stated}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    save_file(tensors, tmp_path / "other.safetensors", metadata)
    with pytest.raises(UserError, match=r"'normalisation' in its header is not a mapping with pixel_mean and pixel_st"):
        backbone_of(tmp_path / "other.safetensors")
