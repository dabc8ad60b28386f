"""Files around what converters give: weights in fewer bytes, metadata, and what converters raise in one sentence."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mask2former.config import InferenceConfig
from mask2former.errors import NoCompilerError, UserError
from mask2former.export.writers import attention_in_products, write_onnx, write_pt2
from mask2former.inference.exported import ExportedInfo
from mask2former.structures import Categories, ModelInfo

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

INFO = ExportedInfo(ModelInfo(None, InferenceConfig(), Categories.from_names(["a"])), 8, 8, 1, None, 32, "0")
PROGRAM: Any = None


def product() -> Any:
    """A graph that multiplies the bytes of images by a matrix."""
    node, value, kind = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.TensorProto
    matrix = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
    made = onnx.helper.make_graph(
        [
            node("Cast", ["images"], ["floats"], to=kind.FLOAT),
            node("MatMul", ["floats", "matrix"], ["result"], name="mm"),
        ],
        "graph",
        [value("images", kind.UINT8, (1, 8)), value("sizes", kind.INT64, (1, 2))],
        [value("result", kind.FLOAT, (1, 8))],
        [onnx.numpy_helper.from_array(matrix, "matrix")],
    )
    return onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(("weights", "kind"), [("float32", "FLOAT"), ("float16", "FLOAT16"), ("int8", "INT8")])
def test_weights_are_stored_as_wanted_with_what_the_file_is(
    weights: Any, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.onnx.export", lambda *_, **__: SimpleNamespace(model_proto=product()))
    calls = [(np.full((1, 8), number, np.uint8), np.array([[8, 8]])) for number in (1, 200)]
    write_onnx(PROGRAM, tmp_path / "a.onnx", INFO, weights, calls)
    proto = onnx.load(tmp_path / "a.onnx")
    kinds = {entry.data_type for entry in proto.graph.initializer if "matrix" in entry.name and entry.dims == [8, 8]}
    assert kinds == {getattr(onnx.TensorProto, kind)}
    assert {entry.key: entry.value for entry in proto.metadata_props}["mask2former"] == INFO.to_json()
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_the_first_of_a_chain_of_errors_says_what_cannot_be_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        try:
            raise KeyError("no ONNX function for aten.fold")
        except KeyError as error:
            raise RuntimeError("step 3 of 3 failed") from error

    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(UserError, match=r"converted to ONNX by torch .*aten\.fold"):
        write_onnx(PROGRAM, tmp_path / "a.onnx", INFO)


def test_a_package_says_what_it_is_and_a_compiler_that_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_it(program: Any, *, package_path: str, **_: Any) -> None:
        with zipfile.ZipFile(package_path, "w") as package:
            package.writestr("model/code.so", b"")

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", compile_it)
    write_pt2(PROGRAM, tmp_path / "a.pt2", INFO)
    with zipfile.ZipFile(tmp_path / "a.pt2") as package:
        assert package.read("model/extra/mask2former.json").decode() == INFO.to_json()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("cc1plus: out of memory\nmore")

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", fail)
    with pytest.raises(NoCompilerError, match="cc1plus: out of memory"):
        write_pt2(PROGRAM, tmp_path / "b.pt2", INFO)


@pytest.mark.parametrize("mask", [None, torch.rand(2, 5, 7) > 0.3, torch.randn(2, 5, 7)], ids=["none", "bool", "added"])
def test_attention_in_products_is_attention(mask: torch.Tensor | None) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, count, 4, generator=generator) for count in (5, 7, 7))
    expected = F.scaled_dot_product_attention(query, key, value, mask)
    with attention_in_products():
        torch.testing.assert_close(F.scaled_dot_product_attention(query, key, value, attn_mask=mask), expected)
