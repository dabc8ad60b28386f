"""The first meeting of all ranks of a run: whether they were started consistently, and who prepares the directory.

Before the meeting, all ranks only read, so they all read the same; afterwards only the first one writes.
"""

from __future__ import annotations

import logging
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy

from mask2former import interrupts
from mask2former.errors import UserError
from mask2former.files import TEMPORARY
from mask2former.text import shown
from mask2former.training.stopping import STOPPING

__all__ = ["Joining", "Meeting", "RankFacts", "check_alike"]

_logger = logging.getLogger(__name__)

_STOPPED = 130  # exit code of a process that was ended by a signal

_PATIENCE = 10.0  # seconds until a file of another machine must be visible


class RankFacts(NamedTuple):
    """Facts that a rank reports about itself."""

    host: str
    sees_directory: bool
    facts: Mapping[str, Any]


class Joining(DDPStrategy):
    """A strategy for several ranks in which a signal also ends a rank that is waiting for others to start.

    The wait is in compiled code, in which Ctrl-C would have no effect before the timeout.
    """

    def setup_environment(self) -> None:
        with interrupts.ending(lambda: _logger.error("stopped while waiting for other ranks"), _STOPPED, STOPPING):
            super().setup_environment()


class Meeting(lightning.Callback):
    """Lets the first rank prepare the directory of the run once all ranks are present and were started consistently.

    Args:
        directory: directory of the run.
        facts: plain values by name that must be equal on all ranks.
        prepare: changes the directory; called on the first rank.
    """

    def __init__(self, directory: Path, facts: Mapping[str, Any], prepare: Callable[[], None]) -> None:
        self._directory, self._facts, self._prepare = directory, facts, prepare
        self._is_over = False

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        if trainer.world_size > 1:
            self._compare(trainer)
        if trainer.is_global_zero:
            self._prepare()
        trainer.strategy.barrier("prepared")

    def _compare(self, trainer: lightning.Trainer) -> None:
        file = self._directory / f"{TEMPORARY}{secrets.token_hex(4)}"  # a name that no file system has cached
        try:
            if trainer.is_global_zero:
                file.touch()
            file = self._directory / trainer.strategy.broadcast(file.name)
            mine = RankFacts(socket.gethostname(), _is_seen(file), self._facts)
            ranks: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(ranks, mine)
        finally:
            if trainer.is_global_zero:
                file.unlink(missing_ok=True)
        check_alike(self._directory, ranks)


def check_alike(directory: Path, ranks: list[RankFacts]) -> None:
    """Check that all ranks see one directory and were started with the same settings, on the same data.

    Raises:
        UserError: they differ; the message, the same on all ranks, names what differs and on which machines.
    """
    first = ranks[0]
    blind: dict[str, list[str]] = {}
    for index, rank in enumerate(ranks):
        if not rank.sees_directory:
            blind.setdefault(rank.host, []).append(f"{index}")
    if blind:
        hosts = ", ".join(
            f"{host} (rank{'s' if len(some) > 1 else ''} {', '.join(some)})" for host, some in blind.items()
        )
        raise UserError(
            f"{directory} is not the same directory on all machines: what rank 0 on {first.host} wrote there is not "
            f"visible on {hosts}; choose an output on a shared file system"
        )
    for index, rank in enumerate(ranks):
        for name in [*first.facts, *rank.facts]:
            here, there = first.facts.get(name), rank.facts.get(name)
            if here != there:
                raise UserError(
                    f"the ranks were started differently: {name} is {shown(there, 60)} for rank {index} on "
                    f"{rank.host} but {shown(here, 60)} for rank 0 on {first.host}; start all of them with the same "
                    "command, settings and data"
                )


def _is_seen(file: Path) -> bool:
    """Whether a file exists or appears soon: network file systems need a moment."""
    deadline = time.monotonic() + _PATIENCE
    while not file.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
