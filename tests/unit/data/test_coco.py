"""Reading COCO's instance format: every kind of segmentation, custom files, and every kind of error in them."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.data.datasets import CocoInstances
from mask2former.data.loading.sampling import Draw
from mask2former.data.loading.training_set import TrainingSet
from mask2former.errors import UserError
from mask2former.ops import masks as mask_ops
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures import Sample
from mask2former.structures.ground_truth import InstanceGroundTruth

H, W = 40, 60


def box_mask(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((H, W), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def compressed(mask: np.ndarray) -> dict[str, Any]:
    return mask_ops.encode(mask[None])[0]


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def rectangle(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def annotation(number: int, image: Any, category: Any, segmentation: Any, **extras: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **extras}


def content() -> dict[str, Any]:
    """A COCO file with three images, the last without objects; ids have gaps, and some exceed 64 bits."""
    huge = 2**70
    return {
        "images": [
            {"id": huge, "file_name": "a.png", "height": H, "width": W},
            {"id": 7, "file_name": "deeper/b.png", "height": H, "width": W},
            {"id": "c", "file_name": "c.png", "height": H, "width": W},
        ],
        "categories": [
            {"id": 90, "name": "cell"},
            {"id": 3, "name": "dirt", "color": [1, 2, 3]},
            {"id": huge, "name": "hair"},
        ],
        "annotations": [
            annotation(1, 7, 3, [rectangle(1, 2, 11, 12), rectangle(20, 20, 25, 30)], area=7.5),
            annotation(2, huge, 90, compressed(box_mask(3, 4, 20, 30)), area=None),
            annotation(3, 7, 90, uncompressed(box_mask(0, 0, 5, 5)), iscrowd=1, area=25),
            annotation(4, 7, huge, uncompressed(box_mask(20, 30, 33, 47)), iscrowd=0),
            annotation(5, 7, 90, compressed(box_mask(25, 40, 35, 50))),
        ],
    }


def write(folder: Path, values: Any, name: str = "instances.json") -> tuple[Path, Path]:
    """Write an annotation file and the images that it lists; return its path and the folder of the images."""
    folder.mkdir(parents=True, exist_ok=True)
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for entry in values.get("images", []) if isinstance(values, dict) else []:
        path = images / entry.get("file_name", "unnamed.png")
        path.parent.mkdir(exist_ok=True)
        pixels = np.full((entry.get("height", H), entry.get("width", W), 3), 9, dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    file = folder / name
    file.write_text(json.dumps(values))
    return file, images


def masks(sample: Sample) -> np.ndarray:
    assert sample.target is not None
    return sample.target.masks[:, 0].numpy()


def labels(sample: Sample) -> list[int]:
    assert sample.target is not None
    return sample.target.labels.tolist()


def ground_truth_of(samples: CocoInstances, index: int) -> InstanceGroundTruth:
    ground_truth = samples.ground_truths(index, ["instance"])["instance"]
    assert isinstance(ground_truth, InstanceGroundTruth)
    return ground_truth


def test_every_kind_of_segmentation(tmp_path: Path) -> None:
    samples = CocoInstances([write(tmp_path, content())])
    assert len(samples) == 3
    assert samples.num_objects.tolist() == [1, 3, 0]
    assert samples.categories.names == ("cell", "dirt", "hair")
    assert samples.categories[1].color == (1, 2, 3)
    assert all(category.is_thing for category in samples.categories)
    areas, crowds = samples.notes
    assert "'area' differs from the area of the mask" in areas
    assert "annotations 1 (1)" in areas
    assert "1 of 5 annotations are marked as crowd regions" in crowds

    first = samples[0]
    assert first.name == "a.png"
    assert first.info["image_id"] == 2**70
    assert first.image.shape == (1, 3, H, W)
    assert labels(first) == [0]
    np.testing.assert_array_equal(masks(first), [box_mask(3, 4, 20, 30)])

    second = samples[1]
    assert labels(second) == [1, 2, 0]  # the order of the file, without the crowd region
    expected = [
        box_mask(2, 1, 12, 11) | box_mask(20, 20, 30, 25),
        box_mask(20, 30, 33, 47),
        box_mask(25, 40, 35, 50),  # overlaps the one before
    ]
    np.testing.assert_array_equal(masks(second), expected)
    ground_truth = ground_truth_of(samples, 1)
    np.testing.assert_array_equal(SparseMasks.of(ground_truth.masks).dense(), [*expected, box_mask(0, 0, 5, 5)])
    assert ground_truth.labels.tolist() == [1, 2, 0, 0]
    assert ground_truth.iscrowd.tolist() == [False, False, False, True]
    assert ground_truth.areas is not None
    assert ground_truth.areas.tolist() == [7.5, 13 * 17, 100, 25]

    third = samples[-1]
    assert third.info["image_id"] == "c"
    assert masks(third).shape == (0, H, W)
    assert ground_truth_of(samples, 2).masks.shape == (0, H, W)
    assert [samples.image_id(index) for index in range(3)] == [2**70, second.info["image_id"], "c"]
    assert samples.wide().tolist() == [W > H] * 3
    assert [sample.name for sample in samples[1:]] == ["deeper/b.png", "c.png"]
    with pytest.raises(IndexError):
        samples[3]


def test_crowd_regions_are_ignored_where_no_object_lies(tmp_path: Path) -> None:
    values = content()
    values["annotations"][2]["segmentation"] = uncompressed(box_mask(0, 0, 8, 9))  # the first object begins at 2, 1
    samples = CocoInstances([write(tmp_path, values)])
    assert samples.annotated(1).ignored is None
    ignored = samples.annotated(1, with_ignored=True).ignored
    np.testing.assert_array_equal(ignored, box_mask(0, 0, 8, 9))
    training = TrainingSet(samples, with_ignored=True)
    target, without = training[Draw(1, 0)].target, training[Draw(0, 0)].target
    assert target is not None
    assert target.ignored is not None
    np.testing.assert_array_equal(target.ignored[0], box_mask(0, 0, 8, 9) & ~box_mask(2, 1, 12, 11))
    np.testing.assert_array_equal(target.masks[:, 0], masks(samples[1]))
    alone = samples[1].target  # for readers inside a data set of one's own
    assert alone is not None
    assert alone.ignored is not None
    np.testing.assert_array_equal(alone.ignored, target.ignored)
    assert without is not None
    assert without.ignored is None  # there is no crowd region


def test_disjoint_encodings_travel_as_one_id_map(tmp_path: Path) -> None:
    annotated = CocoInstances([write(tmp_path, content())]).annotated(1)
    assert list(annotated.polygons) == [0]
    assert annotated.ids is not None
    assert sorted(np.unique(annotated.ids)) == [0, 2]
    assert list(annotated.masks) == [2]


# pycocotools 2 defines __array__ in a way that NumPy 2 deprecates
from_pycocotools = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@from_pycocotools
@pytest.mark.parametrize("digits", [0, 1, 2, 12])  # more than two cannot be kept as hundredths
def test_masks_of_polygons_equal_pycocotools(tmp_path: Path, digits: int) -> None:
    oracle = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(digits)
    values = content()
    values["annotations"] = []
    for number in range(1, 60):
        parts = [
            np.round(rng.uniform((-5, -5), (W + 5, H + 5)) + rng.normal(0, 15, (int(rng.integers(3, 9)), 2)), digits)
            for _ in range(int(rng.integers(1, 4)))
        ]
        values["annotations"].append(annotation(number, 7, 3, [part.ravel().tolist() for part in parts]))
    sample = CocoInstances([write(tmp_path, values)])[1]
    for entry, mask in zip(values["annotations"], masks(sample), strict=True):
        rle = oracle.merge(oracle.frPyObjects(entry["segmentation"], H, W))
        np.testing.assert_array_equal(mask, oracle.decode(rle).astype(bool))


@pytest.mark.parametrize("step", [0.01, 0.1, 0.001, 1 / 3])
def test_coordinates_are_kept_exactly(tmp_path: Path, step: float) -> None:
    values = content()
    corners = [round(3 * step, 6), round(7 * step, 6), round(20 + step, 6), 0.1, 30.7, 0.29, 11.13, 35.99]
    values["annotations"] = [annotation(1, 7, 3, [corners])]
    (polygon,) = CocoInstances([write(tmp_path, values)]).annotated(1).polygons[0]
    assert polygon.ravel().tolist() == corners


def test_images_without_objects_can_be_left_out(tmp_path: Path) -> None:
    values = content()
    values["annotations"].append(annotation(6, "c", 3, uncompressed(box_mask(0, 0, 5, 5)), iscrowd=1))
    source = write(tmp_path, values)
    assert [sample.name for sample in CocoInstances([source], filter_empty=True)] == ["a.png", "deeper/b.png"]
    assert len(CocoInstances([source])) == 3
    values["annotations"] = []
    with pytest.raises(UserError, match="filter_empty"):
        CocoInstances([write(tmp_path, values)], filter_empty=True)
    assert len(CocoInstances([write(tmp_path, values)])) == 3


def test_several_files_are_one_data_set(tmp_path: Path) -> None:
    one, two = content(), content()
    two["categories"].reverse()  # the order of the first file counts
    samples = CocoInstances([write(tmp_path / "1", one), write(tmp_path / "2", two)])
    assert len(samples) == 6
    assert [labels(sample) for sample in samples[:3]] == [labels(sample) for sample in samples[3:]]
    assert Path(samples[4].info["path"]) == tmp_path / "2" / "images" / "deeper" / "b.png"
    two["categories"][0]["name"] = "fur"
    with pytest.raises(UserError, match=r"different categories: id 1180591620717411303424 is 'hair' .*'fur'"):
        CocoInstances([write(tmp_path / "1", one), write(tmp_path / "2", two)])


def test_missing_images_are_named_or_skipped(tmp_path: Path) -> None:
    file, images = write(tmp_path, content())
    os.remove(images / "deeper" / "b.png")
    with pytest.raises(
        UserError, match=r"lacks images.*1 \(deeper/b.png\).*missing_images=skip in 'dataset' of a run file"
    ):
        CocoInstances([(file, images)])
    samples = CocoInstances([(file, images)], missing_images="skip")
    assert [sample.name for sample in samples] == ["a.png", "c.png"]
    assert [labels(sample) for sample in samples] == [[0], []]
    assert "deeper/b.png" in samples.notes[0]
    with pytest.raises(UserError, match="no image folder"):
        CocoInstances([(file, tmp_path / "nowhere")])


def test_objects_without_mask_are_named_or_skipped(tmp_path: Path) -> None:
    values = content()
    values["annotations"] += [
        annotation(number, 7, 3, missing, bbox=[1, 2, 3, 4]) for number, missing in ((10, []), (11, None), (12, {}))
    ]
    del values["annotations"][-2]["segmentation"]
    source = write(tmp_path, values)
    with pytest.raises(
        UserError,
        match=r"annotations 3 \(10, 11, 12\) have no segmentation.*missing_masks=skip in 'dataset' of a run file",
    ):
        CocoInstances([source])
    samples = CocoInstances([source], missing_masks="skip")
    assert samples.num_objects.tolist() == [1, 3, 0]
    assert "3 (10, 11, 12)" in samples.notes[0]


@pytest.mark.parametrize(
    "flat",
    [
        [[1, 2, 3, 4]],
        [[]],
        [[5, 5, 5, 5, 5, 5]],
        [[0, 0, 10, 10, 20, 20, 5, 5]],
        [[1, 1, 1, 9, 1, 4]],
        {"size": [H, W], "counts": [H * W]},
    ],
)
def test_objects_without_area_are_left_out(tmp_path: Path, flat: Any) -> None:
    values = content()
    values["annotations"].append(annotation(20, "c", 3, flat))
    samples = CocoInstances([write(tmp_path, values)])
    assert samples.num_objects.tolist() == [1, 3, 0]
    assert "without any area: annotations 1 (20)" in samples.notes[0]


def test_flat_parts_of_an_object_do_not_matter_and_crossing_ones_are_kept(tmp_path: Path) -> None:
    values = content()
    bow_tie = [10.0, 10.0, 30.0, 30.0, 30.0, 10.0, 10.0, 30.0]  # its signed area is zero
    values["annotations"] = [
        annotation(1, "c", 3, [[1, 2, 3, 4], bow_tie]),
        annotation(2, "c", 3, rectangle(0, 0, 9, 9)),
    ]
    samples = CocoInstances([write(tmp_path, values)])
    assert "left out parts of objects that have no area: annotations 1 (1)" in samples.notes[0]
    assert len(samples.annotated(2).polygons[0]) == 1
    assert 150 < masks(samples[2])[0].sum() < 250
    np.testing.assert_array_equal(masks(samples[2])[1], box_mask(0, 0, 9, 9))  # a list that is not nested


def test_files_without_sizes_or_annotation_ids_are_read(tmp_path: Path) -> None:
    values = content()
    source = write(tmp_path, values)
    for entry in values["images"]:
        del entry["height"], entry["width"]
    for entry in values["annotations"]:
        del entry["id"]
    source[0].write_text(json.dumps(values))
    samples = CocoInstances([source])
    assert labels(samples[1]) == [1, 2, 0]


ORDER = [20, 20, 33, 20, 33, 31]
PAIRS = [[20, 20], [33, 20], [33, 31]]


@pytest.mark.parametrize("segmentation", [PAIRS, [PAIRS], [ORDER], ORDER])
def test_corners_as_pairs_are_read_and_noted(tmp_path: Path, segmentation: Any) -> None:
    values = content()
    values["annotations"] = [annotation(5, "c", 3, segmentation)]
    samples = CocoInstances([write(tmp_path, values)])
    assert samples.annotated(2).polygons[0][0].tolist() == PAIRS
    in_pairs = segmentation in (PAIRS, [PAIRS])
    assert [note.partition("': ")[2] for note in samples.notes] == in_pairs * [
        "read polygons that are lists of pairs [x, y] instead of x, y, x, y, ...: annotations 1 (5)"
    ]


@pytest.mark.parametrize("crowd", [0, "0", False, "false", None, 0.0])
def test_flags_are_read_as_they_are_meant(tmp_path: Path, crowd: Any) -> None:
    values = content()
    values["annotations"] = [
        annotation(1, "c", 3, rectangle(0, 0, 9, 9), iscrowd=crowd),
        annotation(2, "c", 3, rectangle(20, 20, 29, 29), iscrowd="1"),
    ]
    assert ground_truth_of(CocoInstances([write(tmp_path, values)]), 2).iscrowd.tolist() == [False, True]


def test_several_broken_segmentations_are_counted(tmp_path: Path) -> None:
    values = content()
    values["annotations"] += [annotation(number, "c", 3, [[1, 2, "x"]]) for number in range(20, 30)]
    with pytest.raises(UserError, match=r"annotation 20 is broken: .*'x'.*; 9 more .* have broken .*\(21, 22,"):
        CocoInstances([write(tmp_path, values)])


def objects(boxes: Callable[[float, float, float, float], list[Any]], **more: Any) -> dict[str, Any]:
    """A file with 20 rectangles in image c, whose 'bbox' is ``boxes(x1, y1, x2, y2)``."""
    values = content()
    rng = np.random.default_rng(0)
    values["annotations"] = []
    for number in range(1, 21):
        (left, top), (width, height) = rng.integers((1, 1), (40, 15)), rng.integers((3, 9), (7, 20))
        sides = [float(side) for side in (left, top, left + width, top + height)]
        values["annotations"].append(annotation(number, "c", 3, [rectangle(*sides)], bbox=boxes(*sides), **more))
    return values


def test_boxes_that_are_rounded_clipped_or_absent_are_no_matter(tmp_path: Path) -> None:
    for boxes in (
        lambda x1, y1, x2, y2: [x1, y1, x2 - x1, y2 - y1],
        lambda x1, y1, x2, y2: [x1 - 1, y1 + 1, x2 - x1 + 1, y2 - y1 - 1],
        lambda x1, y1, x2, y2: [0, 0, 0, 0],
        lambda x1, y1, x2, y2: [],
        lambda x1, y1, x2, y2: ["x", y1, None],
    ):
        assert CocoInstances([write(tmp_path, objects(boxes))]).notes == []


@pytest.mark.parametrize(
    ("boxes", "note"),
    [
        (lambda x1, y1, x2, y2: [x1, y1, x2, y2], "'bbox' is x1, y1, x2, y2"),
        (lambda x1, y1, x2, y2: [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], "'bbox' is centre x"),
        (lambda x1, y1, x2, y2: [x1 / W, y1 / H, (x2 - x1) / W, (y2 - y1) / H], "'bbox' is fractions"),
    ],
)
def test_boxes_of_another_convention_are_noted(tmp_path: Path, boxes: Any, note: str) -> None:
    samples = CocoInstances([write(tmp_path, objects(boxes))])
    assert len(samples.notes) == 1
    assert note in samples.notes[0]
    assert int(samples.num_objects.sum()) == 20


def test_single_masks_beside_their_boxes_are_noted(tmp_path: Path) -> None:
    values = objects(lambda x1, y1, x2, y2: [x1, y1, x2 - x1, y2 - y1])
    values["annotations"][3]["bbox"][0] += 200
    values["annotations"][7]["segmentation"] = compressed(box_mask(30, 1, 40, 5))
    notes = CocoInstances([write(tmp_path, values)]).notes
    assert len(notes) == 1
    assert "masks do not match their 'bbox' (IoU below 0.5) and are used as they are: annotations 2 (4, 8)" in notes[0]


@pytest.mark.parametrize(
    ("change_corners", "message"),
    [
        (lambda x, y: (y, x), "x and y swapped.*annotations 20 "),
        (lambda x, y: (x / W, y / H), "coordinates from 0 to 1, as fractions.*annotations 20 "),
        (lambda x, y: (x * 3, y * 3), "nearly all masks with a 'bbox' do not match it .*annotations"),
    ],
)
def test_files_whose_masks_are_nearly_all_elsewhere_are_refused(
    tmp_path: Path, change_corners: Callable[[float, float], tuple[float, float]], message: str
) -> None:
    values = objects(lambda x1, y1, x2, y2: [x1, y1, x2 - x1, y2 - y1])
    for entry in values["annotations"]:
        [corners] = entry["segmentation"]
        pairs = zip(corners[::2], corners[1::2], strict=True)
        entry["segmentation"] = [[value for pair in pairs for value in change_corners(*pair)]]
    with pytest.raises(UserError, match=message):
        CocoInstances([write(tmp_path, values)])
    for entry in values["annotations"]:
        del entry["bbox"]
    if "fractions" not in message:
        assert int(CocoInstances([write(tmp_path, values)]).num_objects.sum()) == 20


def test_polygons_beyond_the_image_are_noted_or_refused(tmp_path: Path) -> None:
    values = objects(lambda x1, y1, x2, y2: [])
    values["annotations"][4]["segmentation"] = [rectangle(W + 5, 2, W + 15, 9)]
    values["annotations"][5]["segmentation"] = [rectangle(W - 5, 2, W + 15, 9)]
    notes = CocoInstances([write(tmp_path, values)]).notes
    assert len(notes) == 2
    assert "nothing of them is visible: annotations 1 (5)" in notes[0]
    assert "mostly outside their image: annotations 1 (6)" in notes[1]
    for entry in values["annotations"]:
        entry["segmentation"] = [[value + 1000 for value in entry["segmentation"][0]]]
    with pytest.raises(UserError, match=r"outside their image; expected pixels.*annotations 20 "):
        CocoInstances([write(tmp_path, values)])


@pytest.mark.parametrize(
    ("area", "counted", "note"),
    [
        (1e12, True, "pixels are counted instead: annotations 1 (20)"),
        (H * W + 1, True, "pixels are counted instead: annotations 1 (20)"),
        (-5, True, "pixels are counted instead"),
        (0, True, "pixels are counted instead"),
        ("100", True, "pixels are counted instead"),
        (True, True, "pixels are counted instead"),
        (1, False, "'area' differs from the area of the mask"),
        (900, False, "'area' differs from the area of the mask"),
        (121, False, None),  # area of the box including the last pixel
        (None, True, None),
    ],
)
def test_areas_that_cannot_be_are_counted(tmp_path: Path, area: Any, counted: bool, note: str | None) -> None:
    values = content()
    values["annotations"] = [annotation(20, "c", 3, rectangle(2, 3, 12, 13), area=area)]
    samples = CocoInstances([write(tmp_path, values)])
    ground_truth = ground_truth_of(samples, 2)
    assert ground_truth.areas is not None
    assert ground_truth.areas.tolist() == [100 if counted else area]
    assert len(samples.notes) == (note is not None)
    assert note is None or note in samples.notes[0]


@pytest.mark.parametrize("order", [1, -1])
def test_names_that_end_alike_are_told_apart_in_any_order(tmp_path: Path, order: int) -> None:
    values = content()
    file, images = write(tmp_path, values)
    values["images"][1]["file_name"] = "left/a.png"
    values["images"][::order] = list(values["images"])
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"lists '.*a.png' and '.*a.png', but .* contains only 'a.png'"):
        CocoInstances([(file, images)])


def test_an_image_under_two_ids_is_noted(tmp_path: Path) -> None:
    values = content()
    values["images"][2]["file_name"] = "a.png"
    notes = CocoInstances([write(tmp_path, values)]).notes
    assert any("listed more than once under different ids" in note and "1 (a.png (id c))" in note for note in notes)


def test_a_image_of_another_size_is_refused(tmp_path: Path) -> None:
    file, images = write(tmp_path, content())
    Image.new("RGB", (W, H + 1)).save(images / "c.png")
    with pytest.raises(UserError, match=r"c.png' is 41x60 \(height x width\), but its annotation file says 40x60"):
        CocoInstances([(file, images)])[2]
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    Image.new("RGB", (W, H)).save(images / "c.png", exif=exif)
    with pytest.raises(UserError, match=r"60x40 \(height x width\), but .* 40x60; EXIF rotates .*exif=ignore"):
        CocoInstances([(file, images)])[2]
    Image.new("RGB", (H, W)).save(images / "c.png", exif=exif)
    assert CocoInstances([(file, images)])[2].image.shape == (1, 3, H, W)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    file, images = write(tmp_path, content())
    (images / "c.png").write_bytes((images / "c.png").read_bytes()[:50])
    with pytest.raises(UserError, match=r"c\.png"):
        CocoInstances([(file, images)])[2]


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of the valid content at ``path``, such as key.index.key; the value ``...`` deletes the entry."""

    def edit(values: dict[str, Any]) -> None:
        node: Any = values
        *parents, leaf = (int(part) if part.isdigit() else part for part in path.split("."))
        for part in parents:
            node = node[part]
        if value is ...:
            del node[leaf]
        else:
            node[leaf] = value

    return edit


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no images": (change("images", ...), "not in COCO's instance format"),
    "no annotations": (change("annotations", ...), "not in COCO's instance format"),
    "categories no list": (change("categories", {}), "not in COCO's instance format"),
    "entry no object": (change("images.1", 5), r"images\[1\] is 5"),
    "no categories": (change("categories", []), "at least one category"),
    "category without id": (change("categories.0.id", ...), "no whole number as its 'id'"),
    "category without name": (change("categories.0.name", ...), "not a class table"),
    "category twice": (change("categories.0.id", 3), r"category ids must be unique.*\[3\]"),
    "category id text": (change("categories.0.id", "x"), "no whole number as its 'id'"),
    "image twice": (change("images.0.id", 7), r"image ids must be unique.*1 \(7\)"),
    "image id list": (change("images.0.id", [7]), "neither a number nor text"),
    "image without name": (change("images.0.file_name", ...), "needs an 'id' and a 'file_name'"),
    "image without id": (change("images.0.id", ...), "needs an 'id' and a 'file_name'"),
    "height no number": (change("images.0.height", "40"), "'height' and 'width' of .* are not positive whole"),
    "height negative": (change("images.0.height", -40), "'height' and 'width' of .* are not positive whole"),
    "height of no image": (change("images.0.height", 2**63), "'height' and 'width' of .* are not positive whole"),
    "height beyond numbers": (change("images.0.height", 10**400), "'height' and 'width' of .* are not positive whole"),
    "height NaN": (change("images.0.height", float("nan")), "'height' and 'width' of .* are not positive whole"),
    "image id null": (change("images.0.id", None), "needs an 'id' and a 'file_name'"),
    "name with a zero byte": (change("images.0.file_name", "a\0/b.jpg"), "lacks images"),
    "name of no letters": (change("images.0.file_name", "\ud800/b.jpg"), "lacks images"),
    "annotation twice": (change("annotations.0.id", 4), r"annotation ids must be unique.*1 \(4\)"),
    "unknown image": (change("annotations.0.image_id", 99), r"images of annotations 1 \(1\) are not listed"),
    "unknown category": (change("annotations.0.category_id", 99), r"categories of annotations 1 \(1\) are not listed"),
    "no image": (change("annotations.0.image_id", ...), "annotation 1 needs an 'image_id'"),
    "image a list": (change("annotations.0.image_id", [1]), "annotation 1 needs an 'image_id'"),
    "odd polygon": (change("annotations.0.segmentation.0", [1, 2, 3, 4, 5, 6, 7]), "annotation 1 is broken.*x, y"),
    "polygon of text": (change("annotations.0.segmentation.0", ["a", "b"]), "annotation 1 is broken"),
    "polygon too deep": (change("annotations.0.segmentation.0", [[[1, 2], [3, 4], [5, 6]]]), "annotation 1 is broken"),
    "polygon of texts": (change("annotations.0.segmentation.0", ["1", "2", "9", "3", "3", "9"]), "got '1' among them"),
    "polygon of booleans": (change("annotations.0.segmentation.0.2", True), "got True among them"),
    "crowd of no flag": (change("annotations.0.iscrowd", "no"), r"annotations 1 \(1\) have 'no' as 'iscrowd'"),
    "image a boolean": (change("annotations.0.image_id", True), "annotation 1 needs an 'image_id'"),
    "category a boolean": (change("annotations.0.category_id", True), "annotation 1 needs an 'image_id'"),
    "category of no name": (change("categories.0.name", " "), "category 90 has ' ' as its name"),
    "category of no text": (change("categories.0.name", None), "category 90 has None as its name"),
    "thing of no flag": (change("categories.0.isthing", "yes"), "category 90 has 'yes' as 'isthing'"),
    "polygon with NaN": (change("annotations.0.segmentation.0.1", float("nan")), "annotation 1 is broken"),
    "polygon far away": (change("annotations.0.segmentation.0.1", 1e12), "annotation 1 is broken"),
    "polygon with infinity": (change("annotations.0.segmentation.0.1", float("inf")), "annotation 1 is broken"),
    "segmentation a number": (change("annotations.0.segmentation", 5), "annotation 1 is broken"),
    "segmentation a text": (change("annotations.0.segmentation", "abc"), "annotation 1 is broken"),
    "encoding of another size": (
        change("annotations.1.segmentation.size", [W, H]),
        r"annotation 2.*size is \[60, 40\]",
    ),
    "encoding cut short": (change("annotations.1.segmentation.counts", "54"), "annotation 2 is broken.*add up"),
    "encoding malformed": (change("annotations.1.segmentation.counts", "P"), "annotation 2 is broken.*malformed"),
    "encoding of strange letters": (change("annotations.1.segmentation.counts", "5é"), "annotation 2 is broken"),
    "encoding endless": (change("annotations.1.segmentation.counts", "o" * 40), "annotation 2 is broken"),
    "encoding without counts": (change("annotations.1.segmentation.counts", ...), "annotation 2 is broken"),
    "runs that do not add up": (change("annotations.3.segmentation.counts", [5]), "annotation 4 is broken"),
    "runs of text": (change("annotations.3.segmentation.counts", ["x"]), "annotation 4 is broken"),
    "runs negative": (change("annotations.3.segmentation.counts", [-5, 5, H * W]), "annotation 4 is broken"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    edit, message = BROKEN[kind]
    file, images = write(tmp_path, content())
    values = copy.deepcopy(content())
    edit(values)
    file.write_text(json.dumps(values))
    with pytest.raises(UserError, match=message) as caught:
        CocoInstances([(file, images)])
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ids_that_tools_write_as_floats_are_whole_numbers(tmp_path: Path) -> None:
    values = content()
    plain = CocoInstances([write(tmp_path, values)])
    for entry in values["images"]:
        entry["id"] = float(entry["id"]) if isinstance(entry["id"], int) else entry["id"]
    samples = CocoInstances([write(tmp_path, values)])
    assert samples.num_objects.tolist() == plain.num_objects.tolist()
    for index in range(len(plain)):
        assert samples.image_id(index) == plain.image_id(index)
        assert type(samples.image_id(index)) is type(plain.image_id(index))


def test_areas_that_are_no_numbers_count_as_not_given(tmp_path: Path) -> None:
    for area in (10**400, float("nan"), "225"):
        values = content()
        values["annotations"][0]["area"] = area
        ground_truth = ground_truth_of(CocoInstances([write(tmp_path, values)]), 0)
        assert ground_truth.areas is not None
        assert ground_truth.areas[0] == SparseMasks.of(ground_truth.masks).dense()[0].sum()


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", '"x"', "null", "\x00", "9" * 5000, "[" * 100_000])
def test_what_is_no_such_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json"):
        CocoInstances([(tmp_path / "a.json", tmp_path)])
    with pytest.raises(UserError, match="no annotation file"):
        CocoInstances([(tmp_path / "b.json", tmp_path)])
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match=r"c\.json"):
        CocoInstances([(tmp_path / "c.json", tmp_path)])
    with pytest.raises(UserError, match="no annotation files given"):
        CocoInstances([])


def test_the_index_is_small_and_travels_to_workers(tmp_path: Path) -> None:
    values = content()
    corners = [round(float(value), 2) for value in np.random.default_rng(0).uniform(0, H, 40)]
    values["annotations"] = [annotation(number, 7, 3, [corners]) for number in range(1, 1001)]
    samples = CocoInstances([write(tmp_path, values)])
    size = len(pickle.dumps(samples))
    assert size < 1000 * (20 * 8 + 60)  # four bytes per number, and a constant per object
    again = pickle.loads(pickle.dumps(samples))
    before, after = samples.annotated(1), again.annotated(1)
    assert len(before.polygons) == 1000
    for number, polygons in before.polygons.items():
        np.testing.assert_array_equal(after.polygons[number], polygons)


# --- real data -------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared() -> Path:
    folder = os.environ.get("MASK2FORMER_SHARED")
    if not folder:
        pytest.skip("MASK2FORMER_SHARED does not name the folder of shared data")
    return Path(folder) / "data"


@from_pycocotools
@pytest.mark.parametrize(("split", "images", "objects"), [("val2017", 29, 296), ("train2017", 16, 247)])
def test_official_files_equal_pycocotools(shared: Path, split: str, images: int, objects: int) -> None:
    oracle = pytest.importorskip("pycocotools.mask")
    folder = shared / "coco_mini"
    file = folder / "annotations" / f"instances_{split}.json"
    samples = CocoInstances([(file, folder / split)])
    assert (len(samples), int(samples.num_objects.sum()), len(samples.categories)) == (images, objects, 80)
    entries = json.loads(file.read_text())
    index = samples.categories.index_of_id()
    for position in range(len(samples)):
        sample = samples[position]
        height, width = sample.image.shape[2:]
        ground_truth = [entry for entry in entries["annotations"] if entry["image_id"] == sample.info["image_id"]]
        true = ground_truth_of(samples, position)
        np.testing.assert_array_equal(SparseMasks.of(true.masks).dense()[~true.iscrowd], masks(sample))
        for crowd, found, classes in (
            (0, masks(sample), labels(sample)),
            (1, SparseMasks.of(true.masks).dense()[true.iscrowd], true.labels[true.iscrowd].tolist()),
        ):
            wanted = [entry for entry in ground_truth if entry["iscrowd"] == crowd]
            assert classes == [index[entry["category_id"]] for entry in wanted]
            for entry, mask in zip(wanted, found, strict=True):
                rle = oracle.frPyObjects(entry["segmentation"], height, width)
                rle = oracle.merge(rle) if isinstance(rle, list) else rle
                np.testing.assert_array_equal(mask, oracle.decode(rle).astype(bool))


def test_nuclei_are_disjoint_and_complete(shared: Path) -> None:
    folder = shared / "nuclei"
    sources = [(folder / "annotations" / f"instances_{split}.json", folder / split) for split in ("train", "val")]
    samples = CocoInstances(sources)
    assert len(samples) == 491 + 71
    assert int(samples.num_objects.sum()) == 21_575 + 3_457
    assert int(samples.num_objects.max()) == 375
    for index in (0, 200, 500):
        annotated = samples.annotated(index)
        assert annotated.ids is not None
        assert not annotated.masks
        np.testing.assert_array_equal(mask_ops.areas(masks(samples[index])), ground_truth_of(samples, index).areas)


def test_classes_of_stuff_are_noted(tmp_path: Path) -> None:
    values = content()
    values["categories"][0]["isthing"] = "0"
    samples = CocoInstances([write(tmp_path, values)])
    assert any("categories 1 (cell) have 'isthing' 0" in note for note in samples.notes)


def test_a_list_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file, images = write(tmp_path, content())
    file.write_text(file.read_text()[:-1] + ', "annotations": []}')
    with pytest.raises(UserError, match="has the key 'annotations' twice in one object"):
        CocoInstances([(file, images)])
    values = content()
    values["info"] = {"annotations": "by hand", "images": "ours"}
    assert CocoInstances([write(tmp_path, values)]).num_objects.tolist() == [1, 3, 0]
