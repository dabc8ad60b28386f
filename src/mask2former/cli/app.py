"""The program itself: global options, exit codes, one sentence for each error. It depends on no command."""

from __future__ import annotations

import errno
import inspect
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Annotated, Any, cast, get_args, get_type_hints

import typer
import typer.main

from mask2former import interrupts
from mask2former.cli.shared import StoppedError
from mask2former.cli.terminal import filtered, say, silence_stdout
from mask2former.errors import FailedError, OptionError, UserError
from mask2former.memory import is_lack_of_memory
from mask2former.text import printable, quoted, shortened

__all__ = ["app", "main"]

# Its module differs between versions of typer, but it is always the base of the public class.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]
assert _CommandLineError.__name__ == "ClickException"

_STOPPED = 130  # exit code
_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP)
_FLAGS = {  # those that differ from the library's argument in their name, or in that they need a value
    "pooled_threshold": "--pooled",
    "resume": "--resume DIR",
    "root": "--data-root",
    "server_names": "--server-name",
    "tasks": "--task",
    "views": "--tta",
}
_OUT_OF_MEMORY = (
    "out of memory; try smaller images or a smaller --short-edge, a lower --max-instances, or a smaller model"
)

app = typer.Typer(
    name="mask2former",
    help="Panoptic, instance and semantic segmentation of images and video with Mask2Former.",
    epilog="Start with: mask2former demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with ``arguments`` (by default those of the process), and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]  # allowed anywhere, although it belongs to no command
    words = [word for word in words[:end] if word != "--debug"] + words[end:]
    with filtered():
        try:
            code, message = _run(words)
        except Exception as error:
            if debug:
                traceback.print_exc()
            code, message = _outcome(error)
        except KeyboardInterrupt as stop:
            code, message = _STOPPED, f"stopped{f': {stop}' if str(stop) else ''}"
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:  # the reader of our output, for instance "head", has seen enough
            silence_stdout()  # within a command, typer ends the program for it
            return code or 1
        except OSError as error:
            silence_stdout()
            code, message = 1, f"error: standard output cannot be written: {error.strerror}"
        if message:
            try:
                say(printable(message), error=True)
            except OSError:  # there is no way to report it
                return code
    return code


def _run(words: list[str]) -> tuple[int, str]:
    _check_words(words)
    try:
        os.getcwd()
    except OSError as error:  # otherwise compiled libraries would end the process without a message
        raise UserError(
            "the working directory no longer exists; change to one that exists (cd) and try again"
        ) from error
    code = int(_program()(words, prog_name="mask2former", standalone_mode=False) or 0)
    if code == _STOPPED:
        raise KeyboardInterrupt  # newer versions of typer silently turn it into an exit code
    return code, ""


@cache
def _program() -> Callable[..., int | None]:
    """All commands, built from their signatures only once, since that takes longer than many of them."""
    return typer.main.get_command(app)


def _check_words(words: Sequence[str]) -> None:
    """Reject arguments that no command can use; an empty path would be the working directory.

    Raises:
        UserError: an argument or value is empty, or contains a zero byte.
    """
    for number, word in enumerate(words, start=1):
        if "\0" in word:
            raise UserError(f"argument {number}, {quoted(word)}, contains a null byte; is it from a list of names?")
        if not word.strip() or (word.startswith("--") and word.endswith("=")):
            before = f" (after '{words[number - 2]}')" if number > 1 else ""
            raise UserError(
                f"argument {number}{before} is {quoted(word)}, without a value; give one, or leave it out (is "
                "a shell variable unset?)"
            )


def _outcome(error: Exception) -> tuple[int, str]:
    """The exit code and the message for an error."""
    if isinstance(error, (StoppedError, typer.Abort)) or interrupts.received():
        # An interrupted import may raise any other error.
        is_told = isinstance(error, StoppedError) and str(error)
        return _STOPPED, f"stopped: {error}" if is_told else "stopped"
    if isinstance(error, typer.BadParameter) and (message := _wrong_number(error)):
        return 2, f"error: {message}"
    if isinstance(error, _CommandLineError):
        message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
        if not message:  # without arguments, help is printed
            return 2, ""
        context = getattr(error, "ctx", None)
        if context is not None and not message.startswith("Invalid value"):
            message = f"{message.rstrip('.')} (see: {context.command_path} --help)"
        return 2, f"error: {message.replace(': Value error, ', ': ', 1)}"
    if isinstance(error, OptionError):
        return 2, f"error: {error.sentence(_flag)}"
    if isinstance(error, UserError):
        return 2, f"error: {error}"
    # Up to Python 3.12, a loop of links raises a RuntimeError.
    if (isinstance(error, OSError) and error.errno in _NO_PATH) or str(error).startswith("Symlink loop"):
        name = getattr(error, "filename", None) or str(error).partition("'")[2].rstrip("'")
        reason = getattr(error, "strerror", None) or "Too many levels of symbolic links"
        return 2, f"error: '{shortened(str(name), 100)}' cannot be a path here ({reason}); check it"
    return 1, f"error: {error if isinstance(error, FailedError) else _unexpected(error)}"


def _wrong_number(error: typer.BadParameter) -> str:
    """The message for an option whose value is no number or out of range, worded like those of settings.

    Empty for other errors, and for versions of typer that do not check numbers with pydantic.
    """
    from mask2former.config.wording import wrong_number

    if error.__cause__ is None or error.ctx is None or error.param is None:
        return ""
    function = inspect.unwrap(cast(Any, error.ctx.command.callback))
    kind, option = get_args(get_type_hints(function, include_extras=True)[str(error.param.name)])
    number = next((part for part in _parts(kind) if part in (int, float)), None)
    flag = " / ".join(name for name in error.param.opts if name.startswith("--"))  # also its old name, as in --help
    subject = flag if error.param.nargs == 1 else f"a value of {flag}"
    return "" if number is None else wrong_number(subject, error.__cause__, number, option.min, option.max)


def _parts(kind: Any) -> Iterator[Any]:
    """A type, and the types that it consists of."""
    yield kind
    for part in get_args(kind):
        yield from _parts(part)


def _flag(argument: str) -> str:
    """The command-line flag for an argument of the library."""
    return _FLAGS.get(argument, f"--{argument.replace('_', '-')}")


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"'{error.filename}'" if error.filename else "results, temporary files or standard output"
        return f"no space left for {where} ({error.strerror}); free some space and run this again"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    if is_lack_of_memory(error):
        return str(error) if isinstance(error, MemoryError) and str(error) else _OUT_OF_MEMORY
    if isinstance(error, RecursionError):
        return "something that is read here is nested too deeply; is it the right file? (--debug shows where)"
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(frame.f_code.co_name == "<module>" for frame in frames):  # raised during an import
        library = str(frames[-1].f_globals.get("__name__")).partition(".")[0]
        try:
            tempfile.gettempdir()
        except FileNotFoundError as none:  # in a container whose files are read-only; libraries fail in other words
            return (
                f"the library {library} cannot be loaded without a folder for temporary files ({none.strerror}); make "
                "/tmp writable, or set TMPDIR to another folder"
            )
        return (
            f"the library {library} cannot be loaded ({type(error).__name__}: {printable(str(error), 200)}); check its "
            "installation, and the environment variables that it reads"
        )
    return f"{type(error).__name__}: {printable(str(error), 1000)} (run the command with --debug to see where)"


def _show_version(wanted: bool) -> None:
    if wanted:
        import mask2former

        say(f"mask2former {mask2former.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
) -> None:
    del version, debug  # handled by the callback and by main
