"""Tables as text."""

from __future__ import annotations

import csv
import io

from mask2former.notes import collect_notes
from mask2former.results_io.csv import csv_text


def test_what_is_written_is_read_back() -> None:
    rows = [{"name": 'a, "b"\nc', "score": 0.12345678, "area": 3, "x": None}, {"name": "=1+1", "score": 1.0}]
    columns = ("name", "score", "area", "x")
    with collect_notes() as notes:
        read = list(csv.DictReader(io.StringIO(csv_text([*rows, rows[1]], columns), newline="")))
    assert [example for message, example in notes if "formulas" in message] == ["'=1+1'"]
    del read[2]
    assert [row["name"] for row in read] == ['a, "b"\nc', "=1+1"]
    assert [row["score"] for row in read] == ["0.123457", "1.0"]
    assert [row["area"] for row in read] == ["3", ""]
    assert {row["x"] for row in read} == {""}


def test_an_empty_table_has_its_names() -> None:
    assert csv_text([], ("a", "b")) == "a,b\r\n"


def test_small_numbers_keep_their_digits() -> None:
    areas = {"area_m2": 4.225e-13 * 50, "area_mm2": -0.0002112345678, "score": 0.98765432, "perimeter": 12345.67890123}
    [row] = csv.DictReader(io.StringIO(csv_text([areas], list(areas)), newline=""))
    assert [float(value) for value in row.values()] == [2.1125e-11, -0.000211235, 0.987654, 12345.678901]
