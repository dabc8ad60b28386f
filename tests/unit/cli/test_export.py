"""What ``export`` and ``verify-export`` hand on, refuse and print; the library's own calls are in integration tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mask2former.cli import main
from mask2former.config import InferenceConfig
from mask2former.data.sources import DataSource
from mask2former.export import Exported, Verified, VerifyReport
from mask2former.inference.exported import ExportedInfo
from mask2former.structures import ModelInfo

ROWS = (
    Verified("tiny", "torch", "float32", 3_000_000, 90.4, 41_000_000, None, {"panoptic/PQ": 50.25}),
    Verified("tiny.onnx", "onnxruntime", "int8", 800_000, 1234.5, None, 1.25, {"panoptic/PQ": 49.0}),
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Calls of the library, recorded instead of carried out."""
    made: list[dict[str, Any]] = []

    def export(model: str, path: Path, to: str | None, **arguments: Any) -> Exported:
        made.append({"model": model, "to": to, **arguments})
        return Exported(
            path, ExportedInfo(ModelInfo(None, InferenceConfig()), None, None, 1, None, 32, "0"), 2e-5, 10**6
        )

    def verify(files: list[str], model: str, **arguments: Any) -> VerifyReport:
        made.append({"files": files, "model": model, **arguments})
        return VerifyReport("panoptic", 4, ROWS, ("measured on a busy machine",))

    monkeypatch.setattr("mask2former.export.export", export)
    monkeypatch.setattr("mask2former.export.verify_export", verify)
    monkeypatch.setattr("mask2former.export.draw_report", lambda report, plot: made.append({"plot": plot}))
    monkeypatch.setenv("COLUMNS", "200")
    return made


def test_export_hands_on_its_options_and_says_what_was_compared(
    calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "tiny", "tiny.onnx", "--size", "480x640", "--batch", "0"]) == 0
    assert (calls[0]["size"], calls[0]["batch"], calls[0]["dtype"]) == ((480, 640), None, "float32")
    out = capsys.readouterr().out
    assert "tiny.onnx written (1.0 MB)" in out
    assert "2e-05" in out
    assert main(["export", "tiny", "tiny.onnx", "--results", "semantic"]) == 0
    assert (calls[1]["size"], calls[1]["batch"], calls[1]["results"]) == (None, 1, "semantic")
    assert "0.00 % of the results" in capsys.readouterr().out


@pytest.mark.parametrize(("to", "file"), [("onnx", "x"), ("triton", "x/1/model.onnx")])
def test_a_file_in_8_bits_is_measured_at_once(
    to: str, file: str, calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "tiny", "x", "--to", to, "--dtype", "int8", "--calibration", "a", "--data", "scenes"]
    assert main(command) == 0
    exported, verified = calls
    assert (exported["to"], exported["calibration"]) == (to, [Path("a")])
    assert (verified["files"], verified["images"]) == ([Path(file)], [Path("a")])
    assert verified["data"] == DataSource("scenes")
    out = capsys.readouterr().out
    assert "--calibration" in out
    assert "49.00 (-1.25)" in out  # the change of the metric


def test_the_table_of_verify_export(calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify-export", "tiny.onnx", "--against", "tiny", "--images", "a", "--images", "b"]) == 0
    assert calls[0]["images"] == [Path("a"), Path("b")]
    assert calls[0]["data"] is None
    out = capsys.readouterr().out
    assert "panoptic, 4 images" in out
    lines = [
        re.split(r"\s*[│┃]\s*", line.strip("│┃ ")) for line in out.splitlines() if "tiny" in line or "runtime" in line
    ]
    assert lines == [
        ["model", "runtime", "MB", "peak MB", "ms", "differs", "panoptic/PQ"],
        ["tiny", "torch float32", "3.0", "41", "90", "", "50.25"],
        ["tiny.onnx", "onnxruntime int8", "0.8", "", "1,234", "1.250 %", "49.00 (-1.25)"],
    ]
    assert out.splitlines()[-1] == "note: measured on a busy machine"


@pytest.mark.parametrize(("most", "code"), [("1.25", 0), ("1.2", 1), ("101", 2)])
def test_scripts_learn_from_the_exit_code_that_a_file_differs(
    most: str, code: int, calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify-export", "tiny.onnx", "--against", "tiny", "--max-differing", most]) == code
    error = capsys.readouterr().err
    assert ("tiny.onnx differs from the model by 1.250 %, more than --max-differing 1.2\n" in error) == (code == 1)


@pytest.mark.usefixtures("calls")
def test_an_error_about_several_files_counts_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = VerifyReport("panoptic", 4, (*ROWS, ROWS[1], ROWS[1]), ())
    monkeypatch.setattr("mask2former.export.verify_export", lambda *_, **arguments: report)
    assert main(["verify-export", "a.onnx", "b.onnx", "c.onnx", "--against", "tiny", "--max-differing", "1"]) == 1
    assert "more than --max-differing 1; the same is true of 2 more files\n" in capsys.readouterr().err


def test_verify_export_measures_on_data_and_draws(
    calls: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["verify-export", "tiny.onnx", "--against", "tiny", "--limit", "3"]
    plot = tmp_path / "table.svg"
    assert main([*command, "--data", "scenes", "--plot", str(plot)]) == 0
    source = calls[0]["data"]
    assert (source.data, source.root, source.limit) == (
        "scenes",
        None,
        3,
    )  # as in evaluate: MASK2FORMER_DATA, a run file
    assert calls[1] == {"plot": plot}
    assert f"{plot} written" in capsys.readouterr().out
    assert main([*command, "--annotations", "a.json", "--images", "photos"]) == 0
    source = calls[2]["data"]
    assert (source.annotations, source.images, source.limit) == (Path("a.json"), Path("photos"), 3)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["export", "tiny", "x.onnx", "--data", "scenes"], ["--data", "--dtype int8", "verify-export"]),
        (["export", "tiny", "x.onnx", "--size", "480"], ["--size", "'480'", "800x1216"]),
        (["export", "tiny", "x.onnx", "--size", "0x480"], ["--size", "'0x480'"]),
        (["verify-export", "x.onnx", "--against", "tiny", "--annotations", "a.json"], ["--annotations", "--images"]),
        (
            ["verify-export", "x.onnx", "--against", "tiny", "--annotations", "a", "--images", "b", "--data", "scenes"],
            ["--annotations", "--data"],
        ),
        (["verify-export", "x.onnx", "--against", "tiny", "--plot", "a.txt"], ["a.txt", ".png"]),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    command: list[str], words: list[str], calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 2
    assert not calls
    error = capsys.readouterr().err
    assert all(word in error for word in words)
