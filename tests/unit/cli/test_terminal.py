"""What is said where, and what a bar shows of a download."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from rich.console import Console

from mask2former.cli.terminal import aligned, filtered, progress_bar, say_at_once


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_takes_a_while_is_told_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, expected in ((Screen(), "loading tiny\n"), (io.StringIO(), "")):
        monkeypatch.setattr(sys, "stderr", stream)
        say_at_once("loading tiny")
        assert stream.getvalue() == expected
    monkeypatch.setattr(sys, "stderr", None)  # of a program without a console
    say_at_once("loading tiny")


def test_columns_are_as_wide_as_their_widest_cell_and_numbers_are_aligned_to_the_right() -> None:
    rows = [["row", "PQ", "note"], ["baseline", "7.5", "x"], ["b", "12.5", ""]]
    assert aligned(rows) == ["row         PQ  note", "baseline   7.5     x", "b         12.5"]
    assert aligned(rows, left=(0, 2)) == ["row         PQ  note", "baseline   7.5  x", "b         12.5"]


def test_a_bar_of_a_download_counts_bytes() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    bars = progress_bar(console, has_thread=False)
    bar = bars.add_task("downloading tiny", total=4_000_000, of_bytes=True)
    bars.update(bar, completed=1_000_000)
    with bars:
        bars.refresh()
    assert "1.0/4.0 MB" in console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_logs_of_libraries_are_lines_like_ours(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("a library of somebody")
    logger.propagate = False
    with filtered():
        logger.warning("odd\x1b[31m %s", "thing")
        logger.info("no news")
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("odd")
    assert "\x1b" not in line
    assert line.endswith("thing")
