"""The format of ``metrics.csv`` and ``times.csv``: a column with completed optimizer steps, and the values logged then.

In tables of earlier versions the column is called ``step`` and counts from 0: values logged after 100 steps are at 99.
The name of the column tells the two formats apart, so their steps are never mixed up.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mask2former.config import with_new_names
from mask2former.documents import read_rows, read_yaml
from mask2former.errors import UserError
from mask2former.notes import note

__all__ = ["STEP", "MetricsTable", "is_step", "read_metrics", "read_times"]

STEP = "global_step"
_FROM_ZERO = "step"
_DIGITS = 18  # largest number of digits of a step


class MetricsTable(NamedTuple):
    """The values that a run has logged.

    Attributes:
        rows: values by column; :data:`STEP` is a number, every other column is text, or None in an incomplete row.
        counted_from_zero: whether an earlier version wrote the file; ``rows`` have completed steps in either case.
    """

    rows: list[dict[str, Any]]
    counted_from_zero: bool


def read_metrics(path: Path, *, hint: str = "check the path") -> MetricsTable:
    """The rows of a table of metrics, without rows that have no step.

    Raises:
        UserError: the file does not exist, or is not a CSV file.
    """
    rows = read_rows(path, "table of metrics", hint=hint)
    old = bool(rows) and STEP not in rows[0] and _FROM_ZERO in rows[0]
    name = _FROM_ZERO if old else STEP
    rows = [{STEP: int(row.pop(name)), **row} for row in rows if is_step(row.get(name))]
    if old:
        before = _before_the_first(rows, path)
        for number, row in enumerate(rows):
            row[STEP] += number != before
    return MetricsTable(rows, old)


def read_times(path: Path, *, has_start: bool, hint: str = "check the path") -> list[tuple[int, str]]:
    """Completed steps, and the seconds that training had taken then, as written in a table of times.

    Args:
        path: path of the file.
        has_start: whether the table of metrics beside it starts with a row before the first step.
        hint: end of the error message for a missing file.

    Raises:
        UserError: the file does not exist, or is not a CSV file.
    """
    rows = read_rows(path, "table of times", hint=hint)
    old = bool(rows) and STEP not in rows[0]
    name = _FROM_ZERO if old else STEP
    found = [(int(row[name]) + old, row.get("seconds") or "") for row in rows if is_step(row.get(name))]
    return [(0, found[0][1]), *found[1:]] if old and has_start and found else found


def is_step(text: object) -> bool:
    """Whether the text is the number of a step."""
    return isinstance(text, str) and text.isdecimal() and len(text) <= _DIGITS


def _before_the_first(rows: Sequence[dict[str, Any]], path: Path) -> int | None:
    """The row of an old table with the validation before the first step, if there is one.

    It is logged at 0, like the first step, and precedes it. If the first step was not logged (see
    ``trainer.log_interval``), the row could also be a validation after the first step, but only if every step has one;
    the run file beside the table says whether there was one.
    """
    validations = [number for number, row in enumerate(rows) if not row.get("loss")]
    steps = [rows[number][STEP] for number in validations[:3]]
    if not steps or steps[0] != 0:
        return None
    first = next((number for number, row in enumerate(rows) if row.get("loss") and row[STEP] == 0), None)
    if first is not None:
        is_before = validations[0] < first
    elif (interval := _interval(path.with_name("run.yaml"))) is not None:
        is_before = interval > 1 or steps[:2] == [0, 0]
    else:
        is_before = steps not in ([0, 1, 2], [0, 1])
        if steps == [0, 1]:  # also of a run of two or three steps, validated before the first and after the second
            note(
                "tables of version 0.1.0 without a run.yaml beside them, whose first validation is taken for one after "
                "the first step, although it may be one before it",
                f"'{path}'",
            )
    return validations[0] if is_before else None


def _interval(run_file: Path) -> int | None:
    """Steps from one validation to the next; None where the run file does not say."""
    try:
        values = read_yaml(run_file, "run file")
        groups = [values[name] for name in ("evaluation", "trainer")]
        evaluation, trainer = (with_new_names(group) for group in groups)
        return min(int(evaluation["interval"]), int(trainer["max_steps"]))
    except (
        UserError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
    ):  # it is no run file, or not a whole one
        return None
