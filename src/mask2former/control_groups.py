"""The groups in which Linux limits what a process may use: those of its container, service or job."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["OWN_GROUPS", "ROOT", "groups_of_process"]

ROOT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def groups_of_process(root: Path = ROOT, own: Path = OWN_GROUPS, controller: str = "") -> Iterator[Path]:
    """The folder of the group of this process, then those of the groups around it; none if there is no such group.

    Args:
        root: where the groups are mounted.
        own: the file that names the groups of this process.
        controller: of version 1, which has a group for each (``cpu``, ``memory``); by default the group of version 2.

    Yields:
        Folders, of which some may not exist: a container may see its own group as the root of all.
    """
    with contextlib.suppress(OSError, ValueError):
        for line in own.read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):  # that of version 2 is "0::/..."
                mount = root / controllers if (root / controllers).is_dir() else root / controller
                folder = mount / path.lstrip("/")
                yield from (group for group in (folder, *folder.parents) if group.is_relative_to(mount))
                return
