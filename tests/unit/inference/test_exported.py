"""The metadata of exported files, and errors before anything in them runs."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mask2former import Predictor, limits
from mask2former.config import InferenceConfig
from mask2former.errors import UserError
from mask2former.inference.exported import ExportedInfo, open_runtime
from mask2former.inference.exported.pt2 import add_info
from mask2former.structures import Categories, ModelInfo

INFO = ExportedInfo(ModelInfo(None, InferenceConfig(), Categories.from_names(["a"])), 64, 64, 1, None, 32, "0")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A .pt2 package whose compiled code cannot be loaded."""
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data/aotinductor/model/code.so", b"no library")
    add_info(path, INFO)
    return path


def test_a_package_says_what_it_is_and_runs_nothing_until_that_is_allowed(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)

    def load(path: str) -> Any:
        loaded.append(path)
        return lambda images, sizes: (images.float(), sizes.float())

    monkeypatch.setattr("torch._inductor.aoti_load_package", load)
    for opened in (lambda: open_runtime(package), lambda: Predictor.from_pretrained(package)):
        with pytest.raises(
            UserError, match=r"model\.pt2' contains compiled code, .* set the .*MASK2FORMER_TRUST_CODE=1"
        ):
            opened()
    monkeypatch.setenv("MASK2FORMER_TRUST_CODE", "0")
    with pytest.raises(UserError, match="contains compiled code"):
        open_runtime(package)
    assert not loaded
    runtime = open_runtime(package, trust_code=True)
    assert runtime.info == INFO
    found = runtime(torch.zeros(1, 3, 2, 2).byte().numpy(), torch.ones(1, 2).long().numpy())
    assert [array.shape for array in found] == [(1, 3, 2, 2), (1, 2)]
    again = pickle.loads(pickle.dumps(runtime))  # for another process, which opens the file itself
    assert (again.info, loaded.pop()) == (INFO, str(package))
    monkeypatch.setattr("os.getpid", lambda: 1)
    runtime(torch.zeros(1, 3, 2, 2).byte().numpy(), torch.ones(1, 2).long().numpy())  # it has one thread
    monkeypatch.setenv("MASK2FORMER_TRUST_CODE", "1")
    assert Predictor.from_pretrained(package).categories.names == ("a",)
    assert loaded == [str(package)] * 2


def tiny_file(path: Path) -> Path:
    """An ONNX or OpenVINO file with the inputs and outputs of an export, which only multiplies images by a matrix."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    of, kinds, side = onnx.helper, onnx.TensorProto, 256
    matrix = onnx.numpy_helper.from_array(np.eye(side, dtype=np.float32), "matrix")
    nodes = [
        of.make_node("Cast", ["images"], ["pixels"], to=kinds.FLOAT),
        of.make_node("MatMul", ["pixels", "matrix"], ["mask_logits"]),
        of.make_node("Cast", ["sizes"], ["class_logits"], to=kinds.FLOAT),
        of.make_node("Neg", ["class_logits"], ["query_features"]),
    ]
    inputs = [
        of.make_tensor_value_info("images", kinds.UINT8, (1, 3, side, side)),
        of.make_tensor_value_info("sizes", kinds.INT64, (1, 2)),
    ]
    shapes = {"class_logits": (1, 2), "mask_logits": (1, 3, side, side), "query_features": (1, 2)}
    outputs = [of.make_tensor_value_info(name, kinds.FLOAT, shape) for name, shape in shapes.items()]
    graph = of.make_graph(nodes, "tiny", inputs, outputs, [matrix])
    model = of.make_model(graph, opset_imports=[of.make_opsetid("", 18)], ir_version=10)
    of.set_model_props(model, {"mask2former": INFO.to_json()})
    file = path.with_suffix(".onnx")
    onnx.save(model, file)
    if path.suffix == ".xml":
        openvino = pytest.importorskip("openvino")
        converted = openvino.convert_model(file)
        for port, name in zip([*converted.inputs, *converted.outputs], ["images", "sizes", *shapes], strict=True):
            port.get_tensor().set_names({name})
        converted.set_rt_info(INFO.to_json(), ["mask2former"])
        openvino.save_model(converted, path, compress_to_fp16=False)
    return path


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.xml"])
def test_a_file_can_be_called_from_threads_and_pickled(name: str, tmp_path: Path) -> None:
    runtime = open_runtime(tiny_file(tmp_path / name))
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (1, 3, 256, 256), dtype=np.uint8) for _ in range(24)]
    for opened in (runtime, pickle.loads(pickle.dumps(runtime))):
        with ThreadPoolExecutor(4) as threads:
            found = threads.map(lambda image, opened=opened: opened(image, np.ones((1, 2), np.int64)), images)
            for image, (_, masks, _) in zip(images, found, strict=True):
                np.testing.assert_array_equal(masks, image)


_OPENED_TWICE = """
import pickle, signal, sys
from pathlib import Path
from mask2former.inference.exported import open_runtime

first = open_runtime(Path(sys.argv[1]))
second = pickle.loads(pickle.dumps(first))
del first
del second
received = []
signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
signal.raise_signal(signal.SIGTERM)
assert received == [signal.SIGTERM]
"""


def test_signals_arrive_after_several_files_were_open(tmp_path: Path) -> None:
    """On processors with AMX, OpenVINO gives the thread a stack for signals, which was freed while still in use."""
    command = [sys.executable, "-X", "faulthandler", "-c", _OPENED_TWICE, str(tiny_file(tmp_path / "tiny.xml"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_a_file_is_refused_in_a_process_that_was_forked_after_it_was_opened(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threads are not there, and a call would wait for them forever."""
    monkeypatch.setattr("torch._inductor.aoti_load_package", lambda path: lambda images, sizes: (images, sizes))
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    arrays = torch.zeros(1, 3, 2, 2).byte().numpy(), torch.ones(1, 2).long().numpy()
    runtime = open_runtime(package, trust_code=True)
    runtime(*arrays)
    monkeypatch.setattr("os.getpid", lambda: 1)
    with pytest.raises(UserError, match=r"model\.pt2 was opened before this process was forked, .*'spawn'"):
        runtime(*arrays)
    pickle.loads(pickle.dumps(runtime))(*arrays)


def test_what_is_no_package_for_this_machine_is_refused(package: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="PyTorch cannot load it"):
        open_runtime(package, trust_code=True)
    with pytest.raises(UserError, match="packages run on the CPU here"):
        open_runtime(package, torch.device("cuda"))
    with pytest.raises(UserError, match="computed in float32, as they are; leave out dtype bfloat16"):
        open_runtime(package, dtype=torch.bfloat16)
    (tmp_path / "text.pt2").write_text("text")
    with pytest.raises(UserError, match="not a PyTorch package"):
        open_runtime(tmp_path / "text.pt2")
    with zipfile.ZipFile(tmp_path / "bare.pt2", "w") as file:
        file.writestr("bare/version", "3")
    with pytest.raises(UserError, match="not a model that was exported by this package"):
        open_runtime(tmp_path / "bare.pt2")
    for name, words, message in (
        ("future", ["avx9999"], "was compiled for a processor with avx9999, which this one lacks"),
        ("odd", {"avx": 1}, "its processor is not a list of words"),
    ):
        path = tmp_path / f"{name}.pt2"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x/extra/mask2former.json", INFO.to_json())
            file.writestr("x/extra/processor.json", json.dumps(words))
        with pytest.raises(UserError, match=message):
            open_runtime(path, trust_code=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/extra/mask2former.json", b" " * (limits.CONFIG_BYTES + 1))
    with pytest.raises(UserError, match="its metadata has too many bytes"):
        open_runtime(path)
