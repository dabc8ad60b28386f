"""Training with Lightning, which is imported only in this package; the entry point is ``training.run.train``."""

from __future__ import annotations

from importlib.util import find_spec

from mask2former.errors import MissingExtraError

__all__ = ["need_lightning"]


def need_lightning() -> None:
    """Check, before anything is done, that the extra ``train`` is installed.

    Raises:
        MissingExtraError: it is missing; the message has the ``pip install`` command for it.
    """
    if find_spec("lightning") is None:
        raise MissingExtraError("lightning", "train")
