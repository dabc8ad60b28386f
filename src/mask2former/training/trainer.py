"""The Lightning trainer of a run."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

import lightning
import torch
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import Strategy

from mask2former.config import RunConfig, TrainerConfig
from mask2former.errors import UserError
from mask2former.text import printable
from mask2former.training.checkpointing import WholeFiles
from mask2former.training.cluster import TIMEOUT, Rank
from mask2former.training.meeting import Joining
from mask2former.training.resume_point import ResumePoint
from mask2former.training.sharding import Sharded

__all__ = ["build_trainer", "quiet"]

_OF_LIGHTNING = (
    r".*isinstance\(treespec, LeafSpec\)",  # a function of torch that it calls is deprecated
    ".*does not have many workers",  # data.num_workers says how many, of training alone
)


def build_trainer(
    config: RunConfig,
    point: ResumePoint,
    rank: Rank,
    callbacks: Sequence[lightning.Callback],
    loggers: Sequence[Logger],
    *,
    is_measured: bool,
) -> lightning.Trainer:
    """Lightning's trainer; checkpoints and progress are our callbacks.

    Args:
        config: of the complete run.
        point: where it continues.
        rank: which process of the run this is.
        callbacks: all of them.
        loggers: all of them.
        is_measured: whether there is validation data.

    Raises:
        UserError: this process sees fewer devices than there should be on a machine.
    """
    _check_devices(config.trainer)
    return lightning.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        num_nodes=config.trainer.num_nodes,
        strategy=_strategy(config.trainer, rank),
        plugins=[_precision(config), WholeFiles(), rank.environment()],
        max_steps=max(config.trainer.max_steps, point.step + point.is_due),  # else Lightning would not validate
        val_check_interval=min(config.evaluation.interval, config.trainer.max_steps),
        check_val_every_n_epoch=None,
        limit_val_batches=None if is_measured else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=config.trainer.log_interval,
        logger=[*loggers],
        enable_checkpointing=False,
        callbacks=[*callbacks],
        use_distributed_sampler=False,
        enable_model_summary=False,
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out Lightning's tips and lists of devices, which would bury our messages, while the block runs.

    Levels chosen by the user stay: Lightning itself sets ``INFO``. Warnings of Lightning that a user cannot act on are
    left out.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    talking = [logger for logger in loggers if logger.level == logging.INFO]
    for logger in talking:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _OF_LIGHTNING:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger in talking:
            logger.setLevel(logging.INFO)


def _strategy(trainer: TrainerConfig, rank: Rank) -> Strategy | Literal["auto"]:
    """Of several ranks, one that does not wait for ever; in a notebook, where Lightning forks, its own choice."""
    if trainer.strategy == "fsdp":
        return Sharded(timeout=TIMEOUT)
    return "auto" if rank.world_size == 1 or hasattr(sys, "ps1") else Joining(timeout=TIMEOUT)


def _check_devices(trainer: TrainerConfig) -> None:
    visible = torch.cuda.device_count() if trainer.accelerator != "cpu" and torch.cuda.is_available() else None
    if visible is not None and visible < trainer.devices:
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise UserError(
            f"trainer.devices is {trainer.devices}, but this process sees {visible} GPU{'s' if visible > 1 else ''}"
            + (f" (CUDA_VISIBLE_DEVICES={printable(chosen, 80)})" if chosen is not None else "")
            + "; set trainer.devices, or let every process see all GPUs of its machine (SLURM: --gpus-per-node instead "
            "of --gpus-per-task)"
        )


def _precision(config: RunConfig) -> Precision:
    """What Lightning calls a precision plugin, made here because by itself it turns fp16 on a CPU into bf16."""
    wanted = config.trainer.precision
    if wanted == "fp32":
        return Precision()
    on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return MixedPrecision("16-mixed" if wanted == "fp16" else "bf16-mixed", "cuda" if on_gpu else "cpu")
