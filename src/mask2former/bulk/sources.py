"""The images of a bulk run: files, folders, globs and lists, local or at URLs, by names valid on every machine.

Local names are absolute paths; others are URLs. Reading is left to the receiver of a name: :func:`fetch`.
"""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mask2former import limits
from mask2former.bulk.stores import is_url, local_path, opened_url
from mask2former.documents import check_regular, parse_csv, read_bytes, read_text
from mask2former.errors import OptionError, UserError
from mask2former.extras import need
from mask2former.limits import check_limit
from mask2former.media.image_files import NamedBytes, check_utf8
from mask2former.media.images import images_below, is_image_name
from mask2former.notes import note
from mask2former.text import listed, printable, quoted

__all__ = ["LISTS", "fetch", "list_sources"]

LISTS = (".csv", ".parquet")
"""Suffixes of files that list images."""

_COLUMN = "image"
_STRINGS = ("string", "large_string", "string_view")  # the kinds of text in Arrow
_MAGIC = re.compile(r"[*?\[]")


def list_sources(sources: Sequence[str | os.PathLike[str]], *, column: str | None = None) -> list[str]:
    """The names of all images, each once, in source order; folders are searched at any depth and sorted.

    Args:
        sources: images, folders, globs (in which only files with image names count) and lists, local or URLs. A list is
            a CSV file whose first line has the column names, or a Parquet file; relative names in it start from its
            folder.
        column: of lists: the one with the names; by default ``image``, or the only one.

    Raises:
        UserError: no images are given, or one does not exist, or a list cannot be read, or a name is not in UTF-8.
    """
    if not sources:
        raise UserError("no images given; give files, folders, globs or lists (.csv, .parquet)")
    names: dict[str, None] = {}
    num_lists = num_again = 0
    for entry in sources:
        source = os.fspath(entry)
        is_list = source.lower().endswith(LISTS)
        num_lists += is_list
        found = _of_list(source, column) if is_list else _of_url(source) if is_url(source) else _of_path(source)
        before, count = len(names), 0
        for name in found:
            check_utf8(name)
            names[name] = None
            count += 1
            check_limit("the sources name too many images:", len(names), limits.LISTED_IMAGES, "run them in parts")
        if is_list and not count:
            raise UserError(f"the list '{source}' names no images; expected one row per image below the column names")
        num_again += before + count - len(names)
    if column is not None and not num_lists:
        raise OptionError(lambda name: f"{name('column')} applies to lists (.csv, .parquet), but no source is a list")
    if num_again:
        note("images that the sources name more than once, which are segmented once", f"{num_again:,}")
    return list(names)


def fetch(name: str) -> NamedBytes:
    """The bytes of an image file.

    Raises:
        UserError: it does not exist, is not a regular file, or is too large.
        Exception: whatever the package for a protocol raises.
    """
    if not is_url(name):
        return NamedBytes(name, read_bytes(Path(name), "image", limits.IMAGE_BYTES))
    files, path = opened_url(name)
    try:
        content = files.cat_file(path, start=0, end=limits.IMAGE_BYTES + 1)  # one request
    except FileNotFoundError as error:
        raise UserError(f"there is no image '{name}'; check the URL") from error
    check_limit(f"the image '{name}' has too many bytes:", len(content), limits.IMAGE_BYTES, "is it the right file?")
    return NamedBytes(name, content)


def _of_path(source: str) -> Iterable[str]:
    path = local_path(source)
    if path.is_dir():
        found = images_below(path)
        if not found:
            raise UserError(f"the folder '{source}' contains no images")
        return map(str, found)
    if _MAGIC.search(source) and not path.exists():
        found = sorted(name for name in glob.glob(str(path), recursive=True) if os.path.isfile(name))
        return _images_of_glob(source, found)
    check_regular(path, "image, folder or list of images")
    return [str(path)]


def _of_url(source: str) -> Iterable[str]:
    files, path = opened_url(source)
    try:
        if files.isfile(path):
            return [source]
        if _MAGIC.search(path):
            return _images_of_glob(source, [files.unstrip_protocol(name) for name in sorted(files.glob(path))])
        found = sorted(files.find(path))
    except UserError:
        raise
    except Exception as error:  # whatever the package for a protocol raises
        raise UserError(f"'{source}' cannot be listed: {printable(str(error), 200)}") from error
    below = [name for name in found if not any(part.startswith(".") for part in name[len(path) :].split("/"))]
    images = [files.unstrip_protocol(name) for name in below if is_image_name(name)]
    if not images:
        raise UserError(f"'{source}' is neither an image nor a folder with images")
    return images


def _images_of_glob(source: str, found: Sequence[str]) -> Sequence[str]:
    images = [name for name in found if is_image_name(name)]
    if not images:
        raise UserError(f"no image matches '{source}' ({len(found)} other files); check the pattern")
    if len(images) < len(found):
        note("globs that also match files without image names, skipped", f"'{source}' ({len(found)})")
    return images


def _of_list(source: str, column: str | None) -> Iterator[str]:
    rows = _column_of_parquet(source, column) if source.lower().endswith(".parquet") else _of_csv(source, column)
    folder = source.rpartition("/")[0] if is_url(source) else str(local_path(source).parent)
    for number, name in enumerate(rows, start=1):
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"row {number} of '{source}' names no image; remove it")
        if is_url(name):
            yield name
        elif is_url(source):
            yield name if name.startswith(("/", "file:")) else f"{folder}/{name}"
        else:
            yield str(local_path(name if name.startswith("file:") else os.path.join(folder, name)))


def _of_csv(source: str, column: str | None) -> list[str | None]:
    file = _list_at(source) if is_url(source) else local_path(source)
    table = [row for row in parse_csv(read_text(file, "list", limits.TABLE_BYTES), f"the list '{source}'") if row]
    header = table[0] if table else []
    if any(is_image_name(cell) for cell in header):
        raise UserError(f"the first line of '{source}' names an image; expected column names, for instance 'image'")
    index = header.index(_chosen(source, header, column))
    for number, row in enumerate(table[1:], start=1):
        if len(row) > len(header):
            raise UserError(
                f"row {number} of '{source}' has {len(row)} cells, but the first line names {len(header)}; put a name "
                "with a comma in double quotes, or remove the extra cells"
            )
    return [row[index] if index < len(row) else None for row in table[1:]]


def _column_of_parquet(source: str, column: str | None) -> Iterator[Any]:
    need("ray", "pyarrow", to="read lists in Parquet")
    import pyarrow
    from pyarrow import parquet

    try:
        if is_url(source):
            stream: Any = io.BytesIO(_list_at(source).content)
        else:
            check_regular(local_path(source), "list of images")
            stream = str(local_path(source))
        with parquet.ParquetFile(stream) as file:
            name = _chosen(source, file.schema_arrow.names, column)
            kind = file.schema_arrow.field(name).type
            words = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
            if str(words) not in _STRINGS:
                raise UserError(f"the column {quoted(name)} of '{source}' contains {kind}; expected image names")
            for batch in file.iter_batches(columns=[name]):
                yield from batch.column(0).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"'{source}' cannot be read as Parquet: {printable(str(error), 200)}") from error


def _list_at(url: str) -> NamedBytes:
    try:
        return fetch(url)
    except UserError:
        raise
    except Exception as error:  # whatever the package for a protocol raises
        reason = printable(str(error) or type(error).__name__, 200)
        raise UserError(f"the list '{url}' cannot be read: {reason}; check access to it") from error


def _chosen(source: str, names: Sequence[str], column: str | None) -> str:
    """The column with the image names."""
    wanted = column or (_COLUMN if _COLUMN in names or len(names) != 1 else names[0])
    if wanted not in names:
        raise OptionError(
            lambda name: (
                f"'{source}' has no column {quoted(wanted)}; there are: {listed(names) or 'none'}; use "
                f"{name('column')} to choose the one that contains image names"
            )
        )
    if names.count(wanted) > 1:
        raise UserError(f"'{source}' has {names.count(wanted)} columns {quoted(wanted)}; rename all but one of them")
    return wanted
