"""Which folders have the images of validation data, and what the user is told about them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.config import LabelFolderConfig
from mask2former.data.build import build_images
from mask2former.dataset_tools.check_data import check_data
from mask2former.dataset_tools.infer_format import DataPaths, infer_format
from mask2former.errors import OptionError, UserError


def coco(path: Path, name: str, folder: Path | None = None) -> Path:
    """Write a COCO file with one image, which is created in ``folder`` unless that is None."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = {"id": 1, "file_name": name, "height": 4, "width": 4}
    path.write_text(json.dumps({"images": [image], "annotations": [], "categories": [{"id": 1, "name": "a"}]}))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return path


def images_of(path: Path, paths: DataPaths) -> tuple[str, list[str]]:
    """The inferred folder of validation images, and the notes."""
    config, notes = infer_format(path, paths)
    return config.validation[0].images, notes  # type: ignore[union-attr]  (of COCO)


def test_the_folder_that_is_taken_is_said(tmp_path: Path) -> None:
    """A note names the folder that has the validation images: beside the file, the given one, or one beside that."""
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
    with pytest.raises(UserError, match=r"'b\.png', are neither in '.*photos' \(see images\) nor beside that file"):
        infer_format(train, given)


def test_maps_without_names_may_be_maps_of_objects(tmp_path: Path) -> None:
    """ImageJ stores labels as floats; where maps do not look like objects, the error says how to read them as such."""
    for folder, kind in (("images", np.uint8), ("masks", np.float32)):
        (tmp_path / folder).mkdir()
        for number, name in enumerate("ab", start=4):
            values = np.zeros((24, 24), kind)
            for index in range(number if folder == "masks" else 0):
                values[4 * index : 4 * index + 2, 2:8] = index + 1
            Image.fromarray(values).save(tmp_path / folder / f"{name}.tif")
    config, notes = infer_format(tmp_path)
    assert config.name == "id-maps"  # type: ignore[union-attr]
    assert any("one object of the class 'object'" in note for note in notes)
    for name in "ab":
        Image.fromarray(np.ones((24, 24), np.uint8)).save(tmp_path / "masks" / f"{name}.tif")
    with pytest.raises(UserError, match=r"no file with class names.* if each number on a map is an object, .*id-maps"):
        infer_format(tmp_path)


def test_validation_data_that_are_found_are_said_with_their_folder(tmp_path: Path) -> None:
    train = coco(tmp_path / "train.json", "a.png", tmp_path / "train")
    coco(tmp_path / "val.json", "b.png", tmp_path / "val")
    taken, notes = images_of(train, DataPaths())
    assert taken == str(tmp_path / "val")
    assert notes == [f"used for validation: '{tmp_path / 'val.json'}', with the images in '{tmp_path / 'val'}'"]


def test_the_only_file_in_the_folder_for_validation_may_have_any_name(tmp_path: Path) -> None:
    """For a file of COCO and for one of a tool; of several COCO files none is chosen, which is said."""
    for name in ("coco", "labelme"):
        for split, stem in (("train", "train"), ("val", "my-val")):
            files(tmp_path / name / split, f"{stem}.jpg")
            if name == "coco":
                coco(tmp_path / name / split / f"{stem}.json", f"{stem}.jpg")
            else:
                labelme(tmp_path / name / split, f"{stem}.jpg", f"{stem}.json")
        val = tmp_path / name / "val"
        for path in (tmp_path / name, tmp_path / name / "train" / "train.json"):
            config, notes = infer_format(path)
            assert config.validation[0].annotations == str(val / "my-val.json")  # type: ignore[union-attr]
            assert notes == [f"used for validation: '{val / 'my-val.json'}', with the images in '{val}'"]
        (val / "other.json").write_text("{}")
        config, (note, *more) = infer_format(tmp_path / name)
        if name == "coco":
            assert note == (
                f"'{val}' is not used: it contains 2 files (my-val.json, other.json), any of which may be the "
                "validation data"
            )
            assert config.validation == config.train  # type: ignore[union-attr]
        else:
            assert config.validation[0].annotations == str(val)  # type: ignore[union-attr]
        assert any("there is no validation data" in one for one in more) == (name == "coco")


def test_folders_for_validation_may_have_other_names(tmp_path: Path) -> None:
    """Also where one of them is called as that of mask files is, of which each image has its own."""
    train = ("train/images/a.jpg", "train/images/b.jpg", "train/masks/a.png", "train/masks/b.png")
    files(tmp_path, *train, "val/imgs/c.jpg", "val/labels/c.png")
    (tmp_path / "names.txt").write_text("background\ncell\n")
    config, notes = infer_format(tmp_path)
    assert config.validation[0].labels == str(tmp_path / "val" / "labels")  # type: ignore[union-attr]
    assert not any("no validation data" in note for note in notes)


@pytest.mark.parametrize("option", ["images", "labels", "names", "validation"])
def test_parts_of_data_that_name_their_own_are_refused(option: str, tmp_path: Path) -> None:
    """An option is refused where the data file or the named data set already says what it would."""
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [a]\n")
    paths = DataPaths(**{option: tmp_path})
    for source in (tmp_path / "data.yaml", tmp_path):
        with pytest.raises(OptionError, match=f"^{option} is for data whose parts .*data.yaml' names its own; leave"):
            infer_format(source, paths)
    with pytest.raises(OptionError, match=f"^{option} is for data .* the data set 'ade20k' names its own"):
        check_data("ade20k", paths)


def files(folder: Path, *names: str, values: int = 1) -> None:
    """Write images, PNG maps with one value, and empty documents."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith((".txt", ".json", ".xml", ".yaml")):
            path.write_text("{}")
        else:
            shape = (4, 4) if name.endswith(".png") else (4, 4, 3)
            Image.fromarray(np.full(shape, values, np.uint8)).save(path)


def labelme(folder: Path, image: str, name: str = "a.json") -> Path:
    content = {"version": "5", "shapes": [], "imagePath": image, "imageData": None, "imageHeight": 4, "imageWidth": 4}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder / name


def panoptic(folder: Path, name: str, *maps: str) -> Path:
    content = {
        "images": [],
        "annotations": [{"image_id": 1, "file_name": one, "segments_info": []} for one in maps],
        "categories": [{"id": 1, "name": "a", "isthing": 1}],
    }
    (folder / name).write_text(json.dumps(content))
    return folder / name


def test_maps_are_paired_by_the_end_of_their_names(tmp_path: Path) -> None:
    files(tmp_path, *(f"images/img-{n}.jpg" for n in (1, 2)), *(f"masks/mask-{n}.png" for n in (1, 2)))
    (tmp_path / "names.txt").write_text("background\ncell\n")
    config, notes = infer_format(tmp_path, DataPaths())
    assert config.name == "label-folder"  # pyright: ignore[reportAttributeAccessIssue]
    assert "files are matched by name: images img{stem}, maps mask{stem}" in notes


def test_folders_whose_names_do_not_fit_are_kept_as_they_are(tmp_path: Path) -> None:
    """The folders are returned with no pattern of names, and reading them says which files lack a partner."""
    files(tmp_path, "images/a.jpg", "images/b.jpg", "masks/x.png", "masks/y.png")
    (tmp_path / "names.txt").write_text("background\ncell\n")
    config, notes = infer_format(tmp_path, DataPaths())
    assert isinstance(config, LabelFolderConfig)
    assert config.train[0].labels == str(tmp_path / "masks")
    assert (config.image_name, config.label_name) == ("{stem}", "{stem}")
    assert [note for note in notes if "no validation data" not in note] == []
    with pytest.raises(UserError, match=r"no image of '.*images' \(such as a\.jpg\) has a label map .*such as x\.png"):
        build_images(config, "train")


def voc(folder: Path) -> Path:
    files(folder, "SegmentationClass/a.png", "JPEGImages/a.jpg")
    return folder


def test_the_layout_of_voc_has_its_classes_where_it_has_its_boxes(tmp_path: Path) -> None:
    (voc(tmp_path) / "Annotations").mkdir()
    config, notes = infer_format(tmp_path, DataPaths())
    assert config.names == "pascal_voc"  # type: ignore[union-attr]
    assert any("names: pascal_voc" in note for note in notes)


def test_255_is_void_in_the_layout_of_voc_unless_it_is_a_class(tmp_path: Path) -> None:
    files(voc(tmp_path), "SegmentationObject/a.png")
    for names, ignore in (("0 background\n1 cell\n", (255,)), ("0 background\n255 cell\n", ())):
        (tmp_path / "names.txt").write_text(names)
        config, _ = infer_format(tmp_path, DataPaths())
        assert config.ignore == ignore  # type: ignore[union-attr]


def test_validation_data_of_voc_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("background\ncell\n")
    given = DataPaths(names=tmp_path / "names.txt", validation=voc(tmp_path / "held-out"))
    config, notes = infer_format(voc(tmp_path / "mine"), given)
    assert config.validation[0].images == str(tmp_path / "held-out" / "JPEGImages")  # type: ignore[union-attr]
    assert not any("no validation data" in note for note in notes)
    with pytest.raises(UserError, match="has no folder 'SegmentationClass'"):
        infer_format(tmp_path / "mine", DataPaths(names=given.names, validation=tmp_path))


@pytest.mark.parametrize(
    ("option", "kind"), [("names", "coco-instance"), ("labels", "labelme"), ("images", "mask-files")]
)
def test_parts_that_a_format_does_not_have_are_refused(option: str, kind: str, tmp_path: Path) -> None:
    if kind == "coco-instance":
        coco(tmp_path / "train.json", "a.png", tmp_path / "train")
    elif kind == "labelme":
        files(tmp_path, "a.jpg")
        labelme(tmp_path, "a.jpg")
    else:
        files(tmp_path, "train/a/images/a.png", "train/a/masks/1.png")
    with pytest.raises(OptionError, match=f"{option} does not apply to '.*', which is in the format {kind}; leave out"):
        infer_format(tmp_path, DataPaths(**{option: tmp_path}))


def test_lists_of_voc_that_are_not_used_are_noted(tmp_path: Path) -> None:
    lists = voc(tmp_path) / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (tmp_path / "names.txt").write_text("background\n")
    for name in ("train", "test"):
        (lists / f"{name}.txt").write_text("a\n")
    config, notes = infer_format(tmp_path, DataPaths())
    assert config.train[0].split is None  # type: ignore[union-attr]
    assert any("are not used (test.txt, train.txt), so all images are training data" in note for note in notes)


def test_a_folder_is_what_the_file_in_it_is(tmp_path: Path) -> None:
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "data.yaml").write_text("train: images\nval: images\nnames: [a]\n")
    config, notes = infer_format(tmp_path / "yolo", DataPaths())
    assert (config.name, notes) == ("yolo", [])  # pyright: ignore[reportAttributeAccessIssue]
    coco(tmp_path / "coco" / "mine.json", "a.png", tmp_path / "coco" / "images")
    assert infer_format(tmp_path / "coco", DataPaths())[0].name == "coco-instance"  # pyright: ignore
    (tmp_path / "coco" / "area.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    assert infer_format(tmp_path / "coco", DataPaths())[0].name == "coco-instance"  # pyright: ignore
    files(tmp_path, "cvat/a.png")
    xml = "<annotations><image id='0' name='a.png' width='4' height='4'></image></annotations>"
    (tmp_path / "cvat" / "annotations.xml").write_text(xml)
    assert infer_format(tmp_path / "cvat", DataPaths())[0].name == "cvat"  # pyright: ignore
    names = tmp_path / "names.txt"
    names.write_text("a\n")
    files(tmp_path / "labelme", "a.jpg")
    labelme(tmp_path / "labelme", "a.jpg")
    for part in ("ds", "val"):
        files(tmp_path / "tiles" / part, "ann/a.jpg.json", "img/a.jpg")
    (tmp_path / "tiles" / "meta.json").write_text('{"classes": [], "tags": []}')
    for name, kind in (("labelme", "labelme"), ("tiles", "supervisely")):
        config, _ = infer_format(tmp_path / name, DataPaths(names=names))
        assert (config.name, config.names) == (kind, str(names))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: files(folder, "SegmentationClass/a.png"), r"JPEGImages.*--images"),
        (voc, r"labelmap\.txt.*--names is pascal_voc"),
        (lambda folder: files(folder, "meta.json", "a.txt"), r"meta\.json.*'ann' and 'img'"),
        (lambda folder: labelme(folder, "none.jpg"), r"'none\.jpg'.*--images"),
        (lambda folder: (folder / "x.json").write_text('{"images": [], "annotations": []}'), "lists no images"),
        (lambda folder: panoptic(folder, "x.json", "none.png"), r"'none\.png'.*--labels"),
    ],
)
def test_what_is_missing_is_named_with_its_option(make: Callable[[Path], Any], words: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(UserError) as refused:
        infer_format(tmp_path, DataPaths())
    error = refused.value
    told = error.sentence(lambda name: f"--{name}") if isinstance(error, OptionError) else str(error)
    assert re.search(words, told)
    assert " --" not in str(error)  # in Python


def test_validation_data_must_be_of_the_same_kind(tmp_path: Path) -> None:
    train = coco(tmp_path / "train.json", "a.png", tmp_path / "train")
    files(tmp_path, "held-out/a.png", "images/a.jpg")
    other = panoptic(tmp_path, "held-out.json", "a.png")
    with pytest.raises(
        UserError, match=r"train\.json' is in coco-instance format.*held-out\.json' is in coco-panoptic"
    ):
        infer_format(train, DataPaths(validation=other))
    files(tmp_path / "maps", "images/a.jpg", "labels/a.png", "names.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty' has no folders 'images' and 'labels'"):
        infer_format(tmp_path / "maps", DataPaths(validation=tmp_path / "empty"))
