"""Runs in separate processes: killed and resumed, and with a rank that dies."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from forked import Rank, Started
from lightning.fabric.strategies.launchers import subprocess_script as observer
from lightning.pytorch.strategies.launchers import subprocess_script as launcher
from runs import run_values, table
from safetensors.torch import load_file

from mask2former.training.run import train as _train  # noqa: F401  (before the forks)

pytestmark = pytest.mark.long


def train_on_two_ranks(run_file: Path, code: str, seconds: float = 120) -> tuple[int, str]:
    """Train on two ranks that run ``code`` first; return the exit code and what was printed."""
    program, log = run_file.with_name("program.py"), run_file.with_name("log.txt")
    start = "from mask2former.cli import main\nif __name__ == '__main__': raise SystemExit(main())\n"
    program.write_text(f"{code}\n{start}")
    process = Started(["train", str(run_file)], log, program)
    exit_code = process.end(seconds)
    if exit_code is None:  # ranks that wait for each other would do so for ever
        process.kill(signal.SIGKILL, is_group=True)
        raise AssertionError(f"not done after {seconds:.0f} s: {log.read_text()}")
    return exit_code, log.read_text()


def write(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run_values(folder / "out", **changes)))
    return path


STEPS = 12
TRAINER = {"max_steps": STEPS, "accelerator": "cpu", "log_interval": 1, "checkpoint_interval": 3}
RUN = {"trainer": TRAINER, "optim__ema_decay": 0.9, "evaluation": {"interval": STEPS // 2}}


def same_weights(first: Path, second: Path) -> bool:
    left, right = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def kill_and_resume(folder: Path, whole: Path, after_rows: int) -> None:
    """Kill a run once its table has ``after_rows`` rows, resume it, and compare with the uninterrupted run."""
    run_file, log = write(folder, **RUN), folder / "log.txt"
    process = Started(["train", str(run_file)], log)
    deadline = time.monotonic() + 200
    checkpoint = folder / "out" / "checkpoints" / "last.ckpt"
    while time.monotonic() < deadline and process.is_alive():
        if checkpoint.exists() and len(table(folder / "out")) >= after_rows:
            break
        time.sleep(0.02)
    assert process.is_alive(), log.read_text()
    process.kill(signal.SIGKILL, is_group=True)
    assert Started(["train", str(run_file), "--resume", str(folder / "out")], log).end() == 0, log.read_text()
    assert same_weights(folder / "out", whole)
    steps = [int(row["global_step"]) for row in table(folder / "out") if row["loss"]]
    assert steps == list(range(1, STEPS + 1))  # no row lost, none twice


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert Started(["train", str(write(folder, **RUN))], folder / "log.txt").end() == 0, (
        folder / "log.txt"
    ).read_text()
    return folder / "out"


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, whole: Path) -> None:
    kill_and_resume(tmp_path, whole, 5)


def test_interrupt_says_where_to_go_on(tmp_path: Path) -> None:
    run_file = write(tmp_path, trainer={**TRAINER, "max_steps": 100_000}, evaluation={"interval": 100_000})
    log = tmp_path / "log.txt"
    process = Started(["train", str(run_file)], log)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (tmp_path / "out" / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.05)
    code, text = process.kill(signal.SIGINT, is_group=False), log.read_text()
    assert code == 130, text
    assert f"stopped: the last checkpoint is in {tmp_path / 'out'}; to continue: mask2former train" in text
    assert "Traceback" not in text


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_any_step(tmp_path: Path, whole: Path, seed: int) -> None:
    kill_and_resume(tmp_path, whole, random.Random(seed).randint(3, STEPS - 4))


def test_a_rank_that_dies_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a rank fails, the run ends with its error; Lightning checks ranks every 0.1 s here instead of every 5 s."""
    monkeypatch.setattr(launcher, "subprocess", SimpleNamespace(Popen=Rank))
    monkeypatch.setattr(observer._ChildProcessObserver.__init__, "__defaults__", (0.1,))
    trainer = {"max_steps": 1000, "accelerator": "cpu", "devices": 2, "log_interval": 1}
    code = """
import os
from mask2former.training.module import TrainingModule
step = TrainingModule.training_step
def dying(self, window, batch_idx):
    if os.environ.get("LOCAL_RANK") == "1" and self.global_step == 2:
        raise RuntimeError("rank 1 has had enough")
    return step(self, window, batch_idx)
TrainingModule.training_step = dying
"""
    exit_code, text = train_on_two_ranks(write(tmp_path, trainer=trainer), code, seconds=240)
    assert exit_code != 0
    assert "rank 1 has had enough" in text
