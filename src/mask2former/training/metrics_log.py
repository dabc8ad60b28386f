"""``metrics.csv``: one row per logged step, appended during training, and kept when a run is resumed.

Times are in a separate file, ``times.csv``: metrics are equal in every rerun, times are not.
"""

from __future__ import annotations

import contextlib
import csv
import os
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mask2former.evaluation.metrics_table import STEP, MetricsTable, read_metrics, read_times
from mask2former.files import write_whole

__all__ = ["MetricsLog", "validations"]


class MetricsLog(Logger):
    """A Lightning logger that writes a table whose columns grow with the metrics.

    Lightning's own CSV logger deletes the file when a run is resumed. Nothing is read or written before :meth:`open`.

    Args:
        path: path of the file.
        steps: optimizer steps that were taken before. Rows of an existing file that were logged after more steps are
            dropped, since they will be logged again. 0: all rows are dropped.
        num_rows: number of rows to keep, if known; it tells a validation before a checkpoint from one after it.

    Attributes:
        num_rows: number of rows that have been written.
    """

    def __init__(self, path: Path, steps: int = 0, num_rows: int | None = None) -> None:
        super().__init__()
        self.path = path
        self.columns = [STEP]
        self.times = path.with_name("times.csv")
        self.num_rows = 0
        self._steps_before, self._rows_before = steps, num_rows if steps else 0
        self._began = time.monotonic()

    def open(self) -> list[str]:
        """Drop the rows that will be logged again; if there are several ranks, only the first does it.

        Returns:
            Sentences for the user.
        """
        table = _table_of(self.path)
        self._keep(table.rows)
        has_start = any(row[STEP] == 0 for row in table.rows)
        self._began = time.monotonic() - self._keep_times(has_start)
        if not table.counted_from_zero or not self.num_rows:
            return []
        return [
            f"{self.path.name} was written by an earlier version, which counted steps from 0 in the "
            f"column step; it has been converted to the column {STEP}, the number of steps done"
        ]

    @property
    def name(self) -> None:
        return None

    @property
    def version(self) -> None:
        return None

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run file has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with _appended(self.times) as stream:
            stream.write(f"{step},{time.monotonic() - self._began:.2f}\n")
        self.num_rows += 1
        row = {STEP: step, **{name: value for name, value in metrics.items() if name != "epoch"}}
        new = sorted(row.keys() - set(self.columns))
        if new:
            rows = _table_of(self.path).rows
            self.columns += new
            self._write([*rows, row])
            return
        with _appended(self.path) as stream:
            csv.DictWriter(stream, self.columns).writerow(row)

    @rank_zero_only
    def sync(self) -> None:
        """Flush the file to the disk, before a checkpoint records its rows."""
        for path in (self.path, self.times):
            with _appended(path) as stream:
                os.fsync(stream.fileno())

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        # A power failure can leave an incomplete last line: it ends early, or in something that is not a number.
        whole = (row for row in rows if "" not in row and None not in row.values())
        kept = [row for row in whole if row[STEP] <= self._steps_before][: self._rows_before]
        self.num_rows = len(kept)
        for row in kept:
            self.columns += [name for name in row if name not in self.columns]
        self._write(kept)

    def _keep_times(self, has_start: bool) -> float:
        """Drop the rows of steps that will be logged again; returns the seconds taken by the steps before."""
        kept: list[tuple[int, float]] = []
        if self.times.exists():
            for step, seconds in read_times(self.times, has_start=has_start):
                if step <= self._steps_before and seconds.replace(".", "", 1).isdecimal():
                    kept.append((step, float(seconds)))
        kept = kept[: self._rows_before]
        text = "".join([f"{STEP},seconds\n", *(f"{step},{seconds:.2f}\n" for step, seconds in kept)])
        write_whole(self.times, lambda file: file.write_text(text, encoding="utf-8"))
        return kept[-1][1] if kept else 0.0

    def _write(self, rows: list[dict[str, Any]]) -> None:
        def write(file: Path) -> None:
            with file.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, self.columns)
                writer.writeheader()
                writer.writerows(rows)

        write_whole(self.path, write)


def _table_of(path: Path) -> MetricsTable:
    return read_metrics(path) if path.exists() else MetricsTable([], counted_from_zero=False)


@contextlib.contextmanager
def _appended(path: Path) -> Iterator[IO[str]]:
    """A file to append to; errors name the file."""
    try:
        with path.open("a", newline="", encoding="utf-8") as stream:
            yield stream
    except OSError as error:  # an error in writing, such as a full disk, does not name the file
        raise OSError(error.errno, error.strerror, str(path)) from error


def validations(path: Path, steps: int) -> list[dict[str, float]]:
    """The metrics of each validation in a table, up to the one after ``steps`` steps."""
    return [
        {name: float(value) for name, value in row.items() if value and name != STEP}
        for row in _table_of(path).rows
        if not row.get("loss") and row[STEP] <= steps
    ]
