"""Exit codes, and the one line that is said of what went wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mask2former import __main__, interrupts
from mask2former.cli import main
from mask2former.cli.names import complete_model, complete_recipe, complete_run_recipe
from mask2former.errors import UserError
from mask2former.media.images import read_image


def raiser(error: BaseException) -> Any:
    def raise_it(*_: Any, **__: Any) -> None:
        raise error

    return raise_it


@pytest.mark.parametrize(
    ("command", "called"),
    [
        (["predict", "a.png", "-o", "out", "-m", "scenes-tiny"], "mask2former.inference.predict_files.predict_files"),
        (["predict", "a.png", "-o", "out", "-m", "scenes-tiny", "--ray"], "mask2former.bulk.predict_bulk"),
        (["track", "frames", "-o", "out", "-m", "scenes-tiny"], "mask2former.inference.track_files.track_files"),
        (["evaluate", "scenes-tiny"], "mask2former.evaluation.evaluate.evaluate"),
    ],
)
def test_commands_read_images_up_to_the_given_number_of_pixels(
    command: list[str], called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (1201, 1000)).save(tmp_path / "a.png")

    def read(*_: object, **__: object) -> None:
        read_image(tmp_path / "a.png")
        raise UserError("read")

    monkeypatch.setattr(called, read)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for flags, message in (
        ([], "has more than 1000 pixels, the safety limit; make it smaller, or raise the limit if you trust it: --max"),
        (["--max-megapixels", "1.2"], "has more than 1200000 pixels"),
        (["--max-megapixels", "1.201"], "error: read\n"),
        (["--max-megapixels", "0"], "error: --max-megapixels is '0'; expected a number from 1 to 40000"),
    ):
        assert main([*command, *flags]) == 2
        assert message in capsys.readouterr().err
        assert Image.MAX_IMAGE_PIXELS == 1000


COMMAND = ["demo", "--no-open"]
FAILS = "mask2former.demo.run"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left", "a.png"), "error: no space left for 'a.png' (No space left)"),
        (OSError(errno.ENOSPC, "No space left"), "error: no space left for results"),
        (OSError(errno.EIO, "Input/output error", "b.png"), "error: Input/output error: b.png"),
        (OSError(errno.EIO, "Input/output error"), "error: Input/output error\n"),
        (MemoryError("needs 3 GB"), "error: needs 3 GB\n"),
        (torch.OutOfMemoryError("CUDA out of memory"), "error: out of memory; try smaller images"),
        (RecursionError("maximum depth"), "error: something that is read here is nested too deeply"),
        (KeyError("x"), "error: KeyError: 'x' (run the command with --debug"),
    ],
)
def test_one_line_for_what_nobody_expected(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FAILS, raiser(error))
    assert main(COMMAND) == 1
    assert capsys.readouterr().err.startswith(line)


@pytest.fixture
def broken_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command imports a library that fails while it is loaded."""
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('no such device')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(FAILS, lambda *_, **__: __import__("broken_library"))


@pytest.mark.usefixtures("broken_library")
def test_a_library_that_cannot_be_loaded_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMAND) == 1
    error = capsys.readouterr().err
    assert "the library broken_library cannot be loaded (RuntimeError: no such device)" in error
    assert main([*COMMAND, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.usefixtures("broken_library")
def test_a_library_that_cannot_be_loaded_for_want_of_a_temporary_folder_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    assert main(COMMAND) == 1
    error = capsys.readouterr().err
    assert "cannot be loaded without a folder for temporary files (No usable temporary directory found in" in error
    assert "make /tmp writable, or set TMPDIR" in error


@contextlib.contextmanager
def closed_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make standard output a pipe whose reader has closed it."""
    reader, writer = os.pipe()
    os.close(reader)
    with monkeypatch.context() as patch, os.fdopen(writer, "w") as stream:
        for name in ("stdout", "__stdout__"):
            patch.setattr(sys, name, stream)
        patch.setattr(sys, "stderr", sys.stderr)  # typer wraps both
        yield  # main has to redirect the stream, or closing it would fail


def test_a_reader_that_has_seen_enough_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closed_pipe(monkeypatch):
        assert main(["--version"]) == 1  # noticed at the end, when output is flushed
    monkeypatch.setattr(FAILS, raiser(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    with closed_pipe(monkeypatch), pytest.raises(SystemExit) as end:
        main(COMMAND)  # noticed in a command, where typer ends the program
    assert end.value.code == 1
    assert capsys.readouterr().err == ""


class _Full:
    """A stream on a full disk: writing fails if ``at_once``, and flushing always."""

    encoding = "utf-8"
    error = OSError(errno.ENOSPC, "No space left on device")

    def __init__(self, *, at_once: bool = False) -> None:
        self.at_once = at_once

    def write(self, text: str) -> int:
        if self.at_once:
            raise self.error
        return len(text)

    def flush(self) -> None:
        raise self.error


def test_an_output_that_cannot_be_written_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", _Full())
    assert main(["--version"]) == 1
    assert "standard output cannot be written: No space left on device" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stderr", _Full(at_once=True))
    assert main(["--version"]) == 1  # there is nowhere to report it


def test_a_directory_that_is_gone_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "getcwd", raiser(FileNotFoundError(errno.ENOENT, "No such file or directory")))
    assert main(COMMAND) == 2
    assert "the working directory no longer exists" in capsys.readouterr().err


def test_the_shell_completes_names() -> None:
    assert complete_model("scene") == ["scene-clips", "scenes-tiny"]
    assert complete_model("coco-panoptic/r5") == complete_recipe("coco-panoptic/r5") == ["coco-panoptic/r50"]
    assert complete_recipe("scenes") == []
    assert all(name.startswith("ablation/") for name in complete_run_recipe("ablation/"))
    assert complete_run_recipe("ablation/")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("predict a.png -o out --score-threshold true", "--score-threshold is 'true'; expected a number"),
        ("predict a.png -o out --max-instances 1.5", "--max-instances is '1.5'; expected a whole number"),
        ("predict a.png -o out --tile=-1", "--tile is '-1'; expected a whole number of at least 0"),
        ("evaluate a --pooled 2", "--pooled is '2'; expected a number from 0 to 1"),
        ("serve a --port http", "--port is 'http'; expected a whole number from 0 to 65,535"),
        ("analyze sampling a --at 1 x", "a value of --at is 'x'; expected a number"),
    ],
)
def test_a_wrong_number_is_told_in_our_words(words: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, default_signals: None) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setattr(sys, "argv", ["mask2former", "--version"])
    yield monkeypatch
    with interrupts.raised():  # forget received signals, which would end later commands of this process
        pass


def test_the_program_ends_with_the_code_of_its_command(
    program: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main() == 0
    assert capsys.readouterr().out.startswith("mask2former ")
    handler = signal.getsignal(signal.SIGTERM)  # from here on a signal ends the process, with the same code
    assert callable(handler)
    ended: list[int] = []
    program.setattr(os, "_exit", ended.append)
    os.kill(os.getpid(), signal.SIGTERM)
    assert ended == [0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_the_exit_code_of_the_program(
    number: signal.Signals, program: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program.setattr("mask2former.cli.main", lambda: os.kill(os.getpid(), number))
    assert __main__.main() == 128 + number
    assert capsys.readouterr().err == "stopped\n"
    assert interrupts.received() == number


def test_errors_of_the_program_itself_are_raised(program: pytest.MonkeyPatch) -> None:
    program.setattr("mask2former.cli.main", raiser(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        __main__.main()
