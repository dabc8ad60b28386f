"""Exported models as networks of a predictor: ``Predictor.from_pretrained("model.onnx")``.

``info`` has the metadata of such a file, and ``network`` a network for any runtime. Each runtime is one module, the
only one that imports its library. This package must not depend on how files are exported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from mask2former.documents import check_regular
from mask2former.errors import OptionError, UserError
from mask2former.inference.exported.info import ExportedInfo
from mask2former.inference.exported.network import ExportedNetwork, Runtime

__all__ = [
    "SUFFIXES",
    "ExportedInfo",
    "ExportedNetwork",
    "Format",
    "Runtime",
    "is_exported",
    "open_exported",
    "open_runtime",
]

Format = Literal["onnx", "openvino", "pt2"]
SUFFIXES: Mapping[str, Format] = {
    ".onnx": "onnx",
    ".xml": "openvino",
    ".pt2": "pt2",
}  # suffixes of files, and the runtimes that run them

_TRUST = "MASK2FORMER_TRUST_CODE"


def is_exported(source: str | Path) -> bool:
    """Whether this is the name of an exported file, existing or not."""
    return Path(source).suffix.lower() in SUFFIXES


def open_exported(
    path: str | Path,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    trust_code: bool = False,
) -> ExportedNetwork:
    """An exported model as a network; arguments are those of :func:`open_runtime`.

    Raises:
        UserError: see :func:`open_runtime`; or the file returns results instead of logits.
    """
    runtime = open_runtime(path, device, dtype, trust_code=trust_code)
    if runtime.info.task is not None:
        raise UserError(
            f"{path} returns {runtime.info.task} results, for programs without this package; here logits are needed: "
            "export the model without results"
        )
    return ExportedNetwork(Path(path), runtime)


def open_runtime(
    path: str | Path,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    trust_code: bool = False,
) -> Runtime:
    """An exported file that can be called with arrays.

    Args:
        path: ``.onnx`` is run by onnxruntime, ``.xml`` (with the ``.bin`` beside it) by OpenVINO, ``.pt2`` by PyTorch.
        device: device to run on; None: a CUDA device if the runtime has one, else the CPU.
        dtype: precision of OpenVINO: float32 (the default) or bfloat16.
        trust_code: whether the code in a ``.pt2`` file may run; also enabled by ``MASK2FORMER_TRUST_CODE=1`` in the
            environment. Files of the other formats contain no code.

    Raises:
        UserError: the file cannot be read or was not exported by this package, the runtime is not installed or lacks
            the device, the file has another precision, or its code is not trusted.
    """
    path = Path(path)
    check_regular(path, "exported model")
    kind = SUFFIXES[path.suffix.lower()]
    if kind == "openvino":
        from mask2former.inference.exported.openvino import OpenVinoRuntime

        return OpenVinoRuntime(path, device, dtype)
    if dtype not in (None, torch.float32):
        got = str(dtype).removeprefix("torch.")
        raise OptionError(
            lambda name: f"{path}: such files are computed in float32, as they are; leave out {name('dtype')} {got}"
        )
    if kind == "onnx":
        from mask2former.inference.exported.onnx import OnnxRuntime

        return OnnxRuntime(path, device)
    from mask2former.inference.exported.pt2 import CompiledRuntime

    return CompiledRuntime(path, device, trust_code=trust_code or os.environ.get(_TRUST) == "1")
