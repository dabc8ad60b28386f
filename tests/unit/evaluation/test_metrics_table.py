"""Steps in the tables of runs are completed steps, even in tables of versions that counted from 0."""

from __future__ import annotations

from pathlib import Path

import pytest

from mask2former.evaluation.curves import read_run
from mask2former.evaluation.metrics_table import STEP, read_metrics, read_times
from mask2former.notes import collect_notes


@pytest.mark.parametrize(
    ("logged", "taken"),
    [([0, 19, 39], [0, 20, 40]), ([0, 0, 1], [0, 1, 2]), ([0, 1, 2], [1, 2, 3]), ([0, 1, 3], [0, 2, 4]), ([0], [0])],
)
def test_tables_that_count_from_0(logged: list[int], taken: list[int], tmp_path: Path) -> None:
    """Steps of validations that count from 0 are read as steps done; one before the first step stays 0."""
    path = tmp_path / "metrics.csv"
    path.write_text("step,panoptic/PQ\n" + "".join(f"{step},1\n" for step in logged))
    table = read_metrics(path)
    assert table.counted_from_zero
    assert [row[STEP] for row in table.rows] == taken


@pytest.mark.parametrize(
    ("settings", "logged", "taken"),
    [
        ("evaluation: {every: 2}\ntrainer: {max_steps: 3}", [0, 1], [0, 2]),
        ("evaluation: {interval: 2}\ntrainer: {max_steps: 2}", [0, 1], [0, 2]),
        ("evaluation: {every: 1}\ntrainer: {max_steps: 2}", [0, 1], [1, 2]),
        ("evaluation: {every: 1}\ntrainer: {max_steps: 2}", [0, 0, 1], [0, 1, 2]),
        ("evaluation: {every: 1000}\ntrainer: {max_steps: 1}", [0], [1]),
    ],
)
def test_the_run_file_says_whether_the_first_validation_is_before_the_first_step(
    settings: str, logged: list[int], taken: list[int], tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(settings)
    path = tmp_path / "metrics.csv"
    path.write_text("step,panoptic/PQ\n" + "".join(f"{step},1\n" for step in logged))
    with collect_notes() as notes:
        assert [row[STEP] for row in read_metrics(path).rows] == taken
    assert not notes


@pytest.mark.parametrize("settings", ["[]", "{", "evaluation: 3\ntrainer: 4", "trainer: {max_steps: .inf}"])
def test_a_run_file_that_says_nothing_is_like_none(settings: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"evaluation: {{interval: 2}}\n{settings}" if "inf" in settings else settings)
    (tmp_path / "metrics.csv").write_text("step,panoptic/PQ\n0,1\n1,1\n")
    with collect_notes() as notes:
        assert [row[STEP] for row in read_metrics(tmp_path / "metrics.csv").rows] == [1, 2]
    assert len(notes) == 1


def test_without_the_run_file_two_validations_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,panoptic/PQ\n0,1\n1,1\n")
    with collect_notes() as notes:
        assert [row[STEP] for row in read_metrics(path).rows] == [1, 2]
    assert [example for _, example in notes] == [f"'{path}'"]


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
