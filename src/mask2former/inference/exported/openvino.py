"""OpenVINO files (``.xml`` with the ``.bin`` beside it). The only module that imports OpenVINO."""

from __future__ import annotations

import os
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from mask2former.errors import UserError
from mask2former.extras import need
from mask2former.inference.exported.info import INPUTS, KEY, ExportedInfo
from mask2former.inference.exported.opened_file import OpenedFile
from mask2former.text import printable

__all__ = ["OpenVinoRuntime"]

_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


_creating = threading.Lock()


@cache
def _core_of(process: int) -> Any:
    """The only OpenVINO core of a process, which is never freed.

    On processors with AMX, each core gives the thread that first compiles with it an alternate stack for signals, and
    puts back the one before when it is freed. Unless cores are freed in reverse order, the thread is left with a stack
    that no longer exists, and the next signal (Ctrl-C, SIGTERM) ends the process with a segmentation fault.
    """
    need("export", "openvino", to="run OpenVINO files")
    import openvino

    return openvino.Core()


class OpenVinoRuntime(OpenedFile):
    """A compiled model of OpenVINO on the CPU, with as many threads as torch has.

    Args:
        path: the ``.xml`` file.
        device: must be the CPU, or None.
        dtype: float32 or bfloat16; None is float32. It is always set, because OpenVINO itself chooses bfloat16 on
            some processors, so results would depend on the machine.

    Raises:
        UserError: OpenVINO is missing, or cannot read the file; the device or precision is not supported; or it is not
            our export.
    """

    name = "openvino"

    def __init__(self, path: Path, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__(path, device, dtype)
        self._lock = threading.Lock()
        with _creating:
            core = _core_of(os.getpid())
        if device is not None and device.type != "cpu":
            raise UserError(f"OpenVINO files run on the CPU here, got device {device}")
        self.dtype = dtype or torch.float32
        if self.dtype not in _PRECISIONS:
            raise UserError(f"OpenVINO computes in float32 or bfloat16 here, got {self.dtype}")
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[self.dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            model = core.read_model(str(path))
            text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
            self.info = ExportedInfo.from_json(text, str(path))
            self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            reason = printable(str(error), 300)
            raise UserError(f"{path}: OpenVINO cannot read it ({reason}); export the model again") from error
        names = [name for port in (*self._compiled.inputs, *self._compiled.outputs) for name in port.names]
        if missing := sorted({*INPUTS, *self.info.outputs} - set(names)):
            raise UserError(f"{path}: lacks '{missing[0]}'; export the model again")

    def __call__(self, images: UInt8[np.ndarray, "B *T C H W"], sizes: Int64[np.ndarray, "B 2"], /) -> list[np.ndarray]:
        """See :class:`~mask2former.inference.exported.network.Runtime`."""
        self.check_process()
        with self._lock:  # the next call reuses the buffers that are copied here
            found = self._compiled(dict(zip(INPUTS, (images, sizes), strict=True)))
            return [np.array(found[name]) for name in self.info.outputs]
