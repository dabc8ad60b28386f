"""What analyses draw, and what their commands print of them; what they find is in ``integration/test_analyze.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.analysis.drawing import heat, points_on
from mask2former.analysis.focus import AttentionFocus, LayerFocus
from mask2former.analysis.layers import RECALL, Depth, LayerMetrics
from mask2former.analysis.queries import AttentionMaps, QueryAttention
from mask2former.analysis.sampling import LayerPoints, SamplingPoints
from mask2former.cli import main
from mask2former.errors import UserError

GREY = np.full((40, 80, 3), 100, np.uint8)
PANOPTIC = "panoptic/PQ"
LAYERS = LayerMetrics(
    (Depth("queries", {RECALL: 10.0, PANOPTIC: None}), Depth("layer 1", {RECALL: 30.25, PANOPTIC: 20.0})),
    {"data": "scenes"},
)
FOCUS = AttentionFocus(
    (LayerFocus("layer 1", (32,), 0.4, 0.25, 0.1), LayerFocus("layer 2", (16, 8), 0.5, 0.3, 0.1)),
    7,
    "instance",
    {"images": 2},
)
MAPS = AttentionMaps(
    GREY,
    ("layer 1: 1/32",),
    (QueryAttention(3, "cat", 0.875, (np.array([[0.0, 0.5, 9.0], [0.5, 0.0, 9.0]]),), (0.75,)),),
    (1.0, 2 / 3),  # the last third is padding
)
POINTS = np.array([[20.0, 10.0], [60.0, 30.0], [200.0, 10.0]])
SAMPLING = SamplingPoints(
    GREY,
    (40.0, 20.0),
    tuple(LayerPoints(f"layer {n}", POINTS, (8, 8, 32), (0, 0, 0), (0.5, 0.25, 0.25), 25.5, 30.0) for n in range(1, 5)),
)


def test_the_largest_weight_is_hot_and_none_is_dark() -> None:
    drawn = np.asarray(heat(GREY, np.array([[0.0, 2.0]])))
    assert drawn[10, 10].tolist() == [55, 55, 55]
    assert drawn[10, -10].tolist() == [255, 96, 0]


def test_points_are_drawn_where_they_are_and_larger_by_weight() -> None:
    blue, red = (0, 0, 255), (255, 0, 0)
    drawn = np.asarray(
        points_on(GREY, [(0.25, 0.25, 1.0, blue), (0.75, 0.75, 0.04, red), (3.0, 0.5, 1.0, red)], (0.5, 0.5))
    )
    height, width = drawn.shape[:2]
    assert drawn[height // 4, width // 4].tolist() == list(blue)
    assert drawn[3 * height // 4, 3 * width // 4].tolist() == list(red)
    sizes = [(drawn == color).all(axis=2).sum() for color in (blue, red)]
    assert sizes[0] > 5 * sizes[1] > 0
    assert drawn[height // 2, width // 2].tolist() == [255, 255, 255]  # the cross


def test_padding_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown: list[np.ndarray] = []

    def keep(image: np.ndarray, weights: np.ndarray) -> Image.Image:
        shown.append(weights)
        return Image.fromarray(image)

    monkeypatch.setattr("mask2former.analysis.queries.heat", keep)
    MAPS.draw(tmp_path / "maps.png")
    assert [weights.tolist() for weights in shown] == [[[0.0, 0.5], [0.5, 0.0]]]


def test_curves_are_those_that_are_defined_everywhere() -> None:
    drawn = LAYERS.curves()
    assert drawn.series == {"": {RECALL: ([0, 1], [10.0, 30.25])}}
    assert [names for _, names in drawn.panels] == [(RECALL,)]
    assert drawn.ticks == ["queries", "layer 1"]
    drawn = FOCUS.curves()
    assert [values for _, values in drawn.series[""].values()] == [[40, 50], [25, 30], [10, 10]]
    assert drawn.ticks == ["1: 1/32", "2: 1/16, 8"]


def test_curves_without_a_value_are_refused(tmp_path: Path) -> None:
    nothing = LayerMetrics((Depth("layer 1", {PANOPTIC: None}),), {})
    with pytest.raises(UserError, match=r"nothing to draw into '.*layers.png', since no value is defined"):
        nothing.draw(tmp_path / "layers.png")


COMMANDS: dict[str, tuple[str, Any, list[list[str]]]] = {
    "layers": (
        "layer_metrics",
        LAYERS,
        [["depth", RECALL, PANOPTIC], ["queries", "10.0", "-"], ["layer", "1", "30.2", "20.0"]],
    ),
    "focus": (
        "attention_focus",
        FOCUS,
        [["layer", "1", "32", "40.0", "25.0", "10.0"], ["layer", "2", "16,", "8", "50.0", "30.0", "10.0"]],
    ),
    "attention": ("attention_maps", MAPS, [["3", "cat", "0.88", "75.0"]]),
    "sampling": ("sampling_points", SAMPLING, [["layer", "4", "25.5", "30.0"]]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_the_main_figures_and_writes_all(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    function, report, rows = COMMANDS[name]
    monkeypatch.setattr(f"mask2former.analysis.{function}", lambda *_, **__: report)
    monkeypatch.setattr(
        "mask2former.analysis.curves.plot_series", lambda *arguments, **_: arguments[2].write_bytes(b"!")
    )
    output = tmp_path / "out.png"
    assert main(["analyze", name, "--output", str(output)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert all(row in lines for row in rows)
    assert output.stat().st_size
    found = json.loads(output.with_suffix(".json").read_text())
    assert found == json.loads(json.dumps(report.to_dict()))
    if name == "sampling":
        assert found["layers"][0]["points"] == POINTS.tolist()
        with Image.open(output) as drawn:  # three layers in a row
            assert drawn.width > 3 * 2 * 176
    if name == "focus":
        assert ["Mean", "over", "7", "objects", "of", "2", "images."] in lines
