"""The code on the pages of ``docs/extend`` about evaluation runs unchanged, and each page is at most a screen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mask2former.data.datasets.scenes import Scenes

pytestmark = pytest.mark.long

PAGES = Path(__file__).parents[2] / "docs" / "extend"


def run_page(name: str) -> dict[str, Any]:
    """Run the Python blocks of a page, which has at most 60 lines, and return the names that they define."""
    text = (PAGES / name).read_text(encoding="utf-8")
    assert text.count("\n") <= 60
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, name, "exec"), names)
    return names


def test_results_in_a_format_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.fromarray(Scenes(64).image(0)).save(tmp_path / "photos" / "one.jpg")
    names = run_page("output_format.md")
    assert len((tmp_path / "objects.csv").read_text().splitlines()) == names["report"].results.count > 0
    assert names["table"].count == len((tmp_path / "photos.csv").read_text().splitlines())


def test_a_metric_of_ones_own_stands_beside_the_others() -> None:
    names = run_page("evaluator.md")
    assert names["report"].metrics["instance/AP"] > 0
    assert names["report"].metrics["instance/count_error"] >= 0
    assert names["report"].to_dict()["metrics"]["instance/count_error"] >= 0
