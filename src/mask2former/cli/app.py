"""The program itself: global options, exit codes, one sentence for what went wrong. Knows no verb."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from mask2former.cli.shared import FailedError, StoppedError, printable
from mask2former.errors import RequestError

__all__ = ["app", "main"]

# Its module differs from one version of typer to the next; that it is the base of the public class does not.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]
assert _CommandLineError.__name__ == "ClickException"

_STOPPED = 130  # exit code

app = typer.Typer(
    name="mask2former",
    help="Panoptic, instance and semantic segmentation of pictures with Mask2Former.",
    epilog="Start with: mask2former demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with ``arguments`` (by default those of the process) and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]  # anywhere, although it belongs to no verb
    words = [word for word in words[:end] if word != "--debug"] + words[end:]
    try:
        result = int(app(words, prog_name="mask2former", standalone_mode=False) or 0)
        if result == _STOPPED:
            raise KeyboardInterrupt  # what newer versions of typer make an exit code of, without a word
        return result
    except (StoppedError, typer.Abort, KeyboardInterrupt) as stop:
        message, code = f"stopped{f': {stop}' if str(stop) else ''}", _STOPPED
    except BrokenPipeError:  # the reader of our output, for instance "head", has seen enough
        sys.stderr.close()  # or the interpreter complains when it flushes
        return 1
    except (RequestError, _CommandLineError) as error:
        if debug:
            traceback.print_exc()
        text = error.format_message() if isinstance(error, _CommandLineError) else str(error)  # pyright: ignore[reportAttributeAccessIssue]
        message, code = f"error: {text}", 2
    except Exception as error:
        if debug:
            traceback.print_exc()
        text = str(error) if isinstance(error, FailedError) else _unexpected(error)
        message, code = f"error: {text}", 1
    print(printable(message), file=sys.stderr)
    return code


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    return f"{type(error).__name__}: {error} (the same command with --debug shows where)"


def _show_version(wanted: bool) -> None:
    if wanted:
        import mask2former

        print(f"mask2former {mask2former.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    del version, debug  # handled by the callback and by main
