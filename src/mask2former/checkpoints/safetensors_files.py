"""Safetensors files: read within limits, and written so that equal content gives equal bytes.

Must not know what the entries and the metadata mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mask2former import limits
from mask2former.checkpoints.entries import check_entry, check_entry_count
from mask2former.documents import check_regular, parse_json
from mask2former.errors import UserError
from mask2former.text import printable

__all__ = ["entries_of", "is_safetensors", "metadata_value", "open_safetensors", "write_safetensors"]


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file seems to be one: eight bytes of header length, then JSON.

    Args:
        head: its first nine bytes at least, if it has as many.
        size: of the file, in bytes.
    """
    return size >= 10 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """The open file, of which only the header has been read.

    Raises:
        UserError: it is not a regular file, is damaged, or its header is larger than ``limits.HEADER_BYTES``.
    """
    size = check_regular(path, "checkpoint")
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
        if length < size:  # otherwise it is damaged
            limits.check_limit(
                f"{path}: its header has too many bytes:", length, limits.HEADER_BYTES, "is it the right file?"
            )
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except UserError:
        raise
    except (SafetensorError, OSError, AttributeError, TypeError, RuntimeError, MemoryError, OverflowError) as error:
        # The others: numbers of types that only newer versions of torch support, and sizes that fit no memory.
        reason = printable(str(error), 200) or type(error).__name__
        raise UserError(
            f"{path}: damaged safetensors file ({reason}); it may be incomplete, fetch or save it again"
        ) from error


def entries_of(file: Any, path: Path) -> dict[str, Tensor]:
    """All entries of an open file, types as stored.

    Raises:
        UserError: there are too many, or some that no model can have; see :func:`check_entry`.
    """
    try:
        names = list(file.keys())
        check_entry_count(len(names))
        state: dict[str, Tensor] = {}
        for name in names:
            state[name] = file.get_tensor(name)
            check_entry(name, state[name])
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return state


def metadata_value(metadata: Mapping[str, str], key: str, path: Path) -> Any:
    """The JSON value in the metadata of a file.

    Raises:
        UserError: there is none, or it is damaged or longer than ``limits.METADATA_BYTES``.
    """
    if key not in metadata:
        raise UserError(f"{path}: the '{key}' of its header is missing; save the model again")
    text = metadata[key]
    what = f"{path}: the '{key}' of its header"
    limits.check_limit(f"{what} has too many characters:", len(text), limits.METADATA_BYTES, "save the model again")
    try:
        return parse_json(text, what)
    except UserError as error:
        raise UserError(f"{what} is damaged; save the model again ({error.__cause__!s:.100})") from error


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a file; the writer of the safetensors library orders the entries, but not ``metadata``.

    Raises:
        OSError: the disk is full, or the file cannot be written for another reason.
    """
    try:
        save_file(dict(tensors), path, dict(metadata))
    except SafetensorError as error:  # which has the reason only in words
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise
    with path.open("r+b") as stream:
        _sort_metadata(stream)


def _sort_metadata(stream: IO[bytes]) -> None:
    length = int.from_bytes(stream.read(8), "little")
    header = json.loads(stream.read(length))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    assert len(text) <= length, "the header grew"
    stream.seek(8)
    stream.write(text.ljust(length))  # spaces are allowed there, and what follows stays in place
