"""Training runs that are killed repeatedly at random moments leave the same results as an uninterrupted one."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from forked import Started, contents, random_signal

from mask2former.training.lock import LOCK
from mask2former.training.run import train as _train  # noqa: F401  (before the forks)

STEPS, KILLS = 24, 20


def run_file(path: Path, output: Path) -> Path:
    """Write a run file: validations at steps with and without a checkpoint, of which the best is not the last."""
    head = {"dim": 32, "num_heads": 2, "feedforward_dim": 32}
    values = {
        "model": {
            "backbone": {"name": "timm", "model": "resnet10t", "norm": "batch", "kwargs": {"channels": [16] * 4}},
            "pixel_decoder": {**head, "mask_dim": 32, "num_layers": 1},
            "transformer_decoder": {**head, "num_queries": 20, "num_layers": 2},
            "inference": {"short_edge": 0},
        },
        "criterion": {"num_points": 128},
        "data": {
            "dataset": {"name": "scenes", "image_size": [64, 64], "num_training": 8, "num_validation": 4},
            "batch_size": 2,
            "num_workers": 1,
        },
        "optim": {"lr": 3e-3},
        "trainer": {"max_steps": STEPS, "accelerator": "cpu", "log_interval": 1, "checkpoint_interval": 3},
        "evaluation": {"interval": 2, "tasks": ["semantic"], "monitor": "semantic/mIoU", "num_images": 1},
        "output": str(output),
    }
    path.write_text(yaml.safe_dump(values))
    return path


def start(run: Path, log: Path) -> Started:
    """Start a run, or resume it if it has a checkpoint, like a script that repeats a command until it succeeds."""
    output = Path(yaml.safe_load(run.read_text())["output"])
    resume = ["--resume", str(output)] if (output / "checkpoints" / "last.ckpt").exists() else []
    return Started(["train", str(run), *resume], log)


def without_times(run: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(run).items() if Path(name).name != "times.csv"}


def owner(run: Path) -> int | None:
    """The id of the process that trains in a directory."""
    try:
        return json.loads((run / LOCK).read_text())["process"]
    except (OSError, ValueError):
        return None


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    output, log = tmp_path / "run", tmp_path / "log.txt"
    run = run_file(tmp_path / "run.yaml", output)
    assert start(run, log).end() == 0, log.read_text()
    expected = without_times(output)
    shutil.rmtree(output)

    choice, codes, moments = random.Random(15), Counter[str](), []
    attempts = 0
    while sum(codes.values()) < KILLS:
        attempts += 1
        if attempts > 3 * KILLS:  # more kills than the run is long: once more from the start
            break
        number, is_group = random_signal(choice)
        process = start(run, log)
        begin = time.monotonic()
        while process.is_alive() and owner(output) != process.pid and time.monotonic() - begin < 100:
            time.sleep(0.02)  # its imports take as long as the run, and are no part of it
        time.sleep(choice.uniform(0.0, 5.0))
        if not process.is_alive():
            assert process.exitcode == 0, log.read_text()[-2000:]
            moments.append("ended")
            shutil.rmtree(output)
            continue
        process.kill(number, is_group=is_group)
        codes[number.name] += 1
        moments.append(f"{number.name}{' to all' if is_group else ''}")
    assert start(run, log).end() == 0, log.read_text()[-2000:]
    found = without_times(output)
    assert found.keys() == expected.keys()
    assert not [name for name in found if found[name] != expected[name]], moments
    text = log.read_text()
    assert "Traceback" not in text
    print(
        f"{sum(codes.values())} kills ({dict(codes)}) in {attempts} starts; ended in between: {moments.count('ended')}"
    )
