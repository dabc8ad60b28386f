"""What ``ablate`` prints where a training is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mask2former.cli import main
from mask2former.errors import OptionError


@pytest.mark.parametrize(
    ("is_told", "start"), [(True, "error: baseline: --batch-size"), (False, "error: --batch-size")]
)
def test_a_refused_training_is_named_and_so_are_flags(
    is_told: bool, start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(base: Any, output: Path, rows: Any, seeds: int, tell: Callable[[str, int, int], None], _: Any) -> None:
        if is_told:
            tell("baseline", 0, 1)
        raise OptionError(lambda name: f"{name('batch_size')} is too large; choose less")

    monkeypatch.setattr("mask2former.training.ablate.ablate", refuse)
    assert main(["ablate", "scenes", "-o", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(start)
