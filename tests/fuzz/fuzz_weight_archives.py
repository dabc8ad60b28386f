# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Zip archives of torch and safetensors files: the input defines changes to an otherwise well-formed file.

Random bytes would fail at the first checksum or bracket. So the header of a safetensors file is composed of JSON values
selected by the input, and an archive gets its pickle, names, sizes and offsets from it.

    python tests/fuzz/fuzz_weight_archives.py -max_total_time=300
"""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import atheris
from weights import fuzz, seeds, try_file

with tempfile.TemporaryDirectory() as _folder:
    _SEEDS = seeds(Path(_folder))
_OURS = _SEEDS["ours.safetensors"]
_LENGTH = int.from_bytes(_OURS[:8], "little")
_HEADER, _REST = json.loads(_OURS[8 : 8 + _LENGTH]), _OURS[8 + _LENGTH :]
with zipfile.ZipFile(io.BytesIO(_SEEDS["zip.pth"])) as _archive:
    _PARTS = {name: _archive.read(name) for name in _archive.namelist()}
_NUMBERS = (-1, 0, 1, 2, 64, 4000, 1 << 31, 1 << 40, 1 << 62, 10**30, 0.5, 1e308, float("nan"))
_WORDS = (
    "",
    "timm",
    "swin",
    "resnet18",
    "hf-hub:a/b",
    "evil.pth",
    "\x1b[2J",
    "\ud800",
    "x" * 3000,
    "F32",
    "F8_E4M3",
    "C64",
)
_INSIDES = ([], {}, [[[[]]]], [1, 2, 3, 4], {"checkpoint_path": "evil.pth"}, {"layers": [4000] * 4})
_ODD: list[Any] = [None, True, *_NUMBERS, *_WORDS, *_INSIDES]


def _changed(value: Any, data: Any) -> Any:
    """The value with one to four changes inside of it."""
    for _ in range(data.ConsumeIntInRange(1, 4)):
        inside, key = value, None
        while isinstance(inside, dict | list) and inside:
            key = data.PickValueInList(list(inside) if isinstance(inside, dict) else list(range(len(inside))))
            if not isinstance(inside[key], dict | list) or not inside[key] or data.ConsumeIntInRange(0, 3) == 0:
                break
            inside = inside[key]
        if key is None:
            return value
        if data.ConsumeIntInRange(0, 5) == 0:
            del inside[key]
        else:
            inside[key] = data.PickValueInList(_ODD)
    return value


def _safetensors(data: Any) -> bytes:
    header = json.loads(json.dumps(_HEADER))
    kind = data.ConsumeIntInRange(0, 4)
    facts = header["__metadata__"]
    if kind <= 1:
        key = ("config", "categories")[kind]
        facts[key] = json.dumps(_changed(json.loads(facts[key]), data))
    elif kind == 2:
        _changed(header, data)
    elif kind == 3:
        facts["license"] = data.ConsumeUnicode(100)
        facts["metrics"] = data.ConsumeUnicodeNoSurrogates(100)
    text = json.dumps(header).encode()
    if kind == 4:
        text = data.ConsumeBytes(2000)
    length = len(text) if data.ConsumeIntInRange(0, 9) else data.ConsumeIntInRange(0, (1 << 64) - 1)
    return struct.pack("<Q", length) + text + (_REST if data.ConsumeBool() else b"")


def _zip(data: Any) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in _PARTS.items():
            kind = data.ConsumeIntInRange(0, 5)
            at = data.ConsumeIntInRange(0, len(content))
            if kind == 0:
                content = content[:at] + data.ConsumeBytes(20) + content[at:]
            elif kind == 1:
                content = content[:at] + data.ConsumeBytes(20) + content[at + 20 :]
            elif kind == 2:
                content = content[:at]
            elif kind == 3 and data.ConsumeBool():
                continue
            archive.writestr(name, content, compress_type=8 if data.ConsumeIntInRange(0, 30) == 0 else 0)
    content = stream.getvalue()
    start = content.index(b"PK\x01\x02")  # the directory
    for _ in range(data.ConsumeIntInRange(0, 3)):
        at = data.ConsumeIntInRange(start, len(content) - 4)
        content = content[:at] + data.ConsumeBytes(4).ljust(4, b"\xff") + content[at + 4 :]
    return content


def target(data: bytes, folder: Path) -> None:
    provider = atheris.FuzzedDataProvider(data)
    is_zip = provider.ConsumeBool()
    try_file((_zip if is_zip else _safetensors)(provider), ".pth" if is_zip else ".safetensors", folder)


if __name__ == "__main__":
    fuzz(target, "weight_archives", 1024)
