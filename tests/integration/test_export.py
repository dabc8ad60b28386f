"""Models as files for other runtimes: written, compared, and run by the same predictor."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former import Predictor
from mask2former.cli import main
from mask2former.config import (
    FPNConfig,
    InferenceConfig,
    MaskedDecoderConfig,
    ModelConfig,
    MSDeformAttnConfig,
    SwinConfig,
    TimmConfig,
)
from mask2former.data.datasets.scenes import Scenes
from mask2former.data.sources import DataSource
from mask2former.errors import NoCompilerError, UserError
from mask2former.export import Exported, draw_report, export, verify_export
from mask2former.export.triton_server import triton_config
from mask2former.export.writers import onnx_tensors
from mask2former.inference.exported import ExportedInfo, open_exported
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.notes import collect_notes
from mask2former.scenes.classes import SCENE_CATEGORIES
from mask2former.structures import Categories

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("small_overlays")]
SWIN = SwinConfig(embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4)
TASKS = ("panoptic", "instance", "semantic")
SIZES = ((60, 90), (100, 40), (61, 91), (20, 20))  # of images: two share a batch, the last is smaller than a file takes


DEFORMABLE = MSDeformAttnConfig(dim=32, mask_dim=32, num_layers=1, num_heads=2, feedforward_dim=32)


def make_model(num_layers: int, pixel_decoder: MSDeformAttnConfig | FPNConfig = DEFORMABLE) -> Mask2Former:
    config = ModelConfig(
        backbone=TimmConfig(model="resnet10t", norm="batch", kwargs={"channels": [16, 24, 32, 40]}),
        pixel_decoder=pixel_decoder,
        transformer_decoder=MaskedDecoderConfig(
            dim=32, num_queries=8, num_layers=num_layers, num_heads=2, feedforward_dim=32
        ),
        inference=InferenceConfig(
            short_edge=64, long_edge=96, score_threshold=0.0, instance_threshold=0.0, overlap_threshold=0.0
        ),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config, len(SCENE_CATEGORIES))
        with torch.no_grad():  # larger logits, so that masks block attention
            dict(model.named_parameters())["transformer_decoder.mask_head.2.weight"].mul_(4)
    model.categories = SCENE_CATEGORIES
    return model.eval()


@pytest.fixture(scope="module")
def model() -> Mask2Former:
    """A model of one layer, since a file of three takes half as long again; a slow test attends to each stride."""
    return make_model(1)


@pytest.fixture(scope="module")
def simple_model() -> Mask2Former:
    """A model without deformable attention, for tests of what OpenVINO makes of a file.

    The packaged models, in slow tests, have it.
    """
    return make_model(1, FPNConfig(dim=32, mask_dim=32))


@pytest.fixture(scope="module")
def of_any_size(model: Mask2Former, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    Predictor(model, "cpu")  # which lays the model out with channels last
    return export(model, tmp_path_factory.mktemp("onnx") / "model.onnx", batch=None)


@pytest.fixture(scope="module")
def of_one_size(simple_model: Mask2Former, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    pytest.importorskip("openvino")
    return export(simple_model, tmp_path_factory.mktemp("openvino") / "model.xml", size=(64, 96))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def test_the_graph_holds_standard_operators_only(of_any_size: Exported) -> None:
    proto = onnx.load(of_any_size.path)
    onnx.checker.check_model(proto, full_check=True)
    operators = Counter((node.domain, node.op_type) for node in proto.graph.node)
    assert {domain for domain, _ in operators} == {""}
    assert "GridSample" not in {name for _, name in operators}
    assert [entry.version for entry in proto.opset_import if entry.domain == ""] == [18]
    assert not proto.functions
    assert of_any_size.difference < 1e-4
    assert of_any_size.num_bytes == of_any_size.path.stat().st_size


def test_a_predictor_gives_the_results_of_the_model(
    model: Mask2Former, of_any_size: Exported, images: list[np.ndarray]
) -> None:
    expected, found = Predictor(model, "cpu"), Predictor.from_pretrained(of_any_size.path)
    assert found.categories == expected.categories
    assert found.settings == expected.settings
    for task in TASKS:
        for one, other in zip(
            expected.stream(images[:3], task, batch_size=2), found.stream(images[:3], task, batch_size=2), strict=True
        ):
            _assert_alike(one, other)


def _assert_alike(one: Any, other: Any) -> None:
    """Check that two results are equal within rounding."""
    for name in ("ids", "labels", "masks"):
        if hasattr(one, name):
            here, there = getattr(one, name), getattr(other, name)
            assert here.shape == there.shape
            assert (here != there).mean() < 2e-3
    if hasattr(one, "scores"):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


def test_logits_are_those_of_the_model_at_any_size_and_batch(
    model: Mask2Former, of_any_size: Exported, images: list[np.ndarray]
) -> None:
    _assert_same_logits(model, of_any_size.path, images)


@pytest.mark.slow
def test_logits_with_attention_to_maps_of_each_stride(tmp_path: Path, images: list[np.ndarray]) -> None:
    model = make_model(3)
    _assert_same_logits(model, export(model, tmp_path / "model.onnx", batch=None).path, images)


def _assert_same_logits(model: Mask2Former, path: Path, images: list[np.ndarray]) -> None:
    network = open_exported(path)
    pixels = [torch.from_numpy(image).permute(2, 0, 1) for image in images[:3]]
    with torch.no_grad():
        output = model(pixels, aux_outputs=False)
    for index, prediction in enumerate(network(pixels)):
        assert (prediction.image_size, prediction.padded_size) == (SIZES[index], (128, 96))
        torch.testing.assert_close(prediction.class_logits, output.class_logits[index], rtol=0, atol=1e-4)
        torch.testing.assert_close(prediction.mask_logits, output.mask_logits[index], rtol=0, atol=1e-3)
        torch.testing.assert_close(prediction.query_features, output.query_features[index], rtol=0, atol=1e-4)


def test_small_images_are_padded_to_the_least_side(of_any_size: Exported, images: list[np.ndarray]) -> None:
    [prediction] = open_exported(of_any_size.path)([torch.from_numpy(images[3]).permute(2, 0, 1)])
    assert (prediction.image_size, prediction.padded_size) == ((20, 20), (64, 64))


def test_a_file_of_one_size_shows_every_image_in_it(
    simple_model: Mask2Former, of_one_size: Exported, images: list[np.ndarray]
) -> None:
    found, expected = Predictor.from_pretrained(of_one_size.path), Predictor(simple_model, "cpu")
    with collect_notes() as notes:
        results = [found(image, "panoptic", short_edge=64, long_edge=96) for image in images]
    assert [result.size_hw for result in results] == list(SIZES)
    assert {note.example for note in notes} == {"100x40"}  # 96x38 pixels for the network, and 64 are the most
    assert "at most 64x96 pixels" in notes[0].message
    _assert_alike(results[0], expected(images[0], "panoptic"))  # which is 64x96 in both
    for index in (0, 1):  # the second is resized to a smaller size, in a clip as well
        [frame] = found.track([images[index]], "panoptic")
        assert frame.panoptic is not None
        np.testing.assert_array_equal(frame.panoptic.ids > 0, results[index].ids > 0)
    with pytest.raises(UserError, match=r"supports images of up to 64x96 .*, got 80x90"):
        found.network([torch.zeros((3, 80, 90), dtype=torch.uint8)])
    with pytest.raises(UserError, match="expects images, got a clip of 2"):
        found.network([torch.zeros((2, 3, 64, 64), dtype=torch.uint8)])


def test_files_say_what_they_are(of_any_size: Exported, of_one_size: Exported, model: Mask2Former) -> None:
    info = open_exported(of_any_size.path).info
    assert info == of_any_size.info
    assert (info.height, info.width, info.batch, info.frames) == (None, None, None, None)
    assert info.model.categories == model.categories
    assert open_exported(of_one_size.path).info == of_one_size.info
    assert (of_one_size.info.height, of_one_size.info.width, of_one_size.info.batch) == (64, 96, 1)
    networks = [open_exported(done.path) for done in (of_any_size, of_one_size)]
    assert [network.num_bytes for network in networks] == [of_any_size.num_bytes, of_one_size.num_bytes]
    before = [network.weights_sha256() for network in networks]
    assert len(set(before)) == 2
    of_any_size.path.with_suffix(".bin").write_bytes(b"of another file")  # of an OpenVINO file of the same name
    assert open_exported(of_any_size.path).weights_sha256() == before[0]


def test_the_command_line_runs_files(of_any_size: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.full((40, 60, 3), 99, np.uint8)).save(tmp_path / "a.png")
    arguments = ["predict", str(tmp_path / "a.png"), "--model", str(of_any_size.path), "--task", "semantic"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/a.json").read_text())["task"] == "semantic"
    capsys.readouterr()
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    assert "1 skipped" in capsys.readouterr().out  # the same file is the same model


def test_openvino_computes_in_the_precision_that_is_named(of_one_size: Exported) -> None:
    assert open_exported(of_one_size.path).dtype == torch.float32
    assert open_exported(of_one_size.path, dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(UserError, match="float32 or bfloat16"):
        open_exported(of_one_size.path, dtype=torch.float16)


def test_files_are_compared_with_their_model(
    model: Mask2Former, of_any_size: Exported, tmp_path: Path, images: list[np.ndarray]
) -> None:
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    for task in TASKS:
        report = verify_export([of_any_size.path], model, images=[tmp_path / "a.png"], task=task, calls=1, memory=False)
        ours, theirs = report.rows
        assert (ours.runtime, theirs.runtime, ours.differing) == ("torch", "onnxruntime", None)
        assert theirs.differing is not None
        assert theirs.differing < 1
        assert theirs.num_bytes == of_any_size.num_bytes
    other = Predictor(model, "cpu", categories=Categories.from_names(list(map(str, range(len(SCENE_CATEGORIES))))))
    with pytest.raises(UserError, match="has other classes or settings than the model"):
        verify_export([of_any_size.path], other)
    with pytest.raises(UserError, match="expected a list of exported files"):
        verify_export("model.onnx", model)
    with pytest.raises(UserError, match="is not an exported file"):
        verify_export(["model.pt"], model)


def test_memory_and_metrics_are_measured_and_drawn(model: Mask2Former, of_any_size: Exported, tmp_path: Path) -> None:
    data = DataSource("scenes", limit=1)
    report = verify_export([of_any_size.path], model, data=data, task="semantic", calls=1)
    ours, theirs = report.rows
    assert ours.peak_bytes is None  # the model is an object
    assert theirs.peak_bytes is not None
    assert theirs.num_bytes < theirs.peak_bytes < 2**30
    assert all("semantic/mIoU" in row.metrics for row in report.rows)
    draw_report(report, tmp_path / "table.png")
    with Image.open(tmp_path / "table.png") as drawn:
        assert min(drawn.size) > 100
    with pytest.raises(UserError, match=r"expected a file that ends in \.png"):
        draw_report(report, tmp_path / "table.txt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "model.pt"}, "expected the name of a file ending in .onnx or .xml"),
        ({"path": "model.onnx", "to": "openvino"}, "ending in .xml"),
        ({"path": "model.onnx", "to": "coreml"}, "no such format; expected onnx, openvino, pt2, triton"),
        ({"path": "model.onnx", "size": (0, 64)}, "size 0x64: expected height and width"),
        ({"path": "model.onnx", "size": (60_000, 60_000)}, "pixels"),
        ({"path": "model.onnx", "batch": 0}, "batch 0: expected 1 to"),
        ({"path": "model.onnx", "recipe": "coco-panoptic/r50"}, "applies to loading a model"),
        ({"path": "model.pt2", "dtype": "float16"}, "dtype float16: expected float32 for weights in pt2"),
        ({"path": "model.onnx", "dtype": "int4"}, "dtype int4: expected float32, float16, int8 for weights in onnx"),
        ({"path": "model.onnx", "dtype": "int8"}, "dtype int8 and calibration, images .* go together"),
        ({"path": "model.onnx", "calibration": ["x"]}, "dtype int8 and calibration, images .* go together"),
        (
            {"path": "model.onnx", "dtype": "int8", "calibration": ["x"], "results": "panoptic"},
            "dtype int8 applies to files that return logits of images",
        ),
        ({"path": "."}, "expected the name of a file"),
        ({"path": "a b", "to": "triton"}, "is the name of the model for Triton; expected letters"),
    ],
)
def test_wrong_requests_are_refused(model: Mask2Former, tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        export(model, **{**arguments, "path": tmp_path / arguments["path"]})
    assert not list(tmp_path.iterdir())


def test_what_is_no_export_is_refused(of_any_size: Exported, tmp_path: Path) -> None:
    proto = onnx.load(of_any_size.path)
    for name, change, message in (
        ("bare", lambda copy: copy.metadata_props.clear(), "not a model that was exported by this package"),
        (
            "later",
            lambda copy: onnx.helper.set_model_props(copy, {"mask2former": '{"format": 2}'}),
            "has format 2, expected 1",
        ),
        (
            "text",
            lambda copy: onnx.helper.set_model_props(copy, {"mask2former": "{"}),
            r"the metadata of .*text\.onnx is not JSON",
        ),
    ):
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        change(copy)
        onnx.save(copy, tmp_path / f"{name}.onnx")
        with pytest.raises(UserError, match=message):
            Predictor.from_pretrained(tmp_path / f"{name}.onnx")
    (tmp_path / "broken.onnx").write_bytes(of_any_size.path.read_bytes()[:1000])
    with pytest.raises(UserError, match="onnxruntime cannot read it"):
        Predictor.from_pretrained(tmp_path / "broken.onnx")
    (tmp_path / "broken.xml").write_text("<net/>")
    with pytest.raises(UserError, match="OpenVINO cannot read it"):
        Predictor.from_pretrained(tmp_path / "broken.xml")
    with pytest.raises(UserError, match=r"there is no exported model '.*none.onnx'; check the path"):
        Predictor.from_pretrained(tmp_path / "none.onnx")
    with pytest.raises(UserError, match="leave out compile, which applies to other models"):
        Predictor.from_pretrained(of_any_size.path, compile=True)
    with pytest.raises(UserError, match="leave out dtype"):
        Predictor.from_pretrained(of_any_size.path, dtype="bfloat16")


def test_metadata_are_checked() -> None:
    good = json.loads(ExportedInfo(*_info()).to_json())
    for change, message in (
        ({"height": -1}, "height -1"),
        ({"batch": True}, "batch True"),
        ({"size_divisibility": None}, "size_divisibility"),
        ({"model": 3}, "lacks the model"),
    ):
        with pytest.raises(UserError, match=message):
            ExportedInfo.from_json(json.dumps({**good, **change}), "x.onnx")


def _info() -> tuple:
    from mask2former.structures import ModelInfo

    return ModelInfo(None, InferenceConfig(), Categories.from_names(["a"])), 64, 64, 1, None, 32, "0"


@pytest.mark.slow  # minutes of tracing
@pytest.mark.parametrize("name", ["scenes-tiny", "nuclei"])
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_packaged_models(name: str, suffix: str, tmp_path: Path) -> None:
    done = export(name, tmp_path / f"model{suffix}")
    assert done.difference < 1e-4


def test_swin_needs_a_size(tmp_path: Path) -> None:
    model = build_model(ModelConfig(backbone=SWIN), 1)
    model.categories = Categories.from_names(["cat"])
    with pytest.raises(UserError, match="give the size that images must fit into"):
        export(model, tmp_path / "model.onnx")


def test_the_config_for_triton_is_one_of_its_schema(of_any_size: Exported) -> None:
    tensors = onnx_tensors(of_any_size.path)
    for batch, most, first in ((None, 8, []), (1, 0, [1])):
        shapes = [tensor._replace(shape=(batch, *tensor.shape[1:])) for tensor in tensors]
        info = replace(of_any_size.info, batch=batch)
        config = _model_config(triton_config("street", shapes, info))
        assert (config.name, config.backend, config.max_batch_size) == ("street", "onnxruntime", most)
        assert config.HasField("dynamic_batching") == (batch is None)
        assert {entry.name: (entry.data_type, list(entry.dims)) for entry in config.input} == {
            "images": (2, [*first, 3, -1, -1]),
            "sizes": (9, [*first, 2]),
        }
        assert {entry.name: (entry.data_type, list(entry.dims)) for entry in config.output} == {
            "class_logits": (11, [*first, 8, len(SCENE_CATEGORIES) + 1]),
            "mask_logits": (11, [*first, 8, -1, -1]),
            "query_features": (11, [*first, 8, 32]),
        }
        assert ExportedInfo.from_json(config.parameters["mask2former"].string_value, "it") == info


def _model_config(written: str) -> Any:
    """A configuration parsed as Triton's ``inference.ModelConfig``, with the fields and numbers of its .proto file."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    types = file.enum_type.add(name="DataType")
    for name, number in {"INVALID": 0, "UINT8": 2, "INT32": 8, "INT64": 9, "FP32": 11}.items():
        types.value.add(name=f"TYPE_{name}", number=number)
    text, integer, long, enum, message = 9, 5, 3, 14, 11
    side = [("name", 1, text, ""), ("data_type", 2, enum, "DataType")]
    for name, fields in {
        "ModelInput": [*side, ("dims", 4, long, "*")],
        "ModelOutput": [*side, ("dims", 3, long, "*")],
        "ModelDynamicBatching": [],
        "ModelParameter": [("string_value", 1, text, "")],
        "ModelConfig": [
            ("name", 1, text, ""),
            ("backend", 17, text, ""),
            ("max_batch_size", 4, integer, ""),
            ("input", 5, message, "*ModelInput"),
            ("output", 6, message, "*ModelOutput"),
            ("dynamic_batching", 11, message, "ModelDynamicBatching"),
            ("parameters", 14, message, "*ModelConfig.ParametersEntry"),
        ],
    }.items():
        made = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            label = 3 if of.startswith("*") else 1
            kind_name = f".inference.{of.lstrip('*')}" if kind in (enum, message) else None
            made.field.add(name=field, number=number, type=kind, label=label, type_name=kind_name)
        if name == "ModelConfig":
            entry = made.nested_type.add(name="ParametersEntry")
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, type=text, label=1)
            entry.field.add(name="value", number=2, type=message, label=1, type_name=".inference.ModelParameter")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    config: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))
    return text_format.Parse(written, config())


def test_no_compiler_is_one_sentence(model: Mask2Former, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    with pytest.raises(NoCompilerError, match=r"needs a C\+\+ compiler, but none was found; install g\+\+ or clang"):
        export(model, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # minutes of compiling
@pytest.mark.parametrize("size", [(64, 96), None])
def test_a_package_of_compiled_code(
    model: Mask2Former, tmp_path: Path, images: list[np.ndarray], size: tuple[int, int] | None
) -> None:
    done = export(model, tmp_path / "model.pt2", size=size, batch=None if size is None else 1)
    assert done.difference < 1e-4
    assert done.num_bytes == done.path.stat().st_size
    with pytest.raises(UserError, match="contains compiled code"):
        Predictor.from_pretrained(done.path)
    found, expected = Predictor.from_pretrained(done.path, trust_code=True), Predictor(model, "cpu")
    _assert_alike(found(images[0], "panoptic"), expected(images[0], "panoptic"))
    assert open_exported(done.path, trust_code=True).info == done.info
    report = verify_export([done.path], model, task="semantic", calls=1, trust_code=True)
    assert (report.rows[1].runtime, report.rows[1].dtype) == ("aotinductor", "float32")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_weights_in_fewer_bytes(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A trained model is used: with random weights, rounding moves whole masks across the threshold of attention."""
    model = Mask2Former.from_pretrained("scenes-tiny")
    scenes = Scenes((64, 96), seed=1, length=3)
    (tmp_path / "images").mkdir()
    for index in range(3):
        Image.fromarray(scenes.image(index)).save(tmp_path / f"images/{index}.png")
    half = export(model, tmp_path / f"half{suffix}", dtype="float16")
    assert half.difference < 3e-3  # writing allows ten times as much
    arguments = ["export", "scenes-tiny", str(tmp_path / f"small{suffix}"), "--dtype", "int8", "--data", "scenes"]
    assert main([*arguments, "--calibration", str(tmp_path / "images")]) == 0
    shown = capsys.readouterr().out
    assert "panoptic/PQ" in shown
    small = open_exported(tmp_path / f"small{suffix}")
    assert small.num_bytes < 8e6  # 15 to 16 MB in float32
    report = verify_export([half.path], model, images=[tmp_path / "images"], calls=1, memory=False)
    assert report.rows[1].differing is not None
    assert report.rows[1].differing < 5


@pytest.mark.slow
def test_a_folder_for_triton(model: Mask2Former, tmp_path: Path, images: list[np.ndarray]) -> None:
    done = export(model, tmp_path / "repository/street", "triton", size=(64, 96))
    assert sorted(path.relative_to(done.path).as_posix() for path in done.path.rglob("*.*")) == [
        "1/model.onnx",
        "config.pbtxt",
    ]
    config = _model_config((done.path / "config.pbtxt").read_text())
    assert [list(entry.dims) for entry in config.output if entry.name == "mask_logits"] == [[1, 8, 16, 24]]
    assert Predictor.from_pretrained(done.path / "1/model.onnx")(images[0], "semantic").size_hw == SIZES[0]
    with pytest.raises(UserError, match="exists; expected a new folder"):
        export(model, done.path, "triton")


@pytest.mark.slow
def test_swin(model: Mask2Former, tmp_path: Path) -> None:
    config = ModelConfig(**{**dict(model.info.known_architecture), "backbone": SWIN}, inference=model.info.inference)
    swin = build_model(config, len(SCENE_CATEGORIES))
    swin.categories = model.categories
    done = export(swin.eval(), tmp_path / "model.onnx", size=(64, 96), batch=2)
    assert done.difference < 1e-4
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    expected = Predictor(swin, "cpu")(image, "panoptic")
    _assert_alike(Predictor.from_pretrained(done.path)(image, "panoptic"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_results_inside_the_file(model: Mask2Former, tmp_path: Path, task: Any, suffix: str) -> None:
    done = export(model, tmp_path / f"model{suffix}", results=task, batch=None)
    assert done.difference < 0.02
    with pytest.raises(UserError, match=f"returns {task} results, for programs without this package"):
        Predictor.from_pretrained(done.path)


@pytest.mark.slow
def test_a_model_of_clips(tmp_path: Path) -> None:
    config = ModelConfig(
        backbone=TimmConfig(model="resnet10t", norm="batch", kwargs={"channels": [16, 24, 32, 40]}),
        pixel_decoder=MSDeformAttnConfig(dim=32, mask_dim=32, num_layers=1, num_heads=2, feedforward_dim=32),
        transformer_decoder=MaskedDecoderConfig(
            dim=32, num_queries=8, num_layers=3, num_heads=2, feedforward_dim=32, position_encoding="3d"
        ),
        inference=InferenceConfig(tasks=("instance",), short_edge=64, long_edge=96, instance_threshold=0.0),
    )
    model = build_model(config, 2).eval()
    model.categories = Categories.from_names(["cat", "dog"])
    done = export(model, tmp_path / "clips.onnx", frames=3)
    frames = [np.random.default_rng(index).integers(0, 256, (60, 90, 3), dtype=np.uint8) for index in range(3)]
    expected, found = Predictor(model, "cpu").clip(frames), Predictor.from_pretrained(done.path).clip(frames)
    assert (expected.masks != found.masks).mean() < 2e-3
    np.testing.assert_allclose(expected.scores, found.scores, atol=1e-4)
    fixed = Predictor.from_pretrained(export(model, tmp_path / "fixed.onnx", frames=3, size=(64, 64)).path)
    assert fixed.clip(frames).size_hw == (60, 90)  # resized to 43x64
    assert [frame.index for frame in fixed.track([*frames, *frames], window=3)] == list(range(6))
