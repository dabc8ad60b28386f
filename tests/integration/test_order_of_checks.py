"""Commands check the request first, then what is installed, and only then do they download and load."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mask2former.cli import main

# the missing module, its extra, a command that is right otherwise, words that make it wrong, and the message on those
RUN = "output: out"
COMMANDS = [
    ("lightning", "train", ["train", "run.yaml"], ["seed=x"], "override 'seed=x': 'seed' is 'x'"),
    ("lightning", "train", ["train", "run.yaml"], ["output=run.yaml"], "run.yaml"),
    ("lightning", "train", ["find-lr", "run.yaml"], ["seed=x"], "override 'seed=x': 'seed' is 'x'"),
    (
        "lightning",
        "train",
        ["find-lr", "run.yaml"],
        ["--steps", "3"],
        "expected ascending rates above 0 and at least 10",
    ),
    ("lightning", "train", ["find-lr", "run.yaml"], ["-o", "a.jpg"], "'a.jpg': expected a file that ends in .png"),
    ("matplotlib", "report", ["find-lr", "run.yaml"], ["-o", "none.yaml/a.png"], "none.yaml"),
    ("lightning", "train", ["ablate", "scenes"], ["seed=x"], "seed is set for each training"),
    ("lightning", "train", ["ablate", "scenes"], ["optim.lr=x"], "override 'optim.lr=x': 'optim.lr' is 'x'"),
    ("lightning", "train", ["ablate", "scenes"], ["--row", "attention-ful"], "no ablation 'attention-ful'"),
    ("lightning", "train", ["ablate", "scenes"], ["-o", "none.yaml"], "none.yaml"),
    ("gradio", "web", ["web", "scenes-tiny"], ["scenes-tiny"], "expected one or more different models"),
    (
        "ray",
        "ray",
        ["predict", "a", "-o", "b", "-m", "scenes-tiny", "--ray"],
        ["--image-timeout", "0"],
        "--image-timeout",
    ),
    ("fastapi", "serve", ["serve", "scenes-tiny"], ["--replicas", "2"], "--replicas applies to replicas on Ray Serve"),
    ("onnx", "export", ["export", "scenes-tiny", "a.onnx"], ["--dtype", "int8"], "--dtype int8 and --calibration"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "none.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("module", "extra", "command", "wrong", "words"), COMMANDS)
def test_the_request_is_checked_first(
    module: str,
    extra: str,
    command: list[str],
    wrong: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for loaded in [name for name in sys.modules if name.startswith("mask2former.serve")]:
        monkeypatch.delitem(sys.modules, loaded)
    assert main([*command, *wrong]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("module", "extra", "command"),
    [*{module: (module, extra, command) for module, extra, command, *_ in COMMANDS}.values()],
)
def test_what_is_missing_is_named_before_a_model_is_loaded(
    module: str, extra: str, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError

    for name in ("open_checkpoint", "from_pretrained"):
        monkeypatch.setattr(f"mask2former.checkpoints.{name}", load)
    for loaded in [name for name in sys.modules if name.startswith("mask2former.serve")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(command) == 2
    assert f"{module} is not installed" in (error := capsys.readouterr().err)
    assert f"mask2former[{extra}]" in error
