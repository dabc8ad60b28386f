"""How many processors this process may use: the machine may have more than its container is allowed to use."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from pathlib import Path

from mask2former.control_groups import OWN_GROUPS, ROOT, groups_of_process

__all__ = ["limit_threads", "num_processors", "processors_in_group"]

_logger = logging.getLogger(__name__)


def num_processors() -> int:
    """Processors that this process may use, at least 1: limited by machine, affinity and container."""
    has_affinity = hasattr(os, "sched_getaffinity")
    here = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    limit = processors_in_group()
    return here if limit is None else max(1, min(here, math.ceil(limit)))


def limit_threads() -> None:
    """Give PyTorch no more threads than there are processors to use; it counts those of the machine.

    Beyond the limit of a container, threads stop each other. For programs that own their process, unless
    ``OMP_NUM_THREADS`` sets the number.
    """
    if "OMP_NUM_THREADS" in os.environ or processors_in_group() is None:
        return
    import torch  # here, since most users of this module do without it

    allowed, chosen = num_processors(), torch.get_num_threads()
    if allowed < chosen:
        torch.set_num_threads(allowed)
        _logger.info(
            "threads of PyTorch: %d instead of %d, as many as the processors that this process may use",
            allowed,
            chosen,
        )


def processors_in_group(root: Path = ROOT, own: Path = OWN_GROUPS) -> float | None:
    """The share of processor time that the container or service manager allows (2.5: two and a half processors).

    Args:
        root: see :func:`~mask2former.control_groups.groups_of_process`.
        own: likewise.

    Returns:
        None if there is no limit.
    """
    found: list[float] = []
    for group in groups_of_process(root, own):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # ValueError: "max"
            quota, period = (group / "cpu.max").read_text("ascii").split()
            found.append(int(quota) / int(period))
    for group in groups_of_process(root, own, "cpu"):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (int((group / f"cpu.cfs_{what}_us").read_text("ascii")) for what in ("quota", "period"))
            found += [quota / period] * (quota > 0)  # -1: no limit
    return min(found, default=None)
