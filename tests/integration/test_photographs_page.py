"""The code on the page about photographs runs unchanged, on a drawn scene, with the packaged model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from mask2former.cli import main
from mask2former.data.datasets.scenes import Scenes

PAGE = Path(__file__).parents[2] / "docs" / "photographs.md"
PUBLISHED = "coco-panoptic/swin-t"

pytestmark = pytest.mark.usefixtures("small_overlays")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.long
def test_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Image.fromarray(Scenes((64, 96), seed=2_000_000, length=1).image(0)).save("photos/street.jpg")
    commands = [shlex.split(line)[1:] for block in blocks("sh") for line in block.splitlines()]
    assert [command[0] for command in commands] == ["models", "models", "predict", "predict", "predict"]
    for command in commands:
        is_listing = command[0] == "models"
        here = ["scenes-tiny" if word == PUBLISHED and not is_listing else word for word in command]
        assert main(here) == 0, capsys.readouterr().err
        if is_listing:
            assert PUBLISHED in capsys.readouterr().out
    tasks = {folder: json.loads(Path(folder, "street.json").read_text())["task"] for folder in ("people", "maps")}
    assert tasks == {"people": "instance", "maps": "semantic"}
    assert {path.name for path in Path("results").iterdir()} == {"street.png", "street_ids.png", "street.json"}
    [code] = blocks("python")
    exec(compile(code.replace(PUBLISHED, "scenes-tiny"), str(PAGE), "exec"), {})
    assert "% of the image" in capsys.readouterr().out
    assert Path("overlay.png").is_file()
