"""The program: the frame around the command line, in force before anything slow is imported.

Also ``python -m mask2former``, where the script is not on the path.
"""

from __future__ import annotations

import os
import sys

from mask2former import interrupts

__all__ = ["main"]

_STOPPED = 130  # exit code after Ctrl-C; 128 and the number after other signals


def main() -> int:
    """Run the command line of this process; a signal at any moment ends it with a word and without a traceback."""
    _open_standard_streams()
    with interrupts.raised():
        try:
            from mask2former.cli import main as run

            code = run()
        except BaseException:  # an interrupted import may end in any exception
            if not interrupts.received():
                raise
            code = _STOPPED
            print("stopped", file=sys.stderr)
        number = interrupts.received()
        if code == _STOPPED and number:
            code = 128 + number
    interrupts.exit_at_once(code)  # all is done, and the end of the interpreter may take a moment
    return code


def _open_standard_streams() -> None:
    """Give closed standard streams a place, or the next file that is opened would become one of them."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", errors="replace", closefd=False))


if __name__ == "__main__":
    sys.exit(main())
