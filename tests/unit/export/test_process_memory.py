"""The memory of a model is what its process took beyond Python and PyTorch; without a figure there is an error."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mask2former.errors import FailedError
from mask2former.export.process_memory import main, peak_of_process

IMAGE = np.zeros((4, 5, 3), np.uint8)


def run_with(monkeypatch: pytest.MonkeyPatch, stdout: str, stderr: str = "", code: int = 0) -> list[Any]:
    requests: list[Any] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        requests.append(json.loads(command[-1]))
        assert np.array_equal(np.load(requests[0]["image"]), IMAGE)
        return SimpleNamespace(stdout=stdout, stderr=stderr, returncode=code)

    monkeypatch.setattr("mask2former.export.process_memory.subprocess.run", run)
    return requests


def test_the_last_line_of_the_process_is_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = run_with(monkeypatch, "a word of a library\n12345\n")
    assert peak_of_process("tiny", IMAGE, "panoptic", {"recipe": None}) == 12345
    [request] = requests
    assert (request["source"], request["task"], request["loading"]) == ("tiny", "panoptic", {"recipe": None})


@pytest.mark.parametrize(
    ("stdout", "stderr", "code", "words"),
    [("", "Traceback\nMemoryError: too large", 1, "MemoryError: too large"), ("no figure", "", -9, "exit status -9")],
)
def test_a_process_that_ends_without_a_figure_is_said(
    stdout: str, stderr: str, code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with(monkeypatch, stdout, stderr, code)
    with pytest.raises(FailedError, match=rf"'tiny'.*{words}"):
        peak_of_process("tiny", IMAGE, "panoptic", {})


@pytest.mark.skipif(sys.platform != "linux", reason="memory of a process is read from /proc, which only Linux has")
def test_the_process_measures_what_is_taken_to_load_and_to_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []

    class Network:
        settings = SimpleNamespace(as_read={"value_range": "full"})

        def __call__(self, image: np.ndarray, task: str, **options: Any) -> None:
            calls.append((image.shape, task, options))

    monkeypatch.setattr("mask2former.export.process_memory.open_predictor", lambda source, **loading: Network())
    np.save(tmp_path / "image.npy", IMAGE)
    request = {"source": "tiny", "image": str(tmp_path / "image.npy"), "task": "semantic", "loading": {}}
    monkeypatch.setattr(sys, "argv", ["-c", json.dumps(request)])
    main()
    assert calls == [((4, 5, 3), "semantic", {"value_range": "full"})]
    assert int(capsys.readouterr().out) >= 0


def test_no_figure_where_the_system_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mask2former.export.process_memory._STATUS", tmp_path / "none")
    assert peak_of_process("tiny", IMAGE, "panoptic", {}) is None
