"""Progress of a run: a bar if there is one, else a line every few steps, and a line per validation."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("lightning", reason="needs the extra train")

from lightning.pytorch.trainer.states import TrainerFn

from mask2former.training.progress import StepProgress

LOSSES = {"loss": 52.25, "loss_ce": 2.8649, "loss_mask": 0.627, "loss_dice": 0.8502}


class Validation(list[str]):
    """Two images."""

    samples = None

    def __init__(self) -> None:
        super().__init__(["a", "b"])


def drive(
    progress: StepProgress, *, first: int, last: int, measured: tuple[float | None, ...] = (12.34, 12.34)
) -> None:
    """Run steps ``first + 1`` to ``last``, with validations of two samples before the first and after the third."""
    values = iter(measured)
    trainer: Any = SimpleNamespace(
        global_step=first,
        progress_bar_metrics=LOSSES,
        callback_metrics={"panoptic/PQ": 99.0},  # of an earlier validation
        num_val_batches=[2],
        datamodule=SimpleNamespace(validation_set=Validation()),
        state=SimpleNamespace(fn=TrainerFn.VALIDATING),
    )

    def validate() -> None:
        progress.on_validation_start(trainer)
        for index in range(2):
            progress.on_validation_batch_end(trainer, None, None, None, index)  # pyright: ignore[reportArgumentType]
        value = next(values)
        module: Any = SimpleNamespace(measured={} if value is None else {"panoptic/PQ": value})
        progress.on_validation_end(trainer, module)

    if first == 0:
        validate()
    trainer.state.fn = TrainerFn.FITTING
    progress.on_train_start(trainer)
    while trainer.global_step < last:
        progress.on_train_batch_start(trainer)
        trainer.global_step += 1
        progress.on_train_batch_end(trainer)
        if trainer.global_step == 3:
            validate()


def test_lines_where_nobody_draws_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a bar, lines are printed every interval and at the end; steps count from 1, also in a resumed run.

    The first validation may take minutes, so it begins with a line.
    """
    drive(StepProgress(5, 2, "panoptic/PQ"), first=0, last=5)
    lines = capsys.readouterr().out.splitlines()
    assert [re.split(r"[:;]", line)[0] for line in lines] == [
        "validation before the first step begins",
        "validation before the first step",
        "step 2 of 5",
        "validation after step 3",
        "step 4 of 5",
        "step 5 of 5",
    ]
    assert re.fullmatch(
        r"step 2 of 5: loss 52.2 \(ce 2.86, mask 0.627, dice 0.85\); [\d.e-]+ s per step, 0:00:00 left", lines[2]
    )
    assert lines[0] == "validation before the first step begins: 2 images"
    assert lines[3] == "validation after step 3: panoptic/PQ 12.3 (0:00:00)"
    drive(StepProgress(3, 9, "panoptic/PQ"), first=0, last=3, measured=(12.34, None))
    assert capsys.readouterr().out.splitlines()[-1] == "validation after step 3: panoptic/PQ not measured (0:00:00)"
    drive(StepProgress(6, 1, "semantic/mIoU"), first=4, last=6)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["step 5 of 6", "step 6 of 6"]


def test_whoever_draws_a_bar_is_told_of_every_step_and_lines_are_for_validations(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: list[tuple[Any, ...]] = []

    def tell(step: str, done: int, total: int | None, detail: str | None = None) -> None:
        told.append((step, done, total, detail))

    drive(StepProgress(4, 2, "panoptic/PQ", tell), first=0, last=4)
    validation = [("validating", done, 2, "") for done in (0, 1, 2)]
    losses = "loss 52.2 (ce 2.86, mask 0.627, dice 0.85)"
    assert told == [
        *validation,
        ("training", 0, 4, None),
        ("training", 1, 4, ""),
        ("training", 2, 4, losses),
        ("training", 3, 4, losses),
        *validation,
        ("training", 3, 4, losses),
        ("training", 4, 4, losses),
    ]
    assert capsys.readouterr().out.splitlines() == [
        "validation before the first step: panoptic/PQ 12.3 (0:00:00)",
        "validation after step 3: panoptic/PQ 12.3 (0:00:00)",
    ]


def test_other_ranks_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[Any] = []

    def told_of(step: str, done: int, total: int | None, detail: str | None = None) -> None:
        told.append(step)

    for tell in (None, told_of):
        progress = StepProgress(4, 1, "panoptic/PQ", tell)
        progress.disable()
        drive(progress, first=0, last=4)
    assert told == []
    assert capsys.readouterr().out == ""
