"""Text, JSON, YAML and CSV files from untrusted sources: read completely and within limits, or rejected with one error.

All documents that the library has not just written itself are read here, whatever their content.
"""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mask2former import limits
from mask2former.errors import UserError
from mask2former.text import printable

if TYPE_CHECKING:
    import xml.etree.ElementTree

    import yaml

__all__ = [
    "Readable",
    "check_regular",
    "encode_json",
    "parse_csv",
    "parse_json",
    "parse_xml",
    "parse_yaml",
    "read_bytes",
    "read_json",
    "read_rows",
    "read_text",
    "read_yaml",
]

_MERGE = "tag:yaml.org,2002:merge"  # <<: takes over the keys of another mapping
_VALUE = "tag:yaml.org,2002:value"  # =
_STEPS = bytes.maketrans(b"[{]}", b"\1\1\xff\xff")  # one level deeper, one less deep
_NEITHER_BRACKETS_NOR_QUOTES = bytes(set(range(256)) - set(b'[{]}"'))
_BLOCK = 1 << 20
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class Readable(Protocol):
    """A path, or a file in an archive, whose ``num_bytes`` is known before it is read."""

    def read_bytes(self) -> bytes: ...


def check_regular(path: Path, what: str, *, hint: str = "check the path") -> int:
    """The size in bytes of a regular file, so that reading it ends and never blocks; links are followed.

    Args:
        path: the file.
        what: the expected kind of file, for instance ``annotation file``.
        hint: what to do if it does not exist.

    Raises:
        UserError: there is no such file, or it is a folder, a pipe, a device or a circular link.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UserError(f"there is no {what} '{path}'; {hint}") from error
    except OSError as error:
        raise UserError(f"the {what} '{path}' cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "pipe" if stat.S_ISFIFO(status.st_mode) else "device"
        raise UserError(f"'{path}' is a {kind}; expected a regular file ({what})")
    return status.st_size


def read_bytes(file: Readable, what: str, most: int, *, hint: str = "check the path") -> bytes:
    """The content of a file of at most ``most`` bytes.

    Raises:
        UserError: see :func:`check_regular`; or it is larger, or cannot be read.
    """
    size = check_regular(file, what, hint=hint) if isinstance(file, Path) else getattr(file, "num_bytes", 0)
    limits.check_limit(f"the {what} '{file}' has too many bytes:", size, most, "is it the right file?")
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"the {what} '{file}' cannot be read: {error.strerror or error}") from error


def read_text(file: Readable, what: str, most: int = limits.TEXT_BYTES, *, hint: str = "check the path") -> str:
    """The content of a text file in UTF-8, without its byte order mark.

    Raises:
        UserError: see :func:`read_bytes`; or it is not in UTF-8.
    """
    content = read_bytes(file, what, most, hint=hint)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"the {what} '{file}' is not in UTF-8; save it as UTF-8") from error


def read_json(file: Readable, what: str, *, hint: str = "check the path") -> Any:
    """The value in a JSON file.

    Raises:
        UserError: see :func:`read_bytes` and :func:`parse_json`.
    """
    return parse_json(read_bytes(file, what, limits.JSON_BYTES, hint=hint), f"the {what} '{file}'")


def parse_json(content: bytes | str, source: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value of JSON text.

    Args:
        content: the text.
        source: subject of the error message.
        pairs: creates an object from its keys and values, or rejects them; by default the last of equal keys is used.

    Raises:
        UserError: it is not JSON, has deeper nesting than ``limits.JSON_DEPTH``, or longer numbers than Python reads.
    """
    try:
        deep = f"{source} is nested too deeply; levels:"
        limits.check_limit(deep, _depth(content), limits.JSON_DEPTH, "is it the right file?")
        return json.loads(content, object_pairs_hook=pairs)
    except UserError:  # of the limit, or raised by ``pairs``
        raise
    except RecursionError as error:
        raise UserError(f"{source} is nested too deeply to be read; is it the right file?") from error
    except ValueError as error:  # also for bytes that are not text, and for numbers with thousands of digits
        raise UserError(f"{source} is not JSON, or is cut short: {printable(str(error), 200)}") from error


def _depth(content: bytes | str) -> int:
    """The levels of arrays and objects in JSON text; an upper bound if there are few brackets.

    Counted before the text is read, because Python 3.13 reads 10,000 levels: this overflows a stack of 1 MiB, and what
    it returns is too deep for functions that walk through it. Takes a fraction of the time of reading.
    """
    if isinstance(content, bytes) and not (encoding := json.detect_encoding(content)).startswith("utf-8"):
        content = content.decode(encoding, "surrogatepass")
    text = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    few = text.count(b"[") + text.count(b"{")
    if few <= limits.JSON_DEPTH:
        return few
    import numpy as np

    text = text.replace(rb"\\", b"").replace(rb"\"", b"")  # what is left of quotes begins and ends texts
    marks = text.translate(_STEPS, _NEITHER_BRACKETS_NOR_QUOTES).replace(b'""', b"")  # no brackets between these
    steps = np.frombuffer(b"".join(marks.split(b'"')[::2]), np.int8)
    deepest = level = 0
    for start in range(0, len(steps), _BLOCK):
        levels = level + np.cumsum(steps[start : start + _BLOCK], dtype=np.int64)
        deepest, level = max(deepest, int(levels.max())), int(levels[-1])
    return deepest


def encode_json(value: Any, *, compact: bool = False, indent: int | None = None) -> str:
    """A value as JSON text, in the format that the library writes everywhere.

    Args:
        value: dicts, lists, texts and finite numbers; other numbers do not exist in JSON, so they are a bug of ours.
        compact: without spaces, for large numbers of records.
        indent: spaces per level, for files that people read.
    """
    return json.dumps(value, allow_nan=False, indent=indent, separators=(",", ":") if compact else None)


def parse_xml(text: str, source: str) -> xml.etree.ElementTree.Element:
    """The root element of XML text without a document type, whose entities could expand without limit.

    Raises:
        UserError: it is not XML, or declares a document type or entities.
    """
    from xml.etree import ElementTree

    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise UserError(f"{source} declares a document type, which is not supported; expected an export without one")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # also unknown encodings
        raise UserError(f"{source} is not XML, or is cut short: {printable(str(error), 200)}") from error


def read_yaml(file: Readable, what: str, *, hint: str = "check the path") -> Any:
    """The value in a YAML file, with plain data only.

    Raises:
        UserError: see :func:`read_bytes` and :func:`parse_yaml`.
    """
    return parse_yaml(read_text(file, what, limits.YAML_BYTES, hint=hint), f"the {what} '{file}'")


def parse_yaml(text: str, source: str) -> Any:
    """The value of YAML text, with plain data only.

    Args:
        text: the text.
        source: subject of the error message.

    Raises:
        UserError: it is not YAML, or it gives a key twice in one mapping, contains itself, more values (including those
            repeated by aliases) than ``limits.YAML_NODES``, or deeper nesting than Python reads.
    """
    import yaml

    limits.check_limit(f"{source} has too many characters:", len(text), limits.YAML_BYTES, "is it the right file?")
    try:
        reader = yaml.SafeLoader(text)
        _bound_nodes(reader, source)
        node = reader.get_single_node()
        # Before values are created, because merging (``<<``) expands aliases.
        _check_nodes(0 if node is None else _count(node, {}, set()), source)
        if node is not None:
            _check_keys(reader, node, set())
        return None if node is None else reader.construct_document(node)
    except UserError:
        raise
    except RecursionError as error:
        raise UserError(f"{source} is nested too deeply to be read; is it the right file?") from error
    except (yaml.YAMLError, ValueError, OverflowError, TypeError, AttributeError, KeyError) as error:
        # Other errors: well-formed dates, numbers and tags without a value (``2024-13-45``, ``!!int x``).
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        reason = printable(str(getattr(error, "problem", None) or error), 200)
        raise UserError(f"{source} is not valid YAML{line}: {reason}") from error


def _bound_nodes(reader: yaml.SafeLoader, source: str) -> None:
    """Make the reader stop at the first value beyond the limit, instead of at the end of the text."""
    compose, count = reader.compose_node, 0

    def compose_node(parent: Any, index: Any) -> Any:
        nonlocal count
        count += 1
        _check_nodes(count, source)
        return compose(parent, index)

    reader.compose_node = compose_node  # pyright: ignore[reportAttributeAccessIssue]


def _check_nodes(count: int, source: str) -> None:
    if count > limits.YAML_NODES:  # checked here, so that the message is not formatted for each node
        what = f"{source} has too many values, with those that aliases repeat:"
        limits.check_limit(what, count, limits.YAML_NODES, "write less")


def _check_keys(reader: yaml.SafeLoader, node: yaml.Node, known: set[int]) -> None:
    """Refuse keys that occur twice in one mapping: the reader would keep only the last, and lose the value before."""
    if id(node) in known or isinstance(node.value, str):
        return
    known.add(id(node))
    seen: set[Any] = set()
    for each in node.value:
        parts = each if isinstance(each, tuple) else (each,)
        for part in parts:
            _check_keys(reader, part, known)
        if len(parts) == 2 and isinstance(parts[0].value, str) and parts[0].tag != _MERGE:
            # A key that is = has a tag of its own, which the reader replaces as late as it constructs the mapping.
            key = parts[0].value if parts[0].tag == _VALUE else reader.construct_object(parts[0])
            if key in seen:
                line = parts[0].start_mark.line + 1
                raise ValueError(f"it contains {key!r} more than once in a mapping, again in line {line}; remove one")
            seen.add(key)


def read_rows(file: Readable, what: str, *, hint: str = "check the path") -> list[dict[str, Any]]:
    """The rows of a CSV file by the names in its first line; an unterminated last line is incomplete and left out.

    Values that a row lacks are None, and those beyond the names are a list with the key ``""``.

    Raises:
        UserError: see :func:`read_text`; or it is not CSV.
    """
    text = read_text(file, what, limits.TABLE_BYTES, hint=hint)
    names, *rows = [row for row in parse_csv(text[: text.rfind("\n") + 1], f"the {what} '{file}'") if row] or [[]]
    return [
        {**dict(zip_longest(names, row[: len(names)])), **({"": row[len(names) :]} if len(row) > len(names) else {})}
        for row in rows
    ]


def parse_csv(text: str, source: str) -> list[list[str]]:
    """The rows of CSV text.

    Args:
        text: the text.
        source: subject of the error message.

    Raises:
        UserError: it is not CSV, for instance because a quote is not closed within 131,072 characters.
    """
    try:
        return list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise UserError(f"{source} is not CSV: {error}") from error


def _count(node: yaml.Node, known: dict[int, int], open_now: set[int]) -> int:
    """The number of values with all aliases expanded, in time proportional to the values as written."""
    key = id(node)
    if key in open_now:
        raise ValueError("a value contains itself")
    if key not in known:
        open_now.add(key)
        value = node.value
        if len(value) > limits.DIGITS and node.tag in _NUMBERS:  # parsing time grows with the square of its length
            raise ValueError(f"a number has {len(value):,} digits")
        inner = (part for each in value for part in (each if isinstance(each, tuple) else (each,)))
        known[key] = 1 + (0 if isinstance(value, str) else sum(_count(part, known, open_now) for part in inner))
        open_now.remove(key)
    return known[key]
