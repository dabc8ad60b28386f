"""The code on the pages about custom parts runs unchanged, with fewer steps and smaller images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mask2former.config import CriterionConfig, EvaluationConfig, ScenesConfig

SMALL = ScenesConfig(image_size=(64, 64), num_validation=1)
FOLDER = Path(__file__).parents[2] / "docs" / "extend"
PAGES = [
    FOLDER / f"{name}.md"
    for name in (
        "attention",
        "augmentation",
        "backbone",
        "distillation",
        "head",
        "loss_term",
        "pixel_decoder",
        "plain_loop",
        "train_from_python",
    )
]
FEWER = {
    r"max_steps=1000": "max_steps=1, accelerator='cpu'",
    r"max_steps=1500": "max_steps=2, accelerator='cpu'",
    r"RunConfig\(": "RunConfig(criterion=CriterionConfig(num_points=64), evaluation=EvaluationConfig(num_images=0), ",
    r"evaluation=EvaluationConfig\(num_images=0\), ((?:.*\n)*?.*evaluation=EvaluationConfig\()": r"\1num_images=0, ",
    r"Criterion\(len\(([\w.]+)\)": r"Criterion(len(\1), num_points=64",
    r"range\(1000\)": "range(1)",
    r"DataConfig\(batch_size=8\)": "DataConfig(dataset=SMALL, batch_size=2, num_workers=0)",
    r"batch_size=8, seed=0\), batch_size=8": "batch_size=2, seed=0), batch_size=2",
    r"Scenes\(96": "Scenes(64",
    r"length=20": "length=1",
}

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("small_overlays", "unpredicted_memory")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    assert len(text.splitlines()) <= 60
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, Any] = {"__name__": "page", "CriterionConfig": CriterionConfig, "SMALL": SMALL}
    names["EvaluationConfig"] = EvaluationConfig
    for block in blocks:
        fewer = block
        for long, short in FEWER.items():
            fewer = re.sub(long, short, fewer)
        exec(compile(fewer, str(page), "exec"), names)
    assert list(tmp_path.glob("runs/*/model.safetensors")) or (tmp_path / "mine.safetensors").exists()
