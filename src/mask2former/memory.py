"""How much memory is left, and what it looks like when there is none. Knows nothing of what it is for.

On Linux the kernel promises more memory than there is, and ends processes that use it. So what would not fit is refused
before it is allocated.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mask2former.errors import UserError

__all__ = [
    "LackOfMemoryError",
    "available_in_group",
    "available_memory",
    "check_memory",
    "is_lack_of_memory",
    "refusing_lack_of_memory",
]

_GIB = 2**30
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


class LackOfMemoryError(UserError):
    """A request that does not fit the memory that is left, so that it may be possible when other work is done."""


def available_memory() -> int | None:
    """Bytes that this process can still take: of the machine, its container and its own limit; None: not known."""
    found = [value for value in (_of_machine(), available_in_group(), _of_process()) if value is not None]
    return max(0, min(found)) if found else None


def _of_machine() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def available_in_group(root: Path = _GROUPS, own: Path = _OWN_GROUP) -> int | None:
    """What the limit of the container, or of the service manager, leaves; pages of files are given back when needed."""
    with contextlib.suppress(OSError, ValueError, StopIteration):  # the last: groups of version 1 alone
        name = next(line for line in own.read_text("utf-8").splitlines() if line[:3] == "0::")[3:]
        left = []
        folder = root / name.lstrip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(root):
                break
            with contextlib.suppress(OSError, ValueError, StopIteration):
                most = int((group / "memory.max").read_text("ascii"))  # ValueError: "max"
                files = next(
                    int(line.split()[1])
                    for line in (group / "memory.stat").read_text("ascii").splitlines()
                    if line.startswith("inactive_file ")
                )
                left.append(most - int((group / "memory.current").read_text("ascii")) + files)
        return min(left, default=None)
    return None


def _of_process() -> int | None:
    """What ``ulimit -v`` leaves."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
            return most - pages * os.sysconf("SC_PAGE_SIZE")
    return None


def check_memory(what: str, needed: int, advice: str) -> None:
    """Refuse what would not fit the memory that is left.

    Args:
        what: subject of the sentence, in the singular.
        needed: bytes, rather too few than too many.
        advice: what to do.

    Raises:
        LackOfMemoryError: it would not fit.
    """
    if needed < _GIB // 4:  # asking costs more than it tells
        return
    available = available_memory()
    if available is not None and needed > available:
        raise LackOfMemoryError(
            f"{what} needs about {needed / _GIB:.1f} GiB of memory, and {available / _GIB:.1f} GiB are left; {advice}"
        )


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: ours, Python's, numpy's, or PyTorch's of any device."""
    text = str(error)
    return (
        isinstance(error, MemoryError | LackOfMemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # PyTorch's, which is not imported here
        or (isinstance(error, RuntimeError) and ("allocate memory" in text or "out of memory" in text))
    )


@contextlib.contextmanager
def refusing_lack_of_memory(what: str, advice: str) -> Iterator[None]:
    """Make one sentence of memory that runs out inside, on the CPU; CUDA's own exception stays.

    Raises:
        LackOfMemoryError: it ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ == "OutOfMemoryError" or not is_lack_of_memory(error):
            raise
        raise LackOfMemoryError(f"{what} does not fit into the memory that is left; {advice}") from error
