"""How processes were started, judging by environments of launchers; no process is started here."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.fabric.plugins.environments import (
    KubeflowEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from mask2former.config import TrainerConfig
from mask2former.errors import UserError
from mask2former.training.cluster import Rank, is_first, say_once


def trainer(num_nodes: int = 1, devices: int = 1) -> TrainerConfig:
    return TrainerConfig(num_nodes=num_nodes, devices=devices)


def torchrun(rank: int = 0, size: int = 4, per_node: int = 2, **others: str) -> dict[str, str]:
    """Environment variables that ``torchrun`` sets for a process."""
    return {
        "RANK": f"{rank}",
        "WORLD_SIZE": f"{size}",
        "LOCAL_RANK": f"{rank % per_node}",
        "LOCAL_WORLD_SIZE": f"{per_node}",
        "GROUP_RANK": f"{rank // per_node}",
        "TORCHELASTIC_RUN_ID": "none",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "29500",
        **others,
    }


def srun(rank: int = 0, tasks: int = 4, per_node: str | None = "2", step: str = "0", **others: str) -> dict[str, str]:
    """Environment variables that ``srun`` sets for a task."""
    count = {} if per_node is None else {"SLURM_NTASKS_PER_NODE": per_node}
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_ID": step,
        "SLURM_NTASKS": f"{tasks}",
        "SLURM_PROCID": f"{rank}",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        **count,
        **others,
    }


BY_HAND = {"NODE_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environ", "nodes", "devices", "expected"),
    [
        ({}, 1, 1, Rank()),
        ({}, 1, 4, Rank(0, 4)),
        ({"LOCAL_RANK": "3", "WORLD_SIZE": "4", "NODE_RANK": "0"}, 1, 4, Rank(3, 4)),  # Lightning has started it
        (BY_HAND, 2, 4, Rank(4, 8)),
        ({**BY_HAND, "LOCAL_RANK": "3", "WORLD_SIZE": "8"}, 2, 4, Rank(7, 8)),
        (torchrun(3), 2, 2, Rank(3, 4, "torchrun")),
        (torchrun(0, 1, 1), 1, 1, Rank(0, 1, "torchrun")),
        (torchrun(3, SLURM_NTASKS="2", SLURM_PROCID="1", SLURM_STEP_ID="0"), 2, 2, Rank(3, 4, "torchrun")),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 2, 1, Rank(1, 2, "torchrun")),  # one process in each pod of Kubeflow
        (srun(3), 2, 2, Rank(3, 4, "srun")),
        (srun(3, SLURM_JOB_NAME="bash"), 2, 2, Rank(3, 4, "srun")),
        (srun(0, PMI_SIZE="4"), 2, 2, Rank(0, 4, "srun")),
        (srun(0, 1, "1"), 1, 8, Rank(0, 8)),  # one task, whose processes Lightning starts
        (srun(0, 1, "1", LOCAL_RANK="5", WORLD_SIZE="8", NODE_RANK="0"), 1, 8, Rank(5, 8)),
        (srun(0, 8, "8", step="4294967291"), 1, 8, Rank(0, 8)),  # a batch script, in which there is one process
        ({name: value for name, value in srun(0, 8, "8").items() if name != "SLURM_STEP_ID"}, 1, 1, Rank()),
    ],
)
def test_a_process_is_told_among_all(environ: dict[str, str], nodes: int, devices: int, expected: Rank) -> None:
    assert Rank.of(trainer(nodes, devices), environ) == expected


@pytest.mark.parametrize(
    ("environ", "nodes", "devices", "sentence"),
    [
        (
            torchrun(3),
            1,
            1,
            r"torchrun has started 4 processes \(WORLD_SIZE=4, RANK=3, LOCAL_WORLD_SIZE=2\), each of which would "
            r"train on its own in the same directory, but trainer\.num_nodes is 1 and trainer\.devices is 1; set "
            r"trainer\.num_nodes=2 trainer\.devices=2, or start 1 process$",
        ),
        (torchrun(3), 1, 4, r"set trainer\.num_nodes=2 trainer\.devices=2, or start 4 processes$"),
        (torchrun(0, 1, 1), 1, 2, r"torchrun has started 1 process \(.*set trainer\.num_nodes=1 trainer\.devices=1"),
        (
            torchrun(4),
            2,
            2,
            r"RANK=4 is not below WORLD_SIZE=4, but ranks are numbered from 0.*; start it with torchrun",
        ),
        (
            torchrun(3, LOCAL_RANK="2"),
            2,
            2,
            r"LOCAL_RANK=2 says that this is process 2 \(from 0\) of this machine, but trainer\.devices is 2; start",
        ),
        (torchrun(0, LOCAL_RANK="-1"), 2, 2, r"LOCAL_RANK is '-1'; expected a whole number"),
        (
            torchrun(0, 0),
            1,
            1,
            r"torchrun has started 0 processes \([^)]*\), but trainer.* start as many as the settings require, or set",
        ),
        ({"RANK": "0", "WORLD_SIZE": "2"}, 1, 2, r"WORLD_SIZE=2, RANK=0 are set without LOCAL_RANK"),
        (
            srun(1),
            1,
            1,
            r"srun has started 4 processes \(SLURM_NTASKS=4, SLURM_PROCID=1, SLURM_NTASKS_PER_NODE=2\), each of which",
        ),
        (srun(1, step=""), 1, 1, r"srun has started 4 processes"),  # the second one cannot be a batch script
        (srun(1, 4, None), 1, 4, r"srun has started 4 tasks .* use --nodes=1 --ntasks-per-node=4 instead of --ntasks"),
        (srun(4), 2, 2, r"SLURM_PROCID=4 is not below SLURM_NTASKS=4"),
        (
            {name: value for name, value in srun(1).items() if name != "SLURM_NODEID"},
            2,
            2,
            r"SLURM_NTASKS=4, SLURM_PROCID=1 are set as by srun, but not SLURM_NODEID, so it is not known where this "
            r"task runs; start it with",
        ),
        (srun(1, SLURM_LOCALID="x"), 2, 2, r"SLURM_LOCALID is 'x'; expected a whole number"),
        (srun(0, 2, "1"), 2, 4, r"set trainer\.num_nodes=2 trainer\.devices=1, or start 8 processes$"),
        (
            {"OMPI_COMM_WORLD_SIZE": "4"},
            1,
            1,
            r"mpirun has started 4 processes \(OMPI_COMM_WORLD_SIZE=4\).*torchrun or",
        ),
        ({"JSM_NAMESPACE_SIZE": "2"}, 1, 2, r"jsrun has started 2"),
        (
            {},
            2,
            1,
            r"num_nodes is 2, but this process was started on its own; start it with torchrun.*missing: NODE_RANK",
        ),
        ({"NODE_RANK": "1"}, 2, 1, r"missing: MASTER_ADDR, MASTER_PORT"),
        ({"SLURM_JOB_ID": "4711"}, 2, 1, r"on its own in a SLURM allocation; put srun in front of the command"),
        ({"NODE_RANK": "1"}, 1, 1, r"NODE_RANK=1 says that this is node 1 \(from 0\), but trainer\.num_nodes is 1"),
        ({**BY_HAND, "NODE_RANK": "2"}, 2, 1, r"NODE_RANK=2"),
        ({"LOCAL_RANK": "1"}, 1, 1, r"LOCAL_RANK=1 says that this is process 1"),
        ({"WORLD_SIZE": "2"}, 1, 1, r"has started 2 processes \(WORLD_SIZE=2\), each of which"),
        ({"WORLD_SIZE": "2"}, 1, 2, r"WORLD_SIZE=2 is set without RANK"),
        (
            torchrun(0, WORLD_SIZE="four"),
            2,
            2,
            r"the environment variable WORLD_SIZE is 'four'; expected a whole number",
        ),
        (srun(0, SLURM_NTASKS_PER_NODE="2(x2)"), 2, 2, r"SLURM_NTASKS_PER_NODE is '2\(x2\)'"),
    ],
)
def test_what_does_not_fit_the_settings_is_refused(
    environ: dict[str, str], nodes: int, devices: int, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        Rank.of(trainer(nodes, devices), environ)
    assert "\n" not in str(caught.value)


def test_lightning_is_told_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(environ: dict[str, str], nodes: int, devices: int) -> object:
        with monkeypatch.context() as patch:
            for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_NTASKS"):
                patch.delenv(name, raising=False)
            for name, value in environ.items():
                patch.setenv(name, value)
            rank = Rank.of(trainer(nodes, devices))
            environment = rank.environment()
            if rank.launcher:
                assert (environment.global_rank(), environment.world_size()) == (rank.index, rank.world_size)
                assert environment.creates_processes_externally
                environment.validate_settings(devices, nodes)
            return type(environment)

    assert told({}, 1, 1) is LightningEnvironment
    assert told(torchrun(3), 2, 2) is TorchElasticEnvironment
    assert told({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, 2, 1) is KubeflowEnvironment
    assert told(srun(3, SLURM_NNODES="2"), 2, 2) is SLURMEnvironment


def test_the_first_rank_alone_tells(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        Rank(1, 2).take()
        assert not is_first()
        say_once("one")
    finally:
        Rank().take()
    assert is_first()
    say_once("two")
    assert capsys.readouterr().out == "two\n"


def test_a_file_into_which_the_output_goes_has_each_line_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        say_once("step 1")
        assert (tmp_path / "log").read_text() == "step 1\n"
