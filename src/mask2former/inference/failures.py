"""What stopped one image, clip or frame: the sentence that says it, and whether the others would fail, too.

Decoders, libraries and drivers raise arbitrary errors. An image fails alone; a full disk or a lost device ends the run
at once, instead of once per image.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch

from mask2former import limits
from mask2former.errors import NoCompilerError, UserError
from mask2former.inference.pipeline import Failure
from mask2former.limits import check_limit
from mask2former.memory import is_lack_of_memory, refusing_lack_of_memory
from mask2former.text import printable

__all__ = ["ends_run", "naming", "reason", "result_of", "work_on"]

_T = TypeVar("_T")

_LENGTH = 300  # of what others say
# Of the system or a whole file system. Not EFBIG (a file-size limit) or ENAMETOOLONG, which are about one file.
_EVERYWHERE = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EMFILE", "ENFILE", "ESTALE", "ENOTCONN", "EPIPE")
    if hasattr(errno, name)
)


def ends_run(error: BaseException, device: torch.device) -> bool:
    """Whether an error for one image would be raised for all that follow.

    Args:
        error: whatever it is.
        device: of the model, which is tested for whether it still works.
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
        subject: what was being processed, for instance ``'a.jpg'``; left out if the error names it.
        device: of the model.
    """
    if isinstance(error, UserError):
        text = str(error)
        return text if subject.strip("'") in text else f"{subject}: {text}"
    if isinstance(error, OSError) and error.strerror:
        where = f"'{printable(str(error.filename))}'" if error.filename else subject
        return f"{where}: {error.strerror}"
    if is_lack_of_memory(error):
        return f"{subject} does not fit into the memory of {device}; try a smaller --short-edge, or a smaller image"
    if isinstance(error, RecursionError):
        return f"{subject} is nested too deeply to be read"
    said = printable(str(error), _LENGTH)
    return f"{subject}: {type(error).__name__}{f': {said}' if said else ''}"


@contextlib.contextmanager
def work_on(*sizes_hw: tuple[int, int]) -> Iterator[None]:
    """One message for images whose content is too thin to segment, and for memory that runs out after all.

    Args:
        sizes_hw: height and width of the images in progress.

    Raises:
        UserError: an image is far too thin, or memory ran out.
    """
    for height, width in sizes_hw:
        check_limit(
            f"the image has {height}x{width} pixels (height x width), whose aspect ratio is",
            max(height, width) // min(height, width),
            limits.ASPECT_RATIO,
            "cut it into parts",
        )
    height, width = sizes_hw[0] if sizes_hw else (0, 0)
    advice = "make it smaller, cut it into parts, or lower max_instances"
    with refusing_lack_of_memory(f"an image of {height}x{width} pixels (height x width)", advice):
        yield


@contextlib.contextmanager
def naming(source: object) -> Iterator[None]:
    """Errors about a file name it.

    Raises:
        UserError: from inside.
    """
    try:
        yield
    except UserError as error:
        if isinstance(source, str | Path) and str(source) not in str(error):
            raise UserError(f"'{source}': {error}") from error
        raise


def result_of(source: object, result: _T | Failure) -> _T:
    """The output of a stage for a source.

    Raises:
        Exception: what the stage raised instead; with the name of the file.
    """
    if isinstance(result, Failure):
        with naming(source):
            raise result.error
    return result


def _works(device: torch.device) -> bool:
    with contextlib.suppress(torch.OutOfMemoryError):
        try:
            return bool((torch.zeros(1, device=device) + 1).item() == 1)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever a driver raises that has lost its device
            return False
    return True  # full, but there
