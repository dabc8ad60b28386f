"""Traced graphs to files of each format. The only module that knows the converters of other runtimes."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch

from mask2former.errors import MissingExtraError, UserError
from mask2former.inference.exported.info import INPUTS, KEY, ExportedInfo
from mask2former.text import printable

__all__ = ["write_onnx", "write_openvino"]

_OPSET = 18
_LARGEST = (1 << 31) - (1 << 20)  # bytes of a protobuf, and room for the graph


def write_onnx(program: torch.export.ExportedProgram, path: Path, info: ExportedInfo) -> None:
    """Write an ONNX file.

    Args:
        program: what is written.
        path: the file; weights of 2 GB and more would lie beside it, and no published model has them.
        info: stored under :data:`KEY`.

    Raises:
        MissingExtraError: the converter is not installed.
        UserError: it does not convert an operator of the model.
    """
    _need("onnx", "onnxscript")
    import onnx

    logger = logging.getLogger("onnxscript")  # which tells of every node that it does not simplify
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        exported: Any = torch.onnx.export(
            program.run_decompositions(),  # of fused attention, whose layout in memory torch assumes otherwise
            dynamo=True,
            opset_version=_OPSET,
            input_names=list(INPUTS),
            output_names=list(info.outputs),
            verbose=False,
        )
    except Exception as error:  # torch has a chain of its own errors, of which the first says what is wrong
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        reason = printable(str(first).strip() or type(first).__name__, 300)
        raise UserError(f"the model cannot be converted to ONNX by torch {torch.__version__}: {reason}") from error
    finally:
        logger.setLevel(level)
    proto = exported.model_proto
    onnx.helper.set_model_props(proto, {KEY: info.to_json()})
    onnx.save(proto, path)


def write_openvino(program: torch.export.ExportedProgram, path: Path, info: ExportedInfo) -> None:
    """Write an OpenVINO file and the ``.bin`` with its weights beside it, in float32.

    Args:
        program: what is written.
        path: the ``.xml`` file.
        info: stored under :data:`KEY`.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    _need("openvino", "onnxscript", "onnx")
    import openvino

    onnx_file = path.with_suffix(".onnx")
    write_onnx(program, onnx_file, info)
    model = openvino.convert_model(onnx_file)
    for port, name in zip([*model.inputs, *model.outputs], [*INPUTS, *info.outputs], strict=True):
        port.get_tensor().set_names({name})
    model.set_rt_info(info.to_json(), [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def _need(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(module, "export")
