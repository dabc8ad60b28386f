"""Reads weights from pickle files without executing anything that the file requests.

Reads plain pickles (``.pkl``) and PyTorch's two formats (``.pth``, ``.pt``) through the one restricted unpickler, to
which it adds tensors. What the unpickler creates is bounded by the size of the file and by ``limits.PICKLE_STEPS``;
torch's ``weights_only`` supports neither the numpy arrays of the published files nor such bounds. Must not know what
the entries mean.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from mask2former import limits
from mask2former.checkpoints.entries import check_entry, check_entry_count
from mask2former.documents import check_regular
from mask2former.errors import UserError, prefixed
from mask2former.pickles import (
    Array,
    Budget,
    Door,
    PickleRefused,
    Unpickler,
    bytes_of,
    room_of,
    sizes_of,
    text_of,
)
from mask2former.text import printable, quoted

__all__ = ["TORCH_LEGACY_MAGIC", "check_archive", "read_state"]

TORCH_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # first pickle of torch.save before version 1.6

_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


class _Storage:
    """A flat tensor that is read on first use."""

    def __init__(self, read: Callable[[], torch.Tensor]) -> None:
        self._read = read
        self._flat: torch.Tensor | None = None

    def flat(self) -> torch.Tensor:
        if self._flat is None:
            self._flat = self._read()
        return self._flat


class _Tensor:
    """A tensor of a storage, not yet read."""

    def __init__(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def tensor(self) -> torch.Tensor:
        flat = self.storage.flat()
        if math.prod(self.size) > flat.numel():
            raise pickle.UnpicklingError("a tensor larger than its storage")
        return flat.as_strided(self.size, self.stride, self.offset)  # checks the bounds


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise PickleRefused("a tensor without a storage")
    (start,) = sizes_of((offset,))
    return _Tensor(storage, start, sizes_of(size), sizes_of(stride))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _known() -> Iterator[tuple[str, str, Any]]:
    """Module, name and stand-in of what a file may refer to beside arrays and plain containers."""
    yield "torch._utils", "_rebuild_tensor", Door(_tensor)
    yield "torch._utils", "_rebuild_tensor_v2", Door(_tensor)
    yield "torch._utils", "_rebuild_parameter", Door(_parameter)
    yield "torch", "Size", Door(tuple)
    for name, dtype in _STORAGES.items():
        yield "torch", name, dtype
        yield "torch.cuda", name, dtype
    for name in ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"):
        yield "torch", name, getattr(torch, name)


_KNOWN = {(module, name): value for module, name, value in _known()}


class _Unpickler(Unpickler):
    """Also knows tensors, whose numbers are in storages."""

    def __init__(
        self,
        stream: IO[bytes],
        size: int,
        budget: Budget,
        storage: Callable[..., _Storage] | None = None,
        *,
        is_inside: bool = False,
    ) -> None:
        super().__init__(stream, size, budget)
        self._storage = storage
        self._is_inside = is_inside  # a storage in a pickle contains a file, which must not contain another

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes") and not self._is_inside:
            return Door(self._storage_from_bytes)
        return _KNOWN[module, name] if (module, name) in _KNOWN else super().find_class(module, name)

    def _storage_from_bytes(self, data: Any) -> _Storage:
        storage = _read_legacy(io.BytesIO(bytes_of(data)), len(data), self.budget, is_inside=True)
        if not isinstance(storage, _Storage):
            raise PickleRefused("a storage that contains something else")
        return storage

    def persistent_load(self, pid: Any) -> _Storage:
        if self._storage is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("a reference to data outside of the file")
        _, dtype, key, _, count, *view = pid
        if not isinstance(dtype, torch.dtype) or type(count) is not int or any(part is not None for part in view):
            raise pickle.UnpicklingError("an unknown kind of storage")
        return self._storage(dtype, text_of(key), count)


def _flat(data: bytearray, dtype: torch.dtype, big_endian: bool = False) -> torch.Tensor:
    if not data:
        return torch.empty(0, dtype=dtype)
    if big_endian != (sys.byteorder == "big"):
        raise pickle.UnpicklingError("tensors in a byte order of another processor")
    return torch.frombuffer(data, dtype=dtype)


def _check_directory(stream: IO[bytes]) -> None:
    """Refuse a zip archive with millions of entries before all of them are listed."""
    record: Any = zipfile._EndRecData(stream)  # pyright: ignore[reportAttributeAccessIssue]
    length = record[5] if record else 0
    limits.check_limit(
        "its zip directory has too many bytes:", length, limits.ZIP_DIRECTORY_BYTES, "expected weights only"
    )
    stream.seek(0)


def _read_zip(archive: zipfile.ZipFile, size: int, budget: Budget | None = None) -> Any:
    """The object saved by ``torch.save`` since 1.6; storages are read when a tensor is requested."""
    entries = archive.infolist()
    sizes = {entry.filename: entry.file_size for entry in entries}
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size for entry in entries):
        raise pickle.UnpicklingError("compressed entries, which PyTorch never writes")
    if sum(sizes.values()) > size:
        raise pickle.UnpicklingError("entries that are larger than the file, or that overlap")
    roots = [name.removesuffix("data.pkl") for name in sizes if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise pickle.UnpicklingError("a zip archive without PyTorch's data.pkl")
    root = roots[0]
    big_endian = f"{root}byteorder" in sizes and archive.read(f"{root}byteorder").strip() == b"big"
    known: dict[str, _Storage] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> _Storage:
        name = f"{root}data/{key}"
        if sizes.get(name) != count * dtype.itemsize:
            raise pickle.UnpicklingError(f"a storage {quoted(key, 40)} that is absent or of a different size")

        def read() -> torch.Tensor:
            return _flat(bytearray(archive.read(name)), dtype, big_endian)

        return known.setdefault(key, _Storage(read))

    with archive.open(f"{root}data.pkl") as stream:
        return _Unpickler(stream, sizes[f"{root}data.pkl"], budget or Budget(size), storage).load()


def _read_legacy(stream: IO[bytes], size: int, budget: Budget, *, is_inside: bool = False) -> Any:
    """The object saved by ``torch.save`` before 1.6: four pickles, then the bytes of the storages in a row."""
    if stream.read(len(TORCH_LEGACY_MAGIC)) != TORCH_LEGACY_MAGIC:
        raise pickle.UnpicklingError("a tensor in an unknown format")

    def loaded(storage: Callable[..., _Storage] | None = None) -> Any:
        return _Unpickler(stream, size, budget, storage, is_inside=is_inside).load()

    loaded()  # protocol version
    system = loaded()
    big_endian = isinstance(system, dict) and system.get("little_endian") is False
    known: dict[str, tuple[_Storage, torch.dtype, int]] = {}
    filled: dict[str, torch.Tensor] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> _Storage:
        if key not in known:
            known[key] = (_Storage(lambda: filled[key]), dtype, count)
        return known[key][0]

    value = loaded(storage)
    for key in loaded():
        _, dtype, count = known[text_of(key)]
        (stored,) = struct.unpack("<q", stream.read(8))
        length = count * dtype.itemsize
        if stored != count or not 0 <= length <= size:
            raise pickle.UnpicklingError(f"a storage {quoted(key, 40)} of a different size")
        data = bytearray(stream.read(length))
        if len(data) != length:
            raise EOFError
        filled[text_of(key)] = _flat(data, dtype, big_endian)
    return value


def _as_tensor(value: Any) -> torch.Tensor | None:
    """A tensor that owns its numbers, or None for something that is neither a tensor nor a numeric array."""
    if isinstance(value, Array):
        value = value.array
    if isinstance(value, _Tensor):
        return value.tensor().contiguous()
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            return None
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C", copy=True))
    return None


def _select(payload: Any) -> dict[Any, Any]:
    """The mapping of names to arrays: the complete file, or its entry ``model``."""
    if isinstance(payload, dict) and isinstance(payload.get("model"), dict):
        return payload["model"]
    if not isinstance(payload, dict):
        raise UserError(f"contains a {type(payload).__name__}; expected a mapping of names to arrays")
    return payload


def read_state(path: Path, select: Callable[[Any], dict[Any, Any]] | None = None) -> dict[str, torch.Tensor]:
    """Names and tensors of a pickle or PyTorch file, in file order, dtypes as stored.

    The file contains either the mapping itself or ``{"model": mapping, ...}``; anything else in it (optimizer,
    iteration) is skipped, in PyTorch's zip format without even being read.

    Args:
        path: an existing file.
        select: given everything that the file contains, containers of plain values and of stand-ins for arrays, returns
            the mapping of names to arrays; may raise UserError.

    Raises:
        UserError: the file cannot be read, refers to anything but arrays, tensors and plain containers (the message
            names it), or contains something other than named arrays.
    """
    select = select or _select
    size = check_regular(path, "checkpoint")
    try:
        with path.open("rb") as stream:
            head = stream.read(len(TORCH_LEGACY_MAGIC))
            stream.seek(0)
            if head.startswith(b"PK\x03\x04"):
                _check_directory(stream)
                with zipfile.ZipFile(stream) as archive:
                    return _tensors(select(_read_zip(archive, size)), size)
            if head == TORCH_LEGACY_MAGIC:
                return _tensors(select(_read_legacy(stream, size, Budget(size))), size)
            return _tensors(select(_Unpickler(stream, size, Budget(size)).load()), size)
    except PickleRefused as refused:
        raise UserError(
            f"{path}: the pickle refers to {refused}, which is not an array, tensor or plain container; nothing was "
            "executed. Expected a file with weights only"
        ) from None
    except UserError as error:
        raise prefixed(path, error) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = printable(str(error), 120) or type(error).__name__
        raise UserError(
            f"{path}: not a readable pickle or PyTorch file ({reason}); expected weights in .pkl or .pth. If it "
            "was downloaded or copied, it may be incomplete: fetch it again"
        ) from error


def check_archive(path: Path) -> None:
    """Examine the checkpoint of a training before torch reads it, whose ``weights_only`` has no bounds.

    Args:
        path: of a file written by ``torch.save``; no tensor is read.

    Raises:
        ValueError: it is not such a file, refers to anything but tensors and plain containers, or contains more of
            these than a training has.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        _check_directory(stream)
        try:
            budget = Budget(size)
            budget.steps = limits.TRAINING_STEPS
            with zipfile.ZipFile(stream) as archive:
                _read_zip(archive, size, budget)
        except zipfile.BadZipFile as error:
            raise ValueError(f"it is incomplete, or not written by torch.save: {error}") from error
        except PickleRefused as refused:
            raise ValueError(f"it refers to {refused}, which is not a tensor or plain container") from None


def _tensors(values: dict[Any, Any], file_size: int) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    room = room_of(file_size)
    check_entry_count(len(values))
    for name, value in values.items():
        tensor = _as_tensor(value)
        if tensor is None or not isinstance(name, str):
            kind = type(value.array if isinstance(value, Array) else value).__name__
            raise UserError(f"entry {quoted(name)} is a {kind}; expected named numeric arrays only")
        check_entry(name, tensor)
        room -= tensor.nbytes
        if room < 0:
            raise UserError(
                f"expands to over {limits.PICKLE_SHARING} times its size; expected entries with their own numbers"
            )
        state[name] = tensor
    if not state:
        raise UserError("contains no entries; expected named numeric arrays")
    return state
