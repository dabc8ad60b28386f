"""Weights out of pickle files without running anything that the file asks for.

Reads plain pickles (``.pkl``) and PyTorch's two formats (``.pth``, ``.pt``) through one unpickler that knows arrays,
tensors and plain containers; every other name in the file is refused. Must not know what the entries mean.
"""

from __future__ import annotations

import collections
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

from mask2former.errors import RequestError

__all__ = ["TORCH_LEGACY_MAGIC", "read_state"]

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
_MOST_PARTS = 1_000_000  # of a tuple, counted through the tuples in it
_SHARING = 8  # entries may share their numbers (tied weights), within reason
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
            raise _refusal(f"numpy.dtype({spec!r})")
        self.dtype = np.dtype(spec)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, record = state[1], state[2:5]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in record):
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
    """A callable that a pickle may call but not change.

    The BUILD opcode can set attributes on whatever lies on the stack, functions included; hence no state.
    """

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _refusal(f"a change of attribute {name}")

    def __setstate__(self, state: Any) -> None:
        raise _refusal("a change of a function")


class _Refused(Exception):  # noqa: N818 (never leaves this file)
    """What the pickle asked for; turned into a RequestError that names the file."""


def _refusal(what: str) -> _Refused:
    return _Refused(what)


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _refusal(f"the encoding {encoding!r}")
    return text.encode("latin-1")


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, _Dtype):
        raise _refusal("an array without a plain type")
    if isinstance(data, str):  # bytes of a Python 2 pickle
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise _refusal("an array of objects")
    array = np.frombuffer(data, dtype.dtype) if data else np.empty(0, dtype.dtype)
    if order == "K" and axes is not None:
        return array.reshape(shape).transpose(axes)
    if order not in ("C", "F"):
        raise _refusal(f"the array order {order!r}")
    return array.reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, data: Any) -> Any:
    return _frombuffer(data, dtype, (1,), "C")[0]


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise _refusal("a tensor without a storage")
    return _Tensor(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _size(*arguments: Any) -> tuple[Any, ...]:
    return tuple(*arguments)


def _tuple(values: Any = ()) -> tuple[Any, ...]:
    made = tuple(values)
    if any(isinstance(value, tuple) for value in made):
        raise _refusal("a tuple of tuples by another way than pickle's own")
    return made


def _text(value: Any = "") -> str:
    if not isinstance(value, str | int | float):
        raise _refusal(f"a {type(value).__name__} as text")
    return str(value)


def _storage_from_bytes(data: Any) -> _Storage:
    storage = _read_legacy(io.BytesIO(data), len(data))
    if not isinstance(storage, _Storage):
        raise _refusal("a storage that holds something else")
    return storage


def _bytes(data: Any = b"", encoding: Any = "latin1") -> bytes:
    return data if isinstance(data, bytes) else _encode(data, encoding)  # never a mere length


def _bytearray(data: Any = b"", encoding: Any = "latin1") -> bytearray:
    return bytearray(_bytes(data, encoding))


def _allowed() -> Iterator[tuple[str, str, Any]]:
    """Module, name and stand-in of everything that a file may ask for."""
    yield "collections", "OrderedDict", _Door(_Mapping)
    yield "collections", "Counter", _Door(collections.Counter)
    for module in ("builtins", "__builtin__"):
        for kind in (set, frozenset, complex, int, float, bool, list, dict):
            yield module, kind.__name__, _Door(kind)
        yield module, "tuple", _Door(_tuple)
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
    yield "torch.storage", "_load_from_bytes", _Door(_storage_from_bytes)
    yield "torch", "Size", _Door(_size)
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


# The one written in Python: in the C one a damaged memo index of four bytes asks for gigabytes.
_PurePython: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]


def _weighed(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """An opcode that makes a tuple, and refuses one that would take ages to hash because it repeats its parts."""

    def load_weighed(unpickler: Any) -> None:
        load(unpickler)
        made = unpickler.stack[-1]
        weight = 1 + sum(unpickler.weights.get(id(part), 1) for part in made)
        if weight > _MOST_PARTS:
            raise pickle.UnpicklingError("tuples in tuples without end")
        unpickler.weights[id(made)] = weight

    return load_weighed


class _Unpickler(_PurePython):
    dispatch: ClassVar[dict[int, Any]] = {
        **_PurePython.dispatch,
        **{
            code[0]: _weighed(_PurePython.dispatch[code[0]])
            for code in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
        },
    }

    def __init__(self, stream: IO[bytes], size: int, storage: Callable[..., _Storage] | None = None) -> None:
        # Parity: published files were pickled by Python 2 or with its conventions.
        super().__init__(_Bounded(stream, size), encoding="latin1")
        self.weights: dict[int, int] = {}  # of tuples, by identity
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _refusal(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> _Storage:
        if self._storage is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("a reference to data outside of the file")
        _, dtype, key, _, count, *view = pid
        if not isinstance(dtype, torch.dtype) or not isinstance(count, int) or any(view):
            raise pickle.UnpicklingError("an unknown kind of storage")
        return self._storage(dtype, str(key), count)


def _flat(data: bytearray, dtype: torch.dtype, big_endian: bool = False) -> torch.Tensor:
    if not data:
        return torch.empty(0, dtype=dtype)
    if big_endian != (sys.byteorder == "big"):
        raise pickle.UnpicklingError("tensors in the byte order of another processor")
    return torch.frombuffer(data, dtype=dtype)


def _read_zip(archive: zipfile.ZipFile) -> Any:
    """The object of ``torch.save`` since 1.6; storages are read when a tensor is asked for."""
    sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise pickle.UnpicklingError("compressed entries, which PyTorch never writes")
    roots = [name.removesuffix("data.pkl") for name in sizes if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise pickle.UnpicklingError("a zip archive without PyTorch's data.pkl")
    root = roots[0]
    big_endian = f"{root}byteorder" in sizes and archive.read(f"{root}byteorder").strip() == b"big"
    known: dict[str, _Storage] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> _Storage:
        name = f"{root}data/{key}"
        if sizes.get(name) != count * dtype.itemsize:
            raise pickle.UnpicklingError(f"a storage '{key}' that is absent or of another size")

        def read() -> torch.Tensor:
            return _flat(bytearray(archive.read(name)), dtype, big_endian)

        return known.setdefault(key, _Storage(read))

    with archive.open(f"{root}data.pkl") as stream:
        return _Unpickler(stream, sizes[f"{root}data.pkl"], storage).load()


def _read_legacy(stream: IO[bytes], size: int) -> Any:
    """The object of ``torch.save`` before 1.6: four pickles, then the bytes of the storages in a row."""
    if stream.read(len(TORCH_LEGACY_MAGIC)) != TORCH_LEGACY_MAGIC:
        raise pickle.UnpicklingError("a tensor in an unknown format")
    _Unpickler(stream, size).load()  # protocol version
    system = _Unpickler(stream, size).load()
    big_endian = isinstance(system, dict) and system.get("little_endian") is False
    known: dict[str, tuple[_Storage, torch.dtype, int]] = {}
    filled: dict[str, torch.Tensor] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> _Storage:
        if key not in known:
            known[key] = (_Storage(lambda: filled[key]), dtype, count)
        return known[key][0]

    value = _Unpickler(stream, size, storage).load()
    for key in _Unpickler(stream, size).load():
        _, dtype, count = known[key]
        (stored,) = struct.unpack("<q", stream.read(8))
        length = count * dtype.itemsize
        if stored != count or not 0 <= length <= size:
            raise pickle.UnpicklingError(f"a storage '{key}' of another size")
        data = bytearray(stream.read(length))
        if len(data) != length:
            raise EOFError
        filled[key] = _flat(data, dtype, big_endian)
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
    if isinstance(payload, dict) and "state_dict" in payload:
        raise RequestError(
            "is a training checkpoint of another layout (it has 'state_dict'); expected weights to use. Of a run of "
            "this library take its model.safetensors; what other code bases trained goes through mask2former convert"
        )
    if not isinstance(payload, dict):
        raise RequestError(f"holds a {type(payload).__name__}; expected a mapping of names to arrays")
    return payload


def read_state(path: Path, select: Callable[[Any], dict[Any, Any]] | None = None) -> dict[str, torch.Tensor]:
    """Names and tensors of a pickle or PyTorch file, in the order of the file, dtypes as stored.

    The file holds either the mapping itself or ``{"model": mapping, ...}``; what else is in there (optimizer,
    iteration) is skipped, in PyTorch's zip format even without being read.

    Args:
        path: an existing file.
        select: given all that the file holds, containers of plain values and of stand-ins for arrays, returns the
            mapping of names to arrays; may raise RequestError.

    Raises:
        RequestError: the file cannot be read, asks for anything but arrays, tensors and plain containers (the message
            names it), or holds something else than named arrays.
    """
    select = select or _select
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(len(TORCH_LEGACY_MAGIC))
            stream.seek(0)
            if head.startswith(b"PK\x03\x04"):
                with zipfile.ZipFile(stream) as archive:
                    return _tensors(select(_read_zip(archive)), size)
            if head == TORCH_LEGACY_MAGIC:
                return _tensors(select(_read_legacy(stream, size)), size)
            return _tensors(select(_Unpickler(stream, size).load()), size)
    except _Refused as refused:
        raise RequestError(
            f"{path}: the pickle asks for {refused}, which is no array, tensor or plain container; nothing was "
            "executed. Expected a file of weights only"
        ) from None
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error) or type(error).__name__
        raise RequestError(
            f"{path}: not a readable pickle or PyTorch file ({reason:.120}); expected weights in .pkl or .pth. If it "
            "was downloaded or copied, it may be incomplete: fetch it again"
        ) from error


def _tensors(values: dict[Any, Any], file_size: int) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    room = _SHARING * file_size + (1 << 20)
    for name, value in values.items():
        tensor = _as_tensor(value)
        if tensor is None or not isinstance(name, str):
            kind = type(value.array if isinstance(value, _Array) else value).__name__
            raise RequestError(f"entry {name!r:.80} is a {kind}; expected named numeric arrays only")
        room -= tensor.nbytes
        if room < 0:
            raise RequestError(f"unfolds to over {_SHARING} times its size; expected entries with their own numbers")
        state[name] = tensor
    if not state:
        raise RequestError("holds no entries; expected named numeric arrays")
    return state
