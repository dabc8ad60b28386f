"""Which folders have the images of validation data, and what the user is told about them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mask2former.dataset_tools.check_data import check_data
from mask2former.dataset_tools.infer_format import DataPaths, infer_format
from mask2former.errors import OptionError, UserError


def coco(path: Path, name: str, folder: Path | None = None) -> Path:
    """A COCO file of one image, which is in a folder unless that is None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = {"id": 1, "file_name": name, "height": 4, "width": 4}
    path.write_text(json.dumps({"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return path


def images_of(path: Path, paths: DataPaths) -> tuple[str, list[str]]:
    """The folder of the validation images, and the notes."""
    config, notes = infer_format(path, paths)
    return config.validation[0].images, notes  # type: ignore[union-attr]  (of COCO)


def test_the_folder_that_is_taken_is_said(tmp_path: Path) -> None:
    """Beside the named one of the training images, in it, or beside the file: where the images are."""
    train = coco(tmp_path / "train.json", "a.png", tmp_path / "photos" / "train")
    given = DataPaths(images=tmp_path / "photos" / "train", validation=tmp_path / "other" / "held-out.json")
    assert given.validation is not None
    for folder in (tmp_path / "other" / "images", tmp_path / "photos" / "train", tmp_path / "photos" / "val"):
        coco(given.validation, "b.png", folder)
        taken, notes = images_of(train, given)
        assert taken == str(folder)
        assert notes == [f"used for validation: '{given.validation}', with the images in '{folder}'"]


def test_images_that_are_nowhere_are_not_looked_for_among_those_of_training(tmp_path: Path) -> None:
    train = coco(tmp_path / "train.json", "a.png", tmp_path / "photos")
    given = DataPaths(images=tmp_path / "photos", validation=coco(tmp_path / "other" / "held-out.json", "b.png"))
    with pytest.raises(UserError, match=r"'b\.png', are neither in '.*photos' \(see --images\) nor beside that file"):
        infer_format(train, given)


def test_validation_data_that_are_found_are_said_with_their_folder(tmp_path: Path) -> None:
    train = coco(tmp_path / "train.json", "a.png", tmp_path / "train")
    coco(tmp_path / "val.json", "b.png", tmp_path / "val")
    taken, notes = images_of(train, DataPaths())
    assert taken == str(tmp_path / "val")
    assert notes == [f"used for validation: '{tmp_path / 'val.json'}', with the images in '{tmp_path / 'val'}'"]


@pytest.mark.parametrize("option", ["images", "labels", "names", "validation"])
def test_parts_of_data_that_name_their_own_are_refused(option: str, tmp_path: Path) -> None:
    """They were left aside without a word."""
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [a]\n")
    paths = DataPaths(**{option: tmp_path})
    for source in (tmp_path / "data.yaml", tmp_path):
        with pytest.raises(OptionError, match=f"^{option} is for data whose parts .*data.yaml' names its own; leave"):
            infer_format(source, paths)
    with pytest.raises(OptionError, match=f"^{option} is for data .* the data set 'ade20k' names its own"):
        check_data("ade20k", paths)
