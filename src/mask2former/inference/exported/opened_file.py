"""What the runtimes of files have in common: how they get to another process."""

from __future__ import annotations

import os

import torch

from mask2former.errors import UserError

__all__ = ["OpenedFile"]


class OpenedFile:
    """The base of a runtime: a pickle of it opens the file again, and it is refused after a fork.

    Args:
        arguments: those of the class.
    """

    def __init__(self, *arguments: object) -> None:
        self._arguments = arguments
        self._process = os.getpid()
        self._has_threads = torch.get_num_threads() > 1

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self._arguments

    def check_process(self) -> None:
        """Call this before using the file.

        Raises:
            UserError: this process was forked from the one that opened the file; threads do not survive a fork, and a
                call would wait for them forever.
        """
        if self._has_threads and os.getpid() != self._process:
            raise UserError(
                f"{self._arguments[0]} was opened before this process was forked, and cannot be used here: open it in "
                "this process, or start processes with multiprocessing.get_context('spawn')"
            )
