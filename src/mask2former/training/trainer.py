"""The Lightning trainer of a run."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins.precision import MixedPrecision, Precision

from mask2former.config import RunConfig
from mask2former.errors import MissingExtraError

__all__ = ["precision", "tensorboard"]


def precision(config: RunConfig) -> Precision:
    """What Lightning calls a precision plugin, made here because by itself it turns fp16 on a CPU into bf16."""
    wanted = config.trainer.precision
    if wanted == "fp32":
        return Precision()
    on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return MixedPrecision("16-mixed" if wanted == "fp16" else "bf16-mixed", "cuda" if on_gpu else "cpu")


def tensorboard(directory: Path) -> Logger:
    """Event files, in a folder of the run.

    Raises:
        MissingExtraError: the package is not there.
    """
    try:
        import tensorboard  # noqa: F401  (Lightning's logger would fall back to another package)
    except ImportError as error:
        raise MissingExtraError("tensorboard", "train") from error
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(directory, name="tensorboard", version="")
