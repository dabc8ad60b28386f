"""Where the pictures of an exported annotation file are, although it names them as another machine had them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

from mask2former.data.archives import Folder

__all__ = ["find_name"]

_DRIVE = re.compile(r"^[A-Za-z]:")
_LOCAL_FILES = re.compile(r"^.*[?&]d=")  # Label Studio: /data/local-files/?d=photos/X.jpg
_UPLOAD_HASH = re.compile(r"^[0-9a-f]{8}-(?=.)")  # Label Studio: upload/1/0a1b2c3d-X.jpg for X.jpg


def find_name(declared: str, folder: Folder) -> str | None:
    r"""The name of a picture below ``folder``, or None if it is not there.

    It is the declared one if there is such a file. Otherwise backslashes, drive letters, addresses, percent encoding
    and leading folders that are not below ``folder`` are taken off (``C:\data\a%20b.jpg``, ``/data/upload/1/X.jpg``),
    and at last the eight digits that Label Studio puts before uploaded names.
    """
    if folder.exists(declared):
        return declared
    return next((name for name in _others(declared) if folder.exists(name)), None)


def _others(declared: str) -> Iterator[str]:
    """Other names of the picture, the closest first; none leaves the folder."""
    plain = _LOCAL_FILES.sub("", _DRIVE.sub("", declared.replace("\\", "/")))
    for text in dict.fromkeys((plain, unquote(plain))):
        parts = [part for part in text.split("/") if part not in ("", ".", "..")]
        yield from ("/".join(parts[start:]) for start in range(len(parts)))
        if parts:
            yield _UPLOAD_HASH.sub("", parts[-1])
