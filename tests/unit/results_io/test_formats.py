"""Formats of other programs: a library reads each back and gets the original masks."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.mask import decode

from mask2former.data.datasets.coco import CocoInstances
from mask2former.data.datasets.tool_files import open_tool_files
from mask2former.documents import encode_json
from mask2former.errors import UserError
from mask2former.media.georeference import GeoReference
from mask2former.notes import collect_notes
from mask2former.ops import masks as mask_ops
from mask2former.ops.polygons import mask_to_polygons
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.results_io import label_studio, writing, yolo
from mask2former.results_io.class_masks import ClassMaskFiles, file_names
from mask2former.results_io.coco_dataset import CocoDatasetFile
from mask2former.results_io.cutouts import CutoutFiles
from mask2former.results_io.cvat import CvatFile, cvat_runs
from mask2former.results_io.formats import FORMATS, ImagesOfRun, format_folder, open_format
from mask2former.results_io.geojson import GeoJsonFiles
from mask2former.results_io.imagej import RoiFiles
from mask2former.results_io.label_studio import LabelStudioFile, brush_rle
from mask2former.results_io.label_tiff import LabelTiffFiles
from mask2former.results_io.table import TableFiles
from mask2former.results_io.yolo import YoloFiles
from mask2former.structures import (
    Categories,
    Category,
    Instances,
    PanopticSegmentation,
    Segment,
    Segmentation,
    SemanticSegmentation,
)
from mask2former.structures.ground_truth import InstanceGroundTruth

CATEGORIES = Categories(
    (
        Category(7, "cell, live & <well>", True, (200, 40, 40)),
        Category(11, "dog/cat", True, (40, 200, 40)),
        Category(90, "sky", False, (40, 40, 200)),
    )
)
SIZE = (40, 60)


def _masks() -> np.ndarray:
    """A ring with an island, an object of three parts, pixels that touch at corners, the image's rim, an empty mask."""
    masks = np.zeros((5, *SIZE), dtype=bool)
    masks[0, 5:20, 10:30] = True
    masks[0, 8:15, 13:25] = False
    masks[0, 10:12, 16:20] = True
    masks[1, 25:30, 5:15] = masks[1, 32:36, 40:50] = masks[1, 2, 2] = True
    masks[2, 22, 30] = masks[2, 23, 31] = masks[2, 22, 32] = True
    masks[3] = True
    masks[3, 1:-1, 1:-1] = False
    return masks


def instances() -> Instances:
    masks, scores = _masks(), np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    return Instances(masks, np.array([0, 1, 0, 2, 1]), scores, mask_ops.boxes_xyxy(masks), CATEGORIES)


def panoptic() -> PanopticSegmentation:
    masks, ids = _masks(), np.zeros(SIZE, dtype=np.int32)
    numbers, labels = (1, 2, 70_000, 4), (0, 1, 0, 2)
    for number, mask in zip(numbers, masks[:4], strict=True):
        ids[mask] = number
    rows = zip(numbers, labels, masks[:4], strict=True)
    return PanopticSegmentation(
        ids, tuple(Segment(number, label, label < 2, 0.5, int(mask.sum())) for number, label, mask in rows), CATEGORIES
    )


def semantic() -> SemanticSegmentation:
    labels = np.full(SIZE, 255, dtype=np.uint8)
    labels[_masks()[0]], labels[_masks()[1]] = 0, 2
    return SemanticSegmentation(labels, CATEGORIES)


RESULTS = [instances, panoptic, semantic]
Make = Callable[[], Segmentation]


def _whole(result: Segmentation) -> list[tuple[str, np.ndarray]]:
    """Class and mask of each object that has a pixel."""
    return [(item.name, item.mask) for item in result if item.area]


@pytest.mark.parametrize("make", RESULTS)
def test_geojson_is_valid_for_shapely_and_covers_the_pixels_of_each_mask(tmp_path: Path, make: Make) -> None:
    shapely = pytest.importorskip("shapely")
    result = make()
    with GeoJsonFiles(tmp_path) as writer:
        writer.add("deep/a", result)
    features = json.loads((tmp_path / "deep/a.geojson").read_text())["features"]
    expected = _whole(result)
    assert [feature["properties"]["classification"]["name"] for feature in features] == [name for name, _ in expected]
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    for feature, (_, mask) in zip(features, expected, strict=True):
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid
        assert shape.area == mask.sum() == feature["properties"]["measurements"]["area"]
        np.testing.assert_array_equal(shapely.contains_xy(shape, columns, rows), mask)


@pytest.mark.parametrize("make", RESULTS)
@pytest.mark.parametrize("crs", [None, "EPSG [] {}"])
def test_geojson_is_written_feature_by_feature(
    tmp_path: Path, make: Make, crs: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[Any] = []
    monkeypatch.setattr(writing, "encode_json", lambda value: encoded.append(value) or encode_json(value))
    with GeoJsonFiles(tmp_path, crs=crs) as writer:
        writer.add("a", make())
        writer.add("b", make()[:0])
    assert {value["type"] for value in encoded} == {"Feature"}
    text = (tmp_path / "a.geojson").read_text()
    assert json.loads(text)["features"] == json.loads(encode_json(encoded))
    assert text == encode_json(json.loads(text)) + "\n"
    assert list(json.loads(text)) == ["type", *(["crs"] if crs else []), "features"]
    assert json.loads((tmp_path / "b.geojson").read_text())["features"] == []


def test_geojson_in_coordinates_of_a_map_keeps_the_order_that_the_standard_asks(tmp_path: Path) -> None:
    shapely = pytest.importorskip("shapely")
    result = instances()
    with GeoJsonFiles(
        tmp_path, lambda xy: xy * [0.5, -0.5] + [300_000, 5_000_000], "urn:ogc:def:crs:EPSG::32633"
    ) as it:
        it.add("a", result)
    document = json.loads((tmp_path / "a.geojson").read_text())
    assert document["crs"]["properties"]["name"].endswith("32633")
    shape = shapely.geometry.shape(document["features"][0]["geometry"])
    assert shape.bounds == (300_005, 4_999_990, 300_015, 4_999_997.5)
    assert shape.area == result[0].area / 4
    assert all(
        polygon.exterior.is_ccw and not any(hole.is_ccw for hole in polygon.interiors) for polygon in shape.geoms
    )


@pytest.mark.parametrize("make", RESULTS)
def test_lines_of_yolo_fill_as_the_masks_again(tmp_path: Path, make: Make) -> None:
    result = make()
    with collect_notes() as notes, YoloFiles(tmp_path, CATEGORIES) as writer:
        writer.add("a", result)
    assert any("holes" in text for text, *_ in notes)
    lines = (tmp_path / "labels/a.txt").read_text().splitlines()
    for line, (name, mask) in zip(lines, _whole(result), strict=True):
        label, *values = line.split()
        corners = np.array(values, dtype=float).reshape(-1, 2) * SIZE[::-1]
        top, left, patch = mask_ops.polygons_to_patch([corners.round()], SIZE)
        filled = np.zeros(SIZE, dtype=bool)
        filled[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
        np.testing.assert_array_equal(filled, mask)
        assert CATEGORIES[int(label)].name == name


@pytest.mark.parametrize("few", [0, 10_000])
@pytest.mark.parametrize("seed", range(4))
def test_outlines_of_many_parts_fill_as_their_mask_again(seed: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yolo, "_FEW_CORNERS", few)
    monkeypatch.setattr(yolo, "_OF_A_TREE", 40)
    mask = np.random.default_rng(seed).random(SIZE) < (0.2, 0.5, 0.8, 0.97)[seed]
    rings = [ring for polygon in mask_to_polygons(mask_ops.Patch(0, 0, mask)) for ring in polygon]
    joined = yolo.joined_rings(rings)
    assert len(joined) == sum(map(len, rings)) + 2 * (len(rings) - 1)
    top, left, patch = mask_ops.polygons_to_patch([joined], SIZE)
    filled = np.zeros(SIZE, dtype=bool)
    filled[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
    np.testing.assert_array_equal(filled, mask)
    monkeypatch.setattr(yolo, "_FEW_CORNERS", 10_000)
    lengths = [np.abs(np.diff(path, axis=0)).sum() for path in (joined, yolo.joined_rings(rings))]
    assert lengths[0] == lengths[1]  # rings are joined at the same distances


def test_outlines_of_thousands_of_parts_are_not_all_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are compared with only some others: for tens of thousands, comparing all took hours and gigabytes."""
    mask = np.zeros((100, 100), dtype=bool)
    mask[::2, ::2] = True
    rings = [ring for polygon in mask_to_polygons(mask_ops.Patch(0, 0, mask)) for ring in polygon]
    sizes: list[int] = []
    plain = np.abs
    monkeypatch.setattr(np, "abs", lambda values: sizes.append(values.size) or plain(values))
    assert len(yolo.joined_rings(rings)) == 2_500 * 4 + 2 * 2_499
    assert sum(sizes) < 2_500 * (4 * 256 * 2)  # corners of a ring, those that are in no tree yet, x and y


@pytest.mark.filterwarnings("ignore::UserWarning")  # about missing OpenCV
def test_yolo_is_read_by_supervision(tmp_path: Path) -> None:
    sv = pytest.importorskip("supervision")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "images/a.jpg")
    result = instances().filter(["cell, live & <well>", "sky"], min_area=4)  # a ring with an island, and the rim
    with YoloFiles(tmp_path, CATEGORIES) as writer:
        writer.add("a", result)
    data = sv.DetectionDataset.from_yolo(
        str(tmp_path / "images"), str(tmp_path / "labels"), str(tmp_path / "data.yaml"), force_masks=True
    )
    assert data.classes == list(CATEGORIES.names)
    [(_, _, found)] = list(data)
    assert found.class_id.tolist() == result.labels.tolist()
    assert found.mask is not None
    for read, item in zip(found.mask, result, strict=True):  # the package also fills the outline
        assert (read | item.mask).sum() == read.sum()
        assert (read & item.mask).sum() / read.sum() > 0.5


@pytest.mark.parametrize("make", RESULTS)
def test_label_images_are_read_by_tifffile(tmp_path: Path, make: Make) -> None:
    tifffile = pytest.importorskip("tifffile")
    result = make()
    with collect_notes() as notes, LabelTiffFiles(tmp_path) as writer:
        writer.add("a", result)
    labels = tifffile.imread(tmp_path / "a.tif")
    assert labels.dtype == (np.int32 if result.task == "panoptic" else np.uint16)
    for item in result.filter(min_area=1):
        number = item.id + 1 if result.task == "semantic" else item.id
        np.testing.assert_array_equal(labels == number, item.mask)
    assert not notes
    masks = np.ones((2, *SIZE), dtype=bool)
    both = Instances(masks, np.array([0, 1]), np.array([0.9, 0.8]), mask_ops.boxes_xyxy(masks), CATEGORIES)
    with collect_notes() as notes, LabelTiffFiles(tmp_path) as writer:
        writer.add("b", both)
    assert "overlap" in next(iter(notes))[0]


@pytest.mark.parametrize("make", RESULTS)
def test_regions_of_imagej_are_read_by_roifile(tmp_path: Path, make: Make) -> None:
    roifile = pytest.importorskip("roifile")
    result = make()
    with RoiFiles(tmp_path) as writer:
        writer.add("a", result)
    rois = roifile.roiread(tmp_path / "a.zip")
    items = list(result.filter(min_area=1))
    for roi, item in zip(rois, items, strict=True):
        assert roi.name.startswith(f"{item.id:04d}-")
        assert roi.group == item.label + 1
        rings = roi.coordinates(multi=True)
        rings = rings if isinstance(rings, list) else [rings]
        expected = [ring for polygon in item.polygons for ring in polygon]
        for ring, corners in zip(rings, expected, strict=True):
            np.testing.assert_array_equal(ring[: len(corners)], corners)
        if item.score is not None:
            assert float(roi.props.partition(":")[2]) == item.score


def test_with_one_class_regions_of_imagej_are_like_those_drawn_beside_them(tmp_path: Path) -> None:
    roifile = pytest.importorskip("roifile")
    masks = np.ones((1, *SIZE), dtype=bool)
    one = Categories.from_dict({"categories": [{"id": 1, "name": "nucleus", "color": [1, 2, 3]}]})
    with RoiFiles(tmp_path) as writer:
        writer.add("a", Instances(masks, np.array([0]), np.array([0.9]), mask_ops.boxes_xyxy(masks), one))
    (roi,) = roifile.roiread(tmp_path / "a.zip")
    assert roi.group == 0
    assert roi.stroke_color == bytes((255, 1, 2, 3))  # ImageJ shows the colour of a group instead


def test_regions_of_imagej_can_be_trained_on(tmp_path: Path) -> None:
    pytest.importorskip("roifile")
    result = instances()
    Image.new("L", (SIZE[1], SIZE[0])).save(tmp_path / "a.png")
    with RoiFiles(tmp_path) as writer:
        writer.add("a", result)
    samples = open_tool_files("imagej", [(tmp_path / "a.zip", tmp_path)])
    target = samples[0].target
    assert target is not None
    for mask, (_, expected) in zip(target.masks[:, 0].numpy(), _whole(result), strict=True):
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("make", RESULTS)
def test_brush_strokes_are_decoded_as_label_studio_does(tmp_path: Path, make: Make) -> None:
    decode = pytest.importorskip("label_studio_brush_rle_rs").decode_rle
    result = make()
    with LabelStudioFile(tmp_path / "tasks.json", {"a": "deep/a 1#.jpg"}, model="m") as writer:
        writer.add("a", result)
    [task] = json.loads((tmp_path / "tasks.json").read_text())
    assert task["data"]["image"].endswith("?d=deep/a%201%23.jpg")  # as Label Studio writes paths of its local storage
    regions = task["predictions"][0]["result"]
    for region, (name, mask) in zip(regions, _whole(result), strict=True):
        assert (region["type"], region["value"]["brushlabels"]) == ("brushlabels", [name])
        assert (region["original_height"], region["original_width"]) == SIZE
        rgba = np.asarray(decode(region["value"]["rle"], False), dtype=np.uint8).reshape(*SIZE, 4)
        np.testing.assert_array_equal(rgba[..., 3] > 0, mask)


def test_long_runs_of_a_large_brush_stroke_are_split() -> None:
    decode = pytest.importorskip("label_studio_brush_rle_rs").decode_rle
    mask = np.zeros((300, 400), dtype=bool)
    mask[100:280] = True
    rle = brush_rle(mask_ops.tight(mask_ops.Patch(0, 0, mask)), mask.shape)
    np.testing.assert_array_equal(np.asarray(decode(rle, False)).reshape(*mask.shape, 4)[..., 0] > 0, mask)


def test_brush_strokes_of_much_room_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_studio, "_MUCH", 1000)
    chosen: tuple[Literal["brush", "polygon"], ...] = ("brush", "polygon")
    for regions, count in zip(chosen, (1, 0), strict=True):
        with collect_notes() as notes, LabelStudioFile(tmp_path / "tasks.json", regions=regions) as writer:
            writer.add("a", instances())
            writer.add("b", instances())
        assert len([note for note in notes if "take much space" in note.message]) == 2 * count
        assert [len(task["predictions"][0]["result"]) for task in json.loads((tmp_path / "tasks.json").read_text())]


def test_polygons_of_label_studio_are_in_percent(tmp_path: Path) -> None:
    with LabelStudioFile(tmp_path / "tasks.json", regions="polygon", prefix="s3://bucket/") as writer:
        writer.add("a 1.jpg", instances())
    [task] = json.loads((tmp_path / "tasks.json").read_text())
    assert task["data"]["image"] == "s3://bucket/a 1.jpg"
    value = task["predictions"][0]["result"][0]["value"]
    points = np.array(value["points"])
    assert value["polygonlabels"] == ["cell, live & <well>"]
    np.testing.assert_allclose((points.min(axis=0), points.max(axis=0)), [[100 / 6, 12.5], [50, 50]])


@pytest.mark.parametrize("make", RESULTS)
def test_masks_for_cvat_are_decoded_by_its_own_library(tmp_path: Path, make: Make) -> None:
    result = make()
    with CvatFile(tmp_path / "annotations.xml", CATEGORIES, {"a": 'deep/"a" & b.jpg'}) as writer:
        writer.add("a", result)
    root = ET.parse(tmp_path / "annotations.xml").getroot()
    assert [label.findtext("name") for label in root.iter("label")] == list(CATEGORIES.names)
    [image] = root.iter("image")
    assert (image.get("name"), image.get("height"), image.get("width")) == ('deep/"a" & b.jpg', "40", "60")
    for element, (name, mask) in zip(image.iter("mask"), _whole(result), strict=True):
        left, top, width, height = (int(element.attrib[key]) for key in ("left", "top", "width", "height"))
        runs = [int(run) for run in element.attrib["rle"].split(",")]
        decoded = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        np.testing.assert_array_equal(decoded, mask[top : top + height, left : left + width])
        assert decoded.sum() == mask.sum()
        assert element.get("label") == name


def test_runs_for_cvat_are_those_of_its_own_library() -> None:
    masks = pytest.importorskip("cvat_sdk.masks")
    for item in instances().filter(min_area=1):
        left, top, right, bottom = item.box
        assert [*cvat_runs(item.patch), left, top, right - 1, bottom - 1] == masks.encode_mask(item.mask)


def test_a_coco_data_set_of_predictions_is_read_as_one(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    result = instances()
    with CocoDatasetFile(tmp_path / "annotations.json", CATEGORIES, {"a": "a.png"}) as writer:
        writer.add("a", result)
    data = CocoInstances([(tmp_path / "annotations.json", tmp_path)])
    truth = data.ground_truths(0, ("instance",))["instance"]
    assert isinstance(truth, InstanceGroundTruth)
    assert data.categories.names == CATEGORIES.names
    np.testing.assert_array_equal(SparseMasks.of(truth.masks).dense(), _masks()[:4])  # without the empty one
    assert truth.labels.tolist() == [0, 1, 0, 2]


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools
def test_a_coco_data_set_has_what_fiftyone_reads(tmp_path: Path) -> None:
    """The file has the keys that FiftyOne documents for ``COCODetectionDataset``, and masks that fit their boxes."""
    with CocoDatasetFile(tmp_path / "annotations.json", CATEGORIES, {"a": "deep/a.png"}) as writer:
        writer.add("a", instances())
    content = json.loads((tmp_path / "annotations.json").read_text())
    [image] = content["images"]
    assert {key: image[key] for key in ("file_name", "height", "width")} == {
        "file_name": "deep/a.png",
        "height": 40,
        "width": 60,
    }
    names = {category["id"]: category["name"] for category in content["categories"]}
    kept = instances().filter(min_area=1)
    for annotation, item in zip(content["annotations"], kept, strict=True):
        left, top, width, height = annotation["bbox"]
        assert annotation["image_id"] == image["id"]
        assert names[annotation["category_id"]] == item.name
        assert (annotation["iscrowd"], annotation["score"]) == (0, item.score)
        mask = decode(annotation["segmentation"])[top : top + height, left : left + width]
        np.testing.assert_array_equal(mask.astype(bool), item.patch.mask)


def test_class_masks_and_cutouts_are_of_the_last_result_alone(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    result = instances()
    for part in (result, result.filter("dog/cat")):
        with (
            ClassMaskFiles(tmp_path / "masks", CATEGORIES) as masks,
            CutoutFiles(tmp_path / "cut", CATEGORIES, lambda name: image) as cut,
        ):
            masks.add("deep/a", part)
            cut.add("deep/a", part)
    assert sorted(path.name for path in (tmp_path / "masks/deep/a").iterdir()) == ["dog_cat.png"]
    seen = np.asarray(Image.open(tmp_path / "masks/deep/a/dog_cat.png"))
    np.testing.assert_array_equal(seen, 255 * _masks()[1])
    [file] = (tmp_path / "cut/deep/a").iterdir()
    assert file.name == "0001_dog_cat.png"
    left, top, right, bottom = result[1].box
    rgba = np.asarray(Image.open(file))
    np.testing.assert_array_equal(rgba[..., 3] > 0, _masks()[1][top:bottom, left:right])
    np.testing.assert_array_equal(rgba[..., :3], image[top:bottom, left:right])


def test_classes_of_like_names_have_files_of_their_own() -> None:
    assert file_names(Categories.from_names(["a b", "A_b", "..", "ж"])) == ["a_b_0", "A_b_1", "class", "ж"]


@pytest.mark.parametrize("names", [["a b", "a_b", "a_b_0"], ["a_b_0", "a b", "a_b"], ["a", "a.", "a_0", "a_0."]])
def test_files_of_classes_never_share_a_name(names: list[str]) -> None:
    assert len({name.casefold() for name in file_names(Categories.from_names(names))}) == len(names)


def test_files_of_classes_with_long_names_fit_the_file_system() -> None:
    assert len(file_names(Categories.from_names(["\U00020bb7" * 100]))[0].encode()) <= 200


@pytest.mark.parametrize(
    "make",
    [
        lambda path, names: CocoDatasetFile(path, CATEGORIES, names),
        lambda path, names: CvatFile(path, CATEGORIES, names),
        lambda path, names: LabelStudioFile(path, names),
        lambda path, names: TableFiles(path, CATEGORIES, names),
    ],
)
def test_names_that_are_not_text_are_refused_where_they_would_be_written(
    tmp_path: Path, make: Callable[[Path, dict[int | str, str] | None], Any]
) -> None:
    with pytest.raises(UserError, match=r"name of the image 'caf\\udce9.png' is not in UTF-8; rename"):
        make(tmp_path / "x.csv", {"a": os.fsdecode(b"caf\xe9.png")})
    with pytest.raises(UserError, match="is not in UTF-8; rename"), make(tmp_path / "x.csv", None) as writer:
        writer.add(os.fsdecode(b"\xff"), instances())
    assert not list(tmp_path.iterdir())


def test_names_that_xml_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'a\\x01.png' has a character that XML cannot hold; rename it"):
        CvatFile(tmp_path / "x.xml", CATEGORIES, {"a": "a\x01.png"})
    with pytest.raises(UserError, match="XML cannot hold"):
        CvatFile(tmp_path / "x.xml", Categories.from_names(["cell\x07"]))


def test_an_empty_coco_data_set_is_json(tmp_path: Path) -> None:
    with CocoDatasetFile(tmp_path / "a.json", CATEGORIES):
        pass
    document = json.loads((tmp_path / "a.json").read_text())
    assert (document["images"], document["annotations"]) == ([], [])
    assert len(document["categories"]) == 3


def test_classes_of_yolo_are_read_from_yaml_whatever_their_names(tmp_path: Path) -> None:
    names = ["\U0001f600 cell", 'a: "b"\\', "\x7f\u2028", "yes", "07"]
    with YoloFiles(tmp_path, Categories.from_names(names)) as writer:
        writer.add("a", SemanticSegmentation(np.zeros((2, 2), np.uint8), Categories.from_names(names)))
    assert yaml.safe_load((tmp_path / "data.yaml").read_text())["names"] == dict(enumerate(names))


def test_labels_that_yolo_programs_do_not_find_are_noted(tmp_path: Path) -> None:
    with collect_notes() as notes, YoloFiles(tmp_path, CATEGORIES, {"b/a": "b/a.png", "c.jpg": "c.jpg"}) as writer:
        for name in ("b/a", "c.jpg", "no name"):
            writer.add(name, semantic())
    assert [example for message, example in notes if "have another name" in message] == ["'c.jpg' (labels/c.jpg.txt)"]


def test_outlines_of_small_pixels_far_from_the_origin_keep_the_order_that_the_standard_asks(tmp_path: Path) -> None:
    mask = np.zeros((1, 400, 400), dtype=bool)
    mask[0, ::2, ::2] = True
    labels, scores = np.zeros(1, dtype=np.int64), np.ones(1)
    result = Instances(mask, labels, scores, mask_ops.boxes_xyxy(mask), CATEGORIES)
    place = GeoReference((0.005, 0, 512345.678, 0, -0.005, 5412345.678))
    with GeoJsonFiles(tmp_path, place.to_world) as writer:
        writer.add("a", result)
    document = json.loads((tmp_path / "a.geojson").read_text())
    assert document["crs"] is None  # there, but unknown: they are no pixels
    [feature] = document["features"]
    for [ring] in feature["geometry"]["coordinates"]:
        x, y = (np.array(ring) - ring[0]).T
        assert np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0


def test_a_folder_of_somebody_else_is_not_written_into(tmp_path: Path) -> None:
    run = ImagesOfRun(CATEGORIES, {}, lambda name: np.zeros((*SIZE, 3), np.uint8))
    for name in FORMATS:
        with open_format(format_folder(tmp_path, name, overwrite=False), run) as writer:
            writer.add("a", instances())
        format_folder(tmp_path, name, overwrite=False)
    (tmp_path / "other/yolo").mkdir(parents=True)
    format_folder(tmp_path / "other", "yolo", overwrite=False)
    (tmp_path / "other/yolo/mine.txt").write_text("")
    with pytest.raises(UserError, match="was not written by mask2former predict"):
        format_folder(tmp_path / "other", "yolo", overwrite=False)
    format_folder(tmp_path / "other", "yolo", overwrite=True)
    with pytest.raises(UserError, match="there is no format 'voc'; expected one of class-masks, coco-dataset"):
        format_folder(tmp_path, "voc", overwrite=False)
