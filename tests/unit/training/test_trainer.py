"""The trainer of a run: unusable devices are rejected before Lightning's long errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from mask2former.config import RunConfig, parse
from mask2former.dataset_tools.requirements import check_run
from mask2former.errors import UserError
from mask2former.training.cluster import TIMEOUT, Rank
from mask2former.training.meeting import Joining
from mask2former.training.resume_point import ResumePoint
from mask2former.training.sharding import Sharded
from mask2former.training.trainer import build_trainer


def config(**trainer: Any) -> RunConfig:
    return parse(RunConfig, {"trainer": {"accelerator": "cpu", **trainer}}, "test")


def strategy_of(run: RunConfig, rank: Rank) -> object:
    return build_trainer(run, ResumePoint(), rank, [], [], is_measured=False).strategy


@pytest.mark.filterwarnings("ignore:.*logger.*")
def test_ranks_wait_for_one_another_for_ten_minutes() -> None:
    assert isinstance(strategy_of(config(), Rank()), SingleDeviceStrategy)
    plain = strategy_of(config(devices=2), Rank(0, 2))
    assert type(plain) is Joining
    assert plain._timeout == TIMEOUT
    shared = strategy_of(config(devices=2, num_nodes=2, strategy="fsdp"), Rank(0, 4))
    assert type(shared) is Sharded
    assert shared._timeout == TIMEOUT
    assert shared.num_nodes == 2
    Rank().take()


def test_fewer_gpus_than_the_settings_say_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    sentence = r"devices is 8, but this process sees 1 GPU \(CUDA_VISIBLE_DEVICES=3\); set .*--gpus-per-node instead"
    with pytest.raises(UserError, match=sentence):
        strategy_of(config(accelerator="gpu", devices=8), Rank(0, 8))


@pytest.mark.parametrize(
    ("trainer", "sentence"),
    [
        ({"devices": 1}, "splits the weights among devices, but there is only one"),
        ({"devices": 2, "precision": "fp16"}, r"does not work with trainer\.precision fp16"),
        ({"devices": 2, "channels_last": True}, r"does not work with trainer\.channels_last"),
    ],
)
def test_shared_weights_have_their_conditions(trainer: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_run(config(strategy="fsdp", **trainer))
    check_run(config(strategy="fsdp", devices=2, precision="bf16"))
