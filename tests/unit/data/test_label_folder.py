"""Label maps beside images: names, numbers, pairs, and void that remains void."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset

from mask2former.config import DataConfig, DatasetConfig, LabelFolderConfig, parse
from mask2former.data.build import build_images, build_training_set
from mask2former.data.datasets.class_names import read_names
from mask2former.data.datasets.label_folder import LabelFolder
from mask2former.data.datasets.pairs import Names
from mask2former.data.loading.sampling import Draw
from mask2former.data.loading.training_set import TrainingSet
from mask2former.data.sample_sets import as_reader
from mask2former.errors import UserError
from mask2former.structures import Categories

CLASSES = Categories.from_dict(
    {"categories": [{"id": 10, "name": "road"}, {"id": 3, "name": "car"}, {"id": 300, "name": "sky"}]}
)


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def random_image(path: Path, size: tuple[int, int] = (4, 6)) -> Path:
    return save(path, np.full((*size, 3), 120, dtype=np.uint8))


def label_map() -> np.ndarray:
    numbers = np.full((4, 6), 10, dtype=np.uint16)
    numbers[:2, :2], numbers[3], numbers[0, 5] = 3, 300, 255
    return numbers


def ground_truth(samples: LabelFolder) -> np.ndarray:
    """The semantic ground truth of the first image."""
    found = samples.ground_truths(0, ["semantic"])["semantic"]
    assert isinstance(found, np.ndarray)
    return found


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The folders of two images and of their label maps, one of each in a subfolder."""
    for name in ("one", "deep/two"):
        random_image(tmp_path / "images" / f"{name}.jpg")
        save(tmp_path / "labels" / f"{name}.png", label_map())
    return tmp_path / "images", tmp_path / "labels"


def test_numbers_become_classes_and_ignored_ones_stay_void(folders: tuple[Path, Path]) -> None:
    samples = LabelFolder([folders], CLASSES)
    assert [samples.image_id(index) for index in range(len(samples))] == ["deep/two", "one"]
    expected = np.select([label_map() == 10, label_map() == 3, label_map() == 300], [0, 1, 2], 255)
    assert (ground_truth(samples) == expected).all()
    target = samples[1].target
    assert target is not None
    assert target.labels.tolist() == [0, 1, 2]
    for label, mask in zip(target.labels, target.masks[:, 0], strict=True):
        assert torch.equal(mask, torch.from_numpy(expected == int(label)))
    assert not target.masks[:, 0, 0, 5].any()  # the ignored pixel has no class
    assert samples.annotated(1).semantic


def test_readers_that_are_joined_keep_void(folders: tuple[Path, Path]) -> None:
    joined: Any = ConcatDataset([LabelFolder([folders], CLASSES)] * 2)  # pyright: ignore[reportArgumentType]
    joined.categories = CLASSES
    known = LabelFolder([folders], CLASSES).annotated(1, with_ignored=True).ignored
    assert known is not None
    assert known.any()
    target = TrainingSet(as_reader(joined), with_ignored=True)[Draw(3, 0)].target
    assert target is not None
    assert target.ignored is not None
    np.testing.assert_array_equal(target.ignored[0], known)
    without = TrainingSet(as_reader(joined))[Draw(3, 0)].target
    assert without is not None
    assert without.ignored is None


@pytest.mark.parametrize("kind", ["8-bit", "palette", "1-bit", "tiff"])
def test_every_kind_of_label_map(tmp_path: Path, kind: str) -> None:
    numbers = np.zeros((4, 6), dtype=np.uint8)
    numbers[1:3, 2:] = 1
    random_image(tmp_path / "x" / "a.jpg")
    (tmp_path / "y").mkdir()
    image = Image.fromarray(numbers)
    if kind == "palette":
        image = Image.fromarray(numbers).convert("P")
        image.putpalette([255, 0, 0, 0, 255, 0])
        image.frombytes(numbers.tobytes())
    elif kind == "1-bit":
        image = Image.fromarray(numbers.astype(bool))
    image.save(tmp_path / "y" / ("a.tif" if kind == "tiff" else "a.png"))
    samples = LabelFolder([(tmp_path / "x", tmp_path / "y")], Categories.from_names(["back", "front"]))
    assert (ground_truth(samples) == numbers).all()


def test_void_is_in_no_mask_after_augmentation_either(folders: tuple[Path, Path]) -> None:
    names = folders[0].parent / "names.json"
    names.write_text(json.dumps({"10": "road", "3": "car", "300": "sky"}))
    files = [{"images": str(folders[0]), "labels": str(folders[1])}]
    dataset = {"name": "label-folder", "train": files, "validation": files, "names": str(names)}
    jitter = {"name": "large-scale-jitter", "image_size": [32, 32], "min_scale": 1.0, "max_scale": 1.0, "flip": "none"}
    config = parse(DataConfig, {"dataset": dataset, "augmentation": jitter}, "test")
    sample = build_training_set(config)[Draw(0, 0)]
    assert sample.target is not None
    masks = sample.target.masks[:, 0]
    assert masks.any()
    assert not masks[:, :5, 27:].any()  # the top right pixel, enlarged
    assert sample.target.ignored is None
    target = build_training_set(config, with_ignored=True)[Draw(0, 0)].target
    assert target is not None
    assert target.ignored is not None
    assert torch.equal(target.masks, sample.target.masks)
    assert target.ignored[0, :5, 27:].all()
    shown = (sample.image[0] != 128).any(dim=0)
    assert torch.equal(target.ignored[0], shown & ~masks.any(dim=0))  # all but padding and classes
    assert (masks.sum(dim=0) <= 1).all()


def test_many_classes_leave_255_to_a_class(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("\n".join(f"class {number}" for number in range(300)))
    assert read_names(tmp_path / "n.txt").ignore_label == 65535
    random_image(tmp_path / "x" / "a.jpg", (2, 2))
    save(tmp_path / "y" / "a.png", np.array([[254, 255], [299, 700]], dtype=np.uint16))
    samples = LabelFolder([(tmp_path / "x", tmp_path / "y")], read_names(tmp_path / "n.txt"), ignore=[700])
    assert ground_truth(samples).tolist() == [[254, 255], [299, 65535]]


def test_an_undeclared_number_is_named_with_its_file(folders: tuple[Path, Path]) -> None:
    samples = LabelFolder([folders], CLASSES, ignore=[])
    with pytest.raises(UserError, match=r"two\.png' contains the numbers 1 \(255\), which are not classes"):
        samples.ground_truths(0, ["semantic"])
    with pytest.raises(UserError, match=r"are classes \(car, road\) and also ignored"):
        LabelFolder([folders], CLASSES, ignore=[10, 3])


def test_colours_are_refused_with_advice(folders: tuple[Path, Path]) -> None:
    save(folders[1] / "one.png", np.zeros((4, 6, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"one\.png' is an image of mode RGB.*class numbers instead of colours"):
        LabelFolder([folders], CLASSES).annotated(1)


def test_other_sizes_are_refused(folders: tuple[Path, Path]) -> None:
    save(folders[1] / "one.png", np.full((6, 4), 10, dtype=np.uint8))
    samples = LabelFolder([folders], CLASSES)
    for read in (samples.annotated, lambda index: samples.ground_truths(index, ["semantic"])):
        with pytest.raises(UserError, match="height and width are swapped"):
            read(1)


def test_pairs(folders: tuple[Path, Path]) -> None:
    images, labels = folders
    random_image(images / "three.jpg")
    with pytest.raises(
        UserError, match=r"images without a label map: 1 \(three\.jpg\); .*unpaired=skip in 'dataset' of a run file"
    ):
        LabelFolder([folders], CLASSES)
    samples = LabelFolder([folders], CLASSES, files=Names(unpaired="skip"))
    assert len(samples) == 2
    assert "three.jpg" in samples.notes[0]
    (images / "three.jpg").rename(images / "deep" / "three.jpg")
    save(labels / "three.png", label_map())  # in another folder, so another image
    with pytest.raises(UserError, match="without a label map"):
        LabelFolder([folders], CLASSES)
    random_image(images / "one.png")
    with pytest.raises(UserError, match=r"'one\.jpg' and 'one\.png'|'one\.png' and 'one\.jpg'"):
        LabelFolder([folders], CLASSES, files=Names(unpaired="skip"))


def test_side_by_side_and_with_a_suffix(tmp_path: Path) -> None:
    for name in ("a", "b"):
        random_image(tmp_path / "plain" / f"{name}.jpg")
        save(tmp_path / "plain" / f"{name}.png", label_map())
        random_image(tmp_path / "suffix" / f"{name}.png")
        save(tmp_path / "suffix" / f"{name}_mask.png", label_map())
    for folder, suffix in ((tmp_path / "plain", ""), (tmp_path / "suffix", "_mask")):
        samples = LabelFolder([(folder, folder)], CLASSES, files=Names(label="{stem}" + suffix))
        assert [samples.image_id(index) for index in range(len(samples))] == ["a", "b"]
        assert ground_truth(samples).max() == 255
    with pytest.raises(UserError, match=r"no image .* label_name"):
        LabelFolder([(tmp_path / "suffix", tmp_path / "plain")], CLASSES, files=Names(label="{stem}_mask"))


def test_by_configuration(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("10,road\n3,car\n300,sky\n")
    files = [{"images": str(folders[0]), "labels": str(folders[1])}]
    values = {"name": "label-folder", "train": files, "validation": files, "names": str(tmp_path / "names.csv")}
    config: DatasetConfig = parse(DataConfig, {"dataset": values}, "test").dataset
    assert isinstance(config, LabelFolderConfig)
    samples = build_images(config, "validation")
    assert (samples.categories.names, len(samples)) == (("road", "car", "sky"), 2)


def test_files_without_the_suffix_of_label_maps_are_told(tmp_path: Path) -> None:
    random_image(tmp_path / "x" / "a.jpg")
    save(tmp_path / "y" / "a_mask.png", label_map())
    save(tmp_path / "y" / "a_depth.png", label_map())
    samples = LabelFolder([(tmp_path / "x", tmp_path / "y")], CLASSES, files=Names(label="{stem}_mask"))
    assert len(samples) == 1
    assert any("names do not match {stem}_mask: 1 (a_depth.png)" in note for note in samples.notes)


def test_255_is_ignored_unless_it_is_a_class(tmp_path: Path) -> None:
    random_image(tmp_path / "x" / "a.jpg", (2, 2))
    save(tmp_path / "y" / "a.png", np.array([[0, 255], [255, 0]], dtype=np.uint8))
    classes = Categories.from_dict({"categories": [{"id": 0, "name": "back"}, {"id": 255, "name": "cell"}]})
    assert ground_truth(LabelFolder([(tmp_path / "x", tmp_path / "y")], classes)).tolist() == [[0, 1], [1, 0]]
    assert (
        ground_truth(LabelFolder([(tmp_path / "x", tmp_path / "y")], CLASSES, ignore=[0, 255])).tolist()
        == [[255] * 2] * 2
    )


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([[10000, 10001], [3002, 10000]], "1000 times the class plus an object number: keep only the class"),
        ([[11, 12], [13, 14]], "only on edges, as if the label map had been resized or saved with smoothing"),
        ([[9, 9], [9, 9]], r"\(dataset.ignore\)$"),
    ],
)
def test_numbers_that_are_no_classes_come_with_a_hint(tmp_path: Path, numbers: list[list[int]], words: str) -> None:
    random_image(tmp_path / "x" / "a.jpg", (2, 2))
    save(tmp_path / "y" / "a.png", np.array(numbers, dtype=np.uint16))
    with pytest.raises(UserError, match=words):
        LabelFolder([(tmp_path / "x", tmp_path / "y")], CLASSES).ground_truths(0, ["semantic"])


def test_ignored_colours_are_void_and_no_classes(tmp_path: Path) -> None:
    painted = np.zeros((4, 6, 3), dtype=np.uint8)
    painted[0], painted[1] = (10, 20, 30), (1, 1, 1)
    random_image(tmp_path / "images" / "a.png")
    save(tmp_path / "labels" / "a.png", painted)
    (tmp_path / "names.csv").write_text("name,r,g,b\nsky,0,0,0\nvoid,1,1,1\nroad,10,20,30\n")
    folders = {"images": str(tmp_path / "images"), "labels": str(tmp_path / "labels")}
    values = {"name": "label-folder", "names": str(tmp_path / "names.csv"), "train": [folders], "validation": []}
    dataset = parse(DataConfig, {"dataset": {**values, "encoding": "colors", "ignore": [1]}}, "test").dataset
    samples = build_images(dataset, "train")
    assert samples.categories.names == ("sky", "road")
    found = samples.annotated(0, with_ignored=True)
    assert found.labels.tolist() == [0, 1]
    assert found.ignored is not None
    assert found.ignored.any(axis=1).tolist() == [False, True, False, False]
    dataset = parse(DataConfig, {"dataset": {**values, "encoding": "colors", "ignore": [0, 1, 2]}}, "test").dataset
    with pytest.raises(UserError, match=r"all classes of .* are ignored"):
        build_images(dataset, "train")


def test_the_suffix_of_0_1_is_a_name_now() -> None:
    files = [{"images": "x", "labels": "y"}]
    values = {"name": "label-folder", "train": files, "validation": files, "names": "n.txt", "label_suffix": "_mask"}
    config = parse(DataConfig, {"dataset": values}, "test").dataset
    assert isinstance(config, LabelFolderConfig)
    assert config.label_name == "{stem}_mask"
    with pytest.raises(UserError, match="'label_suffix' is the old form of 'label_name', but both are set"):
        parse(DataConfig, {"dataset": {**values, "label_name": "{stem}"}}, "test")
