"""Files and folders in zip archives."""

from __future__ import annotations

import multiprocessing
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former.errors import UserError
from mask2former.media.archives import ArchivedFile, Folder, find_file, find_folder, leads_outside, open_folder
from mask2former.media.images import image_size, read_image


def archive(path: Path, **contents: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return path


def archived(folder: Folder | None) -> Folder:
    assert folder is not None
    assert folder.archive is not None
    return folder


def test_an_archive_stands_for_the_folder_that_it_makes(tmp_path: Path) -> None:
    archive(tmp_path / "val.zip", **{"val/a/1.jpg": b"one", "val/2.PNG": b"two", "val/.hidden.png": b"", "x.txt": b""})
    folder = archived(find_folder(tmp_path / "val"))
    assert folder.names((".jpg", ".png")) == ["2.PNG", "a/1.jpg"]
    assert folder.exists("a/1.jpg")
    assert not folder.exists("a/2.jpg")
    assert (folder / "a/1.jpg").read_bytes() == b"one"
    assert ((folder / "a/1.jpg").name, (folder / "a/1.jpg").stem) == ("1.jpg", "1")
    assert str(folder / "a/1.jpg") == f"{tmp_path}/val.zip/val/a/1.jpg"
    assert archived(find_folder(tmp_path / "val" / "a", tmp_path)).names([".jpg"]) == ["1.jpg"]
    file = find_file(tmp_path / "x.txt")
    assert isinstance(file, ArchivedFile)
    assert file.is_file()
    assert find_folder(tmp_path / "train") is None
    assert find_file(tmp_path / "y.txt") is None


def test_what_is_unpacked_wins(tmp_path: Path) -> None:
    archive(tmp_path / "val.zip", **{"val/1.txt": b"packed"})
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "1.txt").write_bytes(b"unpacked")
    folder = open_folder(tmp_path / "val")
    assert folder.archive is None
    assert (folder / "1.txt").read_bytes() == b"unpacked"
    assert folder.names([".txt"]) == ["1.txt"]


def test_archives_are_looked_for_up_to_the_root_only(tmp_path: Path) -> None:
    archive(tmp_path / "all.zip", **{"data/set/val/1.txt": b"1"})
    (tmp_path / "data" / "set").mkdir(parents=True)
    assert find_folder(tmp_path / "data" / "set" / "val") is None
    assert find_folder(tmp_path / "data" / "set" / "val", tmp_path / "data") is None
    assert archived(find_folder(tmp_path / "data" / "set" / "val", tmp_path)).names([".txt"]) == ["1.txt"]


def test_an_archive_by_its_own_name_is_what_is_in_it(tmp_path: Path) -> None:
    one = archive(tmp_path / "one.zip", **{"top/1.txt": b"", "top/2.txt": b"", "__MACOSX/top/1.txt": b""})
    two = archive(tmp_path / "two.zip", **{"1.txt": b"", "deep/2.txt": b""})
    assert archived(find_folder(one)).names([".txt"]) == ["1.txt", "2.txt"]
    assert archived(find_folder(two)).names([".txt"]) == ["1.txt", "deep/2.txt"]
    assert archived(find_folder(two / "deep")).names([".txt"]) == ["2.txt"]


def test_images_in_archives_are_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    archive(tmp_path / "p.zip", **{"p/a.png": content, "p/cut.png": content[:40], "p/empty.png": b""})
    folder = open_folder(tmp_path / "p")
    np.testing.assert_array_equal(read_image(folder / "a.png"), pixels)
    assert image_size(folder / "a.png") == (4, 6)
    for name, message in (("cut.png", "damaged|not an image"), ("empty.png", "empty file"), ("no.png", "no file")):
        with pytest.raises(UserError, match=message) as caught:
            read_image(folder / name)
        assert "p.zip" in str(caught.value)


def test_damaged_archives_are_named(tmp_path: Path) -> None:
    whole = archive(tmp_path / "a.zip", **{"a/1.txt": bytes(range(256)) * 40})
    content = bytearray(whole.read_bytes())
    content[60] ^= 255  # in the compressed bytes
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"b/a.zip/a/1.txt' cannot be read from its archive"):
        (open_folder(tmp_path / "b" / "a") / "1.txt").read_bytes()
    (tmp_path / "b" / "a.zip").write_bytes(content[:100])
    with pytest.raises(UserError, match=r"the archive '.*b/a.zip' cannot be read"):
        open_folder(tmp_path / "b" / "a")


def _read(file: ArchivedFile, count: int) -> list[bytes]:
    return [file.read_bytes() for _ in range(count)]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_processes_read_one_archive_at_once(tmp_path: Path) -> None:
    contents = {f"a/{n}.txt": np.random.default_rng(n).bytes(20_000) for n in range(4)}
    archive(tmp_path / "a.zip", **contents)
    folder = open_folder(tmp_path / "a")
    files = [folder / f"{n}.txt" for n in range(4)]
    assert files[0].read_bytes() == contents["a/0.txt"]  # open in this process before the others start
    with multiprocessing.get_context("fork").Pool(3) as pool:
        results = pool.starmap(_read, [(file, 30) for file in files])
    for n, result in enumerate(results):
        assert set(result) == {contents[f"a/{n}.txt"]}
    assert pickle.loads(pickle.dumps(files[2])).read_bytes() == contents["a/2.txt"]


def test_links_that_lead_back_are_not_followed_and_others_are(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1.png").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2.png").touch()
    for name in ("a", "b"):  # two of them would double the listing at every step
        (tmp_path / "data" / name).symlink_to(tmp_path / "data")
    (tmp_path / "data" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    assert open_folder(tmp_path / "data").names([".png"]) == ["1.png", "c/2.png"]


@pytest.mark.parametrize("name", ["a\0/b.png", "\ud800/b.png", "a" * 5000])
def test_names_that_no_file_can_have_are_not_there(tmp_path: Path, name: str) -> None:
    assert not open_folder(tmp_path).exists(name)


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("a.jpg", False),
        ("x/a.jpg", False),
        ("x/../a.jpg", False),
        ("./a.jpg", False),
        ("a..jpg", False),
        ("..a/b.jpg", False),
        ("C:a.jpg", False),  # an ordinary name, except on Windows
        ("{folder}/a.jpg", False),
        ("{folder}/x/../a.jpg", False),
        ("../a.jpg", True),
        ("x/../../a.jpg", True),
        ("/etc/passwd", True),
        ("//etc/passwd", True),
        ("{folder}/../a.jpg", True),
        ("{folder}x/a.jpg", True),
        ("..", True),
        ("x/..", True),
    ],
)
def test_names_stay_below_their_folder(tmp_path: Path, name: str, outside: bool) -> None:
    folder = tmp_path / "images"
    (folder / "x").mkdir(parents=True)
    name = name.format(folder=folder)
    assert leads_outside(name, folder) == outside
    if outside:
        assert not Folder(folder).exists(name)
        with pytest.raises(UserError, match="allow_outside=true"):
            _ = Folder(folder) / name
    assert (open_folder(folder, allow_outside=True) / name) == folder / name


def test_names_are_relative_to_relative_folders_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not leads_outside(f"{tmp_path}/images/a.jpg", "images")
    assert leads_outside("../a.jpg", "images")
    assert leads_outside("../../a.jpg", ".")


def test_absolute_names_may_say_where_a_linked_folder_is(tmp_path: Path) -> None:
    disk, link = tmp_path / "disk" / "images", tmp_path / "images"
    disk.mkdir(parents=True)
    link.symlink_to(disk)
    for folder, other in ((link, disk), (disk, link)):
        assert not leads_outside(f"{other}/a.jpg", folder)
        assert not leads_outside(f"{other}/x/a.jpg", folder)
        assert leads_outside(f"{other}/../a.jpg", folder)
        assert leads_outside(f"{disk.parent}/b/a.jpg", folder)
        assert leads_outside("../images/../a.jpg", folder)
