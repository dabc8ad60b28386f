"""YOLO's polygons: paths in its file, the meaning of its lines, and every kind of error in them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former import limits
from mask2former.config import DataConfig, parse
from mask2former.data.build import build_images
from mask2former.data.datasets.yolo import YoloPolygons, read_yolo
from mask2former.errors import UserError
from mask2former.notes import collect_notes
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures.ground_truth import InstanceGroundTruth

YAML = "train: images/train\nval: images/val\nnames: {0: cell, 1: dirt}\n"
SQUARE = "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n"


def write(root: Path, lines: str | None = SQUARE, data: str = YAML, size: tuple[int, int] = (20, 40)) -> Path:
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        for name in ("a", "b"):
            Image.new("RGB", (size[1], size[0])).save(root / "images" / split / f"{name}.jpg")
        if lines is not None:
            (root / "labels" / split / "a.txt").write_text(lines)
    (root / "data.yaml").write_text(data)
    return root / "data.yaml"


def samples_of(root: Path, **options: object) -> YoloPolygons:
    return YoloPolygons(read_yolo(root / "data.yaml"), "train", **options)  # type: ignore[arg-type]


def test_corners_are_shares_of_width_and_height(tmp_path: Path) -> None:
    write(tmp_path, SQUARE + "1 0 0 0.5 0 0.5 0.5 0 0.5\n")
    samples = samples_of(tmp_path)
    assert samples.num_objects.tolist() == [2, 0]
    annotated = samples.annotated(0)
    assert annotated.labels.tolist() == [0, 1]
    assert annotated.polygons[0][0].tolist() == [[10, 5], [30, 5], [30, 15], [10, 15]]
    ground_truth = samples.ground_truths(0, ["instance"])["instance"]
    assert isinstance(ground_truth, InstanceGroundTruth)
    expected = np.zeros((2, 20, 40), dtype=bool)
    expected[0, 5:15, 10:30], expected[1, :10, :20] = True, True
    assert (SparseMasks.of(ground_truth.masks).dense() == expected).all()
    assert samples.ground_truths(1, ["instance"])["instance"].masks.shape == (0, 20, 40)  # type: ignore[union-attr]
    assert "without a text file" in samples.notes[0]
    assert len(samples_of(tmp_path, filter_empty=True)) == 1


@pytest.mark.parametrize(
    ("path", "train"),
    [
        ("", "images/train"),
        ("path: .\n", "images/train"),
        ("path: data\n", "images/train"),  # the name of the folder itself
        ("path: /content/elsewhere\n", "images/train"),  # of another machine
        ("", "../images/train"),
        ("", "[images/train]"),
        ("", "images/train.txt"),
    ],
)
def test_where_images_are(tmp_path: Path, path: str, train: str) -> None:
    root = tmp_path / "data"
    file = write(root, data=f"{path}train: {train}\nval: images/val\nnames: [cell]\n")
    (root / "images" / "train.txt").write_text("train/a.jpg\ntrain/b.jpg\n")
    assert len(YoloPolygons(read_yolo(file), "train")) == 2
    assert len(YoloPolygons(read_yolo(file), "validation")) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("- 3\n", "not a data.yaml"),
        ("train: images/train\nval: images/val\n", "not a data.yaml"),
        ("train: images/train\nnames: [a]\n", "no validation images"),
        ("train: images/tarin\nval: images/val\nnames: [a]\n", "there is no 'images/tarin'"),
        ("train: images/train\nval: images/val\nnames: 3\n", "'names' must be"),
        ("train: images/train\nval: images/val\nnames: {a: b}\n", "'names' must be"),
        ("train: {\n", "not valid YAML"),
        ("train: 3\nval: images/val\nnames: [a]\n", "3 is not a path"),
    ],
)
def test_broken_data_files_are_named(tmp_path: Path, data: str, message: str) -> None:
    write(tmp_path, data=data)
    with pytest.raises(UserError, match=message) as error:
        read_yolo(tmp_path / "data.yaml")
    assert "data.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "0 0.5 0.5 0.2 0.2",
            r"boxes, not polygons: 1 .*a\.txt', line 2.*YOLO segmentation.*missing_masks=skip in 'dataset' of a run",
        ),
        ("2 0.1 0.1 0.2 0.1 0.2 0.2", "line 2: class 2 is not among the 2 names"),
        ("0.5 0.1 0.1 0.2 0.1 0.2 0.2", "class 0.5"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.3", "7 coordinates, which do not form pairs"),
        ("0 10 10 20 10 20 20", "from 10 to 20; expected fractions"),
        ("cell 0.1 0.1 0.2 0.1 0.2 0.2", "expected a class number"),
        ("0 nan 0.1 0.2 0.1 0.2 0.2", "expected a class number"),
        ("0", "expected a class number"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    write(tmp_path, f"{SQUARE}{line}\n")
    with pytest.raises(UserError, match=message):
        samples_of(tmp_path)


def test_boxes_can_be_left_out_and_flat_polygons_are(tmp_path: Path) -> None:
    write(tmp_path, f"{SQUARE}0 0.5 0.5 0.2 0.2\n0 0.1 0.1 0.5 0.1 0.9 0.1\n\n")
    samples = samples_of(tmp_path, missing_masks="skip")
    assert samples.num_objects.tolist() == [1, 0]
    assert any("only a box: 1" in note for note in samples.notes)
    assert any("without any area: 1" in note for note in samples.notes)


def test_the_ground_truth_is_sparse_and_has_the_objects_with_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, SQUARE + "1 0.901 0.901 0.902 0.901 0.902 0.902\n")
    monkeypatch.setattr("mask2former.limits.MASK_VALUES", 20 * 40)  # one dense mask
    with collect_notes() as notes:
        ground_truth = samples_of(tmp_path).ground_truths(0, ["instance"])["instance"]
    assert isinstance(ground_truth, InstanceGroundTruth)
    assert (len(ground_truth.masks), ground_truth.labels.tolist()) == (1, [0])
    assert [note.example.rpartition("' ")[2] for note in notes] == ["(1 of 2 objects)"]


def test_no_text_file_at_all_is_refused(tmp_path: Path) -> None:
    write(tmp_path, lines=None)
    with pytest.raises(UserError, match=r"none of the 2 images .*'images' and 'labels' side by side"):
        samples_of(tmp_path)


def test_by_configuration(tmp_path: Path) -> None:
    values = {"name": "yolo", "data": str(write(tmp_path))}
    config = parse(DataConfig, {"dataset": values}, "test").dataset
    samples = build_images(config, "train", filter_empty=True)
    assert (samples.categories.names, len(samples)) == (("cell", "dirt"), 1)


def test_more_objects_than_can_be_read_in_time_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OBJECTS", 2)
    write(tmp_path, SQUARE * 2)
    assert len(samples_of(tmp_path).annotated(0).labels) == 2
    write(tmp_path, SQUARE * 3)
    with pytest.raises(
        UserError, match=r"'a\.jpg' has too many objects: 3; at most 2 are supported; cut the image into tiles"
    ):
        samples_of(tmp_path).annotated(0)


def test_hidden_images_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "images/train/._a.jpg").write_bytes(b"what some systems put into archives")
    assert [samples_of(tmp_path).file(index).name for index in range(2)] == ["a.jpg", "b.jpg"]


def test_ids_tell_images_of_one_name_apart(tmp_path: Path) -> None:
    write(tmp_path)
    assert [samples_of(tmp_path).image_id(index) for index in range(2)] == ["a", "b"]
    (tmp_path / "images/train/night").mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / "images/train/night/a.jpg")
    samples = samples_of(tmp_path)
    assert sorted(samples.image_id(index) for index in range(3)) == ["a", "b", "night/a"]


POSE_3 = "0 0.5 0.5 0.4 0.6 0.4 0.3 2 0.6 0.7 1 0 0 0\n"  # 5 + 3 k
POSE_3_EVEN = "0 0.5 0.5 0.4 0.6 0.4 0.3 2 0.6 0.7 1\n"
POSE_2 = "0 0.5 0.5 0.4 0.6 0.4 0.3 0.6 0.7 0.5 0.5\n"  # 5 + 2 k
QUAD = "0 0.2 0.2 0.8 0.25 0.75 0.8 0.15 0.7\n"


@pytest.mark.parametrize("line", [POSE_3, POSE_3_EVEN])
def test_keypoints_with_visibility_are_refused(tmp_path: Path, line: str) -> None:
    write(tmp_path, line * 3)
    with pytest.raises(UserError, match=r"keypoints x, y, visibility \(pose\): 3 .*export polygons"):
        samples_of(tmp_path)


def test_a_polygon_along_the_rims_is_no_line_of_keypoints(tmp_path: Path) -> None:
    line = "0 0.5 0.5 1 1 0 0.5 1 0.2 0.8\n".replace("0.2 0.8", "0.5 0.5 1")  # ends in x, y, 1 twice
    write(tmp_path, SQUARE * 30 + line)
    assert samples_of(tmp_path).num_objects.tolist() == [31, 0]


@pytest.mark.parametrize("shape", ["[17, 3]", "[17, 2]"])
def test_data_files_of_keypoints_are_refused(tmp_path: Path, shape: str) -> None:
    write(tmp_path, POSE_2, YAML + f"kpt_shape: {shape}\n")
    with pytest.raises(UserError, match=r"'kpt_shape' and is for keypoints \(pose\); .*export polygons"):
        read_yolo(tmp_path / "data.yaml")


@pytest.mark.parametrize(
    ("lines", "note"),
    [
        (POSE_2 * 3, r"3 of 3 lines have, as the first four numbers after the class, a box around the others"),
        (QUAD * 3, r"all 3 lines have 8 numbers after the class and are read as polygons of four corners"),
        (QUAD * 2 + POSE_2, None),
        (QUAD, None),
        (QUAD.replace("0.15", "-0.015") + POSE_2, r"moved corners beyond the image, .*: 1 \(.*a\.txt', line 1\)"),
        (QUAD.replace("0.15", "-0.00001") + POSE_2, None),
        (SQUARE + "0 0.1 0.1 0.2 0.2 0.6 0.6\n", r"without any area: 1 \(.*line 2\)"),  # no side is flat
    ],
)
def test_what_lines_are_beside_polygons_is_noted(tmp_path: Path, lines: str, note: str | None) -> None:
    write(tmp_path, lines)
    (tmp_path / "labels" / "train" / "b.txt").write_text("")
    notes = samples_of(tmp_path).notes
    assert len(notes) == (note is not None)
    assert note is None or re.search(note, notes[0])


def test_flat_objects_do_not_shift_the_others(tmp_path: Path) -> None:
    write(tmp_path, "0 0.1 0.1 0.2 0.2 0.6 0.6\n" + SQUARE + "1 0.3 0.3 0.3 0.5 0.3 0.9\n")
    (tmp_path / "labels" / "train" / "b.txt").write_text("1 0.1 0.1 0.4 0.4 0.2 0.2\n1 0 0 0.5 0 0.5 0.5 0 0.5\n")
    samples = samples_of(tmp_path)
    assert samples.num_objects.tolist() == [1, 1]
    assert samples.annotated(0).labels.tolist() == [0]
    assert samples.annotated(0).polygons[0][0].tolist() == [[10, 5], [30, 5], [30, 15], [10, 15]]
    assert samples.annotated(1).labels.tolist() == [1]
    assert samples.annotated(1).polygons[0][0].tolist() == [[0, 0], [20, 0], [20, 10], [0, 10]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (YAML + "nc: 3\n", "'nc' is 3, but 'names' has 2"),
        ("train: images/train\nval: images/val\nnames: {true: cell}\n", "'names' must be"),
        ("train: images/train\nval: images/val\nnames: [cell, '']\n", "'' in 'names' is not a name"),
    ],
)
def test_class_lists_that_contradict_themselves_are_refused(tmp_path: Path, data: str, message: str) -> None:
    write(tmp_path, data=data)
    with pytest.raises(UserError, match=message):
        read_yolo(tmp_path / "data.yaml")


def test_files_that_do_not_pair_are_named(tmp_path: Path) -> None:
    write(tmp_path, data="train: images/train.txt\nval: images/val\nnames: [cell, dirt]\n")
    (tmp_path / "images" / "train.txt").write_text("train/a.jpg\ntrain/b.jpg\ntrain/a.jpg\n")
    for name in ("b", "c", "classes"):
        (tmp_path / "labels" / "train" / f"{name}.txt").write_text("")
    samples = samples_of(tmp_path)
    notes = "; ".join(samples.notes)
    assert len(samples) == 2
    assert re.search(r"images are listed more than once, but read once: 1 \(.*a\.jpg\)", notes)
    assert re.search(r"text files without an image in this split: 1 \(.*c\.txt\)", notes)
    write(tmp_path)
    Image.new("RGB", (40, 20)).save(tmp_path / "images" / "train" / "a.png")
    with pytest.raises(UserError, match=r"a\.jpg' and '.*a\.png' share one text file"):
        samples_of(tmp_path)
