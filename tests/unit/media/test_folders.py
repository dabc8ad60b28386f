from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former.data.datasets.mask_folders import MaskFolders
from mask2former.data.datasets.yolo import YoloPolygons, read_yolo
from mask2former.dataset_tools.infer_format import infer_format
from mask2former.dataset_tools.prepare.stages import images_in
from mask2former.errors import UserError
from mask2former.media.archives import find_folder, open_folder
from mask2former.media.folders import list_folder, walk_folder
from mask2former.media.frames import open_frames
from mask2former.media.images import list_images
from mask2former.notes import collect_notes


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """A function that makes a folder impossible to list, even for root, whom permissions do not stop."""
    scandir, locked = os.scandir, set()

    def refuse(path: str | os.PathLike[str] = ".") -> object:
        if os.path.abspath(path) in locked:
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    return lambda folder: locked.add(os.path.abspath(folder))


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)


def test_what_is_in_a_folder_is_listed(tmp_path: Path) -> None:
    for name in ("b/c.png", "a.png", ".hidden/d.png", "lost+found/e.png"):
        _image(tmp_path / name)
    assert [path.name for path in list_folder(tmp_path)] == [".hidden", "a.png", "b", "lost+found"]
    found = [os.path.join(parent, leaf) for parent, _, leaves in walk_folder(tmp_path) for leaf in leaves]
    assert found == [str(tmp_path / "a.png"), str(tmp_path / "b" / "c.png")]
    with pytest.raises(UserError, match="there is no folder"):
        list_folder(tmp_path / "nowhere")


def test_no_reader_leaves_out_a_folder_that_cannot_be_read(tmp_path: Path, lock: Callable[[Path], None]) -> None:
    for split in ("train", "val"):
        _image(tmp_path / "images" / split / "a.png")
        _image(tmp_path / "images" / split / "more" / "b.png")
        _image(tmp_path / "masks" / split / "deep" / "a.png")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [thing]\n")
    locked = tmp_path / "images" / "train" / "more"
    lock(locked)
    lock(tmp_path / "masks" / "train" / "deep")
    readers: tuple[Callable[[], object], ...] = (
        lambda: open_folder(tmp_path / "images").names([".png"]),
        lambda: YoloPolygons(read_yolo(tmp_path / "data.yaml"), "train"),
        lambda: list(images_in(tmp_path / "images", ".png")),
        lambda: MaskFolders(tmp_path / "images", locked),
        lambda: open_frames(locked),
    )
    for read in readers:
        with pytest.raises(UserError, match=r"the folder '.*more' cannot be read \(Permission denied\), so"):
            read()
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(UserError, match=r"the folder '.*(deep|more)' cannot be read"):
        infer_format(tmp_path)


def test_labels_beside_images_are_not_left_out(tmp_path: Path, lock: Callable[[Path], None]) -> None:
    for split in ("train", "val"):
        _image(tmp_path / "images" / split / "a.png")
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / "a.txt").write_text("0 .1 .1 .9 .1 .9 .9\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [thing]\n")
    lock(tmp_path / "labels" / "train")
    with pytest.raises(UserError, match="cannot be read"):
        YoloPolygons(read_yolo(tmp_path / "data.yaml"), "train")


def test_where_skipping_is_the_design_it_is_noted(tmp_path: Path, lock: Callable[[Path], None]) -> None:
    _image(tmp_path / "a.png")
    _image(tmp_path / "more" / "b.png")
    lock(tmp_path / "more")
    with collect_notes() as notes:
        assert [path.name for path, _ in list_images([tmp_path])] == ["a.png"]
        assert find_folder(tmp_path / "more" / "archived") is None
    assert [message for message, _ in notes] == ["folders that cannot be read"] * 2
