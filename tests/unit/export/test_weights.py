"""Weights of ONNX files in fewer bytes: only weights change, and only by rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mask2former.errors import UserError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from mask2former.export.quantization import quantize  # noqa: E402  (which imports both)
from mask2former.export.writers import halve_weights  # noqa: E402

SIZES = np.array([[8, 8]])
POSITIONS = np.linspace(0, 1333, 8)


def graph(scale: float = 0.1) -> Any:
    """A graph with a convolution and a matrix product of bytes, and a table of positions, which is not a weight."""
    generator = np.random.default_rng(0)
    arrays = {
        "kernel": scale * generator.standard_normal((16, 3, 3, 3)),
        "matrix": 0.1 * generator.standard_normal((16, 8)),
        "bias": generator.standard_normal(8),
        "positions": POSITIONS,
    }
    node, kind = onnx.helper.make_node, onnx.TensorProto
    nodes = [
        node("Cast", ["images"], ["floats"], to=kind.FLOAT),
        node("Conv", ["floats", "kernel"], ["maps"], name="conv"),
        node("ReduceMean", ["maps", "axes"], ["means"], keepdims=0),
        node("Gemm", ["means", "matrix", "bias"], ["product"], name="gemm"),
        node("Add", ["product", "positions"], ["result"]),
        node("Identity", ["sizes"], ["size"]),
    ]
    made = onnx.helper.make_graph(
        nodes,
        "graph",
        [
            onnx.helper.make_tensor_value_info("images", kind.UINT8, (1, 3, 8, 8)),
            onnx.helper.make_tensor_value_info("sizes", kind.INT64, (1, 2)),
        ],
        [
            onnx.helper.make_tensor_value_info("result", kind.FLOAT, (1, 8)),
            onnx.helper.make_tensor_value_info("size", kind.INT64, (1, 2)),
        ],
        [
            onnx.numpy_helper.from_array(np.array([2, 3]), "axes"),
            *(onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()),
        ],
    )
    proto = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.helper.set_model_props(proto, {"key": "value"})
    return proto


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)


def result(file: Path, given: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(file)
    assert session.get_modelmeta().custom_metadata_map["key"] == "value"
    return session.run(["result"], {"images": given, "sizes": SIZES})[0]


def types(proto: Any) -> dict[str, int]:
    return {entry.name: entry.data_type for entry in proto.graph.initializer}


@pytest.fixture
def expected(tmp_path: Path) -> np.ndarray:
    onnx.save(graph(), tmp_path / "float32.onnx")
    return result(tmp_path / "float32.onnx", images(0))


def test_weights_are_halved_and_nothing_else(tmp_path: Path, expected: np.ndarray) -> None:
    proto = graph()
    halve_weights(proto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, tmp_path / "float16.onnx")
    halves = {name for name, kind in types(proto).items() if kind == onnx.TensorProto.FLOAT16}
    assert halves == {"kernel.float16", "matrix.float16", "bias.float16"}
    assert types(proto)["positions"] == onnx.TensorProto.FLOAT
    difference = np.abs(result(tmp_path / "float16.onnx", images(0)) - expected).max()
    assert 0 < difference < 0.2
    with pytest.raises(UserError, match="'kernel' is beyond the range of float16"):
        halve_weights(graph(scale=1e6))


def test_products_are_computed_in_integers(tmp_path: Path, expected: np.ndarray) -> None:
    calls = [(images(seed), SIZES) for seed in range(4)]
    quantize(tmp_path / "float32.onnx", tmp_path / "int8.onnx", calls)
    kinds = set(types(onnx.load(tmp_path / "int8.onnx")).values())
    assert onnx.TensorProto.INT8 in kinds
    found = result(tmp_path / "int8.onnx", images(0))
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected - POSITIONS).max()
