"""Tables of results, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mask2former.notes import note
from mask2former.text import quoted

__all__ = ["csv_text"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # the first letters of formulas, and what is skipped before them


def csv_text(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, header: bool = True) -> str:
    """Rows as CSV (RFC 4180) with a header line: numbers have at most six decimals, or below 1 six digits.

    None is empty. Text is written as it is; a note counts what spreadsheet programs would take for a formula.

    Args:
        rows: of a result, see :meth:`~mask2former.structures.results.PanopticSegmentation.rows`.
        columns: their keys, for instance :data:`~mask2former.structures.tables.ROW_COLUMNS`.
        header: whether to begin with the header line.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    if header:
        writer.writeheader()
    formulas: dict[str, None] = {}
    for row in rows:
        writer.writerow({key: _rounded(value) if isinstance(value, float) else value for key, value in row.items()})
        formulas |= {value: None for value in row.values() if isinstance(value, str) and value.startswith(_FORMULA)}
    for name in formulas:
        note("names in CSV that spreadsheet programs read as formulas (import their columns as text)", quoted(name))
    return text.getvalue()


def _rounded(value: float) -> float:
    """Small numbers, such as areas in square metres, keep their digits."""
    return float(f"{value:.6g}") if abs(value) < 1 else round(value, 6)
