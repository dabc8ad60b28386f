"""Converts traced graphs to files of each format. The only module that uses the converters of other runtimes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mask2former.errors import NoCompilerError, UserError
from mask2former.export.graph import Call
from mask2former.extras import need
from mask2former.inference.compiling import sentence_of_compiler
from mask2former.inference.exported.info import INPUTS, KEY, ExportedInfo
from mask2former.inference.exported.pt2 import add_info
from mask2former.text import printable

__all__ = [
    "TensorShape",
    "attention_in_products",
    "check_compiler",
    "check_installed",
    "halve_weights",
    "onnx_tensors",
    "write_onnx",
    "write_openvino",
    "write_pt2",
]

WeightType = Literal["float32", "float16", "int8"]

_PACKAGES = {  # that write a format, and run it to compare
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "triton": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnxscript", "onnx"),
}
_OPSET = 18
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class attention_in_products(TorchFunctionMode):  # noqa: N801  (a context manager, named as those of torch)
    """Traces fused attention as its two products with a softmax between them.

    ONNX's converter decomposes attention, too, but assumes a layout of the result in memory that a processor's own
    kernel does not have. Decomposing it beforehand would need another pass over the graph, a fifth of an export.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Tensor:
    """Like ``F.scaled_dot_product_attention`` without dropout; a Boolean mask is True where attention is allowed."""
    assert not dropout_p
    assert not is_causal  # which timm's transformers pass explicitly
    logits = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        logits = logits.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        logits = logits + attn_mask
    return logits.softmax(-1) @ value


def write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    info: ExportedInfo,
    weights: WeightType = "float32",
    calibration: Sequence[Call] = (),
) -> None:
    """Write an ONNX file.

    Args:
        program: a graph traced with :class:`attention_in_products`.
        path: the file. Weights of 2 GB and more would be in a second file; no published model has that many.
        info: metadata, stored under :data:`KEY`.
        weights: ``float16`` stores them in half the bytes, but computation is in float32; ``int8``
            also computes products with them in 8-bit integers.
        calibration: for ``int8``, the inputs on which the ranges of values are measured.

    Raises:
        UserError: the converter does not support an operator of the model.
    """
    import onnx

    logger = logging.getLogger("onnxscript")  # which logs every node that it does not simplify
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        exported: Any = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=_OPSET,
            input_names=list(INPUTS),
            output_names=list(info.outputs),
            verbose=False,
        )
    except Exception as error:  # torch raises a chain of its own errors, of which the first states the cause
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        reason = printable(str(first).strip() or type(first).__name__, 300)
        raise UserError(f"the model cannot be converted to ONNX by torch {torch.__version__}: {reason}") from error
    finally:
        logger.setLevel(level)
    proto = exported.model_proto
    if weights == "float16":
        halve_weights(proto)
    onnx.helper.set_model_props(proto, {KEY: info.to_json()})
    onnx.save(proto, path)
    if weights == "int8":
        from mask2former.export.quantization import quantize

        in_float = path.with_name("float32.onnx")  # in the same temporary folder
        path.replace(in_float)
        quantize(in_float, path, calibration)
        in_float.unlink()


def halve_weights(proto: Any) -> None:
    """Convert weights of convolutions and matrix products to float16, with a cast to float32 before their use.

    Other constants are not converted: a table of positions in pixels would be wrong by half a pixel.

    Args:
        proto: an ``onnx.ModelProto``, changed in place.

    Raises:
        UserError: a weight is beyond the range of float16.
    """
    import onnx

    used = {name for node in proto.graph.node if node.op_type in _PRODUCTS for name in node.input}
    casts = []
    for entry in proto.graph.initializer:
        if entry.name in used and entry.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(entry)
            if not np.abs(values).max(initial=0.0) <= np.finfo(np.float16).max:
                raise UserError(f"'{printable(entry.name, 100)}' is beyond the range of float16; export it in float32")
            name, half = entry.name, f"{entry.name}.float16"
            entry.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), half))
            casts.append(onnx.helper.make_node("Cast", [half], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


class TensorShape(NamedTuple):
    """An input or output of a file.

    Attributes:
        name: name of the tensor.
        dtype: its type as a numpy name.
        shape: its dimensions; None: any.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def onnx_tensors(path: Path) -> list[TensorShape]:
    """The inputs of an ONNX file, then its outputs."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return [
        TensorShape(
            entry.name,
            onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type).name,
            tuple(side.dim_value or None for side in entry.type.tensor_type.shape.dim),
        )
        for entry in (*graph.input, *graph.output)
    ]


def write_openvino(
    program: torch.export.ExportedProgram,
    path: Path,
    info: ExportedInfo,
    weights: WeightType = "float32",
    calibration: Sequence[Call] = (),
) -> None:
    """Write an OpenVINO file and the ``.bin`` with its weights beside it.

    Args:
        program: the traced graph.
        path: the ``.xml`` file.
        info: metadata, stored under :data:`KEY`.
        weights: see :func:`write_onnx`.
        calibration: see :func:`write_onnx`.
    """
    import openvino

    onnx_file = path.with_suffix(".onnx")
    write_onnx(program, onnx_file, info, "int8" if weights == "int8" else "float32", calibration)
    model = openvino.convert_model(onnx_file)
    for port, name in zip([*model.inputs, *model.outputs], [*INPUTS, *info.outputs], strict=True):
        port.get_tensor().set_names({name})
    model.set_rt_info(info.to_json(), [KEY])
    openvino.save_model(model, path, compress_to_fp16=weights == "float16")


def check_compiler() -> None:
    """Check that torch finds a C++ compiler.

    Raises:
        NoCompilerError: it finds none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # a private exception of torch
        raise NoCompilerError(sentence_of_compiler(error)) from error


def write_pt2(program: torch.export.ExportedProgram, path: Path, info: ExportedInfo) -> None:
    """Compile for this processor and write a package of PyTorch; takes minutes.

    Args:
        program: the traced graph.
        path: the file.
        info: metadata, stored in the package so that it can be read without running code.

    Raises:
        NoCompilerError: compilation fails.
    """
    from torch._inductor import aoti_compile_and_package

    try:
        aoti_compile_and_package(
            program,
            package_path=str(path),
            inductor_configs={"cpp.dynamic_threads": True},  # otherwise always as many threads as now
        )
    except Exception as error:  # the compiler can raise anything
        raise NoCompilerError(sentence_of_compiler(error)) from error
    add_info(path, info)


def check_installed(kind: str) -> None:
    """Refuse a format whose converter is missing, before a model is loaded.

    Raises:
        MissingExtraError: it is missing; the message has the ``pip install`` command for it.
    """
    need("export", *_PACKAGES.get(kind, ()), to="write models in this format")
