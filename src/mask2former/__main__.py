"""The program: sets up signals and streams before anything slow is imported, then runs the command line.

It is also ``python -m mask2former``, for systems where the script is not on the path.
"""

from __future__ import annotations

import os
import sys

from mask2former import interrupts

__all__ = ["main"]

_STOPPED = 130  # exit code after Ctrl-C; after other signals 128 plus their number


def main() -> int:
    """Run the command line of this process; a signal ends it at any time with a message and without a traceback."""
    _open_standard_streams()
    with interrupts.raised():
        try:
            from mask2former.cli import main as run

            code = run()
        except BaseException:  # an interrupted import can raise anything
            if not interrupts.received():
                raise
            code = _STOPPED
            print("stopped", file=sys.stderr)
        number = interrupts.received()
        if code == _STOPPED and number:
            code = 128 + number
    interrupts.exit_at_once(code)  # all work is done, and the interpreter may take a moment to end
    return code


def _open_standard_streams() -> None:
    """Reopen closed standard streams; otherwise the next opened file would take the place of one of them."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="replace", closefd=False))


if __name__ == "__main__":
    sys.exit(main())
