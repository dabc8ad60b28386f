"""The lines that ``mask2former evaluate`` prints."""

from __future__ import annotations

import pytest

from mask2former.cli.scores import headline
from mask2former.evaluation.scores import EvaluationReport


@pytest.mark.parametrize(("images", "seconds", "speed"), [(5, 2.0, "2.5 per second"), (4, 100.0, "25.0 s each")])
def test_the_speed_is_told_in_a_unit_in_which_it_is_not_zero(images: int, seconds: float, speed: str) -> None:
    report = EvaluationReport({"instance/AP": 36.59}, {}, images, seconds)
    assert headline("nuclei", report) == f"{images} images measured (nuclei), {speed}: AP 36.59"
