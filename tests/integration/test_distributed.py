"""Training on two ranks, from the settings to the stored model; a separate file tests two machines."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
import torch.multiprocessing as mp
import yaml
from runs import run_values, table
from safetensors.torch import load_file

from mask2former.cli import main
from mask2former.config import RunConfig, parse
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former
from mask2former.training.run import train

STEPS = 6
pytestmark = pytest.mark.long


def values_of(output: Path, strategy: str, max_steps: int = STEPS, **changes: object) -> dict[str, Any]:
    """Settings of a run on two devices with a Swin, one block of which is gathered by itself."""
    trainer = {"max_steps": max_steps, "accelerator": "cpu", "log_interval": 1, "checkpoint_interval": 2}
    trainer |= {"devices": 2, "strategy": strategy}
    values = run_values(output, trainer=trainer, optim__ema_decay=0.9, evaluation={"interval": 3}, **changes)
    swin = {"name": "swin", "embed_dim": 32, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
    values["model"]["backbone"] = swin
    values["model"]["transformer_decoder"]["num_layers"] = 1
    return values


def run(values: dict[str, Any], *, resume: bool = False, rank: Callable[..., None] = ranks.train) -> None:
    """Run a function on two ranks, which are forked so that they need not import again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(rank, (values, port, resume), nprocs=2, start_method="fork")


def state_of(output: Path) -> dict[str, Any]:
    return torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)


def steps_of(output: Path) -> list[int]:
    return [int(row["global_step"]) for row in table(output) if row["loss"]]


def test_two_ranks_train_and_agree(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two ranks train and validate together, even if there is one validation image, which only one of them gets.

    They see other images and have the same weights after a step (``ranks.train_together``).
    """
    trainer = {"max_steps": 2, "accelerator": "cpu", "devices": 2, "log_interval": 1}
    values = run_values(tmp_path / "out", trainer=trainer)
    values["data"]["dataset"]["num_validation"] = 1
    run(values, rank=ranks.train_together)
    assert steps_of(tmp_path / "out") == [1, 2]
    assert [row["global_step"] for row in table(tmp_path / "out") if row["panoptic/PQ"]] == ["2"]
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert not (tmp_path / "out" / ".training").exists()
    assert capfd.readouterr().out.count("4 images per step = 2 devices x 2") == 1


def test_one_of_several_processes_is_refused_where_the_settings_speak_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run_values(tmp_path / "out")))
    assert main(["train", str(path)]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "srun has started 2 processes (SLURM_NTASKS=2, SLURM_PROCID=1, SLURM_NTASKS_PER_NODE=1), each of" in shown
    assert "set trainer.num_nodes=2 trainer.devices=1, or start 1 process" in shown
    assert not (tmp_path / "out").exists()


def test_a_run_that_goes_on_with_another_split_keeps_its_units(tmp_path: Path) -> None:
    values = run_values(tmp_path / "out", data__group_by_aspect=True, data__batch_size_per_device=2)
    values["trainer"]["max_steps"] = 2
    train(parse(RunConfig, values, "test"))
    values["trainer"]["max_steps"], values["data"]["batch_size_per_device"] = 3, 4
    train(parse(RunConfig, values, "test"), resume=True)
    assert state_of(tmp_path / "out")["run"]["unit"] == 2
    values["trainer"]["max_steps"], values["seed"] = 4, 6
    train(parse(RunConfig, values, "test"), resume=True)
    assert state_of(tmp_path / "out")["run"]["unit"] == 4


# --- ranks that share the weights ------------------------------------------------------------------------------------


def test_a_shared_run_stores_whole_files_and_goes_on_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(values_of(out, "fsdp", 1))
    state = state_of(out)
    model, stored = Mask2Former.from_pretrained(out / "model.safetensors"), load_file(out / "model.safetensors")
    averages = state["average"]["values"]
    assert all(torch.equal(averages[name], stored[name]) for name in averages)  # the last step's, as the docs say
    assert all(torch.equal(value, averages[name]) for name, value in model.state_dict().items() if name in averages)
    last = Mask2Former.from_pretrained(out / "checkpoints" / "last.ckpt", weights="state_dict").state_dict()
    assert all(torch.equal(last[name.removeprefix("model.")], value) for name, value in state["state_dict"].items())
    values = values_of(out, "ddp", 2)
    values["trainer"]["devices"] = 1
    train(parse(RunConfig, values, "test"), resume=True)
    assert steps_of(out) == [1, 2]
    with pytest.raises(UserError, match="fsdp splits the weights among devices, but there is only one"):
        train(parse(RunConfig, {**values, "trainer": {**values["trainer"], "strategy": "fsdp"}}, "test"), resume=True)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("ddp", "ddp"), ("fsdp", "fsdp"), ("fsdp", "ddp"), ("ddp", "fsdp")])
def test_an_interrupted_run_goes_on_under_either_strategy(tmp_path: Path, first: str, second: str) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    run(values_of(whole, second))
    run(values_of(parted, first, 4))
    run(values_of(parted, second), resume=True)
    assert steps_of(parted) == list(range(1, STEPS + 1))
    ours, theirs = load_file(parted / "model.safetensors"), load_file(whole / "model.safetensors")
    worst = max(float((ours[name] - theirs[name]).abs().max()) for name in ours if ours[name].is_floating_point())
    print(f"{first}, then {second}: {worst:.1e}")
    assert worst == 0 if first == second else worst < 1e-4


@pytest.mark.slow
def test_both_strategies_learn_the_same(tmp_path: Path) -> None:
    for strategy in ("ddp", "fsdp"):
        run(values_of(tmp_path / strategy, strategy, data__batch_size_per_device=1))
    for left, right in zip(table(tmp_path / "ddp"), table(tmp_path / "fsdp"), strict=True):
        for name in ("loss", "gradient_norm"):
            assert (left[name] == "") == (right[name] == "")
            if left[name]:
                assert float(left[name]) == pytest.approx(float(right[name]), rel=1e-3)
    assert state_of(tmp_path / "ddp").keys() == state_of(tmp_path / "fsdp").keys()
