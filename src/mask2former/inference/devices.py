"""Devices and number types by name, and handling of devices that run out of memory."""

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
    """The device with this name; by default (``None`` or ``auto``) a CUDA device if there is one, else the CPU.

    Raises:
        UserError: there is no such device.
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
    """The floating-point type with this name, or None for "as stored"; numpy types are accepted, too.

    Raises:
        UserError: it is another name or type.
    """
    if dtype is None:
        return None
    name = dtype
    if not isinstance(dtype, str | torch.dtype):
        with contextlib.suppress(TypeError):  # not a type that numpy knows
            name = np.dtype(dtype).name
    chosen = _DTYPES.get(name) if isinstance(name, str) else name
    if chosen not in (*_DTYPES.values(), torch.float64):
        raise UserError(f"unknown dtype '{dtype}'; expected {', '.join(_DTYPES)}")
    return chosen


def retried(step: Callable[[], _T]) -> _T:
    """The result of ``step``, retried once with an empty cache if the device runs out of memory."""
    try:
        return step()
    except torch.OutOfMemoryError:
        pass  # retried below, where the traceback no longer holds the tensors of the first attempt
    torch.cuda.empty_cache()
    return step()


def with_room(step: Callable[[_PredictionT], _T], prediction: _PredictionT) -> _T:
    """Result of ``step`` on the device, retried with an empty cache, and finally on the CPU (as published)."""
    try:
        return retried(lambda: step(prediction))
    except torch.OutOfMemoryError:
        _logger.warning("post-processing does not fit into the memory of %s; doing it on the CPU", prediction.device)
    torch.cuda.empty_cache()
    return step(prediction.on_host())  # pyright: ignore[reportArgumentType]  (same type)
