from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import fsspec
import pyarrow
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import parquet

from mask2former.bulk.sources import fetch, list_sources
from mask2former.errors import UserError
from mask2former.notes import collect_notes


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "deep/c.tif", "notes.txt", ".hidden/d.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(name.encode())
    return tmp_path / "photos"


@pytest.fixture
def bucket(photos: Path) -> Iterator[str]:
    """The URL of a copy of ``photos`` in a file system of fsspec."""
    files = fsspec.filesystem("memory")
    files.put(str(photos), "/bucket/photos", recursive=True)
    yield "memory://bucket/photos"
    files.rm("/bucket", recursive=True)


def test_folders_globs_and_files_name_each_image_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    all_of_them = [str(photos / name) for name in ("a.PNG", "b.jpg", "deep/c.tif")]
    assert list_sources(["photos"]) == all_of_them
    assert list_sources([(photos / "b.jpg").as_uri(), photos]) == [all_of_them[1], all_of_them[0], all_of_them[2]]
    with collect_notes() as notes:
        assert list_sources(["photos/*", "photos/**/c.*", "photos/b.jpg"]) == all_of_them
    assert [message for message, _ in notes] == [
        "globs that also match files without image names, skipped",
        "images that the sources name more than once, which are segmented once",
    ]
    assert list_sources(["photos/notes.txt"]) == [str(photos / "notes.txt")]  # a named file is taken, whatever its type


def test_the_same_behind_a_url(bucket: str) -> None:
    assert list_sources([bucket]) == [f"memory:///bucket/photos/{name}" for name in ("a.PNG", "b.jpg", "deep/c.tif")]
    assert list_sources([f"{bucket}/*.jpg"]) == ["memory:///bucket/photos/b.jpg"]
    assert list_sources([f"{bucket}/notes.txt"]) == [f"{bucket}/notes.txt"]
    fsspec.filesystem("memory").pipe("/bucket/photos/d[1].jpg", b"d")
    assert list_sources([f"{bucket}/d[1].jpg"]) == [f"{bucket}/d[1].jpg"]  # a name before it is a pattern
    file = fetch("memory:///bucket/photos/deep/c.tif")
    assert (str(file), file.content) == ("memory:///bucket/photos/deep/c.tif", b"deep/c.tif")


def test_lists_are_relative_to_their_folder(photos: Path, bucket: str) -> None:
    names = ["b.jpg", str(photos / "a.PNG"), "memory://other/x.jpg", "gone.jpg"]
    with (photos / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("number", "image"), *enumerate(names)])
    table = pyarrow.table({"image": names, "path": ["deep/c.tif"] * 4})
    parquet.write_table(table, photos / "list.parquet")
    expected = [str(photos / "b.jpg"), str(photos / "a.PNG"), "memory://other/x.jpg", str(photos / "gone.jpg")]
    assert list_sources([photos / "list.csv"]) == expected
    assert list_sources([photos / "list.parquet"]) == expected
    assert list_sources([photos / "list.parquet"], column="path") == [str(photos / "deep/c.tif")]
    files = fsspec.filesystem("memory")
    files.put(str(photos / "list.parquet"), "/bucket/photos/list.parquet")
    files.pipe("/bucket/photos/list.csv", b"image\r\nb.jpg")  # without a line break at the end
    assert list_sources([f"{bucket}/list.parquet"])[0] == f"{bucket}/b.jpg"
    assert list_sources([f"{bucket}/list.csv"]) == [f"{bucket}/b.jpg"]


@pytest.mark.parametrize(
    ("content", "column", "refusal"),
    [
        ("a.jpg\nb.jpg\n", None, "first line of .* names an image; expected column names"),
        (
            "path,mask\na.jpg,m.png\n",
            None,
            "has no column 'image'; there are: path, mask; use column to choose the one that",
        ),
        ("image\n", "file", "has no column 'file'; there are: image"),
        ("", None, "has no column 'image'; there are: none"),
        ("image\n", None, "the list '.*list.csv' names no images; expected one row per image"),
        ("image,more\na.jpg,\n,x\n", None, "row 2 of .* names no image; remove it"),
        (
            "image\na.jpg\nmine, with a comma.jpg\n",
            None,
            r"row 2 of '.*list.csv' has 2 cells, but the first line names 1; put a name with a comma in double quotes",
        ),
        ("image,more,image\na.jpg,,b.jpg\n", None, r"'.*list.csv' has 2 columns 'image'; rename all but one"),
        ('image\n"a.jpg\n' + "x" * 140_000, None, "is not CSV"),
        ("image\n\xe4.jpg\n", None, "not in UTF-8"),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path: Path, content: str, column: str | None, refusal: str) -> None:
    (tmp_path / "list.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=refusal):
        list_sources([tmp_path / "list.csv"], column=column)


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.large_string(),
        pyarrow.string_view(),
        pyarrow.dictionary(pyarrow.int8(), pyarrow.string()),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.large_string()),
    ],
    ids=str,
)
def test_parquet_holds_names_as_any_text(tmp_path: Path, kind: pyarrow.DataType) -> None:
    names = pyarrow.array(["a.jpg", "b.jpg"]).cast(kind)
    parquet.write_table(pyarrow.Table.from_arrays([names, names, names], ["x", "image", "x"]), tmp_path / "a.parquet")
    assert list_sources([tmp_path / "a.parquet"]) == [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]


def test_a_parquet_file_that_lists_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"'.*cut.parquet' cannot be read as Parquet"):
        list_sources([tmp_path / "cut.parquet"])
    parquet.write_table(pyarrow.table({"image": [1, 2]}), tmp_path / "numbers.parquet")
    with pytest.raises(UserError, match=r"the column 'image' of .* contains int64; expected image names"):
        list_sources([tmp_path / "numbers.parquet"])
    column = pyarrow.array(["a.jpg"])
    parquet.write_table(pyarrow.Table.from_arrays([column, column], ["image", "image"]), tmp_path / "twice.parquet")
    with pytest.raises(UserError, match=r"twice.parquet' has 2 columns 'image'; rename all but one"):
        list_sources([tmp_path / "twice.parquet"])
    parquet.write_table(pyarrow.table({"image": pyarrow.array([], pyarrow.string())}), tmp_path / "empty.parquet")
    with pytest.raises(UserError, match=r"the list '.*empty.parquet' names no images"):
        list_sources([tmp_path / "empty.parquet"])


def test_what_is_not_there_is_refused(tmp_path: Path, photos: Path, bucket: str) -> None:
    for source, refusal in (
        ("", "'' names neither a file nor a folder; give a path"),
        ("file://", "'file://' names neither a file nor a folder"),
        (tmp_path / "gone", "there is no image, folder or list of images"),
        (tmp_path / "photos" / "deep" / "*.jpg", r"no image matches '.*\*.jpg' \(0 other files\)"),
        (f"{bucket}/gone", "is neither an image nor a folder with images"),
        (f"{bucket}/*.webp", "no image matches"),
        ("nothing-such://bucket/a.jpg", "cannot be opened by fsspec: Protocol not known"),
        ("file://host/a.jpg", "on another host, 'host'"),
        (tmp_path / "gone.csv", "there is no list"),
        (tmp_path / "gone.parquet", "there is no list of images"),
        ("memory://gone.csv", "there is no image 'memory://gone.csv'"),
    ):
        with pytest.raises(UserError, match=refusal):
            list_sources([source])
    with pytest.raises(UserError, match="no images given"):
        list_sources([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"the folder '.*empty' contains no images"):
        list_sources([tmp_path / "empty"])
    with pytest.raises(UserError, match="column applies to lists"):
        list_sources([photos], column="image")
    with pytest.raises(UserError, match=r"there is no image 'memory://gone.jpg'"):
        fetch("memory://gone.jpg")


def test_a_list_without_access_is_refused(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFileSystem, "cat_file", Mock(side_effect=RuntimeError("no credentials")))
    for suffix in ("csv", "parquet"):
        with pytest.raises(UserError, match=f"the list '{bucket}/x.{suffix}' cannot be read: no credentials; check"):
            list_sources([f"{bucket}/x.{suffix}"])


@pytest.mark.skipif(os.name != "posix", reason="only POSIX file names are bytes")
def test_a_name_that_is_not_utf8_is_refused(photos: Path) -> None:
    (photos / os.fsdecode(b"caf\xe9.jpg")).touch()
    for source in (photos, photos / "*.jpg", photos / os.fsdecode(b"caf\xe9.jpg")):
        with pytest.raises(UserError, match=r"'.*/caf\\udce9.jpg' is not in UTF-8; rename the file") as caught:
            list_sources([source])
        assert str(caught.value).isprintable()


def test_more_than_the_limit_is_refused(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mask2former.limits.LISTED_IMAGES", 2)
    with pytest.raises(UserError, match="the sources name too many images: 3; at most 2 are supported"):
        list_sources([photos])
    monkeypatch.setattr("mask2former.limits.IMAGE_BYTES", 3)
    for name in (str(photos / "b.jpg"), "memory://large.jpg"):
        fsspec.filesystem("memory").pipe("/large.jpg", b"large")
        with pytest.raises(UserError, match="has too many bytes: "):
            fetch(name)
