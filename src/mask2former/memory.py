"""How much memory is left, and how to recognise that it has run out, whatever it is used for.

On Linux the kernel promises more memory than exists, and kills processes that use it. So work that would not fit is
rejected before memory is allocated.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mask2former.control_groups import OWN_GROUPS, ROOT, groups_of_process
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
_GROUP_FILES = (  # of versions 2 and 1: the controller, the files of limit and use, and a line of memory.stat
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
_NO_LIMIT = 1 << 62  # version 1 has a number instead of "max": the largest multiple of a page below 2**63


class LackOfMemoryError(UserError):
    """A request that does not fit into the memory that is left; it may be possible once other work is done."""


def available_memory() -> int | None:
    """Bytes that this process can still use, limited by machine, container and process; None: not known."""
    found = [value for value in (_of_machine(), available_in_group(), _of_process()) if value is not None]
    return max(0, min(found)) if found else None


def _of_machine() -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def available_in_group(root: Path = ROOT, own: Path = OWN_GROUPS) -> int | None:
    """What the limit of the container or service manager leaves; cached pages of files count as available."""
    left = []
    for controller, limit, used, cached in _GROUP_FILES:
        for group in groups_of_process(root, own, controller):
            with contextlib.suppress(OSError, ValueError, StopIteration):
                most = int((group / limit).read_text("ascii"))  # ValueError: "max"
                files = next(
                    int(line.split()[1])
                    for line in (group / "memory.stat").read_text("ascii").splitlines()
                    if line.startswith(f"{cached} ")
                )
                if most < _NO_LIMIT:
                    left.append(most - int((group / used).read_text("ascii")) + files)
    return min(left, default=None)


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
    """Raise an error if the memory that is left is not enough.

    Args:
        what: subject of the message, in the singular.
        needed: bytes, rather too few than too many.
        advice: what to do.

    Raises:
        LackOfMemoryError: it is not enough.
    """
    if needed < _GIB // 4:  # not worth the time of a check
        return
    available = available_memory()
    if available is not None and needed > available:
        raise LackOfMemoryError(
            f"{what} needs about {needed / _GIB:.1f} GiB of memory, and {available / _GIB:.1f} GiB are left; {advice}"
        )


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out: ours, Python's, numpy's, or PyTorch's for any device."""
    text = str(error)
    return (
        isinstance(error, MemoryError | LackOfMemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # PyTorch's, which is not imported here
        or (isinstance(error, RuntimeError) and ("allocate memory" in text or "out of memory" in text))
    )


@contextlib.contextmanager
def refusing_lack_of_memory(what: str, advice: str) -> Iterator[None]:
    """Replace errors about main memory inside the block with one clear message; CUDA's own exception is not changed.

    Raises:
        LackOfMemoryError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ == "OutOfMemoryError" or not is_lack_of_memory(error):
            raise
        raise LackOfMemoryError(f"{what} does not fit into the memory that is left; {advice}") from error
