"""Hostile archives and folders of data: nothing is unpacked beyond limits, and no name leads outside."""

from __future__ import annotations

import os
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former import limits
from mask2former.documents import read_json, read_text
from mask2former.errors import UserError
from mask2former.media.archives import Archive, ArchivedFile, Folder, find_file, find_folder, open_folder
from mask2former.media.images import read_image
from mask2former.notes import collect_notes

SECONDS = 5


def deflated_zeros(size: int) -> bytes:
    compress = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1 << 20)
    return b"".join(compress.compress(block) for _ in range(size >> 20)) + compress.flush()


def bomb(path: Path, name: str, claimed: int, content: bytes) -> Path:
    """An archive of one member, written by hand: its content need not be what its directory says."""
    encoded = name.encode()
    facts = struct.pack("<HHHHHIIIH", 20, 0, 8, 0, 0, 0, len(content), claimed & 0xFFFFFFFF, len(encoded))
    local = b"PK\3\4" + facts + struct.pack("<H", 0) + encoded + content
    central = b"PK\1\2" + struct.pack("<H", 20) + facts + struct.pack("<HHHHII", 0, 0, 0, 0, 0, 0) + encoded
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)
    path.write_bytes(local + central + end)
    return path


READERS: dict[str, Callable[[ArchivedFile], object]] = {
    "a.png": read_image,
    "a.json": lambda file: read_json(file, "annotation file"),
    "a.txt": lambda file: read_text(file, "list"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_small_member_that_grows_to_gigabytes_is_refused_before_it_grows(name: str, tmp_path: Path) -> None:
    archive = Archive(bomb(tmp_path / "a.zip", name, 3 << 30, deflated_zeros(3 << 20)))
    file = ArchivedFile(archive, name)
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"a growth factor of|has too many bytes"):
        READERS[name](file)
    assert time.perf_counter() - start < SECONDS


def test_a_member_that_is_larger_than_it_says_is_cut_off(tmp_path: Path) -> None:
    archive = Archive(bomb(tmp_path / "a.zip", "a.txt", 10, deflated_zeros(16 << 20)))
    with pytest.raises(UserError, match="cannot be read from its archive"):
        archive.read("a.txt")


def test_what_compresses_well_is_read_up_to_some_size(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.bin", bytes(8 << 20))
    assert len(Archive(tmp_path / "a.zip").read("a.bin")) == 8 << 20


def directory(path: Path, entries: int, name: bytes = b"") -> Path:
    """An archive that has only a directory."""
    entry = (
        b"PK\1\2" + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0) + name
    )
    count = min(entries, 65_535)
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(entry) * entries, 0, 0)
    path.write_bytes(entry * entries + end)
    return path


def test_millions_of_members_are_refused_before_they_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory(tmp_path / "a.zip", 2_100_000)
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"has too many files: 2,100,000; at most 2,000,000"):
        open_folder(path)
    assert time.perf_counter() - start < SECONDS
    monkeypatch.setattr(limits, "ARCHIVE_DIRECTORY_BYTES", 10_000)
    with pytest.raises(UserError, match=r"bytes of directory: 96,600,000; at most 10,000"):
        _ = Archive(path).names


def test_names_that_lead_out_or_cannot_be_shown_are_passed_over(tmp_path: Path) -> None:
    bad = ["../a.png", "x/../../a.png", "/etc/a.png", "..\\a.png", "C:\\a.png", "c:/a.png", "\\a.png", "x\x1b[2J.png"]
    bad += ["x\n.png", "\u202egnp.a", "x/..", "x\x9b.png"]
    good = ["a.png", "x/b.png", "..a.png", "x/...png", "a..b/c.png", "ü\u3000\u00a0.png", "C:.png"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in bad + good:
            file.writestr(zipfile.ZipInfo(name), b"x")
    with collect_notes() as notes:
        archive = Archive(tmp_path / "a.zip")
        assert archive.names == set(good)
        assert archive.folders == {"", "x", "a..b"}
    assert len(notes) == 1
    assert f"({len(bad)}, for instance" in notes[0].example
    assert notes[0].example.isprintable()


def test_encrypted_and_damaged_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.txt", b"hello")
    whole = (tmp_path / "a.zip").read_bytes()
    start = whole.index(b"PK\1\2")
    cases = {
        "encrypted": whole[:6] + b"\1" + whole[7 : start + 8] + b"\1" + whole[start + 9 :],
        "method": whole[: start + 10] + b"\x63" + whole[start + 11 :],
        "offset": whole[: start + 42] + b"\xff\xff\xff\x7f" + whole[start + 46 :],
        "cut": whole[:-10],
        "no archive": b"hello",
        "empty": b"",
        "date": whole[: start + 12] + b"\xff" * 4 + whole[start + 16 :],
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.zip"
        path.write_bytes(content)
        if name == "date":
            assert Archive(path).read("a.txt") == b"hello"
            continue
        with pytest.raises(UserError, match="cannot be read"):
            Archive(path).read("a.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_pipes_and_devices_are_no_archives(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.zip")
    (tmp_path / "b.zip").symlink_to("/dev/zero")
    (tmp_path / "c.zip").symlink_to("c.zip")
    for name in ("a.zip", "b.zip", "c.zip"):
        assert find_folder(tmp_path / name) is None
        assert find_file(tmp_path / name / "a.png") is None
        with pytest.raises(UserError):
            _ = Archive(tmp_path / name).names
        with pytest.raises(UserError):
            open_folder(tmp_path / name)


def test_links_in_circles_end(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a" / "b" / "x.png")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "twice").symlink_to(tmp_path / "a" / "b")
    assert Folder(tmp_path / "a").names((".png",)) == ["b/x.png", "twice/x.png"]


def test_links_that_multiply_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty folders, each with two links to the next one, have a thousand million paths."""
    monkeypatch.setattr(limits, "LINKED_FOLDERS", 1000)  # a tenth, for a quick test
    for index in range(30):
        (tmp_path / f"d{index}").mkdir()
        for side in "lr" if index else "":
            (tmp_path / f"d{index - 1}" / side).symlink_to(tmp_path / f"d{index}")
    start = time.perf_counter()
    with pytest.raises(UserError, match="links to folders"):
        Folder(tmp_path / "d0").names((".png",))
    assert time.perf_counter() - start < SECONDS
