"""No command replaces a file that it reads, or writes two of its files to one path; nothing is read before that."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mask2former.cli import main

INPUT = "is an input and would be overwritten; choose another file to write"
BOTH = "would both write"

# words of a command, and of its message; coco.json, a.png, run.yaml and the folder model exist
COMMANDS = [
    (["evaluate", "M", "--annotations", "coco.json", "--images", ".", "--json", "coco.json"], f"'coco.json' {INPUT}"),
    (["evaluate", "model", "--json", "model/config.json"], f"'model/config.json' {INPUT}"),
    (["evaluate", "M", "--json", "out/index.html", "--report", "out"], f"--json and --report {BOTH}"),
    (["evaluate", "M", "--json", "x", "--results", "x.json"], f"--json and --results {BOTH} 'x'"),
    (["evaluate", "M", "--json", "x", "--results", "x/y.json"], "--results 'x/y.json' would be inside 'x', which is"),
    (["predict", "a.png", "-m", "M", "-o", "out", "--coco", "b.csv", "--table", "b.csv"], f"--coco and --table {BOTH}"),
    (
        ["predict", "a.png", "-m", "M", "-o", "out", "--also", "geojson", "--coco", "out/geojson/a.geojson"],
        "--coco 'out/geojson/a.geojson' is inside 'out/geojson', which --also writes",
    ),
    (["predict", "a.png", "-m", "model", "-o", "out", "--coco", "model/config.json"], f"'model/config.json' {INPUT}"),
    (["track", "a.png", "-m", "M", "-o", ".", "--ytvis", "a.json"], f"--output and --ytvis {BOTH}"),
    (["track", "a.mp4", "-m", "M", "-o", ".", "--overwrite"], f"'a.mp4' {INPUT}"),
    (["track", "a.png", "-m", "model", "-o", ".", "--ytvis", "model/config.json", "--overwrite"], INPUT),
    (["analyze", "attention", "M", "--image", "a.png", "-o", "a.png"], f"'a.png' {INPUT}"),
    (
        ["analyze", "layers", "M", "--annotations", "coco.json", "--images", ".", "-o", "coco.png"],
        f"'coco.json' {INPUT}",
    ),
    (["analyze", "flops", "model", "-o", "model/config.png"], f"'model/config.json' {INPUT}"),
    (["export", "model/pytorch_model.bin", "model/pytorch_model.xml"], f"'model/pytorch_model.bin' {INPUT}"),
    (["export", "model", "model/pytorch_model.xml"], f"'model/pytorch_model.bin' {INPUT}"),
    (["verify-export", "x.onnx", "--against", "M", "--images", "a.png", "--plot", "a.png"], f"'a.png' {INPUT}"),
    (["find-lr", "run.yaml", "-o", "coco.png"], f"'coco.json' {INPUT}"),
]


@pytest.mark.parametrize(("command", "message"), COMMANDS, ids=[" ".join(command) for command, _ in COMMANDS])
def test_no_input_and_no_other_output_is_replaced(
    command: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("coco.json", "a.mp4", "model/config.json", "model/pytorch_model.bin"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("{}")
    Image.new("RGB", (8, 8)).save("a.png")
    split = "[{annotations: coco.json, images: .}]"
    Path("run.yaml").write_text(
        f"output: run\ndata: {{dataset: {{name: coco-instance, train: {split}, validation: {split}}}}}\n"
    )
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert main(["scenes-tiny" if word == "M" else word for word in command]) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
