"""A configuration is checked against the weights in its file before anything is built from it."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conversions import RESNET, small_model
from safetensors import safe_open
from safetensors.torch import save_file

from mask2former import checkpoints
from mask2former.checkpoints.checkpoint import Checkpoint
from mask2former.checkpoints.describe import describe_checkpoint
from mask2former.config import BackboneConfig, TimmConfig
from mask2former.errors import UserError


def checkpoint_of(backbone: BackboneConfig | None = None) -> Checkpoint:
    model = small_model() if backbone is None else small_model(backbone)
    return Checkpoint(model.info, model.state_dict(), "file")


def changed(checkpoint: Checkpoint, part: str, **values: Any) -> Checkpoint:
    return with_part(checkpoint, part, getattr(checkpoint.info.architecture, part).model_copy(update=values))


def with_part(checkpoint: Checkpoint, part: str, value: Any) -> Checkpoint:
    architecture = checkpoint.info.known_architecture.model_copy(update={part: value})
    return dataclasses.replace(checkpoint, info=dataclasses.replace(checkpoint.info, architecture=architecture))


def test_what_was_saved_is_made() -> None:
    checkpoint = checkpoint_of(RESNET)
    model = checkpoints.instantiate(checkpoint)
    assert not model.training
    assert model.categories == checkpoint.categories
    assert all(torch.equal(value, checkpoint.state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (
            "transformer_decoder",
            {"num_layers": 10**9},
            "transformer_decoder.num_layers of the model is 1000000000; at most 500",
        ),
        ("backbone", {"depths": (1, 2, 10**9, 1)}, "backbone.depths of the model is 1000000004; at most 500"),
        ("transformer_decoder", {"num_queries": 10**15}, "more than 2,147,483,648 numbers"),
        ("backbone", {"embed_dim": 1 << 40}, "more than 2,147,483,648 numbers"),
        ("pixel_decoder", {"feedforward_dim": 10**30}, "the configuration does not yield a model"),
        ("backbone", {"window_size": 3000}, "more than 2,147,483,648 numbers"),
    ],
)
def test_claims_without_weights_are_refused_at_once(part: str, values: dict[str, Any], message: str) -> None:
    checkpoint = changed(checkpoint_of(), part, **values)
    began = time.monotonic()
    with pytest.raises(UserError, match=message):
        checkpoints.instantiate(checkpoint)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "backbone",
    [
        TimmConfig(model="hf-hub:somebody/something"),
        TimmConfig(model="local-dir:/tmp/something"),
        TimmConfig(model="somebody/something"),
        TimmConfig(model="resnet18", kwargs={"pretrained": True}),
        TimmConfig(model="resnet18", kwargs={"checkpoint_path": "/tmp/evil.pth"}),
        TimmConfig(model="resnet18", kwargs={"pretrained_cfg_overlay": {"file": "/tmp/evil.pth"}}),
    ],
    ids=str,
)
def test_a_checkpoint_cannot_make_timm_read_other_files(backbone: TimmConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("timm was asked")

    checkpoint = checkpoint_of()
    monkeypatch.setattr(timm, "create_model", asked)
    with pytest.raises(UserError, match=r"file: backbone '.*(expected the name of an architecture|from its kwargs)"):
        checkpoints.instantiate(with_part(checkpoint, "backbone", backbone))


@pytest.mark.parametrize("kwargs", [{"layers": [10**9] * 4}, {"channels": [1 << 30] * 4}, {"base_width": 10**9}])
def test_arguments_of_timm_are_held_to_the_weights(kwargs: dict[str, Any]) -> None:
    checkpoint = checkpoint_of(RESNET)
    backbone = TimmConfig(model="resnet18", kwargs=kwargs)
    with pytest.raises(UserError, match=r"expected a number of at most 65,536"):
        checkpoints.instantiate(with_part(checkpoint, "backbone", backbone))


def test_a_file_with_such_a_claim(tmp_path: Path) -> None:
    model = small_model()
    checkpoints.save(model, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    claimed = json.loads(metadata["config"])
    claimed["transformer_decoder"]["num_layers"] = 10**9
    save_file(model.state_dict(), tmp_path / "model.safetensors", {**metadata, "config": json.dumps(claimed)})
    with pytest.raises(UserError, match=r"model\.safetensors: transformer_decoder\.num_layers of the model is"):
        checkpoints.from_pretrained(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors: transformer_decoder\.num_layers of the model is"):
        describe_checkpoint(tmp_path / "model.safetensors")
