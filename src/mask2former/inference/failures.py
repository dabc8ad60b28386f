"""Errors of one image, clip or frame: the sentence for the user, and whether the others would fail, too.

Decoders, libraries and drivers can raise anything. An error of one image concerns only this image; a full disk or a
lost device ends the run at once, instead of failing for each image.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch

from mask2former import limits
from mask2former.errors import NoCompilerError, UserError, prefixed
from mask2former.inference.pipeline import Failure
from mask2former.limits import check_limit
from mask2former.memory import is_lack_of_memory, refusing_lack_of_memory
from mask2former.text import printable

__all__ = ["ends_run", "naming", "reason", "result_of", "work_on"]

_T = TypeVar("_T")

_LENGTH = 300  # characters of an external message
# Errors of the system or a file system. Not EFBIG (a file-size limit) or ENAMETOOLONG, which concern one file.
_EVERYWHERE = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EMFILE", "ENFILE", "ESTALE", "ENOTCONN", "EPIPE")
    if hasattr(errno, name)
)


def ends_run(error: BaseException, device: torch.device) -> bool:
    """Whether an error of one image would occur for all others that follow.

    Args:
        error: any exception.
        device: device of the model, which is checked to be still working.
    """
    if not isinstance(error, Exception):  # Ctrl-C, exit of the program
        return True
    if isinstance(error, NoCompilerError) or (isinstance(error, OSError) and error.errno in _EVERYWHERE):
        return True
    if isinstance(error, UserError) or device.type == "cpu" or not isinstance(error, RuntimeError):
        return False
    return not _works(device)


def reason(error: BaseException, subject: str, device: torch.device) -> str:
    """One sentence about an error.

    Args:
        error: the exception.
        subject: what was being processed, for instance ``'a.jpg'``; left out if the error names it.
        device: device of the model.
    """
    if isinstance(error, UserError):
        text = str(error)
        return text if subject.strip("'") in text else f"{subject}: {text}"
    if isinstance(error, OSError) and error.strerror:
        where = f"'{printable(str(error.filename))}'" if error.filename else subject
        return f"{where}: {error.strerror}"
    if is_lack_of_memory(error):
        return (
            f"{subject} does not fit into the memory of {device}; set a smaller short_edge, or make the image smaller"
        )
    if isinstance(error, RecursionError):
        return f"{subject} is nested too deeply to be read"
    said = printable(str(error), _LENGTH)
    return f"{subject}: {type(error).__name__}{f': {said}' if said else ''}"


@contextlib.contextmanager
def work_on(*sizes_hw: tuple[int, int]) -> Iterator[None]:
    """One sentence for images whose shape cannot be processed, and for memory that runs out after all.

    Args:
        sizes_hw: height and width of the images being processed.

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
    """Errors about a file name the file.

    Raises:
        UserError: as raised inside, with the name.
    """
    try:
        yield
    except UserError as error:
        if isinstance(source, str | Path) and str(source) not in str(error):
            raise prefixed(f"'{source}'", error) from error
        raise


def result_of(source: object, result: _T | Failure) -> _T:
    """The result of a stage for a source.

    Raises:
        Exception: the exception of the stage; errors about a file name it.
    """
    if isinstance(result, Failure):
        with naming(source):
            raise result.error
    return result


def _works(device: torch.device) -> bool:
    try:
        return bool((torch.zeros(1, device=device) + 1).item() == 1)
    except Exception as error:  # a driver that has lost its device can raise anything
        return isinstance(error, torch.OutOfMemoryError)  # which is working
