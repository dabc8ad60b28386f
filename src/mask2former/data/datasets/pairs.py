"""Matching of label maps to images by their names alone, and split lists (VOC's ImageSets). Reads no images."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from mask2former.config import STEM
from mask2former.data.array_files import ARRAY_SUFFIX
from mask2former.data.datasets.annotation_files import Location, read_lines, repeated, some
from mask2former.data.faults import fault, left_out_by
from mask2former.errors import UserError
from mask2former.media.archives import Folder
from mask2former.media.images import IMAGE_SUFFIXES, note_passed_over
from mask2former.text import quoted

__all__ = ["LABEL_SUFFIXES", "Names", "map_files", "pair_files", "read_list"]

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
_LOSSY_SUFFIXES = (".jpg", ".jpeg", ".webp")
_VOC_FLAGS = ("-1", "0", "1")  # absent, difficult, present


@dataclass(frozen=True, slots=True)
class Names:
    """How files are paired.

    Attributes:
        image: name of an image without its suffix; ``{stem}`` is the part that an image and its label map share.
        label: the same for label maps.
        unpaired: how to treat images without a label map, and the reverse.
    """

    image: str = STEM
    label: str = STEM
    unpaired: Literal["error", "skip"] = "error"


def pair_files(
    images: Folder,
    labels: Folder,
    names: Names,
    split_list: Location | None,
    notes: list[str],
    what: str = "label map",
) -> list[tuple[str, str]]:
    """Images and their label maps, sorted by path; that of ``a/X.jpg`` is ``a/X.png``, or as specified by ``names``.

    Args:
        images: folder, searched at any depth.
        labels: the same; may be the same folder.
        names: how they are paired.
        split_list: a file with the stems to use, see :func:`read_list`.
        notes: receives sentences about what was left out.
        what: what the second file of a pair is called in messages.

    Raises:
        UserError: nothing matches; two files have the same stem; or, depending on ``names``, files without a
            counterpart.
    """
    note_passed_over(images)
    is_one = str(images) == str(labels)
    maps = map_files(labels, names.label, notes if not is_one else None)
    # X.jpg and X.png, or X_mask.png, may be in the same folder; what is neither is noted.
    taken = set(maps.values()) if is_one else ()
    image_files = _by_stem(images, IMAGE_SUFFIXES, names.image, notes, taken)
    if split_list is not None:
        image_files, maps = _listed(
            Path(split_list), image_files, maps, images, what, skip=names.unpaired == "skip", notes=notes
        )
    common = [stem for stem in image_files if stem in maps]
    one = f"{'an' if what[0] in 'aeiou' else 'a'} {what}"
    if not common:
        lossy = labels.names(_LOSSY_SUFFIXES)
        if lossy and not labels.names(LABEL_SUFFIXES) and not is_one:
            raise UserError(
                f"the {what}s in '{labels}' are {PurePosixPath(lossy[0]).suffix} files (such as {lossy[0]}), a "
                "format that changes pixel values; export them again as PNG"
            )
        found = [next(iter(files.values()), "nothing") for files in (image_files, maps)]
        raise UserError(
            f"no image of '{images}' (such as {found[0]}) has {one} in '{labels}' (such as {found[1]}); their "
            "names must be equal except for the suffix, or set image_name and label_name, such as label_name: "
            "'{stem}_mask'"
        )
    for folder, files, others, message in (
        (images, image_files, maps, f"images without {one}"),
        (labels, maps, image_files, f"{what}s without an image"),
    ):
        if alone := [name for stem, name in files.items() if stem not in others]:
            if names.unpaired == "error":
                fault(f"'{folder}' has {message}: {some(alone)}; {left_out_by('unpaired')}", len(alone))
            else:
                notes.append(f"'{folder}': left out {message}: {some(alone)}")
    return [(image_files[stem], maps[stem]) for stem in common]


def read_list(path: Path) -> list[str]:
    """Every line of a list of stems, such as VOC's ``ImageSets/Segmentation/train.txt``.

    Raises:
        UserError: the file does not exist or is empty.
    """
    entries = read_lines(path, "split list")
    if not entries:
        raise UserError(f"the split list '{path}' is empty; expected one image name per line")
    return entries


def _listed(
    path: Path,
    image_files: dict[str, str],
    maps: dict[str, str],
    images: Folder,
    what: str,
    *,
    skip: bool,
    notes: list[str],
) -> tuple[dict[str, str], dict[str, str]]:
    """The pairs of a split list; names in it may be preceded by folders of another machine, and followed by suffixes.

    A line is a name, which may contain blanks and be quoted, as CVAT writes it. Where no line is the name of an image
    and all end with -1, 0 or 1, as VOC's lists for one class do, that number is removed.
    """
    entries = read_list(path)
    depth = 1 + max((stem.count("/") for stem in image_files), default=0)
    found = [_find(entry, image_files, depth) for entry in entries]
    if not any(found):
        names = [
            name for name, *flag in (entry.rsplit(maxsplit=1) for entry in entries) if flag and flag[0] in _VOC_FLAGS
        ]
        if len(names) == len(entries):
            found = [_find(name, image_files, depth) for name in names]
    missing = [entry for entry, stem in zip(entries, found, strict=True) if stem is None]
    known = [stem for stem in found if stem is not None]
    stems = dict.fromkeys(known)
    if again := [image_files[stem] for stem in repeated(known)]:
        notes.append(f"images of the split list '{path}' are listed more than once, but read once: {some(again)}")
    if missing:
        fault(
            f"'{images}' lacks images of the split list '{path}': {some(missing)}; check both (each line is one "
            "name; a final -1, 0 or 1 is removed only if all lines have one, as in VOC's lists)",
            len(missing),
        )
    without = [image_files[stem] for stem in stems if stem not in maps]
    if without and skip:
        notes.append(f"left out images of the split list '{path}' that have no {what}: {some(without)}")
    elif without:
        fault(
            f"images of the split list '{path}' have no {what}: {some(without)}; check both, or leave them out with "
            "unpaired=skip",
            len(without),
        )
    return {stem: image_files[stem] for stem in stems if stem in maps}, {
        stem: maps[stem] for stem in stems & maps.keys()
    }


def _find(name: str, stems: Collection[str], depth: int) -> str | None:
    """The image that a name stands for; a quotation mark without another one at the end is part of the name."""
    inner = name[1:-1]
    is_quoted = name == f'"{inner}"' and '"' not in inner
    names = (name, inner) if is_quoted else (name,)
    return next((option for name in names for option in _stems_of(name, depth) if option in stems), None)


def _stems_of(name: str, depth: int) -> Iterator[str]:
    """What a name may be called below a folder: with fewer and fewer of its last ``depth`` parts, without suffix."""
    parts = name.lstrip("/").rsplit("/", depth)[-depth:]
    options = ["/".join(parts[start:]) for start in range(len(parts))]
    yield from options
    yield from (option.rpartition(".")[0] for option in options if option.lower().endswith(IMAGE_SUFFIXES))


def map_files(folder: Folder, pattern: str = STEM, notes: list[str] | None = None) -> dict[str, str]:
    """Maps by path with the stem in place of the name: images or, if no image matches, arrays (``.npy``).

    Args:
        folder: searched at any depth.
        pattern: of their names, with ``{stem}``.
        notes: receives a sentence about files with other names.

    Raises:
        UserError: two files of one stem, or a pattern without a stem.
    """
    return _by_stem(folder, LABEL_SUFFIXES, pattern, notes) or _by_stem(folder, (ARRAY_SUFFIX,), pattern, None)


def _by_stem(
    folder: Folder, suffixes: Sequence[str], pattern: str, notes: list[str] | None, without: Collection[str] = ()
) -> dict[str, str]:
    """Files by path with the stem in place of the name.

    Raises:
        UserError: two files of one stem, or a pattern without a stem.
    """
    before, mark, behind = pattern.partition(STEM)
    if not mark or STEM in behind or "/" in pattern:
        raise UserError(
            f"the pattern {quoted(pattern)} must contain '{STEM}' exactly once and no folder; expected, for instance, "
            f"'{STEM}_leftImg8bit', without a suffix"
        )
    found: dict[str, str] = {}
    others = []
    for name in folder.names(suffixes):
        parent, _, leaf = name.rpartition("/")
        stem = PurePosixPath(leaf).stem
        if name in without:
            continue
        if len(stem) <= len(before) + len(behind) or not (stem.startswith(before) and stem.endswith(behind)):
            others.append(name)
            continue
        stem = stem[len(before) : len(stem) - len(behind)]
        stem = f"{parent}/{stem}" if parent else stem
        if stem in found:
            raise UserError(
                f"'{folder}' contains both '{found[stem]}' and '{name}', which is ambiguous; keep one of them"
            )
        found[stem] = name
    if others and notes is not None:
        notes.append(f"'{folder}': skipped files whose names do not match {pattern}: {some(others)}")
    return found
