"""The page on results in other programs lists all formats and columns, and its example runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from PIL import Image

from mask2former.cli.predict import predict
from mask2former.results_io.formats import FORMATS
from mask2former.scenes import draw_scene
from mask2former.structures import Categories
from mask2former.structures.tables import image_row, table_columns

PAGE = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text(encoding="utf-8")


def _named(text: str, heading: str) -> list[str]:
    """The code words in the first column of the table below a heading."""
    table = text.partition(heading)[2].partition("\n\n")[0]
    return re.findall(r"`(\w[\w-]*)`", "".join(line.split("|")[1] for line in table.splitlines() if "|" in line))


def test_the_page_and_the_help_name_every_format() -> None:
    assert sorted(_named(PAGE, "| `--also` | writes")) == sorted(FORMATS)
    [option] = [entry.help for entry in get_type_hints(predict, include_extras=True)["also"].__metadata__ if entry.help]
    assert sorted(re.findall(r"[\w-]+", option.partition("repeated: ")[2])) == sorted(FORMATS)


def test_the_page_names_every_column() -> None:
    assert _named(PAGE, "| column | holds |") == ["image", *table_columns()]
    text = PAGE.partition("The table of images has")[2].partition("\n\n")[0]
    columns = ["image", *image_row([], (1, 1), Categories.from_names(["CLASS"]))]
    assert re.findall(r"`(\w+)`", text) == columns


@pytest.mark.filterwarnings("ignore::UserWarning")  # of supervision, about missing OpenCV
def test_the_example_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(draw_scene(21, (180, 240)).image).save("scene.png")
    [example] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "outputs.md", "exec"), names)
    assert capsys.readouterr().out.count("\n") == len(names["result"]) + 1
    assert Image.open("best.png").mode == "RGBA"
    assert len(names["frame"]) == len(names["detections"]) == len(names["result"]) > 1
