"""The call: what is recorded, and data without annotations."""

from __future__ import annotations

from pathlib import Path

import pytest

from mask2former import evaluate
from mask2former.data.datasets.scenes import Scenes
from mask2former.errors import UserError


def test_images_without_annotations_have_results_and_no_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = Scenes((64, 64), seed=5, length=1)
    monkeypatch.setattr(Scenes, "has_ground_truth", False)
    with pytest.raises(UserError, match=r"these images have no annotations to measure with; results FILE\.json writes"):
        evaluate("scenes-tiny", samples, "instance", device="cpu")
    with pytest.raises(UserError, match="report applies to images with annotations, and these have none"):
        evaluate("scenes-tiny", samples, "instance", results=tmp_path / "r.json", report=tmp_path / "x.html")
    report = evaluate("scenes-tiny", samples, "instance", device="cpu", results=tmp_path / "r.json")
    assert (report.metrics, report.num_images) == ({}, 1)
    assert (tmp_path / "r.json").exists()


def test_only_options_that_were_used_are_recorded() -> None:
    """Evaluation chooses no score threshold, whatever a run file says."""
    report = evaluate("scenes-tiny", Scenes((64, 64), seed=5, length=1), "instance", device="cpu")
    expected = {"max_detections", "area_limits", "boundary", "pooled_threshold", "semantic_segments"}
    assert set(report.request["settings"]) == expected
