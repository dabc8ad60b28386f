"""Training with Lightning, which is imported only in this package; the entry point is ``training.run.train``."""

from __future__ import annotations

from mask2former.extras import need

__all__ = ["need_lightning"]


def need_lightning() -> None:
    """Check, before anything is done, that the extra ``train`` is installed.

    Raises:
        MissingExtraError: it is missing; the message has the ``pip install`` command for it.
    """
    need("train", "lightning", to="train models")
