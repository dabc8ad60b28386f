"""Reads pickles without running any code that they request: only arrays of numpy and plain containers.

Every other name in a pickle is rejected, and what it creates is limited by its size and by ``limits.PICKLE_STEPS``.
:mod:`mask2former.checkpoints.restricted_pickle` adds tensors; the meaning of entries does not matter here.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
from collections.abc import Callable, Iterator
from typing import IO, Any, ClassVar

import numpy as np

from mask2former import limits
from mask2former.errors import UserError
from mask2former.text import printable, quoted

__all__ = [
    "Array",
    "Budget",
    "Door",
    "PickleRefused",
    "Unpickler",
    "bytes_of",
    "room_of",
    "sizes_of",
    "text_of",
]

_POINTER = 8  # bytes of each element of a container
_DTYPE = re.compile(r"[<>|=]?[biufc?]\d{0,2}|[<>|=]?[SU]\d+|\|?O8?")


class _Mapping(dict[Any, Any]):
    """Replaces OrderedDict; attributes of the pickled object (``_metadata``) are dropped."""

    def __setstate__(self, state: Any) -> None:
        del state


class _Dtype:
    """Replaces ``numpy.dtype``: numbers, fixed-length text and complete objects, so never records."""

    def __init__(self, spec: Any, align: Any = False, copy: Any = False) -> None:
        del align, copy
        if not isinstance(spec, str) or not _DTYPE.fullmatch(spec):
            raise PickleRefused(f"numpy.dtype({quoted(spec)})")
        self.dtype = np.dtype(spec)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, record = state[1], state[2:5]
        if not isinstance(order, str) or order not in ("<", ">", "|", "=") or any(part is not None for part in record):
            raise PickleRefused("a numpy record type")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class Array:
    """Replaces an ndarray that is rebuilt from its state.

    Attributes:
        array: its numbers or texts; for an array of objects the list of these, which are replacements in turn; None
            until its state is given, which never happens in damaged pickles.
    """

    array: np.ndarray[Any, Any] | list[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, data = state
        if isinstance(dtype, _Dtype) and dtype.dtype.hasobject:
            if not isinstance(data, list) or math.prod(sizes_of(shape)) != len(data):
                raise pickle.UnpicklingError("an array of objects without its objects")
            self.array = data
        else:
            self.array = _frombuffer(data, dtype, shape, "F" if is_fortran else "C")


class _Skipped:
    """Replaces objects of a training program that are not weights; it keeps no data and has no behaviour."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        del state


def _getattr(*arguments: Any) -> Any:
    """Only for methods of skipped objects: mmengine's histories refer to their own."""
    if len(arguments) != 2 or arguments[0] is not _Skipped:
        raise PickleRefused("builtins.getattr")
    return None


class Door:
    """A callable that a pickle may call but not change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise PickleRefused("a change of a function")


class PickleRefused(Exception):  # noqa: N818  (the reader of a file turns it into an error)
    """What the pickle requested; turned into a UserError that names the file."""


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise PickleRefused(f"the encoding {quoted(encoding)}")
    return text.encode("latin-1")


def sizes_of(values: Any) -> tuple[int, ...]:
    """Sizes or strides, checked because numpy and torch would try to interpret other values."""
    if not isinstance(values, tuple | list) or len(values) > limits.ARRAY_DIMENSIONS:
        raise pickle.UnpicklingError("an array of an invalid shape")
    if not all(type(value) is int and 0 <= value < 1 << 62 for value in values):
        raise pickle.UnpicklingError("an array of invalid sizes")
    return tuple(values)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray[Any, Any]:
    if not isinstance(dtype, _Dtype) or dtype.dtype.hasobject:
        raise PickleRefused("an array without a plain type")
    if isinstance(data, str):  # bytes in a pickle from Python 2
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise PickleRefused("an array of objects")
    array = np.frombuffer(data, dtype.dtype) if data else np.empty(0, dtype.dtype)
    shape = sizes_of(shape)
    if order == "K" and axes is not None:
        return array.reshape(shape).transpose(sizes_of(axes))
    if order not in ("C", "F"):
        raise PickleRefused(f"the array order {quoted(order)}")
    return array.reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: Any, data: Any) -> Any:
    return _frombuffer(data, dtype, (1,), "C")[0]


def _reconstruct(*_: Any) -> Array:
    return Array()


def _mapping(values: Any = ()) -> _Mapping:
    """An OrderedDict of pairs, or a Counter of another mapping."""
    if isinstance(values, dict):
        return _Mapping(values)
    made = _Mapping()
    for key, value in values:
        made[_key(key)] = value
    return made


def _members(values: Any = ()) -> set[Any]:
    return set(map(_key, values))


def _key(value: Any) -> Any:
    """A key of a mapping or set: only names and numbers, which are quick to hash and cannot be chosen to collide.

    Nested tuples that each repeat the last one would take forever to hash, and deep ones would overflow the stack.
    """
    if isinstance(value, int) and not -limits.PICKLE_KEY < value < limits.PICKLE_KEY:
        raise pickle.UnpicklingError("a number of too many digits as a key")
    if value is not None and not isinstance(value, str | bytes | int | float):
        raise pickle.UnpicklingError(f"a {type(value).__name__} as a key or in a set; expected names and numbers")
    return value


def text_of(value: Any = "") -> str:
    """Text of text or of a number; for other objects it could be endless."""
    if not isinstance(value, str | int | float):
        raise PickleRefused(f"a {type(value).__name__} as text")
    if isinstance(value, int) and not -limits.PICKLE_KEY < value < limits.PICKLE_KEY:
        raise pickle.UnpicklingError("a number of too many digits as text")
    return str(value)


def _path(*parts: Any) -> str:
    """A path as text; no file is accessed."""
    return "/".join(map(text_of, parts))


def bytes_of(data: Any = b"", encoding: Any = "latin1") -> bytes:
    """Bytes, or text of Python 2 as bytes; a number, which would mean a length, is not accepted."""
    return data if isinstance(data, bytes) else _encode(data, encoding)


def _bytearray(data: Any = b"", encoding: Any = "latin1") -> bytearray:
    return bytearray(bytes_of(data, encoding))


def _allowed() -> Iterator[tuple[str, str, Any]]:
    """Module, name and replacement of everything that a file may request."""
    yield "collections", "OrderedDict", Door(_mapping)
    yield "collections", "Counter", Door(_mapping)
    for module in ("builtins", "__builtin__"):
        for kind in (complex, int, float, bool, list, tuple):
            yield module, kind.__name__, Door(kind)
        yield module, "dict", Door(_mapping)
        yield module, "set", Door(_members)
        yield module, "frozenset", Door(_members)
        yield module, "str", Door(text_of)
        yield module, "long", Door(int)
        yield module, "bytes", Door(bytes_of)
        yield module, "bytearray", Door(_bytearray)
        yield module, "getattr", Door(_getattr)
    yield "mmengine.logging.history_buffer", "HistoryBuffer", _Skipped
    yield "_codecs", "encode", Door(_encode)
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"):
            yield module, name, Door(_path)
    yield "numpy", "ndarray", "ndarray"
    yield "numpy", "dtype", Door(_Dtype)
    for core in ("numpy.core", "numpy._core"):
        yield f"{core}.multiarray", "_reconstruct", Door(_reconstruct)
        yield f"{core}.multiarray", "scalar", Door(_scalar)
        yield f"{core}.numeric", "_frombuffer", Door(_frombuffer)


_ALLOWED = {(module, name): value for module, name, value in _allowed()}


class _Bounded:
    """A stream that never allocates more than the rest of the file, whatever length the pickle claims."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._size = stream, size
        self.readline = stream.readline

    def read(self, length: int = -1) -> bytes:
        if length > self._size:
            raise EOFError
        return self._stream.read(length)


class Budget:
    """How much one file may create from its content; shared by all its pickles."""

    def __init__(self, size: int) -> None:
        self.steps = limits.PICKLE_STEPS
        self.bytes = room_of(size)

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


def room_of(size: int) -> int:
    """Number of bytes to which a file of this size may expand."""
    return limits.PICKLE_SHARING * size + (1 << 20)


# The Python implementation: in C, a damaged memo index of four bytes allocates gigabytes.
_PurePython: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]


def _guarded(load: Callable[[Any], None], check: Callable[[Any], None] | None, steps: int) -> Callable[[Any], None]:
    """An opcode that is counted, and that checks the objects which it is about to change or call."""

    def guarded(unpickler: Any) -> None:
        unpickler.budget.spend(steps)
        if check is not None:
            check(unpickler)
        load(unpickler)

    return guarded


def _check_is(value: Any, kinds: type | tuple[type, ...]) -> None:
    if not isinstance(value, kinds):
        raise PickleRefused(f"a change of a {'function' if isinstance(value, Door) else type(value).__name__}")


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
    if not isinstance(function, Door) or not isinstance(arguments, tuple):
        raise PickleRefused(f"a call of a {type(function).__name__}")
    unpickler.budget.spend(len(arguments))
    is_container = function._function in (list, tuple, _members)  # of single characters, if it is given text
    for argument in arguments:
        if isinstance(argument, str | bytes | bytearray):
            unpickler.budget.spend(copied=len(argument) * (_POINTER if is_container else 1))
        elif isinstance(argument, list | tuple | dict | set | frozenset):
            unpickler.budget.spend(len(argument))


def _check_state(unpickler: Any) -> None:
    """It would set attributes of any object on the stack, even functions. Texts become bytes of an array."""
    kept, state = unpickler.stack[-2:]
    _check_is(kept, (_Mapping, _Dtype, Array, _Skipped))
    for value in state if isinstance(state, tuple) else ():
        if isinstance(value, str):
            unpickler.budget.spend(copied=len(value))


def _check_made(unpickler: Any) -> None:
    if unpickler.stack[-2] is not _Skipped:
        raise PickleRefused("an object of another kind")


def _load_bytearray(unpickler: Any) -> None:
    """Like pickle's own, which allocates the claimed length before it checks whether there is as much data."""
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
    pickle.BUILD: _check_state,
}
_UNUSED = (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID,
           pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)  # fmt: skip
_COSTS = {pickle.EMPTY_SET: 4}  # an empty set needs four times the memory of other objects


class Unpickler(_PurePython):
    """Reads one pickle from a stream with ``load``.

    Args:
        stream: positioned at the pickle.
        size: size of the file in bytes.
        budget: of the file, shared by its pickles.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: _guarded(load, _CHECKS.get(bytes([code])), _COSTS.get(bytes([code]), 1))
        for code, load in {**_PurePython.dispatch, pickle.BYTEARRAY8[0]: _load_bytearray}.items()
        if bytes([code]) not in _UNUSED
    }

    def __init__(self, stream: IO[bytes], size: int, budget: Budget) -> None:
        # Parity: published files were pickled by Python 2 or with its conventions.
        super().__init__(_Bounded(stream, size), encoding="latin1")
        self.budget = budget

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise PickleRefused(printable(f"{module}.{name}", 120)) from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a reference to data outside of the file")
