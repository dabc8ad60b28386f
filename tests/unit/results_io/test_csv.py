"""Tables as text."""

from __future__ import annotations

import csv
import io

from mask2former.results_io.csv import csv_text


def test_what_is_written_is_read_back() -> None:
    rows = [{"name": 'a, "b"\nc', "score": 0.12345678, "area": 3, "x": None}, {"name": "=1+1", "score": 1.0}]
    columns = ("name", "score", "area", "x")
    read = list(csv.DictReader(io.StringIO(csv_text(rows, columns), newline="")))
    assert [row["name"] for row in read] == ['a, "b"\nc', "=1+1"]
    assert [row["score"] for row in read] == ["0.123457", "1.0"]
    assert [row["area"] for row in read] == ["3", ""]
    assert {row["x"] for row in read} == {""}


def test_an_empty_table_has_its_names() -> None:
    assert csv_text([], ("a", "b")) == "a,b\r\n"
