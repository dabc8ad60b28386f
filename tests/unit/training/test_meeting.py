"""Ranks that were started differently are named, with the difference."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from mask2former.errors import UserError
from mask2former.training.meeting import Meeting, RankFacts, check_alike

FACTS = {"optim.lr": 1e-4, "the number of training samples": 100}


def rank(host: str, facts: dict[str, object] | None = None, *, sees: bool = True) -> RankFacts:
    return RankFacts(host, sees, {**FACTS, **(facts or {})})


def test_ranks_that_are_alike_pass() -> None:
    check_alike(Path("runs/x"), [rank("a"), rank("a"), rank("b"), rank("b")])


def test_a_directory_that_is_not_shared_is_noticed() -> None:
    ranks = [rank("a"), rank("a"), rank("b", sees=False), rank("b", sees=False)]
    sentence = (
        r"^runs/x is not the same directory on all machines: what rank 0 on a .* not visible on b \(ranks 2, 3\);"
    )
    with pytest.raises(UserError, match=sentence):
        check_alike(Path("runs/x"), ranks)


def test_other_settings_or_data_are_named_with_both_values() -> None:
    with pytest.raises(UserError, match=r"optim\.lr is 0\.0002 for rank 1 on b but 0\.0001 for rank 0 on a; start all"):
        check_alike(Path("runs/x"), [rank("a"), rank("b", {"optim.lr": 2e-4})])
    with pytest.raises(UserError, match=r"the number of training samples is 99 for rank 1"):
        check_alike(Path("runs/x"), [rank("a"), rank("b", {"the number of training samples": 99})])
    with pytest.raises(UserError, match=r"new is 1 for rank 1 on b but None for rank 0"):
        check_alike(Path("runs/x"), [rank("a"), rank("b", {"new": 1})])


class Strategy:
    """The strategy of a group whose ranks are all this one."""

    def __init__(self, name: str | None = None) -> None:
        self.name, self.barriers = name, list[str]()

    def broadcast(self, name: str) -> str:
        return self.name or name

    def barrier(self, name: str) -> None:
        self.barriers.append(name)


def meet(directory: Path, strategy: Strategy, prepared: list[int], *, is_first: bool = True) -> None:
    def gathered(ranks: list[Any], mine: RankFacts) -> None:
        ranks[:] = [mine._replace(sees_directory=True), mine]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_gather_object", gathered)
        trainer: Any = SimpleNamespace(world_size=2, is_global_zero=is_first, strategy=strategy)
        meeting = Meeting(directory, FACTS, lambda: prepared.append(1))
        for _ in range(2):  # of training, then of validation
            meeting.setup(trainer, trainer, "fit")


def test_the_first_rank_prepares_the_directory_once_all_have_met(tmp_path: Path) -> None:
    strategy, prepared = Strategy(), list[int]()
    meet(tmp_path, strategy, prepared)
    assert prepared == [1]
    assert strategy.barriers == ["prepared"]
    assert not list(tmp_path.iterdir())  # the file that showed that it is shared is removed


def test_a_rank_that_does_not_see_the_file_of_the_first_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mask2former.training.meeting._PATIENCE", 0.05)
    prepared: list[int] = []
    with pytest.raises(UserError, match="is not the same directory on all machines"):
        meet(tmp_path, Strategy("never-there"), prepared, is_first=False)
    assert not prepared
