"""Training on Lightning, which is imported only here; ``training.run.train`` is the entry point."""

from __future__ import annotations

from importlib.util import find_spec

from mask2former.errors import MissingExtraError

__all__ = ["need_lightning"]


def need_lightning() -> None:
    """Refuse where the extra ``train`` is missing, before anything is done.

    Raises:
        MissingExtraError: with the ``pip install`` command that installs it.
    """
    if find_spec("lightning") is None:
        raise MissingExtraError("lightning", "train")
