"""Files of version 0.1.0 can still be read: models, runs, results. The files are never regenerated."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path

import pytest
import torch
from runs import table

from mask2former import Predictor, checkpoints
from mask2former.cli import main
from mask2former.models.mask2former import Mask2Former
from mask2former.scenes import SCENE_CATEGORIES

FILES = Path(__file__).parents[1] / "data" / "v0_1"

pytestmark = pytest.mark.usefixtures("unpredicted_memory")


@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny"])
def test_models(name: str) -> None:
    opened = checkpoints.open_checkpoint(FILES / name)
    assert opened.info.metrics == {"panoptic/PQ": 12.5}
    assert opened.info.license == "CC BY-NC 4.0"
    assert (opened.run is not None) == (name == "tiny.safetensors")
    assert opened.categories == SCENE_CATEGORIES
    model = Mask2Former.from_pretrained(FILES / name)
    assert sum(value.numel() for value in model.parameters()) == 32100
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    predictor = Predictor(model, "cpu")
    assert (predictor.settings.max_instances, predictor.settings.short_edge) == (5, 0)
    segments = predictor(FILES / "images" / "0.png", "panoptic").segments
    assert [(item.id, round(item.score, 4)) for item in segments] == [(1, 0.2317), (2, 0.1923)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shutil.copytree(FILES, tmp_path / "v0_1"))
    return Path()


def test_a_run_goes_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = here / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(lzma.decompress(last.with_name("last.ckpt.xz").read_bytes()))
    assert main(["train", "run/run.yaml", "--resume", "run", "trainer.max_steps=4"]) == 0
    rows, old = table(here / "run"), table(FILES / "run")
    assert "note: metrics.csv was written by an earlier version, which counted steps from 0" in capsys.readouterr().out
    assert "step" not in rows[0]
    assert [{name: row[name] for name in old[0] if name != "step"} for row in rows[: len(old)]] == [
        {name: value for name, value in row.items() if name != "step"} for row in old
    ]
    assert [row["global_step"] for row in rows] == ["1", "2", "2", "3", "4", "4"]
    assert [float(row["loss"]) for row in rows[3:5]] == pytest.approx([8.790024, 7.831635], rel=1e-4)
    assert Mask2Former.from_pretrained(here / "run" / "model.safetensors").categories == SCENE_CATEGORIES


def test_tracks_are_not_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    track = ["track", "frames", "-o", "results/track", "-m", "tiny.safetensors", "--no-video", "--device", "cpu"]
    assert main(track) == 2
    assert "frames.json" in capsys.readouterr().err
    assert main([*track, "--overwrite", "--ytvis", "again.json"]) == 0
    found, before = (json.loads(Path(name).read_text()) for name in ("again.json", "ytvis.json"))
    scores = [[track.pop("score") for track in tracks] for tracks in (found, before)]
    assert found == before
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)  # processors round differently


def test_metrics_are_read_for_curves(here: Path) -> None:
    """Steps that 0.1 counted from 0 are read as steps done; test_report.py tests how metrics are drawn."""
    pytest.importorskip("matplotlib")
    from mask2former.evaluation.curves import read_run

    series = read_run(here / "run")
    assert series["loss"][0] == [1, 2]  # which that version counted from 0
    assert series["panoptic/PQ"][0] == [2]


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_results_count_as_done(here: Path, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Results of 0.1 for the same model, settings and images are skipped, and COCO files are made from them."""
    folder = here / "results" / task
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    again = ["predict", "images", "-o", str(folder), "-m", "tiny.safetensors", "-t", task, "--no-pictures"]
    assert main([*again, "--device", "cpu", "--coco", "again.json"]) == 0
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    assert "2 skipped" in capsys.readouterr().out
    if task == "instance":
        assert json.loads(Path("again.json").read_text()) == json.loads(Path("coco-instances.json").read_text())
