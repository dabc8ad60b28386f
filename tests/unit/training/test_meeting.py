"""Ranks that were started differently are named, with the difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from mask2former.errors import UserError
from mask2former.training.meeting import RankFacts, check_alike

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
    with pytest.raises(UserError, match=r"optim\.lr is 0\.0002 for rank 1 on b and 0\.0001 for rank 0 on a; start all"):
        check_alike(Path("runs/x"), [rank("a"), rank("b", {"optim.lr": 2e-4})])
    with pytest.raises(UserError, match=r"the number of training samples is 99 for rank 1"):
        check_alike(Path("runs/x"), [rank("a"), rank("b", {"the number of training samples": 99})])
    with pytest.raises(UserError, match=r"new is 1 for rank 1 on b and None for rank 0"):
        check_alike(Path("runs/x"), [rank("a"), rank("b", {"new": 1})])
