"""Devices and number types by name, and how to handle a device that runs out of memory."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from mask2former.errors import UserError
from mask2former.structures import PixelPrediction, Prediction

__all__ = ["choose_device", "choose_dtype", "retried", "with_room"]

_logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_T = TypeVar("_T")
_PredictionT = TypeVar("_PredictionT", bound=Prediction | PixelPrediction)


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device of that name; by default (``None`` or ``auto``) a CUDA device where there is one, else the CPU.

    Raises:
        UserError: the device does not exist here.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"unknown device '{device}'; expected auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"device '{device}' is not available: PyTorch sees {count} CUDA device(s); try cpu")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is not available; try cpu")
    if chosen.type == "xpu" and not torch.xpu.is_available():
        raise UserError("device 'xpu' is not available; try cpu")
    if chosen.type not in ("cpu", "cuda", "mps", "xpu"):
        raise UserError(f"device '{device}' cannot run this model; expected auto, cpu, cuda or cuda:N")
    return chosen


def choose_dtype(dtype: str | torch.dtype | type | None = None) -> torch.dtype | None:
    """The floating-point type of that name, or None for "as stored"; a type of numpy counts as its name.

    Raises:
        UserError: another name or type.
    """
    if dtype is None:
        return None
    name = dtype
    if not isinstance(dtype, str | torch.dtype):
        with contextlib.suppress(TypeError):  # what numpy does not know has no name
            name = np.dtype(dtype).name
    chosen = _DTYPES.get(name) if isinstance(name, str) else name
    if chosen not in (*_DTYPES.values(), torch.float64):
        raise UserError(f"unknown dtype '{dtype}'; expected {', '.join(_DTYPES)}")
    return chosen


def retried(step: Callable[[], _T]) -> _T:
    """The result of ``step``, tried a second time with an empty cache if the device runs out of memory."""
    try:
        return step()
    except torch.OutOfMemoryError:
        pass  # retried outside, where the traceback no longer holds the tensors of the first attempt
    torch.cuda.empty_cache()
    return step()


def with_room(step: Callable[[_PredictionT], _T], prediction: _PredictionT) -> _T:
    """``step`` of a prediction: on its device, again with an empty cache, finally on the CPU (as published)."""
    try:
        return retried(lambda: step(prediction))
    except torch.OutOfMemoryError:
        _logger.warning("post-processing does not fit into the memory of %s; doing it on the CPU", prediction.device)
    torch.cuda.empty_cache()
    return step(prediction.on_host())  # pyright: ignore[reportArgumentType]  (of the same type)
