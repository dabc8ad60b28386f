"""Complete files and folders of other code bases: recognised, converted both ways, and rejected with a reason."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conversions import RESNET, small_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from mask2former import checkpoints, recipes
from mask2former.checkpoints import targets
from mask2former.checkpoints.checkpoint import Checkpoint
from mask2former.checkpoints.convert import Target, convert
from mask2former.checkpoints.formats import original
from mask2former.checkpoints.formats.huggingface import HUGGINGFACE
from mask2former.checkpoints.formats.openmmlab import MMDET, MMDET_2, MMSEG, MMSEG_2
from mask2former.checkpoints.formats.sssegmentation import SSSEG
from mask2former.checkpoints.load import Found, read, recognised
from mask2former.checkpoints.raw import Raw, Request
from mask2former.checkpoints.rules import Layout, from_original
from mask2former.checkpoints.targets import write
from mask2former.cli import main
from mask2former.config import TimmConfig
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import ModelInfo

FILES: dict[Target, str] = {
    "ours": "model.safetensors",
    "original": "model.pkl",
    "huggingface": "folder",
    "mmdet": "mmdet.pth",
    "mmseg": "mmseg.pth",
    "ssseg": "ssseg.pth",
}
SWIN_TITLE = "Swin (width 8, blocks 1-2-1-1), 6 queries, 3 classes"


@pytest.fixture(scope="module")
def model() -> Mask2Former:
    return small_model()


@pytest.fixture(scope="module")
def ours(model: Mask2Former, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ours") / "ours.safetensors"
    checkpoints.save_pretrained(model, path)
    return path


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_file(one), load_file(other)
    return list(first) == list(second) and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def whole(found: Found) -> Checkpoint:
    assert isinstance(found.content, Checkpoint)
    return found.content


@pytest.mark.parametrize("target", FILES)
def test_there_and_back_bit_for_bit(ours: Path, tmp_path: Path, target: Target) -> None:
    there = convert(ours, tmp_path / FILES[target], target, verify=False)
    assert there.source == f"mask2former, {SWIN_TITLE}"
    says_it = target in ("ours", "huggingface")
    back = convert(there.path, tmp_path / "back.safetensors", tasks=() if says_it else ("panoptic",), verify=False)
    titles = {"ours": "mask2former", "original": "original", "huggingface": "Hugging Face transformers",
              "mmdet": "mmdet 3.x", "mmseg": "mmsegmentation 1.x", "ssseg": "sssegmentation"}  # fmt: skip
    assert back.source == f"{titles[target]}, {SWIN_TITLE}"
    assert same_weights(ours, back.path)
    if says_it:
        first, second = checkpoints.open_checkpoint(ours), checkpoints.open_checkpoint(back.path)
        assert first.info == second.info


@pytest.mark.parametrize(
    ("target", "norm"),
    [
        ("huggingface", "sync"),
        ("mmdet", "frozen"),
        pytest.param("huggingface", "frozen", marks=pytest.mark.slow),
        pytest.param("mmdet", "sync", marks=pytest.mark.slow),
    ],
)
def test_resnets_there_and_back(tmp_path: Path, target: Target, norm: Any) -> None:
    model = small_model(TimmConfig(model=RESNET.model, norm=norm))
    if norm == "sync":
        model.get_buffer("backbone.body.bn1.num_batches_tracked").fill_(17)
    checkpoints.save_pretrained(model, tmp_path / "ours.safetensors")
    there = convert(tmp_path / "ours.safetensors", tmp_path / FILES[target], target, verify=False).path
    if target == "huggingface":
        back = convert(there, tmp_path / "back.safetensors", verify=False).path
        assert same_weights(tmp_path / "ours.safetensors", back)
        assert checkpoints.open_checkpoint(back).info == model.info
        return
    state = torch.load(there)["state_dict"]
    assert state["backbone.bn1.num_batches_tracked"] == (17 if norm == "sync" else 0)
    found = whole(read(there, tasks=("instance",)))
    frozen = {name: value for name, value in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert found.state.keys() == frozen.keys()  # whether norms were trained is not visible there
    assert all(torch.equal(value, found.state[name]) for name, value in frozen.items())


def renamed(model: Mask2Former, layout: Layout) -> OrderedDict[str, Tensor]:
    return from_original(layout, original.to_original(model))


@pytest.mark.parametrize(
    ("layout", "title"),
    [(MMDET_2, "mmdet 2.x"), (MMSEG_2, "mmsegmentation with the names of mmdet 2.x")],
)
def test_older_names_are_recognised(model: Mask2Former, tmp_path: Path, layout: Layout, title: str) -> None:
    path = tmp_path / "old.pth"
    meta = {"CLASSES": ("sky", "cat", "dog"), "epoch": 50, "config": "model = dict()"}
    torch.save({"meta": meta, "state_dict": renamed(model, layout), "optimizer": {"state": {}}}, path)
    found = read(path, tasks=("instance",))
    assert found.title == f"{title}, {SWIN_TITLE}"
    assert whole(found).categories.names == ("sky", "cat", "dog")
    assert all(torch.equal(value, whole(found).state[name]) for name, value in model.state_dict().items())


def test_generations_may_be_mixed(model: Mask2Former, tmp_path: Path) -> None:
    """Names of the decoder decide the version of mmdet; the pixel decoder may have names of either version."""
    path = tmp_path / "mixed.pth"
    old, new = renamed(model, MMDET_2), renamed(model, MMDET)
    mixed = {name: value for name, value in old.items() if ".pixel_decoder." in name}
    mixed |= {name: value for name, value in new.items() if ".pixel_decoder." not in name}
    torch.save({"state_dict": mixed}, path)
    assert read(path, tasks=("instance",)).title.startswith("mmdet 3.x")


@pytest.mark.parametrize("layout", [MMDET, MMSEG], ids=lambda layout: layout.key)
def test_wrapped_names_and_half_precision(model: Mask2Former, tmp_path: Path, layout: Layout) -> None:
    path = tmp_path / "wrapped.pth"
    state = {f"module.{name}": value.half() for name, value in renamed(model, layout).items()}
    torch.save(state, path)
    found = whole(read(path, tasks=("semantic",)))
    assert {value.dtype for value in found.state.values()} == {torch.float32}
    assert found.info.inference.resize_masks_first is False
    assert found.categories.names == ("class 0", "class 1", "class 2")


HISTORY = """
import numpy as np


class HistoryBuffer:
    def __init__(self):
        self._log_history = np.ones(3)
        self._methods = {"mean": HistoryBuffer.mean}

    def mean(self):
        return self._log_history.mean()
"""


def test_training_checkpoints_of_mmengine_are_read(
    model: Mask2Former, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint is read although it contains objects of mmengine whose pickles call functions."""
    module = ModuleType("mmengine.logging.history_buffer")
    exec(HISTORY, module.__dict__)
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = tmp_path / "epoch_50.pth"
    torch.save({"message_hub": {"loss": module.HistoryBuffer()}, "state_dict": renamed(model, MMDET)}, path)
    assert b"getattr" in path.read_bytes()
    assert read(path, tasks=("instance",)).title.startswith("mmdet 3.x")


# --- folders of transformers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(ours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(ours, tmp_path_factory.mktemp("exported") / "folder", "huggingface", verify=False).path


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "exported"))


def rewrite(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del values[key]
        else:
            values[key] = value
    path.write_text(json.dumps(values))


def test_folders_without_our_facts(model: Mask2Former, folder: Path) -> None:
    rewrite(folder / "config.json", mask2former=None)
    with pytest.raises(UserError, match=r"does not say what it was trained for, and no published.*give tasks"):
        read(folder)
    found = whole(read(folder, tasks=("instance", "semantic")))
    assert found.categories.names == ("sky", "cat", "dog")
    assert (found.info.inference.short_edge, found.info.inference.long_edge) == (96, 160)
    assert found.info.inference.tasks == ("instance", "semantic")


@pytest.mark.parametrize("kind", ["bin", "sharded bin", "sharded safetensors", "in memory"])
def test_weights_in_other_files(model: Mask2Former, folder: Path, kind: str) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if kind == "in memory":
        state = {
            name.replace("pixel_level_module.encoder.e", "pixel_level_module.encoder.swin.e")
            .replace("attention.self.query", "attention.q_proj")
            .replace("attention.self.key", "attention.k_proj")
            .replace("attention.self.value", "attention.v_proj")
            .replace("attention.self.relative", "attention.relative_position_bias.relative")
            .replace("attention.output.dense", "attention.o_proj")
            .replace("intermediate.dense", "mlp.fc1")
            .replace(".output.dense", ".mlp.fc2"): value
            for name, value in state.items()
        }
        state["model.pixel_level_module.encoder.swin.layernorm.weight"] = torch.ones(64)
    if kind in ("bin", "in memory"):
        torch.save(state, folder / "pytorch_model.bin")
    else:
        stem, suffix = ("pytorch_model", "bin") if kind == "sharded bin" else ("model", "safetensors")
        names = list(state)
        parts = {f"{stem}-{part + 1}-of-2.{suffix}": names[part::2] for part in range(2)}
        for part, held in parts.items():
            held_state = {name: state[name] for name in held}
            torch.save(held_state, folder / part) if suffix == "bin" else save_file(held_state, folder / part)
        index = {"metadata": {}, "weight_map": {name: part for part, held in parts.items() for name in held}}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    found = whole(read(folder))
    assert all(torch.equal(value, found.state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "maskformer"}, "model_type is 'maskformer'; expected 'mask2former'"),
        ({"num_queries": 7}, "'num_queries' is 7, but the weights have 6"),
        ({"decoder_layers": 4}, "'decoder_layers' is 4, but the weights have 5"),
        ({"num_attention_heads": 4}, "'num_attention_heads' is 4, which the weights of the pixel decoder do not fit"),
        ({"num_attention_heads": 10**30}, "'num_attention_heads' is 1000.*expected a number"),
        ({"num_attention_heads": True}, "'num_attention_heads' is True"),
        ({"pre_norm": True}, "'pre_norm' is True; only False is supported"),
        ({"activation_function": "gelu"}, "'activation_function' is 'gelu'"),
        ({"backbone_config": {"window_size": 4}}, "backbone_config 'window_size' is 4, expected 3"),
        ({"id2label": {"0": "sky"}}, "'id2label' has 1 entries, and none for class 1, 2; expected names of 3"),
        ({"mask2former": {"config": {"backbone": 3}}}, "mask2former.config: 'backbone"),
        (
            {"mask2former": {"config": {}, "categories": {"categories": [{"id": 1, "name": "a"}]}}},
            "describes a model other than the weights",
        ),
    ],
)
def test_odd_configurations_are_told(folder: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(folder / "config.json", **changes)
    with pytest.raises(UserError, match=message) as caught:
        read(folder)
    assert str(caught.value).startswith(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_mean": [0.406, 0.456, 0.485]},
            r"mean \[0.406, .*which is ImageNet's mean in the order B, G, R",
        ),
        ({"image_std": "none"}, "deviation 'none', after multiplying them by 0.00392157; expected three numbers each"),
        ({"image_std": [1, float("nan"), 1]}, r"deviation \[1, nan, 1\].*expected three numbers each"),
        ({"image_std": [1, True, 1]}, r"deviation \[1, True, 1\].*expected three numbers each"),
        ({"image_std": [0, 1, 1]}, r"deviation \[0, 1, 1\].*expected means of 0 to 255 and deviations of 1 to 1000"),
        ({"size": {"shortest_edge": -4}}, "'shortest_edge' is -4; expected a number"),
        ({"size": {"max_height": 600, "max_width": 1000}}, "'size' is .*; expected shortest_edge and longest_edge"),
        ({"do_rescale": False}, r"deviation \[0.229.*; expected means of 0 to 255 and deviations of 1 to 1000"),
        ({"rescale_factor": 0}, "'rescale_factor' is 0; expected a positive number"),
        ({"ignore_index": -100}, "'ignore_index' is -100; expected a value of label maps"),
    ],
)
def test_other_preparation_of_images_is_told(folder: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(folder / "preprocessor_config.json", **changes)
    with pytest.raises(UserError, match=message):
        read(folder)


MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


@pytest.mark.parametrize(
    ("changes", "edges", "notes"),
    [
        ({}, (96, 160), ()),
        ({"do_resize": False}, (0, 1333), ()),
        ({"size": 320, "max_size": 500}, (320, 500), ()),
        ({"size": {"max_height": 512, "max_width": 512}}, (512, 512), ()),
        (
            {"do_rescale": False, "image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]},
            None,
            (),
        ),
        ({"num_labels": 4}, None, ()),  # with "no object"
        (
            {"size": {"height": 384, "width": 384}},
            (384, 1333),
            ("images were stretched to 384x384 originally; here they keep their proportions and get a short",),
        ),
        ({"size_divisor": 32}, None, ("images were stretched to multiples of 32 pixels; here they are padded to 32",)),
        ({"size_divisor": 0}, None, ()),
        ({"resample": 3}, None, ("images were resized with Pillow's filter 3; here it is bilinear",)),
        ({"do_reduce_labels": True}, None, ("its label maps counted classes from 1 (do_reduce_labels)",)),
        ({"num_labels": 150}, None, ("preprocessor_config.json mentions 150 classes, but the weights have 3",)),
        ({"ignore_index": 1}, None, ("label maps used 1 for pixels without a class; here it is 255",)),
        ({"pad_size": {"height": 640, "width": 640}}, None, ("images were padded to ",)),
        ({"size": None}, (800, 1333), ("the size to which images were resized is not given: a short edge of 800",)),
    ],
    ids=str,
)
def test_preparation_of_images_is_carried_over_or_noted(
    folder: Path, changes: dict[str, Any], edges: tuple[int, int] | None, notes: tuple[str, ...]
) -> None:
    rewrite(folder / "config.json", mask2former=None)
    rewrite(folder / "preprocessor_config.json", **changes)
    found = read(folder, tasks=("semantic",))
    inference = whole(found).info.inference
    assert (inference.short_edge, inference.long_edge) == (edges or (96, 160))
    assert len(found.notes) == len(notes)
    assert all(note.startswith(start) for note, start in zip(found.notes, notes, strict=True))


def test_the_value_of_pixels_without_a_class_is_carried_over(folder: Path) -> None:
    rewrite(folder / "config.json", mask2former=None)
    rewrite(folder / "preprocessor_config.json", ignore_index=65535)
    assert whole(read(folder, tasks=("semantic",))).categories.ignore_label == 65535


def test_folders_without_preprocessor_say_what_is_assumed(folder: Path) -> None:
    rewrite(folder / "config.json", mask2former=None)
    (folder / "preprocessor_config.json").unlink()
    found = read(folder, tasks=("semantic",))
    assert found.notes == (
        "the size to which images were resized is not given: a short edge of 800, at most 1333 is assumed",
    )


def test_folders_of_ours_that_were_trained_further_are_noticed(folder: Path) -> None:
    """Where they differ from the 'mask2former' entry, which transformers copies, sizes are noted, classes refused."""
    rewrite(folder / "preprocessor_config.json", size={"shortest_edge": 64, "longest_edge": 160})
    assert read(folder).notes == (
        "images originally got a short edge of 64, at most 160; here they get a short edge of 96, at most 160",
    )
    rewrite(folder / "config.json", id2label={"0": "sky", "1": "cow", "2": "dog"})
    with pytest.raises(UserError, match=r"'id2label' lists other classes \(sky, cow, dog\) than 'mask2former'"):
        read(folder)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": "sky", "1": "cat", "3": "dog"}, "has 3 entries, and none for class 2; expected names of 3 classes"),
        ({"1": "sky", "2": "cat", "3": "dog"}, "has 3 entries, and none for class 0;"),
    ],
)
def test_class_names_with_gaps_are_refused(folder: Path, labels: dict[str, str], message: str) -> None:
    rewrite(folder / "config.json", mask2former=None, id2label=labels)
    with pytest.raises(UserError, match=message):
        read(folder, tasks=("semantic",))


def test_class_names_given_twice_are_noted(folder: Path) -> None:
    rewrite(folder / "config.json", mask2former=None, id2label={"0": "sky", "1": "cat", "2": "cat"})
    assert read(folder, tasks=("semantic",)).notes == ("several classes are called 'cat'; evaluate needs unique names",)


CONFIGURATION = """
model = dict(
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True, pad_size_divisor=32, batch_augments=[dict(type='BatchFixedSizePad', size=(1024, 1024))]),
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='x.pth')))
train_pipeline = [dict(type='Resize', scale=(64, 64), keep_ratio=False)]
test_pipeline = [
    dict(type='LoadImageFromFile', backend_args=None), dict(type='Resize', scale=(500, 320), keep_ratio=True)]
"""


def test_the_configuration_in_files_of_openmmlab_is_heeded(model: Mask2Former, tmp_path: Path) -> None:
    path = tmp_path / "mmdet.pth"

    def found(text: str) -> Found:
        torch.save({"meta": {"cfg": text}, "state_dict": renamed(model, MMDET)}, path)
        return read(path, tasks=("instance",))

    inference = whole(found(CONFIGURATION)).info.inference
    assert (inference.short_edge, inference.long_edge, inference.resampling) == (320, 500, "bilinear")
    for fault, message in (
        (
            CONFIGURATION.replace("57.375", "0"),
            r"deviation \[58.395, 57.12, 0\]; expected means",
        ),
        (CONFIGURATION + "other = dict(type='Normalize', mean=[0, 0, 0], std=[1, 1, 1])", "in one place and with mean"),
        (CONFIGURATION.replace("bgr_to_rgb=True", "bgr_to_rgb=False"), "bgr_to_rgb=False: the model expects BGR"),
    ):
        with pytest.raises(UserError, match=message):
            found(fault)
    for text in ("", "no Python (", CONFIGURATION.replace("keep_ratio=True", "keep_ratio=False")):
        assert found(text).notes == (
            "images are resized without antialiasing, as in mmdet 3.x",
            "class names are not given: the classes are called class 0, class 1 and 1 more, and all are things",
            "the size to which images were resized is not given: a short edge of 800, at most 1333 is assumed",
        )


def test_pixel_means_that_mean_bgr_are_refused(model: Mask2Former, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    state = original.to_original(model)
    mean = torch.tensor([123.675, 116.280, 103.530]).view(3, 1, 1)
    torch.save({"model": {**state, "pixel_mean": mean, "pixel_std": torch.tensor([58.395, 57.120, 57.375])}}, path)
    read(path, tasks=("instance",))
    torch.save({"model": {**state, "pixel_mean": mean.flip(0)}}, path)
    with pytest.raises(
        UserError, match=r"mean \[103.53, 116.28, 123.675\] .*which is ImageNet's mean in the order B, G, R"
    ):
        read(path, tasks=("instance",))


@pytest.mark.parametrize(
    ("changes", "mean", "std"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, [127.5] * 3, [127.5] * 3),
        ({"do_normalize": False}, [0.0] * 3, [255.0] * 3),
        ({"do_normalize": False, "do_rescale": False}, [0.0] * 3, [1.0] * 3),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1] * 3, "image_std": [1.0] * 3}, [127.5] * 3, [127.5] * 3),
        ({"image_mean": [0.48500001, 0.456, 0.406]}, MEAN, STD),  # rounded differently
    ],
    ids=str,
)
def test_normalisation_of_a_folder_is_carried_over(
    folder: Path, changes: dict[str, Any], mean: list[float], std: list[float]
) -> None:
    rewrite(folder / "preprocessor_config.json", **changes)
    found = read(folder)
    assert whole(found).info.known_architecture.pixel_mean == tuple(mean)
    assert whole(found).info.known_architecture.pixel_std == tuple(std)
    notes = (
        ()
        if mean == MEAN
        else (f"images are normalised with mean {mean} and deviation {std}, as specified in the file",)
    )
    assert found.notes == notes


@pytest.mark.parametrize("target", ["ours", "original", "huggingface", "mmdet", "mmseg", "ssseg"])
def test_normalisation_goes_to_every_layout_that_can_say_it_and_back(tmp_path: Path, target: Target) -> None:
    own = {"pixel_mean": (122.770938, 116.746012, 104.093734), "pixel_std": (68.500533, 66.632158, 70.323164)}
    model = small_model()
    model.info = replace(model.info, architecture=model.info.known_architecture.model_copy(update=own))
    model.mean, model.std = own.values()
    path = tmp_path / FILES[target]
    if target == "ssseg":
        with pytest.raises(
            UserError, match=r"do not store how images are normalised, but this model has mean \[122.77"
        ):
            write(model, path, target)
        return
    write(model, path, target)
    found = whole(read(path, tasks=("panoptic",) if target in ("original", "mmdet", "mmseg") else ()))
    again = checkpoints.instantiate(found)
    assert (again.mean, again.std) == (model.mean, model.std)
    image = torch.rand(3, 32, 32) * 255
    assert torch.equal(again.normalize([image]), model.normalize([image]))


@pytest.mark.parametrize("target", ["ours", "original", "mmdet"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_converted(
    model: Mask2Former, tmp_path: Path, target: Target, value: float
) -> None:
    state = renamed(model, MMSEG)
    name = "decode_head.cls_embed.bias"
    state[name] = torch.where(torch.arange(len(state[name])) == 1, value, state[name])
    torch.save({"state_dict": state}, tmp_path / "broken.pth")
    with pytest.raises(UserError, match=r"1 of \d+ entries have values that are NaN or infinite \(trans"):
        convert(tmp_path / "broken.pth", tmp_path / FILES[target], target, tasks=("instance",), verify=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["broken.pth"]


@pytest.mark.parametrize("part", ["../secret.bin", "/etc/passwd", "weights.txt", 3])
def test_an_index_names_only_files_of_its_folder(folder: Path, part: Any) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": part}}))
    with pytest.raises(UserError, match="not a file of weights in this folder"):
        read(folder)


def test_incomplete_folders_are_told(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"expected model\.safetensors or pytorch_model\.bin"):
        read(folder)
    (folder / "config.json").unlink()
    with pytest.raises(
        UserError, match=r"must contain model\.safetensors, or config\.json beside weights; it contains preprocessor"
    ):
        read(folder)


# --- recipes and tasks -----------------------------------------------------------------------------------------------


def shapes_of(published: Any, slug: str, layout: Layout | None, with_names: bool) -> Raw:
    """A file with the entries of a published model, which have shapes but no values."""
    state = {
        name: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for name, entry in published.table(slug).items()
    }
    names = original.recipe_categories(slug).names if with_names else None
    return Raw(Path("file"), state if layout is None else dict(from_original(layout, state)), class_names=names)


@pytest.mark.parametrize("with_names", [True, False])
@pytest.mark.parametrize(
    ("slug", "layout", "expected"),
    [
        ("coco-panoptic/r50", None, "coco-panoptic/r50"),
        ("coco-panoptic/r50", HUGGINGFACE, "coco-panoptic/r50"),
        ("coco-panoptic/r50", MMDET, "mmdet/coco-panoptic/r50"),
        ("coco-panoptic/swin-l", MMDET, "mmdet/coco-panoptic/swin-l"),
        ("coco-instance/swin-t", MMDET_2, "mmdet/coco-instance/swin-t"),
        (
            "coco-instance/swin-l",
            MMDET,
            "coco-instance/swin-l",
        ),  # mmdet has no recipe with as many queries
        ("coco-instance/swin-t", MMSEG, "coco-instance/swin-t"),
        ("cityscapes-semantic/r50", MMSEG, "mmseg/cityscapes-semantic/r50"),
        ("ade20k-semantic/swin-s", MMSEG_2, "mmseg/ade20k-semantic/swin-s"),
        ("ade20k-semantic/swin-t", SSSEG, "ssseg/ade20k-semantic/swin-t"),
        ("ade20k-semantic/r50", None, "ade20k-panoptic/r50, ade20k-semantic/r50"),
        ("ade20k-semantic/r50", MMDET, "ade20k-panoptic/r50, ade20k-semantic/r50"),
        ("cityscapes-semantic/swin-t", SSSEG, "cityscapes-panoptic/swin-t, cityscapes-semantic/swin-t"),
    ],
)
def test_recipes_and_class_names_decide(
    published: Any, slug: str, layout: Layout | None, expected: str, with_names: bool
) -> None:
    raw = shapes_of(published, slug, layout, with_names)
    if ", " in expected:
        with pytest.raises(UserError, match=f"more than one recipe fits: {expected}; give recipe with one of them"):
            recognised(raw, Request("file"))
        return
    found = recognised(raw, Request("file"))
    recipe = recipes.recipe(expected)
    assert whole(found).info == ModelInfo.of(recipe.model, original.recipe_categories(expected))
    assert f"settings and classes are those of {expected}, the published model that fits" in found.notes


def test_a_recipe_that_is_given_decides(published: Any) -> None:
    for name in ("cityscapes-semantic/r50", "mmseg/cityscapes-semantic/r50"):
        raw = shapes_of(published, "cityscapes-semantic/r50", MMDET, with_names=True)
        chosen = whole(recognised(raw, Request("file", name)))
        assert chosen.info.inference == recipes.recipe(name).model.inference
        backbone = chosen.info.known_architecture.backbone
        assert isinstance(backbone, TimmConfig)
        assert backbone.norm == "sync"  # from the recipe, since names do not show it
    raw = shapes_of(published, "ade20k-semantic/r50", MMDET, with_names=True)
    with pytest.raises(UserError, match=r"recipe 'coco-instance/r50' is resnet50.*recipes that fit: ade20k-panoptic"):
        recognised(raw, Request("file", "coco-instance/r50"))
    raw = shapes_of(published, "coco-panoptic/r50", MMDET, with_names=True)
    raw.class_names = tuple(f"class {index}" for index in range(133))
    found = recognised(raw, Request("file", "coco-panoptic/r50"))
    assert "the file has other class names (class 0, class 1, class 2 and 130 more) than the recipe" in found.notes


def test_heads_are_not_guessed(tiny_model: Mask2Former, tmp_path: Path) -> None:
    torch.save(renamed(tiny_model, MMDET), tmp_path / "model.pth")
    with pytest.raises(UserError, match="does not say how many attention heads"):
        read(tmp_path / "model.pth", tasks=("instance",))


def test_missing_entries_are_listed_as_the_file_spells_them(model: Mask2Former, tmp_path: Path) -> None:
    state = renamed(model, MMDET)
    del state["panoptic_head.pixel_decoder.encoder.layers.1.norms.1.bias"]
    del state["backbone.stages.1.blocks.1.attn.w_msa.proj.bias"]
    torch.save(state, tmp_path / "model.pth")
    state["module.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(UserError) as caught:
        Mask2Former.from_pretrained(tmp_path / "model.pth", tasks="instance")
    message = str(caught.value)
    assert "2 missing: backbone.stages.1.blocks.1.attn.w_msa.proj.bias, panoptic_head.pixel_decoder.enc" in message
    assert "; 1 unexpected: module.weight" in message
    del state["panoptic_head.cls_embed.weight"]
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(UserError, match=r"in mmdet 3.x: entry 'panoptic_head\.cls_embed\.weight' is missing"):
        read(tmp_path / "model.pth", tasks=("instance",))


def test_unknown_files_are_told(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"none of the known layouts.*sssegmentation.*such as encoder.weight"):
        read(tmp_path / "other.pth")


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target"),
    [("a.pkl", "ours"), ("a.safetensors", "original"), ("a.safetensors", "huggingface"), ("a", "mmdet")],
)
def test_places_that_do_not_fit_are_told_first(tmp_path: Path, name: str, target: Target) -> None:
    with pytest.raises(UserError, match=f"cannot be written as {target}; expected"):
        convert("nowhere.pth", tmp_path / name, target)


def test_nothing_is_overwritten(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "there.pkl").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        convert(ours, tmp_path / "there.pkl", "original")
    with pytest.raises(UserError, match="not empty"):
        convert(ours, tmp_path / "folder", "huggingface")
    assert (tmp_path / "there.pkl").read_text() == "mine"


@pytest.mark.parametrize("target", ["original", "huggingface", "mmdet"])
def test_a_failed_check_leaves_nothing(
    model: Mask2Former, tmp_path: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(path: Path) -> dict[str, Tensor]:
        state = dict(original.to_original(model))
        state["backbone.norm0.bias"] = state["backbone.norm0.bias"] + 1
        return state

    monkeypatch.setattr(targets, "published_state", damaged)
    with pytest.raises(AssertionError):
        targets.write(model, tmp_path / FILES[target], target)
    assert list(tmp_path.iterdir()) == []


def test_models_without_a_place_are_told(tmp_path: Path) -> None:
    clips = small_model()
    architecture = clips.info.known_architecture
    decoder = architecture.transformer_decoder.model_copy(update={"position_encoding": "3d"})
    clips.info = replace(clips.info, architecture=architecture.model_copy(update={"transformer_decoder": decoder}))
    with pytest.raises(UserError, match="transformers supports image models only"):
        targets.write(clips, tmp_path / "clips", "huggingface")
    deep = small_model(TimmConfig(model="resnet50s"))
    with pytest.raises(UserError, match="not backbone 'resnet50s'"):
        targets.write(deep, tmp_path / "deep", "huggingface")
    with pytest.raises(UserError, match=r"that do not exist in mmdet 3\.x: backbone\.stem\.conv2"):
        targets.write(deep, tmp_path / "deep.pth", "mmdet")
    assert list(tmp_path.iterdir()) == []


def test_heads_that_a_layout_does_not_store_are_told(model: Mask2Former) -> None:
    architecture = model.info.known_architecture
    decoder = architecture.transformer_decoder.model_copy(update={"num_heads": 4})
    odd = replace(model.info, architecture=architecture.model_copy(update={"transformer_decoder": decoder}))
    assert targets.unsaid(model.info, "mmdet") == targets.unsaid(odd, "ours") == []
    [phrase] = targets.unsaid(odd, "original")
    assert "assumes 8; this model has 8 (pixel decoder) and 4 (transformer decoder)" in phrase


def test_command(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(ours), str(tmp_path / "m.pth"), "--to", "mmdet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"Found: mask2former, {SWIN_TITLE}"
    assert lines[-1] == f"{tmp_path / 'm.pth'} written (mmdet); read back, every value is the same"
    assert main(["convert", str(tmp_path / "m.pth"), str(tmp_path / "back.safetensors")]) == 2
    assert "give --task" in capsys.readouterr().err
    words = ["convert", str(tmp_path / "m.pth"), str(tmp_path / "back.safetensors"), "--task"]
    assert main([*words, "instances"]) == 2
    assert "--task instances: no such task; expected panoptic, instance, semantic" in capsys.readouterr().err
    assert main([*words, "instance"]) == 0
    assert same_weights(ours, tmp_path / "back.safetensors")
    assert main(["convert", str(ours), str(tmp_path / "x"), "--to", "tensorflow"]) == 2
    assert "expected one of ours, original" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "writer"),
    [("mmdet", f"{targets.__name__}.save_torch"), ("huggingface", f"{targets.__name__}.write_safetensors")],
)
def test_an_interrupt_while_writing_leaves_nothing(
    ours: Path, tmp_path: Path, target: Target, writer: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def half(_: Any, path: Path, *__: Any) -> None:
        Path(path).write_bytes(b"half of it")
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(writer, half)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs start with it ignored
    try:
        assert main(["convert", str(ours), str(tmp_path / FILES[target]), "--to", target, "--no-verify"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "stopped: nothing was written\n"
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_a_model_is_not_a_folder_of_that_name(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a model takes precedence over a folder of that name, which ./NAME denotes."""
    monkeypatch.chdir(tmp_path)
    checkpoints.save_pretrained(Mask2Former.from_pretrained(ours), Path("coco-panoptic/r50"))
    monkeypatch.setenv("MASK2FORMER_OFFLINE", "1")
    monkeypatch.setenv("MASK2FORMER_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="not in the cache and offline mode is on"):
        convert("coco-panoptic/r50", "out.safetensors")
    assert same_weights(ours, convert("./coco-panoptic/r50", "out.safetensors").path)
