"""Training from a converted backbone file: the documented command, end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from runs import run_values
from safetensors.torch import save_file

from mask2former.checkpoints.convert import convert
from mask2former.config import RunConfig, TimmConfig, parse, read_run_file
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former
from mask2former.training.run import train
from mask2former.training.run_file import read_run

# Lightning inspects its batches in a way that PyTorch has deprecated, and gives advice as warnings.


def timm_folder(folder: Path, **pretrained: str) -> dict[str, torch.Tensor]:
    """Write a timm model, laid out as on the hub, and return its entries."""
    channels: dict[str, Any] = {"channels": [8, 16, 16, 16]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        state = timm.create_model("resnet10t", **channels).state_dict()
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "model.safetensors")
    training = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], **pretrained}
    config = {"architecture": "resnet10t", "model_args": channels, "pretrained_cfg": training}
    (folder / "config.json").write_text(json.dumps(config))
    return state


def test_training_starts_from_a_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = timm_folder(tmp_path / "resnet10t")
    path = convert(tmp_path / "resnet10t", tmp_path / "backbone.safetensors").path
    values = run_values(tmp_path / "run", trainer={"max_steps": 1, "accelerator": "cpu"}, optim={"lr": 1e-12})
    del values["model"]["backbone"]
    values["model"]["init"] = str(path)
    result = train(parse(RunConfig, values, "test"))
    assert f"Starting from {path}: everything except the backbone is newly initialised" in capsys.readouterr().out
    trained = Mask2Former.from_pretrained(result.model)
    name = "layer3.0.conv2.weight"
    torch.testing.assert_close(trained.state_dict()[f"backbone.body.{name}"], source[name])
    architecture = trained.info.known_architecture
    assert architecture.backbone == TimmConfig(model="resnet10t", kwargs={"channels": [8, 16, 16, 16]})
    assert trained.mean == architecture.pixel_mean == (127.5, 127.5, 127.5)
    again = parse(RunConfig, read_run_file(tmp_path / "run" / "run.yaml"), "run.yaml")  # which is complete
    assert again.model.architecture == architecture

    values["output"] = str(tmp_path / "other")
    values["model"] |= {"backbone": {"name": "swin"}, "init": str(tmp_path / "resnet10t")}
    with pytest.raises(UserError, match=r"The file is of resnet10t; set model\.backbone to that"):
        train(parse(RunConfig, values, "test"))


def test_what_the_backbone_does_not_say_is_set_in_the_run_file(tmp_path: Path) -> None:
    timm_folder(tmp_path)
    file = tmp_path / "run.yaml"
    values = {"model": {"init": str(tmp_path), "backbone": {"norm": "batch"}}, "data": {"dataset": {"name": "scenes"}}}
    file.write_text(json.dumps(values))
    model = read_run(file).model
    assert model.backbone == TimmConfig(model="resnet10t", norm="batch", kwargs={"channels": [8, 16, 16, 16]})
    assert model.pixel_std == (127.5, 127.5, 127.5)
    with pytest.raises(UserError, match=r"for timm's resnet10t, but model\.backbone\.model is resnet18; leave"):
        train(read_run(file, ["model.backbone={name: timm, model: resnet18}", f"output={tmp_path / 'run'}"]))


def test_another_backbone_under_the_decoders_of_a_trained_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = timm_folder(tmp_path / "resnet10t", license="apache-2.0")
    values = run_values(tmp_path / "run", trainer={"max_steps": 1, "accelerator": "cpu"}, optim={"lr": 1e-12})
    values["model"] = {
        "init": "scenes-tiny",
        "init_partial": True,
        "init_backbone": str(tmp_path / "resnet10t"),
        "backbone": {"name": "timm", "norm": "batch"},
    }
    trained = Mask2Former.from_pretrained(train(parse(RunConfig, values, "test")).model)
    out = capsys.readouterr().out
    assert f"Taking the backbone of {tmp_path / 'resnet10t'}" in out
    assert "Starting from scenes-tiny with all weights that fit" in out
    assert "Skipping the validation before the first step because the layers behind the other backbone" in out
    state, scenes = trained.state_dict(), Mask2Former.from_pretrained("scenes-tiny").state_dict()
    name = "layer3.0.conv2.weight"
    torch.testing.assert_close(state[f"backbone.body.{name}"], weights[name])
    taken = [
        key for key, value in scenes.items() if not key.startswith("backbone.") and value.shape == state[key].shape
    ]
    new = {key.rsplit(".", 2)[0] for key in scenes.keys() & state.keys() if key not in taken} - {"transformer_decoder"}
    assert {key for key in new if not key.startswith("backbone.")} == {
        "pixel_decoder.input_projections.0",
        "pixel_decoder.input_projections.1",
        "pixel_decoder.input_projections.2",
        "pixel_decoder.lateral",
    }
    for key in taken:
        torch.testing.assert_close(state[key], scenes[key], msg=key)
    architecture = trained.info.known_architecture
    assert architecture.backbone == TimmConfig(model="resnet10t", norm="batch", kwargs={"channels": [8, 16, 16, 16]})
    assert architecture.transformer_decoder.queries == 32
    assert trained.mean == (127.5, 127.5, 127.5)
    assert trained.info.license == "not stated; backbone: apache-2.0"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_backbone": "b"}, r"init is not set; to start from a backbone alone, set init=b"),
        ({"init": "scenes-tiny", "init_backbone": "b"}, r"init_backbone needs init_partial=true"),
        ({"init": "FOLDER", "init_backbone": "FOLDER"}, r"model\.init, .*resnet10t, is only a backbone; leave one"),
        (
            {"init": "scenes-tiny", "init_backbone": "nuclei"},
            r"model\.init_backbone: nuclei is a complete model; expected",
        ),
    ],
)
def test_what_replaces_no_backbone_is_refused(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    timm_folder(tmp_path / "resnet10t")
    model: dict[str, Any] = {
        key: value.replace("FOLDER", str(tmp_path / "resnet10t")) for key, value in settings.items()
    }
    partial = {} if "needs" in message else {"init_partial": True}
    values = {**run_values(tmp_path / "run", trainer={"max_steps": 1}), "model": model | partial}
    with pytest.raises(UserError, match=message):
        train(parse(RunConfig, values, "test"))
