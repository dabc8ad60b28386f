"""Maps in numpy files: reading, and one error for unusable ones."""

from __future__ import annotations

import os
import pathlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mask2former.data.array_files import is_array_file, read_array
from mask2former.data.label_maps import read_ids, read_label_map
from mask2former.errors import UserError

IDS = np.arange(12).reshape(3, 4)


def saved(path: Path, value: Any) -> Path:
    np.save(path, value, allow_pickle=True)
    return path


def as_object(value: Any) -> np.ndarray:
    whole = np.empty((), dtype=object)
    whole[()] = value
    return whole


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, ">u2", np.uint32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_whole_numbers(dtype: Any, order: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", np.asarray(IDS, dtype, order=order))
    assert is_array_file(path)
    assert np.array_equal(read_label_map(path), IDS)
    numbers, is_colored = read_ids(path)
    assert (numbers.dtype, is_colored) == (np.int32, False)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions_of_the_format(version: tuple[int, int], tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, IDS, version=version)
    assert np.array_equal(read_array(tmp_path / "a.npy"), IDS)
    content = bytearray((tmp_path / "a.npy").read_bytes())
    content[6] = 4
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"version 4\.0 of numpy's format; expected 1\.0, 2\.0 or 3\.0"):
        read_array(tmp_path / "a.npy")


@pytest.mark.parametrize("masks", [IDS, IDS.astype(np.uint16)[None], np.asfortranarray(IDS)])
def test_what_cellpose_saves(masks: np.ndarray, tmp_path: Path) -> None:
    others: dict[str, Any] = {"filename": pathlib.PurePosixPath("/a/b.png"), "zdraw": [None], "diameter": np.float64(3)}
    others |= {
        "colors": np.zeros((11, 3), np.uint8),
        "outlines": [np.zeros((2, 2), np.int32)],
        "normalize": {"a": True},
    }
    others["ragged"] = np.array([None, IDS], dtype=object)
    assert np.array_equal(read_array(saved(tmp_path / "a_seg.npy", as_object(others | {"masks": masks}))), IDS)


class _Program:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


REFUSED: dict[str, tuple[Any, str]] = {
    "fractions": (np.zeros((2, 2)), "values of type float64; expected one whole number per pixel"),
    "colours": (np.zeros((2, 2, 3), np.uint8), r"masks of shape \(2, 2, 3\); expected \(height, width\)"),
    "a stack": (as_object({"masks": np.zeros((5, 2, 2), np.uint16)}), "one map per image"),
    "no pixels": (np.zeros((0, 4), np.uint8), "shape"),
    "below 0": (np.array([[-1]]), "the number -1; expected numbers from 0"),
    "beyond 32 bits": (np.array([[1 << 40]]), "expected numbers from 0 to 2147483647"),
    "other things": (as_object({"flows": 1, "img": 2}), "contains flows, img; expected 'masks'"),
    "no mapping": (as_object([1, 2]), "contains a list"),
    "masks that are no array": (as_object({"masks": [[1]]}), "contains a list"),
    "objects": (np.array([[{}, None]], dtype=object), "it contains an array of objects"),
    "a program": (as_object({"masks": IDS, "filename": _Program()}), "refers to posix.system.*nothing was executed"),
    "records": (np.zeros(3, [("a", "<i4"), ("b", "<f4")]), "type"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_map_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    value, words = REFUSED[name]
    path = saved(tmp_path / "a.npy", value)
    with pytest.raises(UserError, match=words) as caught:
        read_array(path)
    assert str(path) in str(caught.value)
    assert not Path("executed").exists()


LIES = b"{'descr': '<u2', 'fortran_order': False, 'shape': (1000000, 1000000)}".ljust(100)
DAMAGED = (
    b"",
    b"no array",
    b"\x93NUMPY",
    b"\x93NUMPY\x01\0v\0{}",
    b"\x93NUMPY\x09\0v\0{}",
    b"\x93NUMPY\x01\0\xff\x20" + b"-" * 0x20FF,
    b"\x93NUMPY\x01\0\x64\0" + LIES,
)


@pytest.mark.parametrize("content", DAMAGED)
def test_damage_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(UserError, match="save it again"):
        read_array(path)


def test_cut_short(tmp_path: Path) -> None:
    for value in (IDS, as_object({"masks": IDS})):
        path = saved(tmp_path / "a.npy", value)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(UserError, match="save it again"):
            read_array(path)
