"""The code on the page about custom data sets runs unchanged, with fewer steps and samples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mask2former.data.sample_sets import as_reader

PAGE = Path(__file__).parents[2] / "docs" / "extend" / "dataset.md"

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("small_overlays", "unpredicted_memory")]


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("\n") < 75
    definition, use = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(definition, PAGE.name, "exec"), names)
    reader: Any = as_reader(names["Shapes"](2, seed=0))
    assert reader.ground_truths(1, ["instance"])["instance"].labels.shape == (3,)
    for long, short in (("300", "2"), ("Shapes(50", "Shapes(2"), ("Shapes(100", "Shapes(2")):
        assert long in use
        use = use.replace(long, short)
    exec(compile(use, PAGE.name, "exec"), names)
    assert names["report"].num_images == 2
