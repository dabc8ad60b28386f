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
from mask2former.text import count, printable
from mask2former.training.checkpointing import WholeFiles
from mask2former.training.cluster import TIMEOUT, Rank
from mask2former.training.meeting import Joining
from mask2former.training.resume_point import ResumePoint
from mask2former.training.sharding import Sharded

__all__ = ["build_trainer", "precision_of", "quiet", "uses_gpu"]

_OF_LIGHTNING = (
    r".*isinstance\(treespec, LeafSpec\)",  # a function of torch that it calls is deprecated
    ".*does not have many workers",  # data.num_workers is set by the user, and only for training
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
    """Lightning's trainer; checkpoints and progress are handled by our callbacks.

    Args:
        config: settings of the complete run.
        point: where the run is resumed.
        rank: the rank of this process.
        callbacks: all callbacks.
        loggers: all loggers.
        is_measured: whether there is validation data.

    Raises:
        UserError: this process sees fewer devices than the settings require on a machine.
    """
    _check_devices(config.trainer)
    return lightning.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        num_nodes=config.trainer.num_nodes,
        strategy=_strategy(config.trainer, rank),
        plugins=[precision_of(config), WholeFiles(), rank.environment()],
        max_steps=max(config.trainer.max_steps, point.step + point.is_due),  # otherwise Lightning would not validate
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
    """During the block, suppress Lightning's tips and lists of devices, which would hide our messages.

    Levels set by the user are kept; Lightning itself sets ``INFO``. Only those of its warnings are suppressed that a
    user cannot act on.
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
    """For several ranks, a strategy that does not wait forever; in a notebook, where Lightning forks, its own."""
    if trainer.strategy == "fsdp":
        return Sharded(timeout=TIMEOUT)
    return "auto" if rank.world_size == 1 or hasattr(sys, "ps1") else Joining(timeout=TIMEOUT)


def _check_devices(trainer: TrainerConfig) -> None:
    if uses_gpu(trainer) and (visible := torch.cuda.device_count()) < trainer.devices:
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise UserError(
            f"trainer.devices is {trainer.devices}, but this process sees {count(visible, 'GPU')}"
            + (f" (CUDA_VISIBLE_DEVICES={printable(chosen, 80)})" if chosen is not None else "")
            + "; set trainer.devices, or let every process see all GPUs of its machine (SLURM: --gpus-per-node instead "
            "of --gpus-per-task)"
        )


def precision_of(config: RunConfig) -> Precision:
    """Lightning's precision plugin; its ``forward_context`` is how a step computes.

    Created here because Lightning itself would turn fp16 on a CPU into bf16.
    """
    wanted = config.trainer.precision
    if wanted == "fp32":
        return Precision()
    device = "cuda" if uses_gpu(config.trainer) else "cpu"
    return MixedPrecision("16-mixed" if wanted == "fp16" else "bf16-mixed", device)


def uses_gpu(trainer: TrainerConfig) -> bool:
    """Whether a run trains on GPUs of this machine."""
    return trainer.accelerator != "cpu" and torch.cuda.is_available()
