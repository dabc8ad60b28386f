"""The exceptions for "the request is wrong" and "the machine could not do it".

All errors that a user can make (in files, sizes, settings, checkpoints) have these types, so the command line can
report them in one sentence with exit code 2. Broken invariants of ours are ``AssertionError``. This module imports no
other module of the package.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["FailedError", "MissingExtraError", "NoCompilerError", "OptionError", "UserError", "prefixed"]


class UserError(ValueError):
    """A request that cannot be fulfilled; the message states what was given, what was expected and what to do."""


class OptionError(UserError):
    """Arguments of a call that cannot be combined.

    Args:
        sentence: returns the message, given a function from the name of an argument to what it is called: the name
            in Python, its flag on the command line. ``OptionError(lambda name: f"{name('seed')} is about scenes")``
    """

    def __init__(self, sentence: Callable[[Callable[[str], str]], str]) -> None:
        super().__init__(sentence(str))
        self.sentence = sentence

    def __reduce__(self) -> tuple[type[UserError], tuple[str]]:
        """From another process it comes back with the names in Python, because functions cannot be pickled."""
        return UserError, (str(self),)


def prefixed(source: object, error: UserError) -> UserError:
    """The same error, prefixed with its subject; names of arguments still depend on where it is shown."""
    if isinstance(error, OptionError):
        return OptionError(lambda name: f"{source}: {error.sentence(name)}")
    return UserError(f"{source}: {error}")


class MissingExtraError(UserError, ImportError):
    """An optional dependency is not installed; the message has the ``pip install`` command for it."""

    def __init__(self, package: str, extra: str, to: str) -> None:
        super().__init__(
            f"{package} is not installed; it is needed to {to}. Install it with: pip install 'mask2former[{extra}]'"
        )
        self._of = package, extra, to

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return MissingExtraError, self._of  # from another process, where an exception is made of its message otherwise


class NoCompilerError(UserError):
    """The model cannot be compiled on this machine, whatever the input."""


class FailedError(Exception):
    """The request was valid, but could not be completed; the message is for the user. Exit code 1."""
