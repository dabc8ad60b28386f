"""The table of a resumed run is complete again, whatever its last line was."""

from __future__ import annotations

from pathlib import Path

import pytest

from mask2former.training.metrics_log import MetricsLog


def opened(path: Path, steps: int = 0, num_rows: int | None = None) -> MetricsLog:
    log = MetricsLog(path, steps, num_rows)
    log.open()
    return log


@pytest.mark.parametrize("torn", ["", "3", "3,", "3,0.", "\0\0\0\0", "x,1.0,2.0\n", "3,0.5,7.0,9\n"])
def test_a_torn_last_line_is_dropped_and_the_run_goes_on(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("global_step,loss,rate\n1,3.0,0.1\n2,2.0,0.1\n" + torn)
    log = opened(path, steps=2)
    log.log_metrics({"loss": 1.0, "rate": 0.1, "epoch": 0}, step=3)
    assert path.read_text().splitlines() == ["global_step,loss,rate", "1,3.0,0.1", "2,2.0,0.1", "3,1.0,0.1"]


def test_columns_grow_and_steps_that_are_made_again_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = opened(path)
    log.log_metrics({"loss": 3.0}, step=1)
    log.log_metrics({"PQ": 50.0}, step=1)
    log.log_metrics({"loss": 2.0}, step=2)
    assert path.read_text().splitlines() == ["global_step,loss,PQ", "1,3.0,", "1,,50.0", "2,2.0,"]
    opened(path, steps=1)
    assert path.read_text().splitlines() == ["global_step,loss,PQ", "1,3.0,", "1,,50.0"]
    opened(path)
    assert path.read_text().splitlines() == ["global_step"]


def test_times_go_on_where_the_last_kept_step_was(tmp_path: Path) -> None:
    log = opened(tmp_path / "metrics.csv")
    for step in (1, 2, 3):
        log.log_metrics({"loss": 1.0}, step=step)
    rows = (tmp_path / "times.csv").read_text().splitlines()
    assert rows[0] == "global_step,seconds"
    assert [row.split(",")[0] for row in rows[1:]] == ["1", "2", "3"]
    (tmp_path / "times.csv").write_text("global_step,seconds\n1,10.50\n2,20.25\n3,30.00\n4,4")
    again = opened(tmp_path / "metrics.csv", steps=2)
    again.log_metrics({"loss": 1.0}, step=3)
    rows = (tmp_path / "times.csv").read_text().splitlines()
    assert rows[:3] == ["global_step,seconds", "1,10.50", "2,20.25"]
    step, seconds = rows[3].split(",")
    assert step == "3"
    assert 20.25 <= float(seconds) < 30


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    log = opened(tmp_path / "metrics.csv")
    log.log_metrics({"loss": 1.0}, step=0)
    log.path = Path("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        log.log_metrics({"loss": 1.0}, step=1)


def test_rows_after_those_that_a_checkpoint_counts_are_dropped(tmp_path: Path) -> None:
    log = opened(tmp_path / "metrics.csv")
    log.log_metrics({"loss": 3.0}, step=1)
    count = log.num_rows
    log.log_metrics({"PQ": 50.0}, step=1)  # of the validation after it
    again = opened(tmp_path / "metrics.csv", steps=1, num_rows=count)
    assert again.num_rows == count == 1
    assert again.path.read_text().splitlines() == ["global_step,loss,PQ", "1,3.0,"]
    assert len(again.times.read_text().splitlines()) == 2


def test_nothing_is_touched_before_it_is_opened(tmp_path: Path) -> None:
    """Creating a log does not change the file, which other ranks may still be reading."""
    path = tmp_path / "metrics.csv"
    path.write_text("global_step,loss\n1,3.0\n2,2.0\n")
    MetricsLog(path, steps=1)
    assert path.read_text() == "global_step,loss\n1,3.0\n2,2.0\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_that_counted_from_0_is_counted_anew_and_that_is_said(tmp_path: Path) -> None:
    """Opening the table of an earlier version converts its steps once, even if it is opened twice, and says so."""
    path = tmp_path / "metrics.csv"
    path.write_text("step,PQ,loss\n0,5,\n0,,3.0\n1,,2.0\n1,6,\n2,,1.0\n")
    path.with_name("times.csv").write_text("step,seconds\n0,1.00\n0,2.00\n1,3.00\n1,4.00\n2,5.00\n")
    for is_first in (True, False):
        said = MetricsLog(path, 2, 4).open()
        assert path.read_text().splitlines() == ["global_step,PQ,loss", "0,5,", "1,,3.0", "2,,2.0", "2,6,"]
        times = path.with_name("times.csv").read_text().splitlines()
        assert times == ["global_step,seconds", "0,1.00", "1,2.00", "2,3.00", "2,4.00"]
        assert any("counted steps from 0" in line for line in said) == is_first
