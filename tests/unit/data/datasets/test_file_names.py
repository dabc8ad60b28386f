"""How annotation files that name no image find it."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from mask2former.data.datasets.file_names import Stems
from mask2former.errors import UserError
from mask2former.media.archives import Folder, find_folder

NAMES = ("a.tif", "b/a.TIF", "b/c.ome.tif", "d.png", "e.Png", "f.txt", "s_rois.png")
FOUND = {
    "a": "a.tif",
    "b/a": "b/a.TIF",
    "a_rois": "a.tif",
    "z/a": "a.tif",
    "b/c": "b/c.ome.tif",
    "b/c.ome": "b/c.ome.tif",
    "c": None,
    "d.png": "d.png",
    "e": "e.Png",
    "f": None,
    "s_rois": "s_rois.png",
}


def folder_of(root: Path, *names: str, archived: bool = False) -> Folder:
    if archived:
        with zipfile.ZipFile(root / "images.zip", "w") as archive:
            for name in names:
                archive.writestr(f"images/{name}", b"")
    else:
        for name in names:
            (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "images" / name).touch()
    folder = find_folder(root / "images")
    assert folder is not None
    return folder


@pytest.mark.parametrize("archived", [False, True])
def test_images_are_found_by_their_names_without_suffix(tmp_path: Path, archived: bool) -> None:
    stems = Stems(folder_of(tmp_path, *NAMES, archived=archived), ("_rois",))
    assert {stem: stems.find(stem) for stem in FOUND} == FOUND


@pytest.mark.parametrize(
    ("others", "archived"),
    [
        (("a.tif", "a.TIF"), True),  # not in a folder, which may be on a file system that ignores case
        (("a.tif", "a.png"), False),
        (("a.tif", "a.png"), True),
        (("a.ome.tif", "a.tif"), False),
        (("a.ome.tif", "a.tif"), True),
    ],
)
def test_two_images_of_one_name_are_an_error(tmp_path: Path, others: tuple[str, str], archived: bool) -> None:
    folder = folder_of(tmp_path, *others, archived=archived)
    with pytest.raises(UserError, match=r"'a' may belong to 2 images in .*images' \("):
        Stems(folder).find("a")


def test_a_folder_is_listed_once_and_no_file_is_examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stems = Stems(folder_of(tmp_path, *(f"{number}.tif" for number in range(9))), ("_rois",))
    listed, list_folder = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(str(path)) or list_folder(path))
    monkeypatch.setattr(os.path, "isfile", lambda path: pytest.fail(f"{path} was examined"))
    assert [stems.find(f"{number}_rois") for number in range(9)] == [f"{number}.tif" for number in range(9)]
    assert stems.find("none") is None
    assert listed == [str(tmp_path / "images")]
