"""How the processes of a training run were started, and which of them this one is; independent of what they train.

torchrun, srun and Lightning start processes whose environment states how many there are. Anything that contradicts the
settings is rejected: otherwise there would be many single runs in one directory.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    KubeflowEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mask2former.config.training import TrainerConfig
from mask2former.errors import UserError
from mask2former.text import count, quoted, terminal_line

__all__ = ["TIMEOUT", "Rank", "is_first", "say_once"]

TIMEOUT = timedelta(minutes=10)  # for ranks to wait for each other, at the start and if a machine does not respond

_BY_HAND = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
_PLACE = ("SLURM_NODEID", "SLURM_LOCALID")  # of a task, read by Lightning
_LAST_STEP = 0xFFFF_FFF0  # of SLURM; larger numbers are for batch scripts and interactive shells, which are not tasks
# Launchers that are not supported, and their variables for the number of processes. (Slurm's MPI plugins set the last.)
_OTHERS = {"OMPI_COMM_WORLD_SIZE": "mpirun", "JSM_NAMESPACE_SIZE": "jsrun", "PMI_SIZE": "mpirun"}
_START = "start it with torchrun or srun (docs/clusters.md)"


@dataclass(frozen=True)
class Rank:
    """One process of a training run.

    Attributes:
        index: its index among all processes, from 0.
        world_size: number of processes.
        launcher: ``torchrun``, ``srun``, or empty if Lightning starts the processes of each machine.
    """

    index: int = 0
    world_size: int = 1
    launcher: str = ""

    @classmethod
    def of(cls, trainer: TrainerConfig, environ: Mapping[str, str] = os.environ) -> Rank:
        """Determine the rank of this process from its environment.

        Raises:
            UserError: the started processes do not match the settings; the message has the values that were found.
        """
        nodes, devices = trainer.num_nodes, trainer.devices
        if "RANK" in environ and "WORLD_SIZE" in environ:
            found = _numbers(environ, "WORLD_SIZE", "RANK")
            local = _numbers(environ, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in environ else {}
            _check("torchrun", {**found, **local}, found["WORLD_SIZE"], local.get("LOCAL_WORLD_SIZE"), trainer)
            _check_below(found, "RANK", "WORLD_SIZE")
            if "LOCAL_RANK" not in environ and devices > 1:
                raise UserError(
                    f"{_shown(found)} are set without LOCAL_RANK, so it is not known which of trainer.devices "
                    f"{devices} this process uses; {_START}"
                )
            place = _numbers(environ, "LOCAL_RANK") if "LOCAL_RANK" in environ else {}
            if place.get("LOCAL_RANK", 0) >= devices:
                raise UserError(
                    f"LOCAL_RANK={place['LOCAL_RANK']} says that this is process {place['LOCAL_RANK']} (from 0) of "
                    f"this machine, but trainer.devices is {devices}; {_START}"
                )
            return cls(found["RANK"], found["WORLD_SIZE"], "torchrun")
        if _in_task_of_slurm(environ):
            found = _numbers(environ, "SLURM_NTASKS", "SLURM_PROCID")
            here = {name: value for name, value in environ.items() if name == "SLURM_NTASKS_PER_NODE"}
            per_node = _numbers(here, *here).get("SLURM_NTASKS_PER_NODE")
            _check("srun", {**found, **_numbers(here, *here)}, found["SLURM_NTASKS"], per_node, trainer)
            _check_below(found, "SLURM_PROCID", "SLURM_NTASKS")
            if per_node is None:
                raise UserError(
                    f"srun has started {found['SLURM_NTASKS']} tasks but does not say how many on each node; use "
                    f"--nodes={nodes} --ntasks-per-node={devices} instead of --ntasks"
                )
            if missing := [name for name in _PLACE if name not in environ]:
                raise UserError(
                    f"{_shown(found)} are set as by srun, but not {' and '.join(missing)}, so it is not known where "
                    f"this task runs; {_START}"
                )
            _numbers(environ, *_PLACE)
            return cls(found["SLURM_PROCID"], found["SLURM_NTASKS"], "srun")
        for name, other in _OTHERS.items():
            if name in environ and (started := _numbers(environ, name)[name]) > 1:
                raise UserError(
                    f"{other} has started {started} processes ({name}={started}), which would each train on their own "
                    f"in the same directory; {_START}"
                )
        return cls._of_lightning(trainer, environ)

    @classmethod
    def _of_lightning(cls, trainer: TrainerConfig, environ: Mapping[str, str]) -> Rank:
        nodes, devices = trainer.num_nodes, trainer.devices
        local = _numbers(environ, "LOCAL_RANK")["LOCAL_RANK"] if "LOCAL_RANK" in environ else 0
        if "WORLD_SIZE" in environ:
            size = _numbers(environ, "WORLD_SIZE")["WORLD_SIZE"]
            if size != nodes * devices:
                _check("another program", {"WORLD_SIZE": size}, size, None, trainer)
            if size > 1 and "LOCAL_RANK" not in environ:
                raise UserError(
                    f"WORLD_SIZE={size} is set without RANK, so it is not known which process this is; {_START}"
                )
        node = _numbers(environ, "NODE_RANK")["NODE_RANK"] if "NODE_RANK" in environ else 0
        missing = [name for name in _BY_HAND if name not in environ]
        if nodes > 1 and missing:
            is_slurm = "SLURM_JOB_ID" in environ
            raise UserError(
                f"trainer.num_nodes is {nodes}, but this process was started on its own"
                + (" in a SLURM allocation; put srun in front of the command" if is_slurm else f"; {_START}")
                + f", or start it on every node with {', '.join(_BY_HAND)} set (missing: {', '.join(missing)})"
            )
        if node >= nodes:
            raise UserError(
                f"NODE_RANK={node} says that this is node {node} (from 0), but trainer.num_nodes is {nodes}; it would "
                "train on its own: set trainer.num_nodes, or unset NODE_RANK"
            )
        if local >= devices:
            raise UserError(
                f"LOCAL_RANK={local} says that this is process {local} (from 0) of this machine, but trainer.devices "
                f"is {devices}; it would train on its own: {_START}"
            )
        return cls(node * devices + local, nodes * devices)

    def environment(self) -> ClusterEnvironment:
        """The same information for Lightning."""
        if self.launcher == "srun":
            return SLURMEnvironment(auto_requeue=False)  # its checkpoint would be in the middle of a step
        if self.launcher:
            return TorchElasticEnvironment() if "LOCAL_RANK" in os.environ else KubeflowEnvironment()
        return LightningEnvironment()

    def take(self) -> None:
        """Tell Lightning's rank-zero functions which rank this is, before its trainer knows."""
        rank_zero_only.rank = self.index  # pyright: ignore[reportFunctionMemberAccess]  (as Lightning does)

    def __str__(self) -> str:
        return f"rank {self.index} of {self.world_size} (process {os.getpid()} on {socket.gethostname()})"


def is_first() -> bool:
    """Whether this process is the one that writes files and messages."""
    return getattr(rank_zero_only, "rank", 0) == 0


def say_once(text: str) -> None:
    """Print a line for the user, only on the first rank; a file into which the output goes has it at once."""
    if is_first():
        print(terminal_line(text), flush=True)


def _in_task_of_slurm(environ: Mapping[str, str]) -> bool:
    """Whether srun started this process as one of several; a batch script itself is no task, whatever it requests."""
    if "SLURM_NTASKS" not in environ or "SLURM_PROCID" not in environ or "LOCAL_RANK" in environ:
        return False
    found = _numbers(environ, "SLURM_NTASKS", "SLURM_PROCID")
    step = environ.get("SLURM_STEP_ID", "")
    is_step = step.isdecimal() and int(step) < _LAST_STEP
    return found["SLURM_NTASKS"] > 1 and (is_step or found["SLURM_PROCID"] > 0)


def _numbers(environ: Mapping[str, str], *names: str) -> dict[str, int]:
    for name in names:
        if not environ[name].isdecimal() or len(environ[name]) > 9:
            raise UserError(f"the environment variable {name} is {quoted(environ[name])}; expected a whole number")
    return {name: int(environ[name]) for name in names}


def _shown(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in found.items())


def _check_below(found: Mapping[str, int], rank: str, size: str) -> None:
    """Check that a rank is below the number of ranks."""
    if found[rank] >= found[size]:
        raise UserError(
            f"{rank}={found[rank]} is not below {size}={found[size]}, but ranks are numbered from 0, so all would "
            f"wait for a rank that never starts; {_START}"
        )


def _check(launcher: str, found: Mapping[str, int], size: int, per_node: int | None, trainer: TrainerConfig) -> None:
    """Check that the number of processes and machines matches the settings."""
    nodes, devices = trainer.num_nodes, trainer.devices
    if size == nodes * devices and per_node in (None, devices):
        return
    alone = ", each of which would train on its own in the same directory" if nodes * devices == 1 < size else ""
    advice = "start as many as the settings require, or set trainer.num_nodes and trainer.devices"
    if size and per_node and size % per_node == 0:
        wanted = count(nodes * devices, "process")
        advice = f"set trainer.num_nodes={size // per_node} trainer.devices={per_node}, or start {wanted}"
    raise UserError(
        f"{launcher} has started {count(size, 'process')} ({_shown(found)}){alone}, but "
        f"trainer.num_nodes is {nodes} and trainer.devices is {devices}; {advice}"
    )
