"""The analyses of the packaged model on drawn scenes through their commands: a drawing and its figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import Finished

from mask2former import DataSource, Predictor, evaluate
from mask2former.analysis import (
    attention_focus,
    attention_maps,
    convergence,
    layer_metrics,
    query_proposals,
    sampling_points,
)
from mask2former.cli import main
from mask2former.errors import UserError

FOUR = DataSource("scenes", limit=4)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True)


def test_the_last_layer_is_what_evaluate_measures(predictor: Predictor) -> None:
    found = layer_metrics(predictor, FOUR)
    assert [depth.name for depth in found.depths] == ["queries", "layer 1", "layer 2", "layer 3"]
    plain = evaluate(predictor, FOUR).metrics
    defined = {name: value if value == value else None for name, value in plain.items()}
    measured = dict(found.depths[-1].metrics)
    recalls = [depth.metrics["proposals/AR100"] for depth in found.depths]
    measured.pop("proposals/AR100")
    assert measured == defined
    assert all(recall is not None and 10 < recall < 100 for recall in recalls)
    assert recalls[-1] > recalls[0]  # pyright: ignore[reportOperatorIssue]
    assert found.data["images"] == 4


def test_masked_attention_lies_on_objects(predictor: Predictor) -> None:
    found = attention_focus(predictor, FOUR)
    assert [layer.strides for layer in found.layers] == [(32,), (16,), (8,)]
    for layer in found.layers:
        assert layer.area < layer.everywhere < layer.share < 1
    assert found.task == "instance"
    assert found.objects == 24  # of the first four scenes


def test_queries_on_one_image(predictor: Predictor) -> None:
    found = query_proposals(predictor, queries=[3, 20])
    assert [one.query for one in found.queries] == [3, 20]
    assert found.queries[0].masks.shape == (4, 128, 128)
    assert found.queries[1].ious[-1] == 1
    maps = attention_maps(predictor)
    assert len(maps.queries) == 6
    for one in maps.queries:
        assert [weights.shape for weights in one.maps] == [(4, 4), (8, 8), (16, 16)]
        np.testing.assert_allclose([weights.sum() for weights in one.maps], 1, rtol=1e-5)
    with pytest.raises(UserError, match="there is no query 32; the model has 32, counted from 0"):
        query_proposals(predictor, queries=[32])


def test_points_around_a_point(predictor: Predictor) -> None:
    found = sampling_points(predictor, point=(100, 20))
    for layer in found.layers:
        count = len(layer.points)
        assert count == len(layer.weights) == len(layer.heads) == len(layer.strides)
        assert set(layer.strides) == {8, 16, 32}
        np.testing.assert_allclose(sum(layer.weights), len(set(layer.heads)), rtol=1e-5)
        assert 0 < layer.distance < 300
    with pytest.raises(UserError, match=r"the point 128, 3 is outside the image of 128x128 pixels"):
        sampling_points(predictor, point=(128, 3))


COMMANDS = {
    "proposals": ["--image", "own.png"],
    "layers": ["--limit", "1"],
    "focus": ["--limit", "1"],
    "attention": ["--query", "3"],
    "sampling": ["--image", "own.png", "--at", "40", "20"],
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in list(COMMANDS)[1:]]


@pytest.mark.parametrize("name", ["proposals", *SLOW])
def test_a_command_writes_a_drawing_and_its_figures(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)).save("own.png")
    assert main(["analyze", name, *COMMANDS[name], "--device", "cpu"]) == 0
    assert capsys.readouterr().out.endswith(f"Drawing: {name}.png; all figures: {name}.json\n")
    assert json.loads((tmp_path / f"{name}.json").read_text())
    with Image.open(f"{name}.png") as drawn:
        assert drawn.width > 300


def test_requests_that_cannot_be_met(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "layers", "-o", str(tmp_path / "layers.jpg")]) == 2
    assert "expected a file that ends in .png" in capsys.readouterr().err
    assert main(["analyze", "layers", "--data", "scene-clips", "-o", str(tmp_path / "layers.png")]) == 2
    assert "the data are clips, but analyses are for images" in capsys.readouterr().err


def test_convergence_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, values in (("a", (10, 30, 40)), ("b", (38, 39, 39))):
        (tmp_path / name).mkdir()
        rows = [f"{step},1.5,{value}" for step, value in zip((100, 200, 300), values, strict=True)]
        (tmp_path / name / "metrics.csv").write_text("\n".join(["global_step,loss,panoptic/PQ", *rows]) + "\n")
    output = tmp_path / "convergence.png"
    assert main(["analyze", "convergence", str(tmp_path / "a"), str(tmp_path / "b"), "-o", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "run",
        "best",
        "panoptic/PQ",
        "at",
        "step",
        *" ".join(f"{n} % at" for n in (50, 90, 95, 99)).split(),
    ]
    assert [line.split() for line in lines[1:3]] == [
        ["a", "40.0", "300", "200", "300", "300", "300"],
        ["b", "39.0", "200", "100", "100", "100", "200"],
    ]
    assert json.loads(output.with_suffix(".json").read_text())["metric"] == "panoptic/PQ"
    assert output.stat().st_size > 1000
    assert main(["analyze", "convergence", str(tmp_path / "a"), "--metric", "instance/AP", "-o", str(output)]) == 2
    assert (
        "'instance/AP' is no metric that all runs have; those that they share: panoptic/PQ" in capsys.readouterr().err
    )
    with pytest.raises(UserError, match="'loss' is no metric that all runs have"):  # the largest is not the best
        convergence([tmp_path / "a"], "loss")
    convergence([str(tmp_path / "a")]).draw(str(tmp_path / "texts.png"))  # paths may be text, as everywhere
    assert (tmp_path / "texts.png").stat().st_size > 1000


@pytest.mark.long
def test_the_best_step_is_that_of_the_training(finished_run: Finished) -> None:
    [progress] = convergence([finished_run.folder], finished_run.result.monitor).runs
    assert (progress.best, progress.best_step) == pytest.approx(finished_run.result.best)
