"""All terminal output: lines, tables, bars, logs and warnings, made safe against text from files and servers.

Names of classes and files, licenses and replies of servers may contain control characters, terminal markup, characters
that the terminal cannot show, or a megabyte of text. This module depends on no command.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mask2former.text import clock, printable, terminal_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = [
    "aligned",
    "filtered",
    "make_console",
    "progress_bar",
    "say",
    "say_at_once",
    "say_document",
    "silence_stdout",
]

_COLUMNS = 2000  # maximum width of a terminal
_CELL = 200  # characters of a cell of a table, and of the description of a bar


def say(line: str, *, error: bool = False, console: Console | None = None, style: str = "") -> None:
    """Print one line; spaces are kept.

    Args:
        line: text to print.
        error: whether to print to standard error instead of standard output.
        console: print above its progress bar, in ``style``.
        style: a style of rich, for instance ``bold``; ignored if the output is not a terminal.
    """
    line = terminal_line(line)
    if console is None:
        print(line, file=sys.stderr if error else sys.stdout)
        return
    from rich.text import Text

    console.print(Text(line), style=style, soft_wrap=True)


def say_at_once(line: str) -> None:
    """Announce a slow step in a terminal; nothing is printed if the output is redirected."""
    if sys.stderr is not None and sys.stderr.isatty():
        say(line, error=True)
        sys.stderr.flush()


def say_document(text: str) -> None:
    """Print our own text in one of our formats, to be redirected into a file: nothing in it is changed."""
    print(text.rstrip("\n"))


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Rows of cells as lines with columns, those with an index in ``left`` aligned to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{'<' if index in left else '>'}{widths[index]}}" for index, cell in enumerate(row)).rstrip()
        for row in rows
    ]


def make_console() -> Console:
    """The terminal, for tables and progress; other results are printed with :func:`say`."""
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        """Text without markup and control characters, and without cells that fill the screen."""

        def render_str(self, text: str, **settings: Any) -> Text:
            settings |= {"markup": False, "emoji": False}
            return super().render_str(printable(text, _CELL), **settings)

    return Plain()


def progress_bar(console: Console, *, has_thread: bool = True) -> Progress:
    """A bar that disappears when done; none if the output is not a terminal.

    Tasks with the field ``of_bytes`` show bytes and their rate, others a count; all show their field ``detail``.

    Args:
        console: where it is drawn.
        has_thread: whether a thread redraws it several times a second; otherwise only updates with ``refresh`` do.
    """
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    class Description(TextColumn):
        def render(self, task: Task) -> Text:
            return Text(printable(task.description, _CELL))

    class Amount(ProgressColumn):
        counted, loaded, rate = MofNCompleteColumn(), DownloadColumn(), TransferSpeedColumn()

        def render(self, task: Task) -> Text:
            if not task.fields.get("of_bytes"):
                return self.counted.render(task)
            return Text(" ").join([self.loaded.render(task), self.rate.render(task)])

    class Left(ProgressColumn):
        def render(self, task: Task) -> Text:
            # Rich only remembers the last half minute, so it has no rate for slower tasks.
            done, elapsed = task.completed - task.fields.get("first", 0), task.elapsed
            left = task.time_remaining
            if task.total is not None and task.completed >= task.total:
                left = 0.0
            elif left is None and done > 0 and elapsed is not None and task.total is not None:
                left = (task.total - task.completed) * elapsed / done
            return Text("-:--:--" if left is None else clock(left), style="progress.remaining")

    class Detail(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(printable(task.fields.get("detail", ""), _CELL), no_wrap=True, overflow="ellipsis")

    columns = [Description(""), BarColumn(), Amount(), Left(), Detail()]
    hidden = not console.is_terminal
    return Progress(*columns, console=console, transient=True, disable=hidden, auto_refresh=has_thread)


@contextlib.contextmanager
def filtered() -> Iterator[None]:
    """Meanwhile, other output goes the same way: logs without a handler of their own, and Python's warnings.

    Standard streams show characters that they cannot encode as escapes.
    """
    changed = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    handlers = [stream.errors for stream in changed]
    log, showwarning = logging.lastResort, warnings.showwarning
    columns = os.environ.get("COLUMNS")
    if columns is not None and not (columns.isascii() and columns.isdecimal() and 0 < int(columns[:9]) <= _COLUMNS):
        del os.environ["COLUMNS"]  # lines would be padded with blanks to this width
    for stream in changed:
        stream.reconfigure(errors="backslashreplace")
    logging.lastResort = _Log(logging.WARNING)
    warnings.showwarning = _show_warning
    try:
        yield
    finally:
        logging.lastResort, warnings.showwarning = log, showwarning
        if columns is not None:
            os.environ["COLUMNS"] = columns
        for stream, handler in zip(changed, handlers, strict=True):
            if not stream.closed:
                stream.reconfigure(errors=handler)


class _Log(logging.Handler):
    """The handler of last resort: for logs of libraries if no logging is set up."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(self.format(record), error=True)
        except Exception:  # like every handler, it must report the record and not raise
            self.handleError(record)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    with contextlib.suppress(OSError):
        say(f"warning: {message} ({category.__name__})", error=True)


def silence_stdout() -> None:
    """Discard what standard output still contains: its reader is gone or its disk is full."""
    if sys.stdout is sys.__stdout__:  # that of the process, not a replacement by a caller
        with contextlib.suppress(OSError, ValueError):
            empty = os.open(os.devnull, os.O_WRONLY)
            os.dup2(empty, sys.stdout.fileno())
            os.close(empty)
