"""The table of a run is whole again when the run goes on, whatever its last line was."""

from __future__ import annotations

from pathlib import Path

import pytest

from mask2former.training.metrics_log import MetricsLog


def opened(path: Path, first_step: int = 0, first_row: int | None = None) -> MetricsLog:
    log = MetricsLog(path, first_step, first_row)
    log.open()
    return log


@pytest.mark.parametrize("torn", ["", "2", "2,", "2,0.", "\0\0\0\0", "x,1.0,2.0\n", "2,0.5,7.0,9\n"])
def test_a_torn_last_line_is_dropped_and_the_run_goes_on(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,rate\n0,3.0,0.1\n1,2.0,0.1\n" + torn)
    log = opened(path, first_step=2)
    log.log_metrics({"loss": 1.0, "rate": 0.1, "epoch": 0}, step=2)
    assert path.read_text().splitlines() == ["step,loss,rate", "0,3.0,0.1", "1,2.0,0.1", "2,1.0,0.1"]


def test_columns_grow_and_steps_that_are_made_again_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = opened(path)
    log.log_metrics({"loss": 3.0}, step=0)
    log.log_metrics({"PQ": 50.0}, step=0)
    log.log_metrics({"loss": 2.0}, step=1)
    assert path.read_text().splitlines() == ["step,loss,PQ", "0,3.0,", "0,,50.0", "1,2.0,"]
    opened(path, first_step=1)
    assert path.read_text().splitlines() == ["step,loss,PQ", "0,3.0,", "0,,50.0"]
    opened(path)
    assert path.read_text().splitlines() == ["step"]


def test_times_go_on_where_the_last_kept_step_was(tmp_path: Path) -> None:
    log = opened(tmp_path / "metrics.csv")
    for step in range(3):
        log.log_metrics({"loss": 1.0}, step=step)
    rows = (tmp_path / "times.csv").read_text().splitlines()
    assert rows[0] == "step,seconds"
    assert [row.split(",")[0] for row in rows[1:]] == ["0", "1", "2"]
    (tmp_path / "times.csv").write_text("step,seconds\n0,10.50\n1,20.25\n2,30.00\n3,4")
    again = opened(tmp_path / "metrics.csv", first_step=2)
    again.log_metrics({"loss": 1.0}, step=2)
    rows = (tmp_path / "times.csv").read_text().splitlines()
    assert rows[:3] == ["step,seconds", "0,10.50", "1,20.25"]
    step, seconds = rows[3].split(",")
    assert step == "2"
    assert 20.25 <= float(seconds) < 30


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    log = opened(tmp_path / "metrics.csv")
    log.log_metrics({"loss": 1.0}, step=0)
    log.path = Path("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        log.log_metrics({"loss": 1.0}, step=1)


def test_rows_after_those_that_a_checkpoint_counts_are_dropped(tmp_path: Path) -> None:
    log = opened(tmp_path / "metrics.csv")
    log.log_metrics({"loss": 3.0}, step=0)
    count = log.num_rows
    log.log_metrics({"PQ": 50.0}, step=0)  # of the validation after it
    again = opened(tmp_path / "metrics.csv", first_step=1, first_row=count)
    assert again.num_rows == count == 1
    assert again.path.read_text().splitlines() == ["step,loss,PQ", "0,3.0,"]
    assert len(again.times.read_text().splitlines()) == 2


def test_nothing_is_touched_before_it_is_opened(tmp_path: Path) -> None:
    """Other ranks still read what is there."""
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n0,3.0\n1,2.0\n")
    MetricsLog(path, first_step=1)
    assert path.read_text() == "step,loss\n0,3.0\n1,2.0\n"
    assert list(tmp_path.iterdir()) == [path]
