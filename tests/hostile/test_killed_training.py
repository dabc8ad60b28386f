"""Trainings that are killed at random moments, again and again, leave what an uninterrupted one does."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest
import yaml

from mask2former import cli as _cli  # noqa: F401  (before the forks)
from mask2former.__main__ import main
from mask2former.training.lock import LOCK
from mask2former.training.run import train as _train  # noqa: F401  (before the forks)

STEPS, KILLS = 24, 20


def run_file(path: Path, output: Path) -> Path:
    """Validations at steps with and without a checkpoint; the best one is not the last."""
    head = {"dim": 32, "num_heads": 2, "feedforward_dim": 32}
    values = {
        "model": {
            "backbone": {"name": "timm", "model": "resnet10t", "norm": "batch", "arguments": {"channels": [16] * 4}},
            "pixel_decoder": {**head, "mask_dim": 32, "num_layers": 1},
            "transformer_decoder": {**head, "num_queries": 20, "num_layers": 2},
            "inference": {"short_edge": 0},
        },
        "criterion": {"num_points": 128},
        "data": {
            "dataset": {"name": "scenes", "image_size": [64, 64], "num_training": 8, "num_validation": 4},
            "total_batch": 2,
            "num_workers": 1,
        },
        "optim": {"lr": 3e-3},
        "trainer": {"max_steps": STEPS, "accelerator": "cpu", "log_every": 1, "checkpoint_every": 3},
        "evaluation": {"every": 2, "tasks": ["semantic"], "monitor": "semantic/mIoU", "num_pictures": 1},
        "output": str(output),
    }
    path.write_text(yaml.safe_dump(values))
    return path


class Started:
    """What a script does that repeats a command until it succeeds; a fork, since imports take longer than the run."""

    def __init__(self, run: Path, log: Path) -> None:
        output = yaml.safe_load(run.read_text())["output"]
        resume = ["--resume", output] if (Path(output) / "checkpoints" / "last.ckpt").exists() else []
        self.exitcode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 99
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            warnings.simplefilter("ignore")  # pytest makes errors of them
            sys.stdout = sys.stderr = log.open("a")
            sys.argv[1:] = ["train", str(run), *resume]
            code = main()
            sys.stdout.flush()
        finally:
            os._exit(code)

    def is_alive(self) -> bool:
        if self.exitcode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.exitcode = os.waitstatus_to_exitcode(status) if pid else None
        return self.exitcode is None

    def end(self) -> int | None:
        deadline = time.monotonic() + 300
        while self.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.exitcode


def contents(run: Path) -> dict[str, bytes]:
    """All files but the times."""
    paths = (path for path in sorted(run.rglob("*")) if path.is_file() and path.name != "times.csv")
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def owner(run: Path) -> int | None:
    """The process that trains in a directory."""
    try:
        return json.loads((run / LOCK).read_text())["process"]
    except (OSError, ValueError):
        return None


def is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    output, log = tmp_path / "run", tmp_path / "log.txt"
    run = run_file(tmp_path / "run.yaml", output)
    assert Started(run, log).end() == 0, log.read_text()
    expected = contents(output)
    shutil.rmtree(output)

    choice, codes, moments = random.Random(15), Counter[str](), []
    attempts = 0
    while sum(codes.values()) < KILLS:
        attempts += 1
        if attempts > 3 * KILLS:  # more kills than the run is long: once more from the start
            break
        number = choice.choice([signal.SIGKILL] * 3 + [signal.SIGINT, signal.SIGTERM])
        is_group = choice.random() < 0.5
        process = Started(run, log)
        begin = time.monotonic()
        while process.is_alive() and owner(output) != process.pid and time.monotonic() - begin < 100:
            time.sleep(0.02)  # its imports take as long as the run, and are no part of it
        time.sleep(choice.uniform(0.0, 5.0))
        if not process.is_alive():
            assert process.exitcode == 0, log.read_text()[-2000:]
            moments.append("ended")
            shutil.rmtree(output)
            continue
        (os.killpg if is_group else os.kill)(process.pid, number)
        code = process.end()
        assert code in ({signal.SIGKILL: {-9}}.get(number, {128 + number, 0})), (number, code, log.read_text()[-2000:])
        codes[number.name] += 1
        moments.append(f"{number.name}{' to all' if is_group else ''}")
        deadline = time.monotonic() + 20
        while is_alive(process.pid):  # the processes that read samples notice and leave
            assert time.monotonic() < deadline, "a process was left behind"
            time.sleep(0.1)
    assert Started(run, log).end() == 0, log.read_text()[-2000:]
    found = contents(output)
    assert found.keys() == expected.keys()
    assert not [name for name in found if found[name] != expected[name]], moments
    text = log.read_text()
    assert "Traceback" not in text
    print(
        f"{sum(codes.values())} kills ({dict(codes)}) in {attempts} starts; ended in between: {moments.count('ended')}"
    )
