"""Tables of a run, CSV or Parquet: a row for each mask, and in a second file a row for each image."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from mask2former.errors import UserError
from mask2former.extras import need
from mask2former.files import check_file, discard, whole_file
from mask2former.notes import note
from mask2former.ops.shapes import check_installed
from mask2former.results_io.csv import csv_text
from mask2former.results_io.growing import naming
from mask2former.results_io.writing import ImageNames, PixelSizeOf, ReadImage, Writer, unknown
from mask2former.structures.categories import Categories
from mask2former.structures.results import Segmentation
from mask2former.structures.tables import PixelSize, image_row, table_columns

__all__ = ["TableFiles", "checked_size", "images_table", "is_table"]

_FIRST = ("image", "id", "category_id", "category_name")  # columns that identify a table written here
_ROWS = 50_000  # of a group of a Parquet file
_WHOLE = {"id", "category_id", "area", "x1", "y1", "x2", "y2", "height", "width", "num", "total_area"}


_IN_FILES: Final = "file"
_TOLERANCE = 0.01  # of sides of pixels that count as equal


def checked_size(pixel_size: str | PixelSize | None) -> PixelSize | Literal["file"] | None:
    """A pixel size for :class:`TableFiles`.

    Raises:
        UserError: it is not valid.
    """
    if pixel_size is None:
        return None
    if pixel_size == _IN_FILES:
        return _IN_FILES
    try:
        return PixelSize.of(pixel_size)
    except UserError as error:
        raise UserError(f"{error}; or give 'file' for the size that each image file states") from error


def images_table(path: Path) -> Path:
    """The file with one row per image beside a table: ``results_images.csv`` beside ``results.csv``."""
    return path.with_name(f"{path.stem}_images{path.suffix}")


class TableFiles(Writer):
    """``X.csv`` with a row for each mask and ``X_images.csv`` with one for each image; ``.parquet`` likewise.

    Columns: ``image``, then :func:`~mask2former.structures.tables.table_columns`; for images
    :func:`~mask2former.structures.tables.image_row`. Both files appear completely when the block ends without an error.

    Args:
        path: ends in .csv or .parquet.
        categories: the classes of the model, each of which has a column in the table of images.
        names: image file names by image id; an image without one is named by its id.
        read: returns the image with an id, for mean intensities; None: these stay empty.
        pixel_size: adds columns in units; ``file``: in micrometres, from the size that each image file states (empty
            for images that state none, or whose pixels are not square, with a note).
        stated: returns that size; where it is not used, or contradicts ``pixel_size``, it is noted.

    Raises:
        UserError: another suffix, or the pixel size is not valid.
        MissingExtraError: scikit-image, or pyarrow for Parquet, is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        categories: Categories,
        names: Mapping[int | str, str] | None = None,
        read: ReadImage | None = None,
        pixel_size: str | PixelSize | None = None,
        stated: PixelSizeOf = unknown,
    ) -> None:
        super().__init__(path)
        if self.path.suffix.lower() not in (".csv", ".parquet"):
            raise UserError(f"a table file must end in .csv or .parquet, got '{self.path}'")
        check_installed()
        self.names, self.read, self.categories = ImageNames(names), read, categories
        self.pixel_size, self.stated = checked_size(pixel_size), stated
        units = PixelSize(1, "um") if self.pixel_size == _IN_FILES else self.pixel_size
        columns = ["image", *table_columns(units)]
        of_images = ["image", *image_row([], (0, 0), categories, units)]
        kind = _Csv if self.path.suffix.lower() == ".csv" else _Parquet
        self._tables = kind(self.path, columns), kind(images_table(self.path), of_images)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        for table in self._tables:
            check_file(table.path)
        with contextlib.ExitStack() as stack:
            for table in reversed(self._tables):
                table.open(stack)
            self._stack = stack.pop_all()
        return self

    def add(self, image_id: int | str, result: Segmentation) -> None:
        """Append the rows of one image."""
        self.once(image_id)
        image = None if self.read is None else self.read(image_id)
        name = {"image": self.names[image_id]}
        size = self._size_of(image_id, name["image"])
        rows = result.measured_rows(image, pixel_size=size)
        masks, images = self._tables
        masks.add([name | row for row in rows])
        images.add([name | image_row(rows, result.size_hw, self.categories, size)])
        self.count += len(rows)

    def _size_of(self, image_id: int | str, name: str) -> PixelSize | None:
        """The pixel size of an image; what its file states is noted where that is not used, or missing."""
        stated, size = self.stated(image_id), self.pixel_size
        if isinstance(size, str):
            if stated is None:
                note("images whose files state no pixel size, so that their values in units are empty", f"'{name}'")
                return None
            height, width = stated
            if not math.isclose(height, width, rel_tol=_TOLERANCE):
                note(
                    "images whose pixels are not square according to their files, so that their values in units are "
                    "empty (resample them)",
                    f"'{name}' ({_text(stated)}, height x width)",
                )
                return None
            return PixelSize(math.sqrt(height * width), "um")
        if stated is None:
            return size
        if size is None:
            note(
                "images whose files state a pixel size, which is not used (--pixel-size file uses it, in Python "
                "pixel_size='file')",
                f"'{name}' ({_text(stated)})",
            )
        elif not all(math.isclose(side, size.micrometres, rel_tol=_TOLERANCE) for side in stated):
            note(
                "images whose files state a pixel size other than the given one, which is used",
                f"'{name}' ({_text(stated)}, not {size.side:g} {size.unit})",
            )
        return size

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            discard(self._stack)
            return
        with self._stack:
            for table in self._tables:
                table.finish()


def _text(size_hw: tuple[float, float]) -> str:
    return f"{' x '.join(dict.fromkeys(f'{side:.5g}' for side in size_hw))} um"


class _Csv:
    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, columns

    def open(self, stack: contextlib.ExitStack) -> None:
        temporary = stack.enter_context(whole_file(self.path))
        self._file = stack.enter_context(temporary.open("w", encoding="utf-8", newline=""))
        self._file.write(csv_text([], self.columns))

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with naming(self.path):
            self._file.write(csv_text(rows, self.columns, header=False))

    def finish(self) -> None: ...


class _Parquet:
    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        need("table", "pyarrow", to="write Parquet")
        import pyarrow
        import pyarrow.parquet

        self.path = path
        kinds = {"image": pyarrow.string(), "category_name": pyarrow.string(), "is_thing": pyarrow.bool_()}

        def kind(name: str) -> pyarrow.DataType:
            is_whole = name in _WHOLE or name.startswith("num_")
            return kinds.get(name, pyarrow.int64() if is_whole else pyarrow.float64())

        self._arrow, self._schema = pyarrow, pyarrow.schema([(name, kind(name)) for name in columns])
        self._rows: list[Mapping[str, Any]] = []

    def open(self, stack: contextlib.ExitStack) -> None:
        temporary = stack.enter_context(whole_file(self.path))
        self._file = stack.enter_context(self._arrow.parquet.ParquetWriter(temporary, self._schema))

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows += rows
        if len(self._rows) >= _ROWS:
            self.finish()

    def finish(self) -> None:
        if not self._rows:
            return
        with naming(self.path):
            self._file.write_table(self._arrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []


def is_table(path: Path) -> bool:
    """Whether a file was written by :class:`TableFiles`, judging by its columns."""
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8", errors="replace") as file:
            names = file.readline(1000).strip().split(",")
    else:
        import pyarrow.parquet

        try:
            names = pyarrow.parquet.read_schema(path).names
        except (OSError, ValueError):  # of pyarrow's own, which is one: no Parquet file
            return False
    return tuple(names[:4]) in (_FIRST, ("image", "height", "width", "num"))
