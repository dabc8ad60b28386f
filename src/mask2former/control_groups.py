"""The groups in which Linux limits what a process may use: those of its container, service or job."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["OWN_GROUPS", "ROOT", "groups_of_process"]

ROOT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def groups_of_process(root: Path = ROOT, own: Path = OWN_GROUPS) -> Iterator[Path]:
    """The folder of the group of this process, then those of the groups around it; none if there is only version 1.

    Args:
        root: where the groups are mounted.
        own: the file that names the groups of this process.
    """
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text("utf-8").splitlines():
            if line.startswith("0::"):
                folder = root / line[3:].lstrip("/")
                yield from (group for group in (folder, *folder.parents) if group.is_relative_to(root))
                return
