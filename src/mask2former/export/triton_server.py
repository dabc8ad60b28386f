"""The configuration of an exported ONNX file in a model repository of the Triton inference server.

A repository is a folder of models: ``NAME/config.pbtxt`` and ``NAME/1/model.onnx``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mask2former.errors import UserError
from mask2former.export.writers import TensorShape
from mask2former.inference.exported import ExportedInfo
from mask2former.inference.exported.info import INPUTS, KEY

__all__ = ["CONFIG", "MODEL_FILE", "check_repository", "triton_config"]

CONFIG = "config.pbtxt"
MODEL_FILE = Path("1", "model.onnx")  # version 1
_MOST_IMAGES = 8  # in one call, where the file takes any number; the config can be edited
_TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "int64": "TYPE_INT64", "float32": "TYPE_FP32"}


def check_repository(path: Path) -> None:
    """Check that the folder of a model can be created there.

    Raises:
        UserError: the path exists, or its name is not valid for a model.
    """
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*", path.name, re.ASCII) is None:
        raise UserError(
            f"'{path}': the name of the folder is the name of the model for Triton; expected letters, digits, '_', '-' "
            "and '.'"
        )
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"'{path}' exists; expected a new folder, whose name is the name of the model for Triton")


def triton_config(name: str, tensors: Sequence[TensorShape], info: ExportedInfo) -> str:
    """The content of ``config.pbtxt``: a ``ModelConfig`` in the text format of protocol buffers.

    Files for any number of images let the server put requests of equal sizes into one batch. Classes and settings are
    also in the parameter :data:`~mask2former.inference.exported.info.KEY`, where clients can ask for them.

    Args:
        name: of the model, which must be that of its folder.
        tensors: the inputs and outputs of the file.
        info: of the file.
    """
    batches = info.batch is None
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', f"max_batch_size: {_MOST_IMAGES if batches else 0}"]
    for tensor in tensors:
        sides = tensor.shape[1:] if batches else tensor.shape
        lines += [
            f"{'input' if tensor.name in INPUTS else 'output'} {{",
            f'  name: "{tensor.name}"',
            f"  data_type: {_TYPES[tensor.dtype]}",
            f"  dims: [{', '.join(str(-1 if side is None else side) for side in sides)}]",
            "}",
        ]
    if batches:
        lines.append("dynamic_batching { }")
    text = info.to_json().replace("\\", r"\\").replace('"', r"\"")  # ASCII, as JSON is written
    lines += ["parameters {", f'  key: "{KEY}"', f'  value {{ string_value: "{text}" }}', "}"]
    return "\n".join(lines) + "\n"
