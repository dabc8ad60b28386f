"""Benchmarks for other machines, run here with small sizes; behind the slow mark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name: str, output: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / name), "--output", str(output), *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(output.read_text())


def failures(figures: Any) -> list[str]:
    """The messages of all measurements that failed, at any depth."""
    if not isinstance(figures, dict):
        return []
    return [figures["failed"]] if "failed" in figures else [why for part in figures.values() for why in failures(part)]


@pytest.mark.slow
def test_that_of_gpus_on_a_cpu(tmp_path: Path) -> None:
    result = run("gpu.py", tmp_path / "gpu.json", "--device", "cpu", "--tiny", "--patience", "8")
    parts = {name: result[name]["ended"] for name in ("kernels", "parity", "r50", "training", "fixed")}
    assert parts == dict.fromkeys(parts, "as planned")
    assert failures(result) == []
    assert {"ours", "transformers"} <= result["r50"]["bfloat16, batch 2"].keys()


@pytest.mark.slow
def test_that_of_growth(tmp_path: Path) -> None:
    image = tmp_path / "growth.png"
    chosen = ("--axes", "queries", "objects", "--points", "10", "20", "--image", str(image))
    result = run("growth.py", tmp_path / "growth.json", *chosen, "--limit", "600")
    assert [len(found["points"]) for found in result["axes"].values()] == [2, 2]
    assert image.stat().st_size > 1000


@pytest.mark.slow
def test_that_of_loading(tmp_path: Path) -> None:
    kinds = run("loading.py", tmp_path / "loading.json", "--rounds", "1", "--steps", "1")["kinds"]
    spent = {kind: found["processor_milliseconds_per_sample"] for kind, found in kinds.items()}
    changed = {kind: {part for part in ("exposure", "blur") if parts[part]} for kind, parts in spent.items()}
    assert [kind for kind, parts in changed.items() if parts] == ["semantic, crop 512x512, exposure and blur"]
    assert changed["semantic, crop 512x512, exposure and blur"] == {"exposure", "blur"}
    assert all(parts["colour jitter"] > 0 for kind, parts in spent.items() if kind.startswith("semantic"))


@pytest.mark.slow
def test_that_of_formats(tmp_path: Path) -> None:
    result = run("formats.py", tmp_path / "formats.json", "--counts", "20", "40")
    names = ["table", "coco-dataset", "cvat", "geojson", "imagej", "label-studio-polygons", "label-tiff", "yolo"]
    assert {*names, "class-masks", "cutouts"} <= result.keys()
    assert all(result[name]["40 objects"]["written, MiB"] >= 0 for name in names)


@pytest.mark.slow
def test_that_of_depthwise_convolutions(tmp_path: Path) -> None:
    result = run(
        "depthwise.py", tmp_path / "depthwise.json", "--rounds", "1", "--side", "64", "--backbones", "convnext_atto"
    )
    assert result["convnext_atto"]["ratio"] > 0
    assert result["convnext_atto"]["gradient_error"]["float32"] < 1


@pytest.mark.slow
def test_that_of_the_service(tmp_path: Path) -> None:
    """At four times its capacity the service loses and mixes up nothing; memory stays flat over 2,000 requests."""
    result = run("service.py", tmp_path / "service.json", "--requests", "20", "--memory", "2000")
    assert result["scenes_differ_percent"] > 10
    parts = [found for name in ("batches", "alone") for found in result["load"][name].values()]
    for found in [*parts, result["memory"]["requests"]]:
        assert (found["lost"], found["of_another_image"]) == (0, 0)
        assert set(found["statuses"]) <= {"200", "429"}
    assert all("429" in result["load"][name]["4 x capacity"]["statuses"] for name in ("batches", "alone"))
    marks = result["memory"]["mebibytes"]
    assert max(marks[2:]) < 1.03 * marks[1]
