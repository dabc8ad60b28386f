"""Tables of results, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["csv_text"]


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, header: bool = True) -> str:
    """Rows as CSV (RFC 4180) with a header line: numbers have at most six decimals, None is empty.

    Args:
        rows: of a result, see :meth:`~mask2former.structures.results.PanopticSegmentation.rows`.
        columns: their keys, for instance :data:`~mask2former.structures.tables.ROW_COLUMNS`.
        header: whether to begin with the header line.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    if header:
        writer.writeheader()
    for row in rows:
        writer.writerow({key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()})
    return text.getvalue()
