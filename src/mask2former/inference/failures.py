"""What stopped one image, clip or frame: whether the others would fail, too, and the sentence that says it.

Decoders, libraries and drivers raise whatever they like. An image fails alone; a full disk or a lost device ends the
run at once, instead of once for each image.
"""

from __future__ import annotations

import contextlib
import errno

import torch

from mask2former.errors import NoCompilerError, UserError
from mask2former.memory import is_lack_of_memory
from mask2former.text import printable

__all__ = ["ends_run", "reason"]

_LENGTH = 300  # of what others say
# Of the system or a whole file system. Not EFBIG (a file-size limit) or ENAMETOOLONG, which are about one file.
_EVERYWHERE = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EMFILE", "ENFILE", "ESTALE", "ENOTCONN", "EPIPE")
    if hasattr(errno, name)
)


def ends_run(error: BaseException, device: torch.device) -> bool:
    """Whether what was raised for one image would be raised for all that follow.

    Args:
        error: whatever it is.
        device: of the model, which is asked whether it still works.
    """
    if not isinstance(error, Exception):  # Ctrl-C, the end of the program
        return True
    if isinstance(error, NoCompilerError) or (isinstance(error, OSError) and error.errno in _EVERYWHERE):
        return True
    if isinstance(error, UserError) or device.type == "cpu" or not isinstance(error, RuntimeError):
        return False
    return not _works(device)


def reason(error: BaseException, subject: str, device: torch.device) -> str:
    """One sentence about an error.

    Args:
        error: what was raised.
        subject: what was in work, for instance ``'a.jpg'``; left out where the error names it.
        device: of the model.
    """
    if isinstance(error, UserError):
        text = str(error)
        return text if subject.strip("'") in text else f"{subject}: {text}"
    if isinstance(error, OSError) and error.strerror:
        where = f"'{printable(str(error.filename))}'" if error.filename else subject
        return f"{where}: {error.strerror}"
    if is_lack_of_memory(error):
        return f"{subject} does not fit the memory of {device}; try --short-edge, or a smaller image"
    if isinstance(error, RecursionError):
        return f"{subject} is nested too deeply to be read"
    said = printable(str(error), _LENGTH)
    return f"{subject}: {type(error).__name__}{f': {said}' if said else ''}"


def _works(device: torch.device) -> bool:
    with contextlib.suppress(torch.OutOfMemoryError):
        try:
            return bool((torch.zeros(1, device=device) + 1).item() == 1)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever a driver raises that has lost its device
            return False
    return True  # full, but there
