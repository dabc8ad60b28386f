"""What writers of results share: one result after the other, files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, Protocol, Self

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mask2former.config import Task
from mask2former.documents import encode_json
from mask2former.errors import UserError
from mask2former.files import discard, whole_file, write_whole
from mask2former.media.folders import is_passed_over, walk_folder
from mask2former.media.georeference import GeoReference
from mask2former.media.image_files import check_utf8
from mask2former.notes import note
from mask2former.pixels import Regions
from mask2former.results_io.growing import naming
from mask2former.structures.result_base import ResultItem, save_marked
from mask2former.structures.results import Segmentation
from mask2former.text import quoted

__all__ = [
    "FormatWriter",
    "ImageNames",
    "JsonList",
    "ListFile",
    "PixelSizeOf",
    "PlaceOf",
    "ReadImage",
    "ResultFolder",
    "ResultWriter",
    "ServerFolder",
    "Writer",
    "file_stem",
    "filled",
    "json_entries",
    "note_others",
    "png_of",
    "unknown",
]

ReadImage = Callable[[int | str], UInt8[np.ndarray, "H W C"] | Regions]
"""The image of an id, or what reads parts of it, for formats that hold pixels."""

PlaceOf = Callable[[int | str], GeoReference | None]
"""Where the image of an id lies on the Earth; None: that is unknown."""

PixelSizeOf = Callable[[int | str], tuple[float, float] | None]
"""Height and width in micrometres of a pixel, as the file of an id states; None: it states none."""


def unknown(image_id: int | str) -> None:
    """The place and the pixel size of images of which nothing else is known."""


class FormatWriter(Protocol):
    """What receives the results of any task, inside a ``with`` block."""

    path: Path
    count: int  # what has been written: objects, segments, classes or images

    def __enter__(self) -> Self: ...

    def add(self, image_id: int | str, result: Any, /) -> None:
        """Append the result of one image.

        Raises:
            UserError: there is a result of this image already, or its id is no file name.
        """
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


class ResultWriter(FormatWriter, Protocol):
    """A writer for the results of one task."""

    task: ClassVar[Task]


def file_stem(image_id: int | str) -> str:
    """The name of an image's files: numbers as COCO writes them, with 12 digits."""
    if isinstance(image_id, int):
        return f"{image_id:012d}"
    parts = image_id.replace("\\", "/").split("/")
    if not image_id or any(part in ("", ".", "..") for part in parts) or "\0" in image_id or ":" in parts[0]:
        raise UserError(
            f"the id of an image must be usable as a file name below the folder of results, got '{image_id}'"
        )
    return image_id


def filled(result: Segmentation) -> Iterator[ResultItem]:
    """The masks of a result that have pixels, for formats without empty masks."""
    return (item for item in result if item.patch.mask.size)


def json_entries(values: Iterable[Any]) -> Iterator[str]:
    """The entries of a JSON list, in pieces."""
    for number, value in enumerate(values):
        yield f"{', ' if number else ''}{encode_json(value)}"


def png_of(values: np.ndarray) -> Callable[[Path], None]:
    """What writes an array as a PNG file, see :func:`save_marked`."""
    image = Image.fromarray(values)
    return lambda file: save_marked(image, file, compress_level=4)


def note_others(folder: Path, written: Collection[str]) -> None:
    """Note the files below a folder of results that are not among those written, as paths from there."""
    walked = ((parent, leaf) for parent, _, leaves in walk_folder(folder) for leaf in leaves)
    found = (os.path.join(parent, leaf) for parent, leaf in walked if not is_passed_over(leaf))
    others = sorted({Path(path).relative_to(folder).as_posix() for path in found}.difference(written))
    if others:
        example = f"'{folder}' ({len(others)}, such as {quoted(others[0])})"
        note("folders of results with further files, as of an earlier run (a test server would count them)", example)


class ImageNames:
    """The names of image files in files that list them, by image id; an image without one is named by its id.

    Raises:
        UserError: a name is not in UTF-8, the encoding of these files.
    """

    def __init__(self, names: Mapping[int | str, str] | None) -> None:
        self._names = names or {}
        for name in self._names.values():
            check_utf8(name)

    def __getitem__(self, image_id: int | str) -> str:
        if (name := self._names.get(image_id)) is None:
            check_utf8(name := str(image_id))
        return name


class Writer:
    """What all writers share: an image comes once."""

    def __init__(self, path: str | os.PathLike[str], category_ids: Mapping[int, int] | None = None) -> None:
        self.path = Path(path)
        self.category_ids = dict(category_ids or {})
        self.count = 0
        self._seen: set[int | str] = set()

    def once(self, image_id: int | str) -> None:
        if image_id in self._seen:
            raise UserError(f"image '{image_id}' already has a result; write each image once")
        self._seen.add(image_id)


class ListFile(Writer):
    """A text file that grows in a temporary one and appears whole when its block ends well, else not at all."""

    opening, closing = "", ""

    def __init__(self, path: str | os.PathLike[str], category_ids: Mapping[int, int] | None = None) -> None:
        super().__init__(path, category_ids)
        self._stack = contextlib.ExitStack()
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        if self.path.is_dir():
            raise UserError(f"'{self.path}' is a folder; expected the name of a file to write")
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(whole_file(self.path))
            self._file = stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
            self._stack = stack.pop_all()
        self._file.write(self.opening)
        return self

    def write(self, text: str) -> None:
        assert self._file is not None, "used outside its with block"
        with naming(self.path):
            self._file.write(text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        file, self._file = self._file, None
        assert file is not None
        if kind is not None:
            discard(self._stack)
            return
        with self._stack:
            file.write(self.closing)


class JsonList(ListFile):
    """A JSON list that grows entry by entry."""

    opening, closing = "[", "\n]\n"

    def append(self, record: dict[str, Any]) -> None:
        self.write(",\n" if self.count else "\n")
        self.write(encode_json(record, compact=True))
        self.count += 1

    def append_of_class(self, label: int, record: dict[str, Any]) -> None:
        """Append a record with the id that the data set gives its class, unless it has none."""
        if label in self.category_ids:
            record["category_id"] = self.category_ids[label]
            self.append(record)


class ResultFolder(Writer):
    """A folder whose files are whole one by one."""

    def __enter__(self) -> Self:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"'{self.path}' is a file; expected a folder for results")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise UserError(f"cannot write '{self.path}': {error.strerror}; choose another path") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class ServerFolder(ResultFolder):
    """A folder that is submitted as a whole: at the end, files in it that are not of this run are noted."""

    def __init__(self, path: str | os.PathLike[str], category_ids: Mapping[int, int]) -> None:
        super().__init__(path, category_ids)
        self._written: set[str] = set()

    def write(self, name: str, content: Callable[[Path], object]) -> None:
        """Write a file of the folder."""
        write_whole(self.path / name, content)
        self._written.add(Path(name).as_posix())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            note_others(self.path, self._written)
