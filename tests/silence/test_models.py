"""Models with non-finite values or false claims, and unusable backbones: a result, a note or an error.

Each row is run as users would, on the command line: the input, and the words of the message. An error has exit code 2
and leaves no files behind.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conversions import small_model
from PIL import Image
from runs import run_values
from safetensors.torch import load_file, save_file

from mask2former import checkpoints
from mask2former.checkpoints.convert import convert
from mask2former.cli import main
from mask2former.config import Task
from mask2former.models.mask2former import Mask2Former

# --- backbones -------------------------------------------------------------------------------------------------------

TIMM: dict[str, Any] = {"name": "timm", "norm": "frozen"}
SWIN = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4]}
RESNET = TIMM | {"model": "test_resnet"}


def train(folder: Path, **changes: Any) -> int:
    values = run_values(folder / "run", trainer__max_steps=1, evaluation__interval=1, **changes)
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return main(["train", str(folder / "run.yaml")])


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (TIMM | {"model": "swin_tiny_patch4_window7_224", "kwargs": SWIN}, "kwargs={strict_img_size: false}"),
        (TIMM | {"model": "test_coatnet"}, "'test_coatnet' does not accept images of arbitrary size"),
        (TIMM | {"model": "mobilevitv2_050"}, "'mobilevitv2_050' returns maps of"),
        (TIMM | {"model": "test_vit"}, "expected maps of strides [4, 8, 16, 32]"),
        (TIMM | {"model": "hf_hub:owner/name"}, "expected the name of an architecture"),
        (RESNET | {"kwargs": {"pretrained": True}}, "set by model.init (model.init=timm/test_resnet.TAG, or a file)"),
        (RESNET | {"kwargs": {"in_chans": 4}}, "the number of image channels is the length of model"),
        (RESNET | {"kwargs": {"nonsense": 1}}, "timm could not create it"),
        ({"name": "swin", "embed_dim": 10, "num_heads": [1, 3, 4, 8]}, "must be a multiple of its num_heads 3"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_backbones_that_cannot_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], backbone: dict[str, Any], words: str
) -> None:
    assert train(tmp_path, model__backbone=backbone) == 2
    assert words in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.yaml"]


def test_one_value_for_a_batch_norm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"dataset": {"name": "scenes", "image_size": [32, 32], "num_training": 2, "num_validation": 1},
            "batch_size": 1, "num_workers": 0}  # fmt: skip
    assert train(tmp_path, data=data, model__backbone=RESNET | {"norm": "batch"}) == 2
    assert "a batch norm has only one value per channel" in capsys.readouterr().err


def test_channels_that_are_last_train_and_come_back(tmp_path: Path) -> None:
    assert train(tmp_path, model__backbone=TIMM | {"model": "test_mambaout"}) == 0
    model = Mask2Former.from_pretrained(tmp_path / "run" / "model.safetensors")
    with torch.inference_mode():
        assert model([torch.zeros(3, 40, 70)]).mask_logits.shape[-2:] == (16, 24)


# --- weights and logits that are not finite --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "ours.safetensors"
    checkpoints.save_pretrained(small_model(), path)
    return path


@pytest.fixture
def ours(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(saved, tmp_path))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    values = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "images" / "a.png")
    return tmp_path / "images"


def damage(path: Path, value: float) -> None:
    info = checkpoints.open_checkpoint(path).info.to_dict()
    state = load_file(path)
    state["transformer_decoder.class_head.bias"][0] = value
    facts = {key: json.dumps(info[key]) for key in ("config", "categories")}
    save_file(state, path, {"format": "mask2former", "format_version": "1", **facts})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "command",
    [
        ["predict", "{images}", "--output", "{out}", "--model", "{ours}"],
        ["convert", "{ours}", "{out}"],
        ["convert", "{ours}", "{out}.pkl", "--to", "original"],
        ["convert", "{ours}", "{out}", "--to", "huggingface"],
        ["average", "{ours}", "{ours}", "--output", "{out}.safetensors"],
    ],
    ids=lambda words: " ".join(words[:1] + words[3:]),
)
def test_weights_that_are_not_finite_give_nothing(
    ours: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], value: float
) -> None:
    damage(ours, value)
    before = sorted(tmp_path.iterdir())
    words = [word.format(ours=ours, images=image, out=tmp_path / "out") for word in command]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "values that are NaN or infinite (transformer_decoder.class_head.bias)" in error
    assert sorted(tmp_path.iterdir()) == before


def test_logits_beyond_half_precision_are_told_for_the_image(
    ours: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Mask2Former.from_pretrained(ours)
    with torch.no_grad():
        model.get_parameter("transformer_decoder.mask_head.2.weight").mul_(1e6)
    model.save_pretrained(ours)
    words = ["predict", str(image), "--output", str(tmp_path / "out"), "--model", str(ours), "--dtype", "float16"]
    assert main([*words, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert "a.png" in error
    assert "exceeded the range of float16: use bfloat16 or float32" in error


# --- folders of transformers -----------------------------------------------------------------------------------------

PREPROCESSOR, CONFIG = "preprocessor_config.json", "config.json"


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        (PREPROCESSOR, {"size": {"height": 384, "width": 384}}, "note: images were stretched to 384x384 originally"),
        (PREPROCESSOR, {"size_divisor": 32}, "note: images were stretched to multiples of 32 pixels"),
        (PREPROCESSOR, {"resample": 3}, "note: images were resized with Pillow's filter 3"),
        (PREPROCESSOR, {"num_labels": 80}, "note: preprocessor_config.json mentions 80 classes"),
        (PREPROCESSOR, {"ignore_index": 0}, "note: label maps used 0 for pixels without a class; here it is 255"),
        (PREPROCESSOR, {"do_normalize": False}, "note: images are normalised with mean [0.0, 0.0, 0.0]"),
        (PREPROCESSOR, {"do_rescale": False}, "error: "),
        (PREPROCESSOR, {"image_std": [0, 1, 1]}, "error: "),
        (CONFIG, {"id2label": {"1": "sky", "2": "cat", "3": "dog"}}, "error: "),
        (CONFIG, {"num_labels": 4}, "error: "),
        (CONFIG, {"feature_strides": [4, 8, 16, 64]}, "error: "),
        (CONFIG, {"id2label": {"0": "cat", "1": "cat", "2": "dog"}}, "note: several classes are called 'cat'"),
        (PREPROCESSOR, {"do_resize": False}, "short_edge 0"),
        (PREPROCESSOR, {"size": {"shortest_edge": 64, "longest_edge": 64}}, "short_edge 64"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_folders_of_transformers(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, changes: dict[str, Any], words: str
) -> None:
    folder, out, task = convert(ours, tmp_path / "theirs", "huggingface", verify=False).path, tmp_path / "m", "instance"
    for name in (CONFIG, PREPROCESSOR):
        values = json.loads((folder / name).read_text())
        values.pop("mask2former", None)
        (folder / name).write_text(json.dumps(values | (changes if name == file else {})))
    code = main(["convert", str(folder), f"{out}.safetensors", "--task", task, "--no-verify"])
    printed = capsys.readouterr()
    if words == "error: ":
        key = next(iter(changes))
        assert code == 2
        assert f"'{key}'" in printed.err or f"'{key.replace('do_rescale', 'image_mean')}'" in printed.err
        assert not Path(f"{out}.safetensors").exists()
        return
    assert code == 0
    if words.startswith("short_edge"):
        inference = checkpoints.open_checkpoint(f"{out}.safetensors").info.inference
        assert f"short_edge {inference.short_edge}" == words
        assert "note:" not in printed.out
    else:
        assert words in printed.out
    tasks: tuple[Task, ...] = (task,)
    assert checkpoints.open_checkpoint(f"{out}.safetensors").info.inference.tasks == tasks
