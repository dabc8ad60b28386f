"""ONNX files in 8-bit integers, with value ranges measured on images of the user.

Weights of convolutions and matrix products become ``int8``, one scale for each channel, and what they are multiplied
with ``uint8``. The operators are those of ONNX (``QuantizeLinear``, ``DequantizeLinear``), which OpenVINO converts too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from mask2former.export.graph import Call
from mask2former.inference.exported.info import INPUTS

__all__ = ["quantize"]

_OPERATORS = ("Conv", "Gemm", "MatMul")


class _Calls(CalibrationDataReader):
    def __init__(self, calls: Sequence[Call]) -> None:
        self._rest = iter(calls)

    def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        call = next(self._rest, None)
        return None if call is None else dict(zip(INPUTS, call, strict=True))


def quantize(source: Path, target: Path, calls: Sequence[Call]) -> None:
    """Write a file in 8-bit integers.

    Args:
        source: an ONNX file in float32.
        target: the file to write; metadata stay.
        calls: what values are measured on.
    """
    root = logging.getLogger()  # which is told to prepare the file, as if that had to be
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        quantize_static(
            source,
            target,
            _Calls(calls),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_OPERATORS),
            nodes_to_exclude=_with_computed_bias(source),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        root.setLevel(level)


def _with_computed_bias(path: Path) -> list[str]:
    """Products whose bias is no constant, which stay in float32."""
    graph = onnx.load(path).graph
    constants = {entry.name for entry in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type == "Gemm" and len(node.input) == 3 and not constants.issuperset(node.input[1:])
    ]
