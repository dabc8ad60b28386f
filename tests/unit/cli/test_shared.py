"""The progress bar of a library call: drawn from the first reported step, with its figures and the time left."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Task

from mask2former.cli.shared import StoppedError, training_shown, working
from mask2former.cli.terminal import progress_bar


def screen() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("forks", [False, True])
def test_a_bar_appears_with_the_first_step_and_shows_figures(forks: bool) -> None:
    console = screen()
    with working(console, lambda: "nothing", forks=forks) as tell:
        assert written(console) == ""  # nothing before the first step
        tell("training", 3, 10)
        tell("training", 10, 10, "loss 52.3 (ce 2.86)")
        tell("validating", 0, 2, "")
    shown = written(console)
    assert "training" in shown
    assert "3/10" in shown
    if forks:  # drawn at each report, not by a thread
        assert "10/10 0:00:00 loss 52.3 (ce 2.86)" in shown
        assert "validating" in shown


def test_a_step_that_begins_anew_has_a_time_of_its_own() -> None:
    """No time left is shown when a step restarts, such as the second training of ``ablate``."""
    console = screen()
    with working(console, lambda: "nothing", forks=True) as tell:
        tell("training", 4, 4)
        tell("training", 0, 4)
        tell("training", 0, 4)
    assert "-:--:--" in written(console).rpartition("0/4")[2]


def test_a_training_prints_lines_where_there_is_no_terminal() -> None:
    with training_shown(Console(file=io.StringIO()), lambda: "nothing") as progress:
        assert progress is None
    with training_shown(console := screen(), lambda: "nothing") as progress:
        assert progress is not None
        progress("training", 3, 10)
    assert "3/10" in written(console)


def test_where_processes_are_forked_no_thread_draws() -> None:
    assert not progress_bar(screen(), has_thread=False).live.auto_refresh
    assert progress_bar(screen()).live.auto_refresh


def test_the_time_left_is_known_where_steps_take_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time left is estimated even from steps of a minute, and only from steps done since this start."""
    now = 0.0
    bars = progress_bar(screen())
    bars.get_time = lambda: now
    bar = bars.add_task("training", total=10, completed=4, first=4)
    shown: list[str] = []
    for done in (4, 5, 6):
        bars.update(bar, completed=done)
        shown.append(_rendered(bars.columns[3], bars.tasks[0]))
        now += 60
    assert shown == ["-:--:--", "0:05:00", "0:04:00"]


def _rendered(column: Any, task: Task) -> str:
    return str(column.render(task))


def test_an_interrupt_says_what_was_done() -> None:
    def interrupted() -> None:
        with working(screen(), lambda: "two of three") as tell:
            tell("predicting", 2, 3)
            raise KeyboardInterrupt

    with pytest.raises(StoppedError, match="two of three"):
        interrupted()
