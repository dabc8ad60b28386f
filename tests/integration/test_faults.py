"""Wrong requests for every format: one line on standard error, the right exit code, and no files left behind."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from mask2former.cli import main
from mask2former.config import RunConfig


class Files:
    """A folder with a valid image, model and run file, from which tests make invalid ones."""

    def __init__(self, folder: Path, model: Path, run: RunConfig) -> None:
        self.folder = folder
        self.model = str(model)
        self.run = run
        self.output = str(folder / "out")
        pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "good.png")
        Image.fromarray(pixels).save(folder / "good.jpg", quality=90)
        self.good = str(folder / "good.png")

    def file(self, name: str, content: bytes | str) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def cut(self, name: str, share: float) -> str:
        """Write the first ``share`` of a valid image."""
        content = (self.folder / name).read_bytes()
        return self.file(f"cut-{name}", content[: int(share * len(content))])

    def run_file(self, *changes: tuple[str, Any]) -> str:
        """Write the valid run file with dotted keys changed."""
        values = self.run.model_dump(mode="json")
        values["output"] = str(self.folder / "run")
        for key, value in changes:
            node = values
            *parents, leaf = key.split(".")
            for parent in parents:
                node = node[parent]
            node[leaf] = value
        return self.file("run.yaml", yaml.safe_dump(values))

    def state(self) -> dict[str, torch.Tensor]:
        with safe_open(self.model, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def checkpoint(self, *, state: dict[str, torch.Tensor] | None = None, **metadata: str | None) -> str:
        """Write the valid checkpoint with other weights or header entries; None removes one."""
        with safe_open(self.model, "pt") as file:
            header = dict(file.metadata())
        for key, value in metadata.items():
            if value is None:
                del header[key]
            else:
                header[key] = value
        path = self.folder / "changed.safetensors"
        save_file(self.state() if state is None else state, path, header)
        return str(path)

    def config(self) -> dict[str, Any]:
        with safe_open(self.model, "pt") as file:
            return json.loads(file.metadata()["config"])

    # commands

    def predict(self, *sources: str, **options: Any) -> list[str]:
        given = {"model": self.model, "output": self.output, **options}
        words = [word for name, value in given.items() if value is not None for word in (_option(name), str(value))]
        return ["predict", *sources, *words]

    def load(self, model: str, **options: Any) -> list[str]:
        return self.predict(self.good, model=model, **options)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _huge_png() -> bytes:
    """A PNG whose header states 100,000 x 100,000 pixels, with hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


class _Attack:
    """Makes a folder if it is unpickled without restrictions."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


def _attack(files: Files) -> str:
    return files.file("evil.pkl", pickle.dumps({"model": {"a": _Attack(str(files.folder / "attacked"))}}))


def _attack_in_zip(files: Files) -> str:
    torch.save({"model": {"a": _Attack(str(files.folder / "attacked"))}}, files.folder / "evil.pth")
    return str(files.folder / "evil.pth")


def _without(state: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    assert name in state
    return {key: value for key, value in state.items() if key != name}


def _torch_file(files: Files, values: Any) -> str:
    torch.save(values, files.folder / "file.pth")
    return str(files.folder / "file.pth")


def _folder(files: Files, name: str) -> str:
    (files.folder / name).mkdir()
    return str(files.folder / name)


# name: (the command, a word that the message contains)
FAULTS: dict[str, tuple[Callable[[Files], list[str]], str]] = {
    # images
    "image: missing": (lambda p: p.predict(str(p.folder / "none.jpg")), "none.jpg"),
    "image: empty file": (lambda p: p.predict(p.file("x.png", b"")), "empty"),
    "image: text": (lambda p: p.predict(p.file("x.jpg", "hello")), "not an image"),
    "image: web page": (lambda p: p.predict(p.file("x.jpg", "<html></html>")), "not an image"),
    "image: png cut short": (lambda p: p.predict(p.cut("good.png", 0.6)), "cut-good.png"),
    "image: jpeg cut short": (lambda p: p.predict(p.cut("good.jpg", 0.6)), "cut-good.jpg"),
    "image: header only": (lambda p: p.predict(p.cut("good.jpg", 0.1)), "cut-good.jpg"),
    "image: absurd size": (lambda p: p.predict(p.file("x.png", _huge_png())), "x.png"),
    "image: array file": (lambda p: p.predict(p.file("x.npy", b"\x93NUMPY\x01\0v\0{}")), "not an image"),
    "image: all broken": (lambda p: p.predict(p.file("x.png", b""), p.file("y.png", b"")), "no image could be"),
    "image: folder without any": (lambda p: p.predict(_folder(p, "bare")), "contains no images"),
    # checkpoints
    "checkpoint: missing": (lambda p: p.load(str(p.folder / "none.safetensors")), "none.safetensors"),
    "checkpoint: empty file": (lambda p: p.load(p.file("x.safetensors", b"")), "empty"),
    "checkpoint: text": (lambda p: p.load(p.file("x.pkl", "weights, honestly")), "x.pkl"),
    "checkpoint: web page": (lambda p: p.load(p.file("x.pkl", "<!DOCTYPE html>")), "web page"),
    "checkpoint: lfs pointer": (
        lambda p: p.load(p.file("x.safetensors", "version https://git-lfs.github.com/spec/v1\n")),
        "LFS",
    ),
    "checkpoint: image": (lambda p: p.load(p.good), "good.png"),
    "checkpoint: cut short": (
        lambda p: p.load(p.file("x.safetensors", Path(p.model).read_bytes()[:5000])),
        "x.safetensors",
    ),
    "checkpoint: cut in the header": (
        lambda p: p.load(p.file("x.safetensors", Path(p.model).read_bytes()[:100])),
        "x.safetensors",
    ),
    "checkpoint: of something else": (lambda p: p.load(p.checkpoint(format="pt")), "without its settings"),
    "checkpoint: from the future": (lambda p: p.load(p.checkpoint(format_version="99")), "version is '99'"),
    "checkpoint: no configuration": (lambda p: p.load(p.checkpoint(config=None)), "'config'"),
    "checkpoint: damaged configuration": (lambda p: p.load(p.checkpoint(config="{")), "'config'"),
    "checkpoint: unknown setting": (
        lambda p: p.load(p.checkpoint(config=json.dumps(p.config() | {"neck": "fpn"}))),
        "unknown key 'neck'",
    ),
    "checkpoint: no such backbone": (
        lambda p: p.load(
            p.checkpoint(config=json.dumps(p.config() | {"backbone": {"name": "timm", "model": "resnet7"}}))
        ),
        "resnet7",
    ),
    "checkpoint: damaged classes": (lambda p: p.load(p.checkpoint(categories='{"categories": [1]}')), "categories"),
    "checkpoint: other classes": (
        lambda p: p.load(p.checkpoint(categories='{"categories": [{"id": 1, "name": "cat"}]}')),
        "mis-shaped",
    ),
    "checkpoint: missing entry": (
        lambda p: p.load(p.checkpoint(state=_without(p.state(), next(iter(p.state()))))),
        "missing",
    ),
    "checkpoint: unexpected entry": (
        lambda p: p.load(p.checkpoint(state=p.state() | {"neck.weight": torch.zeros(1)})),
        "neck.weight",
    ),
    "checkpoint: mis-shaped entry": (
        lambda p: p.load(p.checkpoint(state={n: v[:1] if v.dim() == 4 else v for n, v in p.state().items()})),
        "mis-shaped",
    ),
    "checkpoint: code in a pickle": (lambda p: p.load(_attack(p)), "mkdir"),
    "checkpoint: code in a zip": (lambda p: p.load(_attack_in_zip(p)), "mkdir"),
    "checkpoint: pickle cut short": (lambda p: p.load(p.file("x.pkl", pickle.dumps({"model": {}})[:-3])), "x.pkl"),
    "checkpoint: pickle of a list": (lambda p: p.load(p.file("x.pkl", pickle.dumps([1, 2]))), "x.pkl"),
    "checkpoint: zip of something else": (lambda p: p.load(p.file("x.pth", b"PK\x05\x06" + bytes(18))), "x.pth"),
    "checkpoint: another network": (lambda p: p.load(_torch_file(p, {"conv.weight": torch.ones(2)})), "conv.weight"),
    "checkpoint: folder without weights": (lambda p: p.load(_folder(p, "bare")), "model.safetensors"),
    "checkpoint: published, without a network": (lambda p: p.load("coco-panoptic/r50"), "put it at /nowhere/model_fin"),
    "checkpoint: misspelt published name": (lambda p: p.load("coco-panoptic/r5O"), "did you mean coco-panoptic/r50"),
    "checkpoint: on the hub, without a network": (
        lambda p: p.load("me/pets"),
        "'me/pets' is not an existing file or folder",
    ),
    "checkpoint: misspelt recipe": (lambda p: p.load(_attack(p), recipe="coco-panoptic/r5O"), "coco-panoptic/r50"),
    "checkpoint: recipe with a file of ours": (lambda p: p.load(p.model, recipe="coco-panoptic/r50"), "recipe"),
    # run files
    "run file: missing": (lambda p: ["train", str(p.folder / "none.yaml")], "none.yaml"),
    "run file: folder": (lambda p: ["train", str(p.folder)], "is a folder"),
    "run file: empty": (lambda p: ["train", p.file("r.yaml", "")], "mapping"),
    "run file: binary": (lambda p: ["train", p.good], "good.png"),
    "run file: not yaml": (lambda p: ["train", p.file("r.yaml", "data: [1,\nseed: 2")], "line 2"),
    "run file: list": (lambda p: ["train", p.file("r.yaml", "- 1")], "mapping"),
    "run file: unknown key": (lambda p: ["train", p.run_file(("optim.momentum", 0.9))], "unknown key 'optim.momentum'"),
    "run file: wrong type": (lambda p: ["train", p.run_file(("trainer.max_steps", "many"))], "trainer.max_steps"),
    "run file: out of range": (lambda p: ["train", p.run_file(("optim.lr", -1))], "optim.lr"),
    "run file: unknown kind": (lambda p: ["train", p.run_file(("model.backbone.name", "vgg"))], "backbone"),
    "run file: contradiction": (lambda p: ["train", p.run_file(("model.pixel_decoder.dim", 128))], "must be equal"),
    "run file: uneven batch": (
        lambda p: ["train", p.run_file(("data.batch_size_per_device", 3))],
        "batch_size_per_device",
    ),
    "run file: monitors what is not measured": (
        lambda p: ["train", p.run_file(("evaluation.monitor", "instance/AP"))],
        "evaluation.monitor",
    ),
    "run file: no such backbone": (lambda p: ["train", p.run_file(("model.backbone.model", "resnet7"))], "resnet7"),
    "run file: initial weights missing": (lambda p: ["train", p.run_file(("model.init", "none.pkl"))], "none.pkl"),
    "run file: output is a file": (lambda p: ["train", p.run_file(("output", p.good))], "good.png"),
    "override: no equals sign": (lambda p: ["train", p.run_file(), "seed"], "key.sub=value"),
    "override: through a value": (lambda p: ["train", p.run_file(), "seed.x=1"], "seed"),
    "override: not yaml": (lambda p: ["train", p.run_file(), "seed=[1"], "YAML"),
    "override: unknown key": (lambda p: ["train", p.run_file(), "optim.rate=1"], "optim.rate"),
    "resume: nothing there": (
        lambda p: ["train", p.run_file(), "--resume", str(p.folder / "none")],
        "nothing to resume",
    ),
    # arguments
    "argument: no such command": (lambda p: ["segment", p.good], "segment"),
    "argument: no such option": (lambda p: [*p.predict(p.good), "--fast"], "--fast"),
    "argument: no sources": (lambda p: p.predict(), "SOURCE"),
    "argument: no output": (lambda p: p.predict(p.good, output=None), "output"),
    "argument: no such task": (lambda p: p.predict(p.good, task="depth"), "depth"),
    "argument: no such dtype": (lambda p: p.predict(p.good, dtype="int8"), "int8"),
    "argument: no such device": (lambda p: p.predict(p.good, device="gpu"), "gpu"),
    "argument: device not here": (lambda p: p.predict(p.good, device="cuda:99"), "cuda:99"),
    "argument: no number": (lambda p: p.predict(p.good, max_instances="few"), "--max-instances"),
    "argument: threshold above 1": (lambda p: p.predict(p.good, score_threshold=1.5), "--score-threshold is"),
    "argument: threshold not a number": (lambda p: p.predict(p.good, overlap_threshold="nan"), "--overlap-threshold"),
    "argument: negative edge": (lambda p: p.predict(p.good, short_edge=-1), "--short-edge is"),
    "argument: no instances": (lambda p: p.predict(p.good, max_instances=0), "--max-instances is"),
    "argument: output is a file": (lambda p: p.predict(p.good, output=p.good), "is a file"),
    "argument: output is the source": (lambda p: p.predict(str(p.folder), output=str(p.folder)), "sources"),
    "argument: output would hit the image": (lambda p: p.predict(p.good, output=str(p.folder)), "overwrite"),
    "argument: coco is a folder": (lambda p: p.predict(p.good, coco=str(p.folder)), "is a folder"),
    "argument: no such recipe": (lambda p: ["recipe", "scenes-huge"], "scenes-tiny"),
    "argument: no scenes": (lambda p: ["evaluate", p.model, "--scenes", "0"], "scenes"),
    "argument: negative seed": (lambda p: ["demo", "--seed", "-1"], "seed"),
    "argument: evaluated task unknown": (lambda p: ["evaluate", p.model, "--task", "depth"], "depth"),
    "argument: demo without its model": (lambda p: ["demo", "--model", p.good, "--output", p.output], "good.png"),
    "argument: demo output is a file": (lambda p: ["demo", "--model", p.model, "--output", p.good], "is a file"),
    "argument: inspected image": (lambda p: ["inspect", p.good], "good.png"),
}


def _snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def files(tmp_path: Path, tiny_file: Path, tiny_run: RunConfig) -> Files:
    return Files(tmp_path, tiny_file, tiny_run)


@pytest.mark.filterwarnings("default")  # Lightning gives advice as warnings
@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_request_gets_one_line(
    files: Files, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASK2FORMER_OFFLINE", "1")
    monkeypatch.setenv("MASK2FORMER_CACHE", "/nowhere")
    typed, expected = FAULTS[name]
    words = typed(files)
    before = _snapshot(files.folder)
    code = main(words)
    captured = capsys.readouterr()
    assert code == 2, captured
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert "Traceback" not in captured.out + captured.err
    assert _snapshot(files.folder) == before


@pytest.mark.parametrize("content", [b"", b"hello", _huge_png()], ids=["empty", "text", "absurd size"])
def test_a_broken_image_among_good_ones_is_reported_at_the_end(
    files: Files, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = files.file("broken.png", content)
    assert main(files.predict(broken, files.good, task="semantic")) == 1
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: 1 image of 2 failed: ")
    assert broken in lines[0]
    assert "1 image segmented" in captured.out
    assert {path.name for path in Path(files.output).iterdir()} == {"good.json", "good.png", "good_labels.png"}


def test_a_sound_request_for_the_same_files_succeeds(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a fault, a request for these files succeeds; otherwise the faults above would prove nothing."""
    assert main(files.predict(files.good, model=files.checkpoint())) == 0
    assert capsys.readouterr().err == ""
