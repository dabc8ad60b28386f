"""``metrics.csv``: one row per logged step, appended as training goes, kept when a run is resumed."""

from __future__ import annotations

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mask2former.atomic import write_whole

__all__ = ["MetricsLog"]


class MetricsLog(Logger):
    """A Lightning logger that writes a table whose columns grow with the metrics.

    Lightning's own CSV logger deletes the file when a run goes on.

    Args:
        path: of the file.
        first_step: rows from this step on are dropped from an existing file: they will be made again.
    """

    def __init__(self, path: Path, first_step: int = 0) -> None:
        super().__init__()
        self.path = path
        self.columns = ["step"]
        self._keep(first_step)

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
        row = {"step": step, **{name: value for name, value in metrics.items() if name != "epoch"}}
        new = sorted(row.keys() - set(self.columns))
        if new:
            rows = self._rows()
            self.columns += new
            self._write([*rows, row])
            return
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, self.columns).writerow(row)

    def _rows(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    @rank_zero_only
    def _keep(self, first_step: int) -> None:
        # What a power cut left of the last line is no row: it ends early, or in something that is no number.
        whole = (row for row in self._rows() if None not in row and None not in row.values())
        rows = [row for row in whole if row["step"].isdecimal() and int(row["step"]) < first_step]
        for row in rows:
            self.columns += [name for name in row if name not in self.columns]
        self._write(rows)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        def write(file: Path) -> None:
            with file.open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, self.columns)
                writer.writeheader()
                writer.writerows(rows)

        write_whole(self.path, write)
