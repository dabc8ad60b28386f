"""ONNX files, run by onnxruntime. The only module that imports it."""

from __future__ import annotations

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

__all__ = ["OnnxRuntime"]

_ERRORS_ONLY = 3  # severity of messages; others are about its own optimisations


class OnnxRuntime(OpenedFile):
    """A session of onnxruntime, with as many threads as torch has.

    Args:
        path: the file.
        device: the CPU or a CUDA device; None: CUDA if onnxruntime has it.

    Raises:
        UserError: onnxruntime is missing, lacks the device, or cannot read the file; or it is no export of ours.
    """

    name = "onnxruntime"
    dtype = torch.float32

    def __init__(self, path: Path, device: torch.device | None = None) -> None:
        super().__init__(path, device)
        need("export", "onnxruntime", to="run ONNX files")
        import onnxruntime

        has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        if device is not None and device.type not in ("cpu", "cuda"):
            raise UserError(f"exported models run on the CPU or a CUDA device, got {device}")
        if device is not None and device.type == "cuda" and not has_cuda:
            raise UserError(
                f"onnxruntime has no CUDA support here, but {device} was requested: pip install onnxruntime-gpu, or "
                "use cpu"
            )
        on_cuda = has_cuda and torch.cuda.is_available() and (device is None or device.type == "cuda")
        index = 0 if device is None or device.index is None else device.index
        providers: list[Any] = [("CUDAExecutionProvider", {"device_id": index})] if on_cuda else []
        options: Any = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=[*providers, "CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no common base class
            reason = printable(str(error), 300)
            raise UserError(f"{path}: onnxruntime cannot read it ({reason}); export the model again") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.info = ExportedInfo.from_json(metadata.get(KEY), str(path))
        given = [entry.name for entry in self._session.get_inputs()]
        found = [entry.name for entry in self._session.get_outputs()]
        if given != list(INPUTS) or found != list(self.info.outputs):
            raise UserError(
                f"{path}: has inputs {printable(str(given), 100)} and outputs {printable(str(found), 100)}; expected "
                f"{list(INPUTS)} and {list(self.info.outputs)}; export the model again"
            )

    def __call__(self, images: UInt8[np.ndarray, "B *T C H W"], sizes: Int64[np.ndarray, "B 2"], /) -> list[np.ndarray]:
        """See :class:`~mask2former.inference.exported.network.Runtime`."""
        self.check_process()
        found: Any = self._session.run(list(self.info.outputs), dict(zip(INPUTS, (images, sizes), strict=True)))
        return found
