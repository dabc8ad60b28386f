"""GeoJSON of QuPath: outlines, classes, planes of a stack, and how files find their images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import OTHER, SQUARE, H, W, box, read
from PIL import Image

from mask2former.config import ToolFilesConfig
from mask2former.data.datasets.tool_files import open_tool_files
from mask2former.dataset_tools.infer_format import infer_format
from mask2former.errors import UserError
from mask2former.ops import masks as mask_ops
from mask2former.results_io.geojson import GeoJsonFiles
from mask2former.structures import Categories, Instances

HOLE = [[8, 8], [12, 8], [12, 12], [8, 12]]


def feature(coordinates: Any, kind: str = "Polygon", name: Any = "cell", **other: Any) -> dict[str, Any]:
    """A feature as QuPath writes it, its rings closed."""
    properties: dict[str, Any] = {"objectType": "annotation"}
    if name is not None:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    geometry = {"type": kind, "coordinates": coordinates} | other.pop("geometry", {})
    return {"type": "Feature", "id": "a1b2", "geometry": geometry, "properties": properties, **other}


def inside(outer: dict[str, Any], *objects: Any) -> dict[str, Any]:
    """A feature that holds others, as in the hierarchy of QuPath."""
    return {**outer, "properties": {**outer["properties"], "childObjects": list(objects)}}


def closed(*rings: Any) -> list[Any]:
    return [[*ring, ring[0]] for ring in np.array(rings).tolist()]


def collection(*features: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features), **other}


RING = box(5, 5, 15, 15) & ~box(8, 8, 12, 12)
READ: dict[str, tuple[Any, list[np.ndarray]]] = {
    "a collection": (
        collection(feature(closed(SQUARE)), feature(closed(OTHER))),
        [box(5, 5, 15, 15), box(30, 20, 50, 30)],
    ),
    "a list, as older versions write": ([feature(closed(SQUARE))], [box(5, 5, 15, 15)]),
    "one feature": (feature(closed(SQUARE)), [box(5, 5, 15, 15)]),
    "a hole": (collection(feature(closed(SQUARE, HOLE))), [RING]),
    "two parts, one with a hole": (
        collection(feature([closed(SQUARE, HOLE), closed(OTHER)], "MultiPolygon")),
        [RING | box(30, 20, 50, 30)],
    ),
    "objects inside others, as scripts export them": (
        collection(inside(feature(closed(SQUARE)), inside(feature(closed(HOLE)), feature(closed(OTHER))))),
        [box(5, 5, 15, 15), box(8, 8, 12, 12), box(30, 20, 50, 30)],
    ),
    "a class that is text": (
        collection({**feature(closed(SQUARE)), "properties": {"classification": "cell"}}),
        [box(5, 5, 15, 15)],
    ),
}


# By version of QuPath: the kind of an object, and of one that is none.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    f"{version}, {kind}": (make(plain), make(kind))
    for version, make, plain, kinds in (
        (
            "0.4",
            lambda kind: {"properties": {"objectType": kind}},
            "annotation",
            ("tile", "root", "tma_core", "tmaCore"),
        ),
        ("0.3", lambda kind: {"properties": {"object_type": kind}}, "detection", ("tile", "root", "tma_core")),
        (
            "0.2",
            lambda kind: {"id": kind, "properties": {}},
            "PathAnnotationObject",
            ("PathTileObject", "PathRootObject", "TMACoreObject"),
        ),
    )
    for kind in kinds
}


@pytest.mark.parametrize("name", KINDS)
def test_grids_are_no_objects_in_any_version(tmp_path: Path, name: str) -> None:
    cell, grid = KINDS[name]
    content = collection({**feature(closed(SQUARE)), **cell}, {**feature(closed(OTHER)), **grid})
    ((_, mask),), notes = read(tmp_path, "qupath", content, "a.geojson")
    np.testing.assert_array_equal(mask, box(5, 5, 15, 15))
    assert any("with tiles or cores, which are no objects" in note for note in notes)


@pytest.mark.parametrize("content", [[], collection()])
def test_a_file_without_features_is_an_image_without_objects(tmp_path: Path, content: Any) -> None:
    for name, value in (("a", content), ("b", collection(feature(closed(SQUARE))))):
        Image.new("L", (W, H)).save(tmp_path / f"{name}.tif")
        (tmp_path / f"{name}.geojson").write_text(json.dumps(value))
    config, _ = infer_format(tmp_path)
    assert isinstance(config, ToolFilesConfig)
    assert config.name == "qupath"
    assert open_tool_files("qupath", [(tmp_path, tmp_path)]).num_objects.tolist() == [0, 1]


@pytest.mark.parametrize("name", READ)
def test_outlines_become_their_masks(tmp_path: Path, name: str) -> None:
    content, expected = READ[name]
    found, _ = read(tmp_path, "qupath", content, "a.geojson")
    assert [label for label, _ in found] == ["cell"] * len(expected)
    for (_, mask), wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, wanted)


def test_what_predict_wrote_is_read_back(tmp_path: Path) -> None:
    """Corrected in QuPath, it can be trained on: masks with holes, of several parts, and of single pixels."""
    masks = np.zeros((3, H, W), dtype=bool)
    masks[0, 5:20, 10:30] = True
    masks[0, 8:15, 13:25] = False
    masks[0, 10:12, 16:20] = True
    masks[1, 25:30, 5:15] = masks[1, 32:36, 40:50] = masks[1, 2, 2] = True
    masks[2, 22, 30] = masks[2, 23, 31] = True
    labels, scores = np.array([0, 1, 0]), np.array([0.9, 0.8, 0.7])
    categories = Categories.from_names(["cell", "spore"])
    with GeoJsonFiles(tmp_path / "geojson") as writer:
        writer.add("a", Instances(masks, labels, scores, mask_ops.boxes_xyxy(masks), categories))
    found, notes = read(tmp_path, "qupath", (tmp_path / "geojson" / "a.geojson").read_text(), "a.geojson")
    assert [label for label, _ in found] == ["cell", "spore", "cell"]
    for (_, mask), wanted in zip(found, masks, strict=True):
        np.testing.assert_array_equal(mask, wanted)
    assert not [note for note in notes if "GeoJSON" in note]


def test_what_is_read_by_assumption_is_noted(tmp_path: Path) -> None:
    cell = feature(closed(SQUARE), name=None, nucleusGeometry={"type": "Polygon", "coordinates": closed(HOLE)})
    other = feature(closed(OTHER), geometry={"plane": {"c": -1, "z": 2, "t": 0}})
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    found, notes = read(tmp_path / "1", "qupath", collection(cell), "a.geojson")
    assert [label for label, _ in found] == ["object"]
    assert any("without a class, which are read as 'object' (1): 'a.geojson' (1)" in note for note in notes)
    assert any("a nucleus, which is not read" in note for note in notes)
    _, notes = read(tmp_path / "2", "qupath", collection(other), "a.geojson")
    assert any("another plane of a stack than the first" in note and "3/1" in note for note in notes)


REFUSED: dict[str, tuple[Any, str]] = {
    "map coordinates": (
        collection(feature(closed(SQUARE)), crs={"type": "name", "properties": {"name": "EPSG:32633"}}),
        r"refer to a map \('crs'\), not to pixels",
    ),
    "map coordinates of an unknown system": (
        collection(feature(closed(SQUARE)), crs=None),
        r"refer to a map \('crs'\)",
    ),
    "degrees": (
        collection(feature(closed(np.add(np.array(SQUARE) / 1e5, [7.12, 51.33])))),
        r"a\.geojson' has no object that covers a pixel of 'a\.png': they lie between x 7\.12.*are these map",
    ),
    "metres": (collection(feature(closed(np.add(SQUARE, [6e5, 5.7e6])))), "are these map coordinates"),
    "metres near the origin": (collection(feature(closed(np.add(SQUARE, [W, 0])))), "are these map coordinates"),
    "metres south of the origin": (collection(feature(closed(np.array(SQUARE) * [1, -1]))), "are these map coord"),
    "several planes": (
        collection(
            feature(closed(SQUARE), geometry={"plane": {"z": 0}}), feature(closed(OTHER), geometry={"plane": {"z": 3}})
        ),
        r"belong to 2 planes of a stack \(z and t: 1/1, 4/1\)",
    ),
    "a point": (collection(feature([5, 5], "Point")), "no segmentation"),
    "a corner of one number": (collection(feature([[[5], [6, 6], [7, 5]]])), r"object 1: a corner is .*expected x and"),
    "no coordinates": (collection(feature([], "MultiPolygon"), feature([[]], "MultiPolygon")), "an outline for each"),
    "objects inside that are none": (collection(inside(feature(closed(SQUARE)), 3)), "object 2: .*unexpected type"),
    "another format": ({"shapes": []}, "not in the format of QuPath"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        read(tmp_path, "qupath", content, "a.geojson")


def test_one_object_within_the_image_is_enough(tmp_path: Path) -> None:
    away = feature(closed(np.add(SQUARE, [W, 0])))
    found, _ = read(tmp_path, "qupath", collection(away, feature(closed(SQUARE))), "a.geojson")
    np.testing.assert_array_equal([mask for _, mask in found], [box(0, 0, 0, 0), box(5, 5, 15, 15)])


def test_a_file_belongs_to_the_image_of_its_name(tmp_path: Path) -> None:
    """With folders or without, whatever the suffix of the image."""
    for name in ("images/b/a.TIF", "images/c.ome.tif", "images/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (W, H)).save(tmp_path / name)
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "b").mkdir()
    for name in ("b/a", "c", "d.png"):
        (tmp_path / "ann" / f"{name}.geojson").write_text(json.dumps(collection(feature(closed(SQUARE)))))
    sources = [(tmp_path / "ann", tmp_path / "images")]
    samples = open_tool_files("qupath", sources)
    assert [samples.image_id(index) for index in range(3)] == ["b/a", "c.ome", "d"]
    assert samples.num_objects.tolist() == [1, 1, 1]
    (tmp_path / "ann" / "e.geojson").write_text(json.dumps(collection(feature(closed(SQUARE)))))
    with pytest.raises(UserError, match=r"lacks images of .*: 1 \('?e'?\)"):
        open_tool_files("qupath", sources)
    Image.new("L", (W, H)).save(tmp_path / "images" / "e.tif")
    Image.new("L", (W, H)).save(tmp_path / "images" / "e.png")
    with pytest.raises(UserError, match=r"'e' may belong to 2 images"):
        open_tool_files("qupath", sources)
    (tmp_path / "images" / "e.png").unlink()
    (tmp_path / "ann" / "e.tif.geojson").write_text(json.dumps(collection(feature(closed(SQUARE)))))
    with pytest.raises(UserError, match=r"are both annotations of 'e\.tif'"):
        open_tool_files("qupath", sources)


@pytest.mark.parametrize("where", ["", "train", "train/a.geojson"])
def test_check_data_finds_images_and_validation_data(tmp_path: Path, where: str) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        for name in "ab":
            Image.new("L", (W, H)).save(tmp_path / split / f"{name}.tif")
            (tmp_path / split / f"{name}.geojson").write_text(json.dumps(collection(feature(closed(SQUARE)))))
    config, _ = infer_format(tmp_path / where)
    assert isinstance(config, ToolFilesConfig)
    assert config.name == "qupath"
    assert Path(config.train[0].images) == tmp_path / "train"
    assert Path(config.validation[0].images) == tmp_path / "val"
