"""Suggested runs and the reasons for their settings."""

from __future__ import annotations

import numpy as np
import pytest

from mask2former.config import ScenesConfig
from mask2former.dataset_tools.figures import DataReport, SplitSummary, cell_diameter
from mask2former.dataset_tools.suggest import suggest_config
from mask2former.structures import Categories


def test_each_number_of_instances_that_is_set_has_a_reason() -> None:
    for most, kept in ((330, 100), (380, 500)):  # the packaged model keeps 400
        counts, one = np.array([most]), np.array([1])
        summary = SplitSummary(
            Categories.from_names(["cell"]), 1, (((256, 256), 1),), counts, np.full(most, 50), one, counts, counts * 50
        )
        run, reasons = suggest_config(ScenesConfig(), DataReport({"train": summary}, (), "instance", 100))
        assert run.model.inference.max_instances == kept
        assert "min_area" not in run.model.inference.model_fields_set  # objects of 50 pixels are above the model's
        assert any(f"up to {most} objects" in reason for reason in reasons) == (kept > 400)


def test_objects_without_pixels_say_nothing_about_the_diameter_of_cells() -> None:
    counts, one = np.array([9]), np.array([1])
    for areas, diameter in (([0] * 9, None), ([0] * 7 + [314] * 2, 20)):
        summary = SplitSummary(
            Categories.from_names(["cell"]), 1, (((256, 256), 1),), counts, np.array(areas), one, counts, counts
        )
        assert cell_diameter(summary) == (None if diameter is None else pytest.approx(diameter, abs=0.1))
