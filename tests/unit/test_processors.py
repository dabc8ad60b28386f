"""How many processors may be used: what a container allows counts, not what the machine has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mask2former import processors
from mask2former.cli import main
from mask2former.dataset_tools.reading import default_workers
from mask2former.errors import UserError
from mask2former.inference.pipeline import Stages, pipelined
from mask2former.processors import limit_threads, num_processors, processors_in_group


def test_the_smallest_limit_of_the_groups_around_a_process_counts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/pods/this\n")
    inner = tmp_path / "pods/this"
    inner.mkdir(parents=True)
    assert processors_in_group(tmp_path, own) is None
    (inner / "cpu.max").write_text("max 100000\n")
    assert processors_in_group(tmp_path, own) is None
    (inner / "cpu.max").write_text("400000 100000\n")
    assert processors_in_group(tmp_path, own) == 4
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    assert processors_in_group(tmp_path, own) == 1.5


def test_groups_of_version_1_limit_as_well(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("4:cpu,cpuacct:/\n")
    folder = tmp_path / "cpu,cpuacct"
    folder.mkdir()
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert processors_in_group(tmp_path, own) is None
    (folder / "cpu.cfs_quota_us").write_text("250000\n")
    assert processors_in_group(tmp_path, own) == 2.5
    own.write_text("9:cpuset:/\n4:cpu,cpuacct:/services/this\n0::/unlimited\n")  # without a container
    assert processors_in_group(tmp_path, own) == 2.5
    inner = folder / "services"
    inner.mkdir()
    (inner / "cpu.cfs_period_us").write_text("100000\n")
    (inner / "cpu.cfs_quota_us").write_text("150000\n")
    assert processors_in_group(tmp_path, own) == 1.5
    folder.rename(tmp_path / "cpu")
    assert processors_in_group(tmp_path, own) == 1.5


@pytest.mark.parametrize(("variable", "expected"), [(None, 1), ("2", 2)])
def test_threads_are_limited_to_the_processors_of_the_container(
    variable: str | None, expected: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(processors, "processors_in_group", lambda: 0.5)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with caplog.at_level("INFO", "mask2former"):
            limit_threads()
        assert torch.get_num_threads() == expected
        assert ("threads of PyTorch: 1 instead of 2" in caplog.text) == (expected == 1)
    finally:
        torch.set_num_threads(before)


def test_services_in_a_container_limit_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, start in (
        ("mask2former.serve.running", lambda module: module.serve("tiny", port=0)),
        ("mask2former.web.server", lambda module: module.open_models(["tiny"])),
    ):
        loaded = pytest.importorskip(module)
        limited: list[str] = []
        monkeypatch.setattr(loaded, "limit_threads", lambda limited=limited: limited.append("threads"))

        def opened(model: str, limited: list[str] = limited, **loading: object) -> None:
            limited.append(model)
            raise UserError("enough")

        monkeypatch.setattr(loaded, "open_predictor", opened)
        with pytest.raises(UserError, match="enough"):
            start(loaded)
        assert limited == ["threads", "tiny"]


@pytest.mark.parametrize(
    ("command", "called"),
    [
        (["predict", "a.png", "-o", "out", "-m", "scenes-tiny"], "mask2former.inference.predict_files.predict_files"),
        (["track", "a.mp4", "-o", "out", "-m", "scenes-tiny"], "mask2former.inference.track_files.track_files"),
        (["evaluate", "scenes-tiny"], "mask2former.evaluation.evaluate.evaluate"),
        (["train", "run.yaml"], "mask2former.training.run_file.read_run"),
        (["analyze", "layers", "scenes-tiny"], "mask2former.analysis.layer_metrics"),
    ],
)
def test_commands_in_a_container_limit_their_threads(
    command: list[str], called: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object, **__: object) -> None:
        raise UserError(f"{torch.get_num_threads()} thread")

    monkeypatch.setattr(called, run)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processors, "processors_in_group", lambda: 0.5)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert main(command) == 2
        assert "error: 1 thread\n" in capsys.readouterr().err
    finally:
        torch.set_num_threads(before)


def test_threads_and_processes_of_the_library_are_as_many_as_a_container_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processors, "processors_in_group", lambda: 0.5)
    assert default_workers() == 0
    sizes: list[int] = []

    def pool(size: int, name: str) -> None:
        sizes.append(size)
        raise UserError(name)

    monkeypatch.setattr("mask2former.inference.pipeline.ThreadPoolExecutor", pool)
    stages: Stages[int, int, int, int] = Stages(lambda item: item, lambda _: None, lambda items: items, lambda *_: 0)
    with pytest.raises(UserError):
        next(pipelined([1], stages))
    assert sizes == [1]


def test_there_is_at_least_one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "processors_in_group", lambda: None)
    here = num_processors()
    assert here >= 1
    for limit, expected in ((0.2, 1), (1.5, min(here, 2)), (1e6, here)):
        monkeypatch.setattr(processors, "processors_in_group", lambda limit=limit: limit)
        assert num_processors() == expected
