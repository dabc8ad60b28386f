"""``mask2former train`` and ``find-lr``: what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from mask2former.cli import main
from mask2former.config import RunConfig, parse
from mask2former.errors import OptionError
from mask2former.training.find_lr import LearningRates
from mask2former.training.run import train


@pytest.mark.parametrize("content", ["", "half"])
def test_a_run_in_the_output_directory_is_told_with_the_names_of_flags(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_text(content)
    run = tmp_path / "run.yaml"
    run.write_text(f"output: {tmp_path / 'run'}\ndata: {{dataset: {{name: scenes}}}}\n")
    assert main(["train", str(run)]) == 2
    assert capsys.readouterr().err == (
        f"error: '{tmp_path / 'run'}' already contains a run; continue it with --resume DIR, replace it with "
        "--overwrite, or choose another output\n"
    )
    assert main(["train", str(run), "--resume", str(tmp_path / "run")]) == 2
    advice = f"; restore it from a copy, or delete '{tmp_path / 'run'}' and start that run over\n"
    assert advice in capsys.readouterr().err
    with pytest.raises(OptionError, match="continue it with resume, replace it with overwrite, or choose another"):
        train(parse(RunConfig, {"output": str(tmp_path / "run")}, "test"))
    assert main(["train", str(run), "--resume", str(tmp_path / "run"), "--overwrite"]) == 2
    told = "error: --resume DIR continues a run and --overwrite replaces it; give only one of them\n"
    assert capsys.readouterr().err == told
    assert last.read_text() == content


def test_a_loss_that_falls_at_no_rate_is_told_with_what_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rising = LearningRates.of([1e-6 * 2**step for step in range(12)], [1.0 + step for step in range(12)])
    monkeypatch.setattr("mask2former.training.find_lr.find_lr", lambda *_, **__: rising)
    (tmp_path / "run.yaml").write_text("data: {dataset: {name: scenes}}\n")
    command = ["find-lr", str(tmp_path / "run.yaml"), "-o", str(tmp_path / "rates.png"), "--steps"]
    assert main([*command, "12"]) == 0
    assert (
        "the loss does not fall at any rate; try lower rates (--lowest below 1e-07) or more steps, for a curve with "
        "less noise (--steps above 12), and check the data (mask2former check-data); "
    ) in capsys.readouterr().out
    assert main([*command, "3"]) == 2
    assert "--lowest and --highest are 1e-07 and 0.1, and --steps is 3; expected " in capsys.readouterr().err
