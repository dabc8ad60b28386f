"""What is around a file that is written: its folder, the comparison with the model, refusals. Converters stand in."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.config import FPNConfig, InferenceConfig, MaskedDecoderConfig, ModelConfig, PerPixelConfig, TimmConfig
from mask2former.errors import UserError
from mask2former.export import Exported, export
from mask2former.export.exporter import trace
from mask2former.export.graph import Call, ExportedGraph
from mask2former.export.writers import TensorShape
from mask2former.inference.exported import ExportedInfo
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.scenes.classes import SCENE_CATEGORIES

BACKBONE = TimmConfig(model="resnet10t", norm="batch", kwargs={"channels": [16, 24, 32, 40]})
SETTINGS = InferenceConfig(short_edge=64, long_edge=96, score_threshold=0.0, instance_threshold=0.0)


def make_model(**parts: Any) -> Mask2Former:
    decoder = MaskedDecoderConfig(dim=32, num_queries=4, num_layers=1, num_heads=2, feedforward_dim=32)
    values = {"transformer_decoder": decoder, "pixel_decoder": FPNConfig(dim=32, mask_dim=32), **parts}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ModelConfig(**{"backbone": BACKBONE, "inference": SETTINGS, **values})
        model = build_model(config, len(SCENE_CATEGORIES))
    model.categories = SCENE_CATEGORIES
    return model.eval()


@pytest.fixture(scope="module")
def model() -> Mask2Former:
    return make_model()


class Runtime:
    """Runs the graph itself, with an error of ``error`` times the largest value added."""

    def __init__(self, graph: ExportedGraph, info: ExportedInfo, error: float) -> None:
        self.graph, self.info, self.error = graph, info, error

    def __call__(self, images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            found = self.graph(torch.from_numpy(images), torch.from_numpy(sizes))
        return [(one + self.error * one.abs().max()).numpy() for one in map(torch.Tensor.float, found)]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Arguments of the last converter, which writes a placeholder; running that file is off by ``error``."""
    kept = SimpleNamespace(error=0.0, calls=[], graph=None, info=None)

    def traced(graph: ExportedGraph, inputs: tuple[torch.Tensor, ...], info: ExportedInfo) -> ExportedGraph:
        return graph

    def write(graph: ExportedGraph, path: Path, info: ExportedInfo, *more: Any) -> None:
        kept.graph, kept.info, (kept.dtype, kept.calls) = graph, info, (more or (None, ()))
        for file in (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,):
            file.write_text("written")

    monkeypatch.setattr("mask2former.export.exporter.trace", traced)
    for name in ("write_onnx", "write_openvino", "write_pt2"):
        monkeypatch.setattr(f"mask2former.export.exporter.{name}", write)
    monkeypatch.setattr("mask2former.export.exporter.check_compiler", lambda: None)
    monkeypatch.setattr(
        "mask2former.export.exporter.open_runtime", lambda *_, **__: Runtime(kept.graph, kept.info, kept.error)
    )
    monkeypatch.setattr(
        "mask2former.export.exporter.onnx_tensors",
        lambda path: [TensorShape("images", "uint8", (1, 3, 64, 64)), TensorShape("masks", "float32", (1, 4))],
    )
    return kept


@pytest.mark.parametrize(
    ("name", "to", "files"),
    [
        ("a.onnx", None, ["a.onnx"]),
        ("a.xml", None, ["a.bin", "a.xml"]),
        ("a.pt2", None, ["a.pt2"]),
        ("a", "triton", ["a/1/model.onnx", "a/config.pbtxt"]),
    ],
)
def test_each_format_has_its_files_and_nothing_beside_them(
    name: str, to: Any, files: list[str], written: SimpleNamespace, model: Mask2Former, tmp_path: Path
) -> None:
    done = export(model, tmp_path / name, to, size=(64, 64))
    assert isinstance(done, Exported)
    found = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert [path.relative_to(tmp_path).as_posix() for path in found] == files
    assert done.num_bytes == sum(path.stat().st_size for path in found)
    assert done.difference == 0
    if to == "triton":
        config = found[1].read_text()
        assert 'name: "a"' in config
        assert "dims: [1, 3, 64, 64]" in config
        with pytest.raises(UserError, match="a' exists"):
            export(model, tmp_path / name, to)


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_results_are_compared_as_shares_of_what_differs(
    task: Any, written: SimpleNamespace, model: Mask2Former, tmp_path: Path
) -> None:
    done = export(model, tmp_path / "a.onnx", results=task, size=(64, 64))
    assert done.info.task == task
    assert done.difference == 0
    written.error = 0.5
    with pytest.raises(UserError, match=r"b\.onnx was not written"):
        export(model, tmp_path / "b.onnx", results=task, size=(64, 64))
    assert not (tmp_path / "b.onnx").exists()


def test_a_file_that_gives_other_logits_is_not_kept(
    written: SimpleNamespace, model: Mask2Former, tmp_path: Path
) -> None:
    written.error = 2e-4
    assert export(model, tmp_path / "a.onnx", size=(64, 64)).difference == pytest.approx(2e-4, rel=0.5)
    for error in (2e-3, float("nan")):
        written.error = error
        with pytest.raises(UserError, match=r"was not written: .*more than 1e-03"):
            export(model, tmp_path / "a.onnx", size=(64, 64))
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]  # the earlier file


@pytest.mark.parametrize(("size", "shapes"), [(None, [(64, 96), (33, 96)]), ((64, 96), [(64, 96), (64, 96)])])
def test_ranges_are_measured_on_images_as_the_network_sees_them(
    size: Any, shapes: list[tuple[int, int]], written: SimpleNamespace, model: Mask2Former, tmp_path: Path
) -> None:
    for name, (height, width) in (("a", (64, 96)), ("b", (20, 200))):
        Image.fromarray(np.full((height, width, 3), 99, np.uint8)).save(tmp_path / f"{name}.png")
    export(model, tmp_path / "a.onnx", dtype="int8", calibration=[tmp_path / "a.png", tmp_path / "b.png"], size=size)
    calls: Sequence[Call] = written.calls
    assert written.dtype == "int8"
    assert [images.shape[-2:] for images, _ in calls] == shapes
    assert [sizes.tolist() for _, sizes in calls] == [[[64, 96]], [[10, 96]]]  # without padding


def test_a_model_in_training_stays_in_training(written: SimpleNamespace, model: Mask2Former, tmp_path: Path) -> None:
    trained = copy.deepcopy(model).train()
    export(trained, tmp_path / "a.onnx")
    assert all(module.training for module in trained.modules())
    assert not written.graph.training


def test_models_that_files_cannot_hold_are_refused(
    written: SimpleNamespace, model: Mask2Former, tmp_path: Path
) -> None:
    of_pixels = make_model(transformer_decoder=PerPixelConfig(), inference=InferenceConfig(tasks=("semantic",)))
    with pytest.raises(UserError, match="classifies pixels"):
        export(of_pixels, tmp_path / "a.onnx")
    of_clips = make_model(
        transformer_decoder=MaskedDecoderConfig(
            dim=32, num_queries=4, num_layers=1, num_heads=2, feedforward_dim=32, position_encoding="3d"
        )
    )
    with pytest.raises(UserError, match="results are for images only"):
        export(of_clips, tmp_path / "a.onnx", results="panoptic")
    with pytest.raises(UserError, match="results are for images only"):
        export(model, tmp_path / "a.onnx", results="panoptic", frames=2)
    assert not list(tmp_path.iterdir())


def test_a_part_that_cannot_be_traced_is_said_with_its_reason(
    model: Mask2Former, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise NotImplementedError("asks its user for a number\nand more")

    monkeypatch.setattr("torch.export.export", fail)
    inputs = torch.zeros((1, 3, 64, 64), dtype=torch.uint8), torch.tensor([[64, 64]])
    with pytest.raises(UserError, match="cannot be exported: asks its user for a number;"):
        trace(ExportedGraph(model, clips=False), inputs, ExportedInfo(model.info, 64, 64, 1, None, 32, "0"))


def test_a_model_that_is_named_is_loaded_as_it_is_described(
    written: SimpleNamespace, model: Mask2Former, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []

    def load(*arguments: Any, **named: Any) -> Mask2Former:
        loaded.append((*arguments, named))
        return model

    monkeypatch.setattr("mask2former.export.exporter.fetch", lambda name, tell: tell(1, 2))
    monkeypatch.setattr("mask2former.export.exporter.from_pretrained", load)
    steps: list[str] = []
    done = export(
        "own.pth",
        tmp_path / "a.onnx",
        size=(64, 64),
        recipe="r",
        weights="w",
        progress=lambda step, *_: steps.append(step),
    )
    assert loaded == [("own.pth", "r", {"tasks": (), "weights": "w"})]
    assert "own.pth" in steps[0]
    assert (done.info.height, done.info.width) == (64, 64)
