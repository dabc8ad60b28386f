"""The exceptions that mean "the request is wrong" and "the machine could not do it".

Everything that a user can get wrong (files, sizes, settings, checkpoints) ends here, so that the command line can
answer with one sentence and exit code 2. Our own broken invariants stay ``AssertionError``. Imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["FailedError", "MissingExtraError", "NoCompilerError", "OptionError", "UserError", "prefixed"]


class UserError(ValueError):
    """A request that cannot be served; the message says what was given, what was expected and what to do."""


class OptionError(UserError):
    """Arguments of a call that do not go together.

    Args:
        sentence: the message, given how an argument is called: by its name from Python, by its flag on the command
            line. ``OptionError(lambda name: f"{name('seed')} is about scenes")``
    """

    def __init__(self, sentence: Callable[[Callable[[str], str]], str]) -> None:
        super().__init__(sentence(str))
        self.sentence = sentence


def prefixed(source: object, error: UserError) -> UserError:
    """The same error with what it is about in front; arguments of a call are still named as where it is shown."""
    if isinstance(error, OptionError):
        return OptionError(lambda name: f"{source}: {error.sentence(name)}")
    return UserError(f"{source}: {error}")


class MissingExtraError(UserError, ImportError):
    """An optional dependency is not installed; the message names the ``pip install`` that brings it."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"{module} is not installed; it is needed for this. Install it with: pip install 'mask2former[{extra}]'"
        )


class NoCompilerError(UserError):
    """The model cannot be compiled here, whatever the input."""


class FailedError(Exception):
    """The request was right, but not all of it could be done; the message is for the user. Exit code 1."""
