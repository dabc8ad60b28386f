"""``metrics.csv``: one row per logged step, appended as training goes, kept when a run is resumed.

``times.csv`` beside it says when: metrics are the same in every rerun, times are not.
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

from mask2former import limits
from mask2former.documents import read_rows, read_text
from mask2former.evaluation.curves import is_step
from mask2former.files import write_whole

__all__ = ["MetricsLog", "validations"]


class MetricsLog(Logger):
    """A Lightning logger that writes a table whose columns grow with the metrics.

    Lightning's own CSV logger deletes the file when a run goes on. Nothing is read or written before :meth:`open`.

    Args:
        path: of the file.
        first_step: rows from this step on are dropped from an existing file: they will be made again.
        first_row: so are those from this row on, where it is known how many there were; it tells a validation before
            a checkpoint from one after it.

    Attributes:
        num_rows: that have been written.
    """

    def __init__(self, path: Path, first_step: int = 0, first_row: int | None = None) -> None:
        super().__init__()
        self.path = path
        self.columns = ["step"]
        self.times = path.with_name("times.csv")
        self.num_rows = 0
        self._first_step, self._first_row = first_step, first_row
        self._began = time.monotonic()

    def open(self) -> None:
        """Drop the rows that will be made again; of several ranks only the first does it."""
        self._keep(self._first_step, self._first_row)
        self._began = time.monotonic() - self._keep_times(self._first_step, self._first_row)

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
        """Nothing: the run file holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with _appended(self.times) as stream:
            stream.write(f"{step},{time.monotonic() - self._began:.2f}\n")
        self.num_rows += 1
        row = {"step": step, **{name: value for name, value in metrics.items() if name != "epoch"}}
        new = sorted(row.keys() - set(self.columns))
        if new:
            rows = self._rows()
            self.columns += new
            self._write([*rows, row])
            return
        with _appended(self.path) as stream:
            csv.DictWriter(stream, self.columns).writerow(row)

    @rank_zero_only
    def sync(self) -> None:
        """Bring what was written to the disk, before a checkpoint says that it is there."""
        for path in (self.path, self.times):
            with _appended(path) as stream:
                os.fsync(stream.fileno())

    def _rows(self) -> list[dict[str, Any]]:
        return _rows_of(self.path)

    def _keep(self, first_step: int, first_row: int | None) -> None:
        # What a power cut left of the last line is no row: it ends early, or in something that is no number.
        whole = (row for row in self._rows() if "" not in row and None not in row.values())
        rows = [row for row in whole if is_step(row.get("step")) and int(row["step"]) < first_step][:first_row]
        self.num_rows = len(rows)
        for row in rows:
            self.columns += [name for name in row if name not in self.columns]
        self._write(rows)

    def _keep_times(self, first_step: int, first_row: int | None) -> float:
        """Drop the rows of steps that will be made again; the seconds that those before took."""
        kept: list[tuple[int, float]] = []
        if self.times.exists():
            for line in read_text(self.times, "table of times", limits.TABLE_BYTES).splitlines()[1:]:
                step, _, seconds = line.partition(",")
                if is_step(step) and int(step) < first_step and seconds.replace(".", "", 1).isdecimal():
                    kept.append((int(step), float(seconds)))
        del kept[len(kept) if first_row is None else first_row :]
        self._write_times("".join(["step,seconds\n", *(f"{step},{seconds:.2f}\n" for step, seconds in kept)]))
        return kept[-1][1] if kept else 0.0

    def _write_times(self, text: str) -> None:
        write_whole(self.times, lambda file: file.write_text(text, encoding="utf-8"))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        def write(file: Path) -> None:
            with file.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, self.columns)
                writer.writeheader()
                writer.writerows(rows)

        write_whole(self.path, write)


def _rows_of(path: Path) -> list[dict[str, Any]]:
    return read_rows(path, "table of metrics") if path.exists() else []


@contextlib.contextmanager
def _appended(path: Path) -> Iterator[IO[str]]:
    """A file to append to; what goes wrong names it."""
    try:
        with path.open("a", newline="", encoding="utf-8") as stream:
            yield stream
    except OSError as error:  # writing, a full disk for one, does not say where
        raise OSError(error.errno, error.strerror, str(path)) from error


def validations(path: Path, before: int) -> list[dict[str, float]]:
    """What each validation in a table measured, up to that after step ``before``."""
    rows = (row for row in _rows_of(path) if not row.get("loss") and is_step(row.get("step")))
    return [
        {name: float(value) for name, value in row.items() if value and name != "step"}
        for row in rows
        if int(row["step"]) < before
    ]
