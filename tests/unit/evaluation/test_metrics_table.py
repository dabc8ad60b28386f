"""Steps in the tables of runs are completed steps, even in tables of versions that counted from 0."""

from __future__ import annotations

from pathlib import Path

import pytest

from mask2former.evaluation.curves import read_run
from mask2former.evaluation.metrics_table import STEP, read_metrics, read_times


@pytest.mark.parametrize(
    ("logged", "taken"),
    [([0, 19, 39], [0, 20, 40]), ([0, 0, 1], [0, 1, 2]), ([0, 1, 2], [1, 2, 3]), ([0, 1, 3], [0, 2, 4]), ([0], [0])],
)
def test_tables_that_count_from_0(logged: list[int], taken: list[int], tmp_path: Path) -> None:
    """Validations alone; the first may be one before the first step."""
    path = tmp_path / "metrics.csv"
    path.write_text("step,panoptic/PQ\n" + "".join(f"{step},1\n" for step in logged))
    table = read_metrics(path)
    assert table.counted_from_zero
    assert [row[STEP] for row in table.rows] == taken


def test_rows_of_losses_and_validations_that_count_from_0(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,PQ\n0,,5\n0,3,\n1,2,\n1,,6\nx,1,\n")
    assert [row[STEP] for row in read_metrics(path).rows] == [0, 1, 2, 2]
    series = read_run(tmp_path)
    assert series["loss"][0] == [1, 2]
    assert series["PQ"][0] == [0, 2]
    times = tmp_path / "times.csv"
    times.write_text("step,seconds\n0,1.0\n0,2.0\n1,3.0\n")
    assert read_times(times, has_start=True) == [(0, "1.0"), (1, "2.0"), (2, "3.0")]
    assert read_times(times, has_start=False) == [(1, "1.0"), (1, "2.0"), (2, "3.0")]


def test_tables_of_steps_done_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(f"{STEP},loss,PQ\n0,,5\n1,3,\n2,2,\n2,,6\n")
    table = read_metrics(path)
    assert not table.counted_from_zero
    assert [row[STEP] for row in table.rows] == [0, 1, 2, 2]
    path.write_text(f"{STEP},seconds\n0,1.0\n1,2.0\n")
    assert read_times(path, has_start=True) == [(0, "1.0"), (1, "2.0")]
