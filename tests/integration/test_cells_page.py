"""The code on the page "your own cells" runs unchanged, on drawn cells, with fewer steps."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mask2former.cli import main
from mask2former.config import RunConfig, parse

PAGE = Path(__file__).parents[2] / "docs" / "your-own-cells.md"
SHORTER = [
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "trainer.checkpoint_interval=1",
    "trainer.log_interval=1",
    "evaluation.interval=2",
    "evaluation.num_images=0",
    "data.num_workers=0",
]

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("small_overlays", "unpredicted_memory")]


def draw_cells(folder: Path, split: str, count: int, seed: int) -> None:
    """Write images with nine bright discs each on a dark background, and their COCO file."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:96, :96]
    (folder / split).mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        pixels = rng.normal(15, 3, (96, 96))
        for index in range(9):
            row, column = (int(16 + 32 * (index // 3) + rng.integers(-6, 7)), 16 + 32 * (index % 3))
            radius = rng.uniform(4, 6)
            pixels[(y - row) ** 2 + (x - column) ** 2 <= radius**2] += rng.uniform(80, 160)
            turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
            corners = np.stack([column + 0.5 + radius * np.cos(turns), row + 0.5 + radius * np.sin(turns)], axis=1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "segmentation": [corners.reshape(-1).round(2).tolist()],
                    "iscrowd": 0,
                }
            )
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / split / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 96, "width": 96})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "yeast"}]}
    (folder / f"{split}.json").write_text(json.dumps(content))


def test_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    draw_cells(Path("cells"), "train", 4, seed=0)
    draw_cells(Path("cells"), "val", 1, seed=1)
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    commands = [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]
    assert [command[0] for command in commands] == ["check-data", "train", "predict"]
    shown = {}
    for command in commands:
        shorter = {"train": SHORTER, "check-data": ["--workers", "0"]}.get(command[0], [])
        assert main([*command, *shorter]) == 0, capsys.readouterr().err
        shown[command[0]] = capsys.readouterr().out
    proposal = yaml.safe_load(Path("cells.yaml").read_text())
    assert proposal["model"] == {"init": "nuclei"}
    run = parse(RunConfig, proposal, "proposal")
    assert run.evaluation.monitor == "instance/AP"
    assert run.optim.lr <= 5e-5
    assert "one class, 'yeast', with many small objects" in shown["check-data"]
    assert (
        "Starting from nuclei with all weights that fit: its only class, 'nucleus', becomes 'yeast'" in shown["train"]
    )
    assert re.search(r"instance/AP started at [\d.]+, best [\d.]+ \(step [02]\), last [\d.]+", shown["train"])
    with Path("runs/mine/metrics.csv").open() as stream:
        first = next(csv.DictReader(stream))
    assert (first["global_step"], first["loss"]) == ("0", "")
    assert float(first["instance/AP"]) > 20  # the packaged model has seen such things
    written = yaml.safe_load(Path("runs/mine/run.yaml").read_text())["model"]
    assert (written["backbone"]["model"], written["inference"]["tile"]) == ("resnet10t", 128)
    assert Path("results/0.json").is_file()
