# pyright: reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false
"""Shared by the fuzz targets: documents that are changed at random, and the definition of a finding.

Run targets, not this file; see README.md.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator
from typing import Any

import atheris

from mask2former.errors import UserError
from mask2former.notes import collect_notes

__all__ = ["InMemory", "Provider", "changed", "run"]

Provider = Any  # atheris.FuzzedDataProvider
_SECONDS, _MEGABYTES = 10, 3_000  # of one input
_LETTERS = "aZ0/.\\ :\n\0\x1b\u202e\ud800é猫'\"{}[]"
_WORDS = ("", "a.png", "../a.png", "/etc/passwd", "a" * 2000, "cat", "0", "1", "true", "null", "x/a.png", ".", "..")
_NUMBERS = (0, 1, -1, 2, 7, 8, 9, 255, 256, 1 << 20, 1 << 31, 1 << 32, 1 << 63, 1 << 64, 10**30, 10**400)
_FLOATS = (0.0, -0.0, 0.5, 1e-300, 1e10, 1e300, float("nan"), float("inf"), float("-inf"), 7.0, -3.5)


class InMemory:
    """A file that is only content, which readers accept like one in an archive."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __str__(self) -> str:
        return "fuzzed"

    def read_bytes(self) -> bytes:
        return self._content


def _value(data: Provider, depth: int = 2) -> Any:
    kind = data.ConsumeIntInRange(0, 8 if depth else 5)
    if kind == 0:
        return data.PickValueInList([None, True, False])
    if kind == 1:
        return data.PickValueInList(list(_NUMBERS)) * data.PickValueInList([1, 1, -1])
    if kind == 2:
        return data.PickValueInList(list(_FLOATS))
    if kind == 3:
        return data.ConsumeIntInRange(-20, 300)
    if kind == 4:
        return data.PickValueInList(list(_WORDS))
    if kind == 5:
        return "".join(data.PickValueInList(list(_LETTERS)) for _ in range(data.ConsumeIntInRange(0, 6)))
    if kind == 8:
        return {_key(data): _value(data, depth - 1) for _ in range(data.ConsumeIntInRange(0, 3))}
    return [_value(data, depth - 1) for _ in range(data.ConsumeIntInRange(0, 8))]


def _key(data: Provider) -> str:
    return data.PickValueInList(["id", "size", "counts", "isthing", "color", "bbox", "area", "width", "", "\ud800"])


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a document, with each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def changed(document: Any, data: Provider) -> Any:
    """A copy with up to eight changes: values are replaced, deleted, repeated or copied from elsewhere."""
    document = copy.deepcopy(document)
    for _ in range(data.ConsumeIntInRange(0, 8)):
        indices = list(_places(document))
        if not indices:
            break
        container, key = indices[data.ConsumeIntInRange(0, len(indices) - 1)]
        kind = data.ConsumeIntInRange(0, 5)
        if kind <= 2:
            container[key] = _value(data)
        elif kind == 3:
            del container[key]
        elif kind == 4 and isinstance(container, list):
            container.extend(copy.deepcopy(container[key]) for _ in range(data.ConsumeIntInRange(1, 3)))
        else:
            other, there = indices[data.ConsumeIntInRange(0, len(indices) - 1)]
            container[key] = copy.deepcopy(other[there])
    return document


def run(target: Callable[[Provider], object]) -> None:
    """Fuzz ``target``: any exception but a UserError is a finding, and so is too much time or memory."""

    def one(data: bytes) -> None:
        with collect_notes(), contextlib.suppress(UserError):
            target(atheris.FuzzedDataProvider(data))

    limits = [f"-timeout={_SECONDS}", f"-rss_limit_mb={_MEGABYTES}", "-max_len=1024", "-len_control=0"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:]], one)
    atheris.Fuzz()
