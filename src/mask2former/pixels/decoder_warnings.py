"""Keeps warnings of decoders from the user."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator

__all__ = ["without_warnings"]

_FILTERS = threading.RLock()  # warning filters belong to the process: one thread at a time may change them
if hasattr(os, "register_at_fork"):
    # A forked child inherits the lock as it was, but not the thread that would release it.
    os.register_at_fork(before=_FILTERS.acquire, after_in_parent=_FILTERS.release, after_in_child=_FILTERS.release)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """For decoders, which warn of damaged metadata. Threads wait for each other."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
