"""The code on the page "your own data in ten minutes" runs unchanged, with fewer images and steps."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from mask2former.cli import main
from mask2former.config import RunConfig, parse
from mask2former.training.datamodule import DataModule

PAGE = Path(__file__).parents[2] / "docs" / "your-own-data.md"
SHORTER = [
    "data.batch_size=2",
    "data.num_workers=0",
    "evaluation.num_images=0",
    "trainer.accelerator=cpu",
    "trainer.checkpoint_interval=1",
]

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("small_overlays", "unpredicted_memory")]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def test_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    fewer = code.replace("4_000_000, 200)", "4_000_000, 12)").replace("5_000_000, 20)", "5_000_000, 4)")
    assert fewer != code
    exec(compile(fewer, str(PAGE), "exec"), {"__name__": "tutorial"})
    (run,) = blocks("yaml")
    Path("run.yaml").write_text(run)
    commands = [shlex.split(line)[1:] for block in blocks("sh") for line in block.splitlines()]
    assert [command[0] for command in commands] == ["check-data", "train", "train", "evaluate", "predict"]
    for index, command in enumerate(commands):
        shorter = [*SHORTER, f"trainer.max_steps={index}"] if command[0] == "train" else []
        assert main([*command, *shorter]) == 0, capsys.readouterr().err
    assert (
        parse(RunConfig, yaml.safe_load(Path("suggested.yaml").read_text()), "suggested").data.dataset.name
        == "coco-instance"
    )
    assert Path("contact-sheet.png").is_file()
    assert yaml.safe_load(Path("runs/shapes/run.yaml").read_text())["trainer"]["max_steps"] == 2
    data = DataModule(parse(RunConfig, yaml.safe_load(run), "run.yaml"))
    data.num_queries = 2
    assert any("contain more objects than the model has queries (2;" in remark for remark in data.remarks())
    assert "instance/AP" in json.loads(Path("metrics.json").read_text())["metrics"]
    assert len(list(Path("results").glob("*.json"))) == 4
    assert isinstance(json.loads(Path("results.json").read_text()), list)
