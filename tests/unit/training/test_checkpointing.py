"""Checkpoints are complete, give clear errors, and depend only on their content."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from mask2former.config import EvaluationConfig, RunConfig
from mask2former.errors import UserError
from mask2former.training.checkpointing import (
    Best,
    KeepCheckpoints,
    Patience,
    WholeFiles,
    date_after,
    figures,
    loaded,
    plain,
)
from mask2former.training.resume_point import ResumePoint, patience_of


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"half of something", b"\x80\x02]q\x00."])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with (
        pytest.raises(UserError, match=r"last\.ckpt is damaged \(.+\); put it back"),
        loaded(path, "put it back") as state,
    ):
        state["global_step"]


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(UserError, match=r"\(it is empty\)"):
        loaded(tmp_path / "last.ckpt", "").__enter__()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE])
def test_a_file_that_the_system_does_not_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Nobody should delete a run because a network drive was away for a moment."""
    path = tmp_path / "last.ckpt"
    torch.save({"global_step": 3}, path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(torch, "load", fail)
    expected = rf"cannot resume: .*last\.ckpt cannot be read \({os.strerror(number)}\)"
    with pytest.raises(UserError, match=expected) as refused, loaded(path):
        pass
    assert "delete" not in str(refused.value)


@pytest.mark.parametrize("shift", [-3600, 0, 3600])
def test_a_file_is_dated_after_one_that_was_written_before(tmp_path: Path, shift: int) -> None:
    """Whether a run is finished is decided by these dates, also if the clock was set back in between."""
    model, last = tmp_path / "model.safetensors", tmp_path / "last.ckpt"
    date_after(last, model)
    model.touch()
    date_after(last, model)
    assert not last.exists()
    last.touch()
    now = last.stat().st_mtime
    os.utime(model, (now + shift, now + shift))
    date_after(last, model)
    assert last.stat().st_mtime > model.stat().st_mtime
    assert (last.stat().st_mtime == now) == (shift < 0)


def test_a_full_disk_is_an_error_of_the_file() -> None:
    with pytest.raises(OSError, match="No space left"):
        WholeFiles().save_checkpoint({"weights": torch.zeros(1 << 20)}, Path("/dev/full"))


def test_equal_content_is_written_as_equal_bytes() -> None:
    def written(value: object) -> bytes:
        stream = io.BytesIO()
        torch.save(value, stream)
        return stream.getvalue()

    state = {"lr": 0.1, "betas": (0.9, 0.99), "names": ["lr", "".join(["l", "r"])], "again": ["betas"]}
    stream = io.BytesIO(written(state))
    read = torch.load(stream, weights_only=True)
    assert written(plain(read)) == written(plain(state))


def test_figures_of_a_checkpoint_are_numbers_by_name() -> None:
    assert figures({"a/b": 1, "c": 2.5, "d": None}) == {"a/b": 1.0, "c": 2.5}
    for broken in ([1], {3: 1.0}):
        with pytest.raises(ValueError, match="numbers by name"):
            figures(broken)


def test_errors_of_torch_that_are_no_errors_of_the_file_stay_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("storage has wrong byte size")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="wrong byte size"):
        WholeFiles().save_checkpoint({}, tmp_path / "last.ckpt")


def test_patience_goes_on_with_its_own_number_or_starts_over() -> None:
    stored = {**Patience("panoptic/PQ", 9).state_dict(), "wait_count": 2, "best_score": torch.tensor(40.0)}
    again = Patience("panoptic/PQ", 3)
    again.load_state_dict(stored)
    assert (again.wait_count, again.patience, float(again.best_score)) == (2, 3, 40.0)
    anew = Patience("panoptic/PQ", 3, starts_over=True)
    anew.load_state_dict(stored)
    anew.begin_at(20.0)
    assert (anew.wait_count, anew.patience, float(anew.best_score)) == (0, 3, 20.0)


def test_a_validation_without_the_monitor_does_not_count_for_patience() -> None:
    """For instance, there is no AP without objects; what Lightning has then is missing, or of an earlier validation."""
    patience = Patience("instance/AP", 2)
    trainer: Any = SimpleNamespace(
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        sanity_checking=False,
        fast_dev_run=False,
        current_epoch=0,
        should_stop=False,
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision),
    )
    for logs, measured in (({}, {}), ({"instance/AP": torch.tensor(0.0)}, {}), ({}, {"instance/AR100": 1.0})):
        trainer.callback_metrics = logs
        patience.on_validation_end(trainer, SimpleNamespace(measured=measured))
    assert patience.wait_count == 0
    for value in (3.0, 2.0, 1.0):
        trainer.callback_metrics = {"instance/AP": torch.tensor(value)}
        patience.on_validation_end(trainer, SimpleNamespace(measured={"instance/AP": value}))
    assert (patience.wait_count, trainer.should_stop) == (2, True)


def test_patience_that_is_new_in_a_resumed_run_counts_from_the_best_validation(tmp_path: Path) -> None:
    config = RunConfig(evaluation=EvaluationConfig(patience=3))
    best = Best(tmp_path / "best.ckpt", 50.0, 100, None, None)
    patience = patience_of(config, ResumePoint(step=200, best=best))
    assert patience is not None
    assert float(patience.best_score) == 50.0


def test_other_ranks_take_part_in_a_checkpoint_and_a_limit_ends_a_validation(tmp_path: Path) -> None:
    saved: list[Any] = []
    trainer: Any = SimpleNamespace(
        is_global_zero=False,
        global_step=4,
        max_steps=4,
        save_checkpoint=lambda path, weights_only: saved.append(path),
    )
    table: Any = SimpleNamespace(num_rows=1)
    limit: Any = SimpleNamespace(is_over=lambda trainer: True, stop=lambda trainer: saved.append("stopped"))
    keep = KeepCheckpoints(tmp_path, 2, "panoptic/PQ", table, limit=limit)
    keep.on_train_end(trainer, trainer)
    assert saved == [tmp_path / "last.ckpt"]
    assert not list(tmp_path.iterdir())  # the first rank writes
    keep.on_validation_batch_start(trainer)
    assert saved[1:] == ["stopped"]
