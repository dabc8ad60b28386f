"""Finding the images of an exported annotation file that names them by paths of another machine."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard
from urllib.parse import unquote

from mask2former import limits
from mask2former.data.datasets.annotation_files import some
from mask2former.data.faults import fault, left_out_by
from mask2former.errors import UserError
from mask2former.media.archives import Folder
from mask2former.media.images import is_image_name
from mask2former.text import listed, quoted

__all__ = ["Stems", "find_name", "is_file_name", "leads_to_file", "tell_missing", "tell_outside", "where_else"]

_IS_OME = re.compile(r"\.ome\.tiff?$", re.IGNORECASE)
_DRIVE = re.compile(r"^[A-Za-z]:")
_LOCAL_FILES = re.compile(r"^.*[?&]d=")  # Label Studio: /data/local-files/?d=photos/X.jpg
# Label Studio: upload/1/0a1b2c3d-X.jpg for X.jpg, and images/0a1b2c3d__X.jpg in exports with images.
_UPLOAD_HASH = re.compile(r"^[0-9a-f]{8}(?:-|__)(?=.)")


def find_name(declared: str, folder: Folder) -> str | None:
    r"""The name of an image below ``folder``, or None if it is not there.

    It is the declared one if there is such a file. Otherwise backslashes, drive letters, addresses, percent encoding
    and leading folders that are not below ``folder`` are taken off (``C:\data\a%20b.jpg``, ``/data/upload/1/X.jpg``),
    and at last the eight digits that Label Studio puts before uploaded names. So a name that leads out of the folder
    is one of a file in it, if there is one, unless the folder allows it to be what it says.
    """
    if folder.exists(declared):
        return declared
    return next((name for name in _others(declared) if folder.exists(name)), None)


class Stems:
    """The images below a folder by their names without suffix, for annotation files that name none.

    Args:
        folder: of the images; each of its folders is listed once.
        endings: what tools append to names of images (``_rois``).
    """

    def __init__(self, folder: Folder, endings: Sequence[str] = ()) -> None:
        self.folder, self.endings = folder, endings
        self._names: dict[str, dict[str, list[str]]] = {}  # by folder and name without suffix

    def find(self, stem: str) -> str | None:
        """The name of an image; None: it is not there.

        Args:
            stem: the name of the annotation file without suffix, with its folders, which images may have, too.

        Raises:
            UserError: several images have the name.
        """
        for base in dict.fromkeys((stem, stem.rpartition("/")[2])):
            parent, slash, _ = base.rpartition("/")
            for wanted in dict.fromkeys((base, *(base.removesuffix(ending) for ending in self.endings))):
                found = [
                    f"{parent}{slash}{name}" for name in self._of(base, parent).get(wanted[len(parent + slash) :], ())
                ]
                if len(found) > 1:
                    raise UserError(
                        f"the annotations {quoted(stem)} may belong to {len(found)} images in '{self.folder}' "
                        f"({listed(found, 3)}); keep one of them"
                    )
                if found:
                    return found[0]
        return None

    def _of(self, name: str, parent: str) -> dict[str, list[str]]:
        if parent not in self._names:
            names = self._names[parent] = defaultdict(list)
            for leaf in sorted(filter(is_image_name, self.folder.beside(name))):
                plain = leaf.rpartition(".")[0]
                for stem in (leaf, plain, *((plain[:-4],) if _IS_OME.search(leaf) else ())):
                    names[stem].append(leaf)
        return self._names[parent]


def is_file_name(value: Any) -> TypeGuard[str]:
    """Whether a value can be a file name, with or without folders."""
    return isinstance(value, str) and 0 < len(value) <= limits.ID_CHARACTERS


def leads_to_file(name: str, folder: Folder) -> bool:
    """Whether a name is refused because it leads out of the folder, although the file exists."""
    return folder.archive is None and folder.leads_outside(name) and os.path.isfile(os.path.join(folder.path, name))


def tell_outside(names: Sequence[str], folder: Folder, file: object) -> None:
    """Refuse names in ``file`` that lead out of the folder."""
    if names:
        fault(
            f"'{file}' names files that are not in its folder '{folder}': {some(names)}; move them into it or, if "
            "you trust the author of the annotations, set allow_outside=true in 'dataset' of the run file (for "
            "check-data and evaluate: --allow-outside, in Python allow_outside=True)",
            len(names),
        )


def where_else(names: Sequence[str], folder: Folder) -> str:
    """What to do about files that a folder lacks: check it, or give the folder in it that has the first of them."""
    inside = sorted(name for name in folder.beside("x") if folder.exists(f"{name}/{names[0]}"))
    if len(inside) == 1:
        return f"its folder {quoted(inside[0])} has {quoted(names[0])}: give that one"
    return "check the folder"


def tell_missing(names: Sequence[str], folder: Folder, file: object, *, skip: bool) -> list[str]:
    """Refuse images of ``file`` that are not in the folder or, with ``skip``, say that they are left out."""
    if names and skip:
        return [f"'{file}': left out images that '{folder}' lacks: {some(names)}"]
    if names:
        fault(
            f"'{folder}' lacks images of '{file}': {some(names)}; {where_else(names, folder)}, or "
            + left_out_by("missing_images"),
            len(names),
        )
    return []


def _others(declared: str) -> Iterator[str]:
    """Other names for the image, the closest first; none leads out of the folder."""
    plain = _LOCAL_FILES.sub("", _DRIVE.sub("", declared.replace("\\", "/")))
    for text in dict.fromkeys((plain, unquote(plain))):
        parts = [part for part in text.split("/") if part not in ("", ".", "..")]
        yield from ("/".join(parts[start:]) for start in range(len(parts)))
        if parts:
            yield _UPLOAD_HASH.sub("", parts[-1])
