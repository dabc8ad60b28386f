"""Our folders load in ``transformers`` with our logits, and its models load here with its logits."""

from __future__ import annotations

import copy
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from conversions import RESNET, SWIN, small_model
from PIL import Image
from torch import Tensor

from mask2former import checkpoints
from mask2former.checkpoints import convert as conversion
from mask2former.checkpoints.compare_transformers import compare_with_transformers
from mask2former.checkpoints.convert import convert
from mask2former.checkpoints.formats import huggingface
from mask2former.checkpoints.load import read
from mask2former.config import BackboneConfig, InferenceConfig, SwinConfig, TimmConfig
from mask2former.data.transforms import resize_image, shortest_edge_size
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former

TASKS: dict[str, InferenceConfig] = {
    "panoptic": InferenceConfig(tasks=("panoptic", "instance", "semantic"), short_edge=96, long_edge=160),
    "instance": InferenceConfig(tasks=("instance",), short_edge=64, long_edge=128, things_only=False),
    "semantic": InferenceConfig(tasks=("semantic",), short_edge=80, long_edge=200, resize_masks_first=False),
}
ODD_SWIN = SwinConfig(embed_dim=12, depths=(1, 1, 3, 2), num_heads=(1, 2, 3, 4), window_size=4)


def logits(model: Mask2Former, other: Any, size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    image = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        ours = model.double()([image])
        theirs = other(pixel_values=model.normalize([image]).flatten(0, 1))
    return [
        (ours.class_logits, theirs.class_queries_logits),
        (ours.mask_logits.squeeze(2), theirs.masks_queries_logits),
    ]


@pytest.mark.parametrize(
    ("backbone", "task"),
    [
        (SWIN, "panoptic"),
        (ODD_SWIN, "instance"),
        (RESNET, "semantic"),
        pytest.param(TimmConfig(model="resnet50", norm="batch"), "panoptic", marks=pytest.mark.slow),
    ],
    ids=["swin-panoptic", "odd-swin-instance", "resnet18-semantic", "resnet50-panoptic"],
)
def test_transformers_gives_our_logits(tmp_path: Path, backbone: BackboneConfig, task: str) -> None:
    model = small_model(backbone, TASKS[task])
    checkpoints.save_pretrained(model, tmp_path / "ours.safetensors")
    folder = convert(tmp_path / "ours.safetensors", tmp_path / "folder", "huggingface", verify=False).path
    kind: Any = transformers.Mask2FormerForUniversalSegmentation
    other, report = kind.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    # Files on its hub do not have the one norm that is never used, so ours do not either.
    unused = {f"model.pixel_level_module.encoder.swin.layernorm.{leaf}" for leaf in ("weight", "bias")}
    assert set(report["missing_keys"]) <= unused
    assert not any(values for name, values in report.items() if name != "missing_keys")
    assert other.config.id2label == {0: "sky", 1: "cat", 2: "dog"}
    for size in ((75, 131), (128, 96)):
        for ours, theirs in logits(model, other.eval(), size):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
            assert ours.std() > 0.01


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mask2Former, Any, Any]:
    """A model, and the processor and the model that transformers loads from its folder."""
    model = small_model(inference=InferenceConfig(tasks=("panoptic",), short_edge=72, long_edge=150))
    folder = folder_of(model, tmp_path_factory.mktemp("both"))
    processor: Any = transformers.AutoImageProcessor.from_pretrained(folder)
    kind: Any = transformers.Mask2FormerForUniversalSegmentation
    return model, processor, kind.from_pretrained(folder).eval()


def folder_of(model: Mask2Former, path: Path) -> Path:
    checkpoints.save_pretrained(model, path / "ours.safetensors")
    return convert(path / "ours.safetensors", path / "folder", "huggingface", verify=False).path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mask2Former, Path]:
    """A model and its folder; copy the folder before you change it."""
    model = small_model()
    return model, folder_of(model, tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize(
    ("size", "resized"),
    [((480, 640), (72, 96)), ((135, 99), (98, 72)), ((101, 331), (46, 150)), ((96, 96), (72, 72))],
    ids=str,
)
def test_its_preparation_of_images_is_ours_up_to_the_padding(
    both: tuple[Mask2Former, Any, Any], size: tuple[int, int], resized: tuple[int, int]
) -> None:
    """With ``size_divisor`` 1 its processor keeps proportions; padded as docs/convert.md says, its input is ours."""
    model, processor, other = both
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = np.stack([np.sin(rows / 9 + shift) * np.cos(columns / 13) for shift in range(3)], axis=2)
    image = (127 + 120 * waves).astype(np.uint8)

    values = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 3, *resized)
    height, width = resized
    values = F.pad(values, (0, -width % 32, 0, -height % 32))
    ours = resize_image(image, shortest_edge_size(image.shape[:2], 72, 150))
    expected = model.normalize([torch.from_numpy(ours).permute(2, 0, 1)]).flatten(0, 1)
    assert values.shape == expected.shape
    assert float((values - expected).abs().max()) < 0.02  # one step of 255, where the two resizers round differently
    with torch.inference_mode():
        theirs = other(pixel_values=values)
        output = model([torch.from_numpy(ours).permute(2, 0, 1)])
    scale = float(output.mask_logits.abs().max())
    assert float((theirs.masks_queries_logits - output.mask_logits.squeeze(2)).abs().max()) < 0.01 * scale
    assert float((theirs.class_queries_logits - output.class_logits).abs().max()) < 0.01


def test_its_preparation_with_a_divisor_stretches(tmp_path: Path) -> None:
    """Folders have a divisor of 1, because with 32, as in files on its hub, 72x96 becomes 96x96."""
    values = huggingface.preprocessor_of(InferenceConfig(short_edge=72, long_edge=150), 255) | {"size_divisor": 32}
    kind: Any = transformers.Mask2FormerImageProcessor
    stretched = kind(**values)(Image.new("RGB", (640, 480)), return_tensors="pt")["pixel_values"]
    assert stretched.shape == (1, 3, 96, 96)
    assert huggingface.preprocessor_of(InferenceConfig(), 255)["size_divisor"] == 1


def reference(backbone: Any, **changes: Any) -> Any:
    options = {"feature_size": 32, "hidden_dim": 32, "mask_feature_size": 24, "encoder_feedforward_dim": 40,
               "dim_feedforward": 48, "encoder_layers": 2, "decoder_layers": 4, "num_queries": 7}  # fmt: skip
    config = transformers.Mask2FormerConfig(backbone_config=backbone, num_labels=5, **(options | changes))  # pyright: ignore[reportCallIssue]
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.04 * torch.randn(parameter.shape, generator=generator)
    return model


STAGES = ["stage1", "stage2", "stage3", "stage4"]


@pytest.mark.parametrize("kind", ["swin", "four heads", "resnet", "timm", "in memory"])
def test_models_of_transformers_give_its_logits_here(tmp_path: Path, kind: str) -> None:
    kinds: Any = transformers  # its configurations take more arguments than they declare
    backbone = kinds.SwinConfig(
        embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4], window_size=4, out_features=STAGES
    )
    if kind == "resnet":
        backbone = kinds.ResNetConfig(
            layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], out_features=STAGES
        )
    elif kind == "timm":
        backbone = kinds.TimmBackboneConfig(backbone="resnet18", out_indices=(1, 2, 3, 4))
    other = reference(backbone, **({"num_attention_heads": 4} if kind == "four heads" else {}))
    if kind == "in memory":
        other.config.save_pretrained(tmp_path / "theirs")
        torch.save(other.state_dict(), tmp_path / "theirs" / "pytorch_model.bin")
    else:
        other.save_pretrained(tmp_path / "theirs")
    with pytest.raises(UserError, match="does not say what it was trained for"):
        read(tmp_path / "theirs")
    done = convert(tmp_path / "theirs", tmp_path / "ours.safetensors", tasks=("instance",))
    if kind == "timm":  # it would request a configuration of timm from the hub
        assert done.checks == ("every entry was converted",)
    else:
        assert done.checks[0].startswith(f"the logits of transformers {transformers.__version__} agree to ")
    model = Mask2Former.from_pretrained(tmp_path / "theirs", tasks="instance")
    for ours, theirs in logits(model, other.double(), (75, 131)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_other_logits_are_noticed_and_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model()
    checkpoints.save_pretrained(model, tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", tmp_path / "folder", "huggingface", verify=False)
    with torch.no_grad():
        model.get_parameter("transformer_decoder.class_head.bias")[1] += 1e-3
    with pytest.raises(UserError, match="gives different logits"):
        compare_with_transformers(model, tmp_path / "folder")

    def refuse(*_: Any) -> None:
        raise UserError("they differ")

    monkeypatch.setattr(conversion, "compare_with_transformers", refuse)
    with pytest.raises(UserError, match="they differ"):
        convert(tmp_path / "ours.safetensors", tmp_path / "second", "huggingface")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["folder", "ours.safetensors"]


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "owner/name", "use_pretrained_backbone": True},
        {"backbone_config": {"model_type": "timm_backbone", "backbone": "hf_hub:owner/name"}},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"auto_map": {"AutoConfig": "owner/name--file.Class"}},
    ],
)
def test_a_folder_cannot_make_transformers_fetch_or_load_something_else(
    small: tuple[Mask2Former, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """Neither the folder nor anything but the architecture in its configuration is passed on to transformers."""
    model, folder = small[0], Path(shutil.copytree(small[1], tmp_path / "folder"))
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/name", "peft_type": "LORA"}')

    def connect(*address: Any) -> None:
        raise AssertionError(f"asked the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    agreed = compare_with_transformers(model, folder)
    assert (agreed is None) == ("backbone" in json.dumps(change))


def test_the_model_is_left_as_it_was(small: tuple[Mask2Former, Path]) -> None:
    model, folder = copy.deepcopy(small[0]), small[1]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    assert compare_with_transformers(model, folder) is not None
    assert model.training
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
