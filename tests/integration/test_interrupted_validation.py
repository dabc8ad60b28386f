"""Runs killed around a validation and resumed leave the same files as an uninterrupted run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from runs import run_values

from mask2former.config import RunConfig, parse
from mask2former.training.checkpointing import KeepCheckpoints
from mask2former.training.metrics_log import MetricsLog
from mask2former.training.module import TrainingModule
from mask2former.training.run import train

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("small_overlays", "unpredicted_memory")]

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "averaged": {"optim__ema_decay": 0.5, "evaluation__tasks": ["semantic", "instance"]},
    "patient": {"evaluation__patience": 1, "optim__lr": 1e-9},  # stops, since so small steps change nothing
    "accumulating": {"data__batch_size_per_device": 1, "optim__lr": 3e-3},
    "rarely kept": {"trainer__checkpoint_interval": 3},
    "begun elsewhere": {"model__init": "scenes-tiny"},
}


class KilledError(BaseException):
    """Stands for a kill: no code of the package catches it."""


def config_of(output: Path, kind: str) -> RunConfig:
    values = run_values(
        output,
        trainer={"max_steps": 6, "accelerator": "cpu", "log_interval": 1, "checkpoint_interval": 2},
        evaluation={"interval": 2, "tasks": ["semantic"], "monitor": "semantic/mIoU", "num_images": 1},
        data__batch_size=2,
    )
    for path, value in KINDS[kind].items():
        group, _, name = path.partition("__")
        values[group][name] = value
    if "init" in values["model"]:
        values["model"] = {"init": "scenes-tiny", "inference": {"short_edge": 64}}
    return parse(RunConfig, values, "test")


def contents(run: Path) -> dict[str, Any]:
    """The contents of all files except the times; the header of the model, which has no order, is parsed."""
    paths = (path for path in sorted(run.rglob("*")) if path.is_file() and path.name != "times.csv")
    files: dict[str, Any] = {str(path.relative_to(run)): path.read_bytes() for path in paths}
    model = files["model.safetensors"]
    end = 8 + int.from_bytes(model[:8], "little")
    files["model.safetensors"] = json.loads(model[8:end]), model[end:]
    return files


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """A function that returns an uninterrupted run of a kind: its folder, which the settings name, and its files."""
    known: dict[str, tuple[Path, dict[str, Any]]] = {}

    def of(kind: str) -> tuple[Path, dict[str, Any]]:
        if kind not in known:
            run = tmp_path_factory.mktemp("runs") / "run"
            train(config_of(run, kind))
            known[kind] = run, contents(run)
        run, content = known[kind]
        shutil.rmtree(run, ignore_errors=True)
        return run, content

    return of


def kill_in(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, number: int, *, after: bool) -> None:
    """End the run at the ``number``-th call of a method, before it or after it."""
    original, calls = getattr(owner, method), iter(range(1, 1000))

    def dying(self: Any, *args: Any, **options: Any) -> Any:
        is_last = next(calls) == number
        if is_last and not after:
            raise KilledError
        result = original(self, *args, **options)
        if is_last:
            raise KilledError
        return result

    monkeypatch.setattr(owner, method, dying)


def slow(kind: str, moment: tuple[type, str, int, bool]) -> ParameterSet:
    return pytest.param(kind, moment, marks=pytest.mark.slow)


IN_STEP_TWO = (TrainingModule, "validation_step", 2, True)
IN_THE_LAST = (TrainingModule, "validation_step", 6, False)


@pytest.mark.parametrize(
    ("kind", "moment"),
    [
        ("plain", IN_STEP_TWO),
        slow("averaged", IN_THE_LAST),  # test_interruption.py resumes averages, too
        slow("plain", IN_THE_LAST),
        slow("plain", (TrainingModule, "on_validation_epoch_end", 2, False)),  # of step 4
        slow("plain", (MetricsLog, "log_metrics", 3, False)),  # measured, but the row is missing
        slow("plain", (KeepCheckpoints, "on_validation_end", 1, False)),  # the row is there, best.ckpt is not
        slow(
            "plain", (KeepCheckpoints, "on_validation_end", 1, True)
        ),  # best.ckpt is there, and last.ckpt is not updated
        slow("plain", (MetricsLog, "log_metrics", 2, False)),  # the row of the step before the validation
        slow("plain", (KeepCheckpoints, "_write_last", 2, True)),  # everything is there
        slow("plain", (KeepCheckpoints, "_write_last", 6, False)),  # the last state
        slow("averaged", IN_STEP_TWO),
        slow("patient", (TrainingModule, "validation_step", 4, False)),  # the one that stops it
        slow("patient", (KeepCheckpoints, "on_train_end", 1, True)),  # stopped, but the model is missing
        slow("accumulating", IN_STEP_TWO),
        slow("rarely kept", (TrainingModule, "validation_step", 3, False)),  # step 4, one after the checkpoint
        slow("rarely kept", IN_THE_LAST),
        slow("begun elsewhere", (TrainingModule, "validation_step", 4, False)),  # step 2: the first is before all steps
    ],
)
def test_it_is_repeated(
    whole: Callable[[str], tuple[Path, dict[str, Any]]],
    kind: str,
    moment: tuple[type, str, int, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, expected = whole(kind)
    owner, method, number, after = moment
    with monkeypatch.context() as patch:
        kill_in(patch, owner, method, number, after=after)
        with pytest.raises(KilledError):
            train(config_of(run, kind))
    is_kept = (run / "checkpoints" / "last.ckpt").exists()
    train(config_of(run, kind), resume=is_kept)
    found = contents(run)
    assert found.keys() == expected.keys()
    different = [name for name in found if found[name] != expected[name]]
    assert not different


@pytest.mark.slow
def test_in_the_validation_before_the_first_step_nothing_is_in_the_way(
    whole: Callable[[str], tuple[Path, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, expected = whole("begun elsewhere")
    for number in (1, 2):
        with monkeypatch.context() as patch:
            kill_in(patch, TrainingModule, "validation_step", number, after=True)
            with pytest.raises(KilledError):
                train(config_of(run, "begun elsewhere"))
    train(config_of(run, "begun elsewhere"))
    assert contents(run) == expected
