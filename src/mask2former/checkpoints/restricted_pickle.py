"""Weights out of pickle files without running anything that the file asks for.

Reads plain pickles (``.pkl``) and PyTorch's two formats (``.pth``, ``.pt``) through one unpickler that knows arrays,
tensors and plain containers; every other name in the file is refused. What it makes is bounded by the size of the file
and by ``limits.PICKLE_STEPS``; torch's ``weights_only`` knows no numpy arrays of the published files, and no bounds.
Must not know what the entries mean.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import torch

from mask2former import limits
from mask2former.checkpoints.entries import check_entry, check_entry_count
from mask2former.documents import check_regular
from mask2former.errors import UserError, prefixed
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
_DTYPE = re.compile(r"[<>|=]?[biufc?]\d{0,2}|[<>|=]?[SU]\d+")


class _Mapping(dict[Any, Any]):
    """Stands for OrderedDict; attributes of the pickled one (``_metadata``) are dropped."""

    def __setstate__(self, state: Any) -> None:
        del state


class _Dtype:
    """Stands for ``numpy.dtype``: numbers and fixed-length text only, so never objects or records."""

    def __init__(self, spec: Any, align: Any = False, copy: Any = False) -> None:
        del align, copy
        if not isinstance(spec, str) or not _DTYPE.fullmatch(spec):
            raise _refusal(f"numpy.dtype({quoted(spec)})")
        self.dtype = np.dtype(spec)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, record = state[1], state[2:5]
        if not isinstance(order, str) or order not in ("<", ">", "|", "=") or any(part is not None for part in record):
            raise _refusal("a numpy record type")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for an ndarray that is rebuilt by its state."""

    array: np.ndarray[Any, Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        self.array = _frombuffer(data, dtype, shape, "F" if is_fortran else "C")


class _Storage:
    """A flat tensor that is read when first asked for."""

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


class _Skipped:
    """Stands for an object of a training program that is no weight; it keeps nothing and can do nothing."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        del state


def _getattr(*arguments: Any) -> Any:
    """Only methods of what is skipped: mmengine's histories refer to their own."""
    if len(arguments) != 2 or arguments[0] is not _Skipped:
        raise _refusal("builtins.getattr")
    return None


class _Door:
    """A callable that a pickle may call but not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _refusal("a change of a function")


class _Refused(Exception):  # noqa: N818 (never leaves this file)
    """What the pickle requests; turned into a UserError that names the file."""


def _refusal(what: str) -> _Refused:
    return _Refused(what)


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _refusal(f"the encoding {quoted(encoding)}")
    return text.encode("latin-1")


def _sizes(values: Any) -> tuple[int, ...]:
    """Sizes or strides, of which numpy and torch would otherwise try to make something."""
    if not isinstance(values, tuple | list) or len(values) > limits.ARRAY_DIMENSIONS:
        raise pickle.UnpicklingError("an array of a shape that is none")
    if not all(type(value) is int and 0 <= value < 1 << 62 for value in values):
        raise pickle.UnpicklingError("an array of sizes that are none")
    return tuple(values)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, _Dtype):
        raise _refusal("an array without a plain type")
    if isinstance(data, str):  # bytes of a Python 2 pickle
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise _refusal("an array of objects")
    array = np.frombuffer(data, dtype.dtype) if data else np.empty(0, dtype.dtype)
    shape = _sizes(shape)
    if order == "K" and axes is not None:
        return array.reshape(shape).transpose(_sizes(axes))
    if order not in ("C", "F"):
        raise _refusal(f"the array order {quoted(order)}")
    return array.reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, data: Any) -> Any:
    return _frombuffer(data, dtype, (1,), "C")[0]


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise _refusal("a tensor without a storage")
    (start,) = _sizes((offset,))
    return _Tensor(storage, start, _sizes(size), _sizes(stride))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _mapping(values: Any = ()) -> _Mapping:
    """OrderedDict of pairs, or Counter of another mapping."""
    if isinstance(values, dict):
        return _Mapping(values)
    made = _Mapping()
    for key, value in values:
        made[_key(key)] = value
    return made


def _members(values: Any = ()) -> set[Any]:
    return set(map(_key, values))


def _key(value: Any) -> Any:
    """What a mapping or set may have as a key: names and numbers, in no time to hash and not made to collide.

    Tuples in tuples, each of which repeats the last one, would be hashed for ever, deep ones until the stack is full.
    """
    if isinstance(value, int) and not -limits.PICKLE_KEY < value < limits.PICKLE_KEY:
        raise pickle.UnpicklingError("a number of too many digits as a key")
    if value is not None and not isinstance(value, str | bytes | int | float):
        raise pickle.UnpicklingError(f"a {type(value).__name__} as a key or in a set; expected names and numbers")
    return value


def _text(value: Any = "") -> str:
    if not isinstance(value, str | int | float):
        raise _refusal(f"a {type(value).__name__} as text")
    return str(value)


def _bytes(data: Any = b"", encoding: Any = "latin1") -> bytes:
    return data if isinstance(data, bytes) else _encode(data, encoding)  # never a mere length


def _bytearray(data: Any = b"", encoding: Any = "latin1") -> bytearray:
    return bytearray(_bytes(data, encoding))


def _allowed() -> Iterator[tuple[str, str, Any]]:
    """Module, name and stand-in of everything that a file may ask for."""
    yield "collections", "OrderedDict", _Door(_mapping)
    yield "collections", "Counter", _Door(_mapping)
    for module in ("builtins", "__builtin__"):
        for kind in (complex, int, float, bool, list, tuple):
            yield module, kind.__name__, _Door(kind)
        yield module, "dict", _Door(_mapping)
        yield module, "set", _Door(_members)
        yield module, "frozenset", _Door(_members)
        yield module, "str", _Door(_text)
        yield module, "long", _Door(int)
        yield module, "bytes", _Door(_bytes)
        yield module, "bytearray", _Door(_bytearray)
        yield module, "getattr", _Door(_getattr)
    yield "mmengine.logging.history_buffer", "HistoryBuffer", _Skipped
    yield "_codecs", "encode", _Door(_encode)
    yield "numpy", "ndarray", "ndarray"
    yield "numpy", "dtype", _Door(_Dtype)
    for core in ("numpy.core", "numpy._core"):
        yield f"{core}.multiarray", "_reconstruct", _Door(_reconstruct)
        yield f"{core}.multiarray", "scalar", _Door(_scalar)
        yield f"{core}.numeric", "_frombuffer", _Door(_frombuffer)
    yield "torch._utils", "_rebuild_tensor", _Door(_tensor)
    yield "torch._utils", "_rebuild_tensor_v2", _Door(_tensor)
    yield "torch._utils", "_rebuild_parameter", _Door(_parameter)
    yield "torch", "Size", _Door(tuple)
    for name, dtype in _STORAGES.items():
        yield "torch", name, dtype
        yield "torch.cuda", name, dtype
    for name in ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"):
        yield "torch", name, getattr(torch, name)


_ALLOWED = {(module, name): value for module, name, value in _allowed()}


class _Bounded:
    """A stream that never makes room for more than the file can still hold, whatever length the pickle claims."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._size = stream, size
        self.readline = stream.readline

    def read(self, length: int = -1) -> bytes:
        if length > self._size:
            raise EOFError
        return self._stream.read(length)

    def readinto(self, buffer: Any) -> int:
        return self._stream.readinto(buffer)  # pyright: ignore[reportAttributeAccessIssue]  (binary streams have it)


class _Budget:
    """What one file may make of what it holds; shared by all pickles in it."""

    def __init__(self, size: int) -> None:
        self.steps = limits.PICKLE_STEPS
        self.bytes = _room(size)

    def spend(self, steps: int = 0, copied: int = 0) -> None:
        self.steps -= steps
        self.bytes -= copied
        if self.steps < 0:
            raise UserError(
                f"its pickle takes more than {limits.PICKLE_STEPS:,} steps; expected weights, which take some thousands"
            )
        if self.bytes < 0:
            raise UserError(
                f"copies texts to over {limits.PICKLE_SHARING} times its size; expected entries with their own"
            )


def _room(size: int) -> int:
    return limits.PICKLE_SHARING * size + (1 << 20)


# The one written in Python: in the C one a damaged memo index of four bytes asks for gigabytes.
_PurePython: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]


def _guarded(load: Callable[[Any], None], check: Callable[[Any], None] | None, steps: int) -> Callable[[Any], None]:
    """An opcode that is counted, and that looks at what it is about to change or call."""

    def guarded(unpickler: Any) -> None:
        unpickler.budget.spend(steps)
        if check is not None:
            check(unpickler)
        load(unpickler)

    return guarded


def _check_is(value: Any, kinds: type | tuple[type, ...]) -> None:
    if not isinstance(value, kinds):
        raise _refusal(f"a change of a {'function' if isinstance(value, _Door) else type(value).__name__}")


def _check_item(unpickler: Any) -> None:
    _check_is(unpickler.stack[-3], dict)
    _key(unpickler.stack[-2])


def _check_items(unpickler: Any) -> None:
    _check_is(unpickler.metastack[-1][-1], dict)
    _check_pairs(unpickler)


def _check_pairs(unpickler: Any) -> None:
    for key in unpickler.stack[::2]:
        _key(key)


def _check_added(unpickler: Any) -> None:
    _check_is(unpickler.metastack[-1][-1], set)
    _check_set(unpickler)


def _check_set(unpickler: Any) -> None:
    for member in unpickler.stack:
        _key(member)


def _check_call(unpickler: Any) -> None:
    function, arguments = unpickler.stack[-2:]
    if not isinstance(function, _Door) or not isinstance(arguments, tuple):
        raise _refusal(f"a call of a {type(function).__name__}")
    for argument in arguments:
        if isinstance(argument, str | bytes | bytearray):
            unpickler.budget.spend(copied=len(argument))
        elif isinstance(argument, list | tuple | dict | set | frozenset):
            unpickler.budget.spend(len(argument))


def _check_made(unpickler: Any) -> None:
    if unpickler.stack[-2] is not _Skipped:
        raise _refusal("an object of another kind")


def _load_bytearray(unpickler: Any) -> None:
    """As pickle's own, which makes room for the length that is claimed before it looks whether there is as much."""
    (length,) = struct.unpack("<Q", unpickler.read(8))
    unpickler.append(bytearray(unpickler.read(length)))


_CHECKS: dict[bytes, Callable[[Any], None]] = {
    pickle.APPEND: lambda unpickler: _check_is(unpickler.stack[-2], list),
    pickle.APPENDS: lambda unpickler: _check_is(unpickler.metastack[-1][-1], list),
    pickle.SETITEM: _check_item,
    pickle.SETITEMS: _check_items,
    pickle.DICT: _check_pairs,
    pickle.ADDITEMS: _check_added,
    pickle.FROZENSET: _check_set,
    pickle.REDUCE: _check_call,
    pickle.NEWOBJ: _check_made,
    # It would set attributes on whatever lies on the stack, functions included.
    pickle.BUILD: lambda unpickler: _check_is(unpickler.stack[-2], (_Mapping, _Dtype, _Array, _Skipped)),
}
_UNUSED = (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID,
           pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)  # fmt: skip
_COSTS = {pickle.EMPTY_SET: 4}  # an empty set takes four times the room of other things


class _Unpickler(_PurePython):
    dispatch: ClassVar[dict[int, Any]] = {
        code: _guarded(load, _CHECKS.get(bytes([code])), _COSTS.get(bytes([code]), 1))
        for code, load in {**_PurePython.dispatch, pickle.BYTEARRAY8[0]: _load_bytearray}.items()
        if bytes([code]) not in _UNUSED
    }

    def __init__(
        self,
        stream: IO[bytes],
        size: int,
        budget: _Budget,
        storage: Callable[..., _Storage] | None = None,
        *,
        is_inside: bool = False,
    ) -> None:
        # Parity: published files were pickled by Python 2 or with its conventions.
        super().__init__(_Bounded(stream, size), encoding="latin1")
        self.budget = budget
        self._storage = storage
        self._is_inside = is_inside  # a storage in a pickle holds a file of its own, but none that holds another

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes") and not self._is_inside:
            return _Door(self._storage_from_bytes)
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _refusal(printable(f"{module}.{name}", 120)) from None

    def _storage_from_bytes(self, data: Any) -> _Storage:
        storage = _read_legacy(io.BytesIO(_bytes(data)), len(data), self.budget, is_inside=True)
        if not isinstance(storage, _Storage):
            raise _refusal("a storage that holds something else")
        return storage

    def persistent_load(self, pid: Any) -> _Storage:
        if self._storage is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("a reference to data outside of the file")
        _, dtype, key, _, count, *view = pid
        if not isinstance(dtype, torch.dtype) or type(count) is not int or any(part is not None for part in view):
            raise pickle.UnpicklingError("an unknown kind of storage")
        return self._storage(dtype, _text(key), count)


def _flat(data: bytearray, dtype: torch.dtype, big_endian: bool = False) -> torch.Tensor:
    if not data:
        return torch.empty(0, dtype=dtype)
    if big_endian != (sys.byteorder == "big"):
        raise pickle.UnpicklingError("tensors in the byte order of another processor")
    return torch.frombuffer(data, dtype=dtype)


def _check_directory(stream: IO[bytes]) -> None:
    """Refuse a zip archive of millions of entries before all of them are listed."""
    record: Any = zipfile._EndRecData(stream)  # pyright: ignore[reportAttributeAccessIssue]
    length = record[5] if record else 0
    limits.check_limit("its zip directory has bytes:", length, limits.ZIP_DIRECTORY_BYTES, "expected weights only")
    stream.seek(0)


def _read_zip(archive: zipfile.ZipFile, size: int, budget: _Budget | None = None) -> Any:
    """The object of ``torch.save`` since 1.6; storages are read when a tensor is asked for."""
    entries = archive.infolist()
    sizes = {entry.filename: entry.file_size for entry in entries}
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size for entry in entries):
        raise pickle.UnpicklingError("compressed entries, which PyTorch never writes")
    if sum(sizes.values()) > size:
        raise pickle.UnpicklingError("entries that are larger than the file, or lie in each other")
    roots = [name.removesuffix("data.pkl") for name in sizes if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise pickle.UnpicklingError("a zip archive without PyTorch's data.pkl")
    root = roots[0]
    big_endian = f"{root}byteorder" in sizes and archive.read(f"{root}byteorder").strip() == b"big"
    known: dict[str, _Storage] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> _Storage:
        name = f"{root}data/{key}"
        if sizes.get(name) != count * dtype.itemsize:
            raise pickle.UnpicklingError(f"a storage {quoted(key, 40)} that is absent or of another size")

        def read() -> torch.Tensor:
            return _flat(bytearray(archive.read(name)), dtype, big_endian)

        return known.setdefault(key, _Storage(read))

    with archive.open(f"{root}data.pkl") as stream:
        return _Unpickler(stream, sizes[f"{root}data.pkl"], budget or _Budget(size), storage).load()


def _read_legacy(stream: IO[bytes], size: int, budget: _Budget, *, is_inside: bool = False) -> Any:
    """The object of ``torch.save`` before 1.6: four pickles, then the bytes of the storages in a row."""
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
        _, dtype, count = known[_text(key)]
        (stored,) = struct.unpack("<q", stream.read(8))
        length = count * dtype.itemsize
        if stored != count or not 0 <= length <= size:
            raise pickle.UnpicklingError(f"a storage {quoted(key, 40)} of another size")
        data = bytearray(stream.read(length))
        if len(data) != length:
            raise EOFError
        filled[_text(key)] = _flat(data, dtype, big_endian)
    return value


def _as_tensor(value: Any) -> torch.Tensor | None:
    """A tensor that owns its numbers, or None for something that is neither tensor nor numeric array."""
    if isinstance(value, _Array):
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
    """The mapping of names to arrays: the whole file, or its entry ``model``."""
    if isinstance(payload, dict) and isinstance(payload.get("model"), dict):
        return payload["model"]
    if not isinstance(payload, dict):
        raise UserError(f"holds a {type(payload).__name__}; expected a mapping of names to arrays")
    return payload


def read_state(path: Path, select: Callable[[Any], dict[Any, Any]] | None = None) -> dict[str, torch.Tensor]:
    """Names and tensors of a pickle or PyTorch file, in the order of the file, dtypes as stored.

    The file holds either the mapping itself or ``{"model": mapping, ...}``; what else is in there (optimizer,
    iteration) is skipped, in PyTorch's zip format even without being read.

    Args:
        path: an existing file.
        select: given all that the file holds, containers of plain values and of stand-ins for arrays, returns the
            mapping of names to arrays; may raise UserError.

    Raises:
        UserError: the file cannot be read, asks for anything but arrays, tensors and plain containers (the message
            names it), or holds something else than named arrays.
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
                return _tensors(select(_read_legacy(stream, size, _Budget(size))), size)
            return _tensors(select(_Unpickler(stream, size, _Budget(size)).load()), size)
    except _Refused as refused:
        raise UserError(
            f"{path}: the pickle asks for {refused}, which is no array, tensor or plain container; nothing was "
            "executed. Expected a file of weights only"
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
    """Look through the checkpoint of a training before torch reads it, whose ``weights_only`` has no bounds.

    Args:
        path: of a file that ``torch.save`` wrote; no tensor is read.

    Raises:
        ValueError: it is none, asks for anything but tensors and plain containers, or for more of these than a training
            has.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        _check_directory(stream)
        try:
            budget = _Budget(size)
            budget.steps = limits.TRAINING_STEPS
            with zipfile.ZipFile(stream) as archive:
                _read_zip(archive, size, budget)
        except zipfile.BadZipFile as error:
            raise ValueError(f"it is cut short, or not written by torch.save: {error}") from error
        except _Refused as refused:
            raise ValueError(f"it asks for {refused}, which is no tensor or plain container") from None


def _tensors(values: dict[Any, Any], file_size: int) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    room = _room(file_size)
    check_entry_count(len(values))
    for name, value in values.items():
        tensor = _as_tensor(value)
        if tensor is None or not isinstance(name, str):
            kind = type(value.array if isinstance(value, _Array) else value).__name__
            raise UserError(f"entry {quoted(name)} is a {kind}; expected named numeric arrays only")
        check_entry(name, tensor)
        room -= tensor.nbytes
        if room < 0:
            raise UserError(
                f"unfolds to over {limits.PICKLE_SHARING} times its size; expected entries with their own numbers"
            )
        state[name] = tensor
    if not state:
        raise UserError("holds no entries; expected named numeric arrays")
    return state
