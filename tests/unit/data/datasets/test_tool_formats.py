"""Files of annotation tools: every shape becomes a mask, is named in a note, or is rejected; none is lost."""

from __future__ import annotations

import base64
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import OTHER, SQUARE, H, W, box, check_disc, check_turned, png, read
from PIL import Image

from mask2former.data.datasets.tool_files import open_tool_files
from mask2former.data.datasets.tool_formats import ToolName
from mask2former.data.faults import collected_faults
from mask2former.errors import UserError
from mask2former.structures import Categories


def labelme(*shapes: dict[str, Any], **other: Any) -> dict[str, Any]:
    filled = [{"label": "cell", "group_id": None, "flags": {}, **shape} for shape in shapes]
    return {"version": "5.5.0", "imagePath": "a.png", "shapes": filled, "imageHeight": H, "imageWidth": W, **other}


def via(*regions: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    entries = [{"shape_attributes": shape, "region_attributes": attributes} for shape, attributes in regions]
    return {"a.png1": {"filename": "a.png", "size": 1, "regions": entries, "file_attributes": {}}}


def cvat(shapes: str) -> str:
    return f'<annotations><image id="0" name="a.png" width="{W}" height="{H}">{shapes}</image></annotations>'


def supervisely(*shapes: dict[str, Any]) -> dict[str, Any]:
    return {"size": {"height": H, "width": W}, "objects": [{"classTitle": "cell", **shape} for shape in shapes]}


MASK = {
    "points": [[30, 20], [49, 29]],
    "shape_type": "mask",
    "mask": base64.b64encode(png(np.ones((10, 20), bool))).decode(),
}
RING = box(5, 5, 15, 15) & ~box(8, 8, 12, 12)

READ: dict[str, tuple[ToolName, Any, list[np.ndarray]]] = {
    "LabelMe: parts of a group": (
        "labelme",
        labelme({"points": SQUARE, "group_id": 1}, {"points": OTHER, "group_id": 1, "shape_type": "polygon"}),
        [box(5, 5, 15, 15) | box(30, 20, 50, 30)],
    ),
    "LabelMe: a mask in a group": (
        "labelme",
        labelme(
            {"points": SQUARE, "group_id": 1},
            {
                "points": [[30, 20], [49, 29]],
                "group_id": 1,
                "shape_type": "mask",
                "mask": base64.b64encode(png(np.ones((10, 20), bool))).decode(),
            },
        ),
        [box(5, 5, 15, 15) | box(30, 20, 50, 30)],
    ),
    "LabelMe: a path of Windows": (
        "labelme",
        labelme({"points": SQUARE}, imagePath="..\\images\\a.png"),
        [box(5, 5, 15, 15)],
    ),
    "CVAT: a group": (
        "cvat",
        cvat(
            '<polygon label="cell" points="5,5;15,5;15,15;5,15" group_id="3"/>'
            '<mask label="cell" rle="0, 200" left="30" top="20" width="20" height="10" group_id="3"/>'
        ),
        [box(5, 5, 15, 15) | box(30, 20, 50, 30)],
    ),
    "CVAT: a mask with a hole": (
        "cvat",
        cvat('<mask label="cell" rle="1,2,1" left="5" top="6" width="2" height="2"/>'),
        [np.isin(np.arange(H * W).reshape(H, W), [6 * W + 6, 7 * W + 5])],
    ),
    "Supervisely: a hole": (
        "supervisely",
        supervisely(
            {
                "geometryType": "polygon",
                "points": {"exterior": SQUARE, "interior": [[[8, 8], [12, 8], [12, 12], [8, 12]]]},
            }
        ),
        [RING],
    ),
    "Supervisely: a bitmap": (
        "supervisely",
        supervisely(
            {
                "geometryType": "bitmap",
                "bitmap": {"data": base64.b64encode(zlib.compress(png(RING[5:15, 5:15]))).decode(), "origin": [5, 5]},
            }
        ),
        [RING],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_shapes_become_their_masks(tmp_path: Path, name: str) -> None:
    tool, content, expected = READ[name]
    found, _ = read(
        tmp_path, tool, content, "a.png.json" if tool == "supervisely" else f"a.{'xml' if tool == 'cvat' else 'json'}"
    )
    assert [label for label, _ in found] == ["cell"] * len(expected)
    assert all((mask == wanted).all() for (_, mask), wanted in zip(found, expected, strict=True))


CIRCLES: dict[str, tuple[ToolName, Any]] = {
    "labelme": ("labelme", labelme({"points": [[30, 20], [30, 30]], "shape_type": "circle"})),
    "via": ("via", via(({"name": "circle", "cx": 30, "cy": 20, "r": 10}, {"kind": "cell"}))),
    "cvat": ("cvat", cvat('<ellipse label="cell" cx="30" cy="20" rx="10" ry="10" rotation="40"/>')),
}


@pytest.mark.parametrize("name", CIRCLES)
def test_circles_and_ellipses_are_the_pixels_inside_them(tmp_path: Path, name: str) -> None:
    tool, content = CIRCLES[name]
    ((_, mask),), _ = read(tmp_path, tool, content, f"a.{'xml' if tool == 'cvat' else 'json'}")
    check_disc(mask)


def test_an_ellipse_turns_clockwise_as_the_image_shows_it(tmp_path: Path) -> None:
    content = cvat('<ellipse label="cell" cx="30" cy="20" rx="16" ry="4" rotation="30"/>')
    ((_, mask),), _ = read(tmp_path, "cvat", content, "a.xml")
    check_turned(mask)


NO_MASKS: dict[str, tuple[ToolName, Any, str]] = {
    "labelme": (
        "labelme",
        labelme({"points": SQUARE}, {"points": [[1, 1], [9, 9]], "shape_type": "rectangle"}),
        "rectangle",
    ),
    "labelme, a point": ("labelme", labelme({"points": SQUARE}, {"points": [[1, 1]], "shape_type": "point"}), "point"),
    "via": (
        "via",
        via(
            ({"name": "polygon", "all_points_x": [5, 15, 15], "all_points_y": [5, 5, 15]}, {"kind": "cell"}),
            ({"name": "rect", "x": 1, "y": 1, "width": 8, "height": 8}, {"kind": "cell"}),
        ),
        "rect",
    ),
    "cvat": (
        "cvat",
        cvat('<polygon label="cell" points="5,5;15,5;15,15"/><box label="cell" xtl="1" ytl="1" xbr="9" ybr="9"/>'),
        "box",
    ),
    "supervisely": (
        "supervisely",
        supervisely(
            {"geometryType": "polygon", "points": {"exterior": SQUARE, "interior": []}},
            {"geometryType": "rectangle", "points": {"exterior": [[1, 1], [9, 9]], "interior": []}},
        ),
        "rectangle",
    ),
}


@pytest.mark.parametrize("name", NO_MASKS)
def test_what_is_no_mask_is_refused_or_left_out_with_its_count(tmp_path: Path, name: str) -> None:
    tool, content, what = NO_MASKS[name]
    file = "a.png.json" if tool == "supervisely" else f"a.{'xml' if tool == 'cvat' else 'json'}"
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    with pytest.raises(UserError, match=rf"annotations 1 \(.*object 2 \({what}\)\) have no segmentation"):
        read(tmp_path / "1", tool, content, file)
    found, notes = read(tmp_path / "2", tool, content, file, missing_masks="skip")
    assert len(found) == 1
    assert any("left out objects without segmentation: annotations 1 (" in note for note in notes), notes


BROKEN: dict[str, tuple[ToolName, Any, str]] = {
    "another tool": ("labelme", via(), r"not in the format of LabelMe; it looks like VIA"),
    "no points": (
        "labelme",
        labelme({"points": 3}),
        r"valid file of .*: object 1: a value in it has an unexpected type \(TypeError",
    ),
    "no points at all": ("labelme", labelme({"points": SQUARE}, {"label": "cell"}), "object 2: it has no 'points'"),
    "null as shapes": ("labelme", {**labelme({}), "shapes": None}, r"'shapes' is null; expected .* or write \[\]"),
    "text as corners": (
        "labelme",
        labelme({"points": [["a", 1], [2, 3], [4, 5]]}),
        "the segmentation of annotation .* is broken",
    ),
    "no class": ("labelme", labelme({"points": SQUARE, "label": None}), "object 1: it has None as its class"),
    "no image": ("labelme", labelme({"points": SQUARE}, imagePath=7), "'imagePath' is 7"),
    "another size": ("labelme", labelme({"points": SQUARE}, imageHeight=41), "its annotation file says"),
    "a mask beyond the image": (
        "labelme",
        labelme(
            {
                "points": [[55, 20], [74, 29]],
                "shape_type": "mask",
                "mask": base64.b64encode(png(np.ones((10, 20), bool))).decode(),
            }
        ),
        "is not within its image",
    ),
    "a mask that is not an image": (
        "labelme",
        labelme({"points": [[5, 5], [9, 9]], "shape_type": "mask", "mask": base64.b64encode(b"no").decode()}),
        "not an image that can be read",
    ),
    "two attributes": (
        "via",
        via(({"name": "point"}, {"kind": "cell", "state": "good"})),
        "specify which one is the class",
    ),
    "two checkboxes": (
        "via",
        via(({"name": "point"}, {"kind": {"cell": True, "dirt": True}})),
        r"object \d of 'a.png': .* expected one class per region",
    ),
    "an ellipse in degrees": (
        "via",
        via(({"name": "ellipse", "cx": 9, "cy": 9, "rx": 3, "ry": 2, "theta": 45}, {"kind": "cell"})),
        "object 1 of 'a.png': 'theta' is 45; expected radians",
    ),
    "an ellipse without a centre": (
        "cvat",
        cvat('<ellipse label="cell" cy="20" rx="5" ry="5"/>'),
        "object 1 of 'a.png': it has no 'cx'",
    ),
    "a key twice, LabelMe": (
        "labelme",
        f'{json.dumps(labelme({"points": SQUARE}))[:-1]}, "shapes": []}}',
        "has the key 'shapes' twice in one object",
    ),
    "a key twice, VIA": (
        "via",
        json.dumps(via())[:-1] + ', "a.png1": {"filename": "a.png", "regions": []}}',
        "has the key 'a.png1' twice in one object",
    ),
    "a corner that is no number, in a group with a mask": (
        "labelme",
        labelme({"points": [[float("nan"), 1], *SQUARE], "group_id": 1}, {**MASK, "group_id": 1}),
        "expected pixels x, y, .* got nan among them",
    ),
    "a corner that is no number, beside a hole": (
        "supervisely",
        supervisely(
            {
                "geometryType": "polygon",
                "points": {"exterior": [[float("nan"), 1], *SQUARE], "interior": [SQUARE]},
            }
        ),
        "object 1: expected pixels x, y, .* got nan among them",
    ),
    "a document type": ("cvat", f"<!DOCTYPE a []>{cvat('')}", "declares a document type"),
    "no XML": ("cvat", "<annotations>", "is not XML, or is cut short"),
    "tracks": ("cvat", '<annotations><meta/><track id="0"/></annotations>', "it is 'CVAT for video'"),
    "runs of another size": (
        "cvat",
        cvat('<mask label="cell" rle="1,2" left="5" top="6" width="2" height="2"/>'),
        r"object 1 of 'a.png': the runs of a mask of 2x2 add up to 3",
    ),
    "a mask without end": (
        "cvat",
        cvat('<mask label="cell" rle="0,4" left="5" top="6" width="1000000" height="1000000"/>'),
        "a mask has too many pixels: 1,000,000,000,000; at most",
    ),
    "a corner of three numbers": (
        "labelme",
        labelme({"points": [[5, 5, 0], [15, 5], [15, 15], [5]]}),
        r"object 1: a corner is \[5, 5, 0\]; expected x and y",
    ),
    "a corner of one number, CVAT": (
        "cvat",
        cvat('<polygon label="cell" points="5,5;15;15,15"/>'),
        r"object 1 of 'a.png': a corner is \['15'\]; expected x and y",
    ),
    "a corner of one number, Supervisely": (
        "supervisely",
        supervisely({"geometryType": "polygon", "points": {"exterior": [*SQUARE, [1], [1, 2, 3]], "interior": []}}),
        r"object 1: a corner is \[1\]; expected x and y",
    ),
    "a hole of single numbers": (
        "supervisely",
        supervisely({"geometryType": "polygon", "points": {"exterior": SQUARE, "interior": [[[8], [8], [12], [9]]]}}),
        r"object 1: a corner is \[8\]; expected x and y",
    ),
    "a size of 0": (
        "supervisely",
        {**supervisely({"geometryType": "polygon", "points": {"exterior": SQUARE}}), "size": {"height": 0, "width": W}},
        "size: 'height' is 0; expected pixels of the image",
    ),
    "a bomb": (
        "supervisely",
        supervisely(
            {
                "geometryType": "bitmap",
                "bitmap": {"data": base64.b64encode(zlib.compress(bytes(65 << 20), 1)).decode(), "origin": [5, 5]},
            }
        ),
        "unpacked to more than",
    ),
    "a bitmap that is none": (
        "supervisely",
        supervisely({"geometryType": "bitmap", "bitmap": {"data": "AAAA", "origin": [5, 5]}}),
        "cannot be unpacked",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    tool, content, words = BROKEN[name]
    file = "a.png.json" if tool == "supervisely" else f"a.{'xml' if tool == 'cvat' else 'json'}"
    with pytest.raises(UserError, match=words):
        read(tmp_path, tool, content, file)


def test_classes_are_those_of_the_names_file_or_those_that_occur(tmp_path: Path) -> None:
    shapes: Sequence[dict[str, Any]] = [{"points": SQUARE, "label": "dirt"}, {"points": OTHER}]
    for folder in ("1", "2", "3"):
        (tmp_path / folder).mkdir()
    found, _ = read(tmp_path / "1", "labelme", labelme(*shapes))
    assert [label for label, _ in found] == ["dirt", "cell"]
    classes = Categories.from_names(["background", "dirt", "cell"])
    found, _ = read(tmp_path / "2", "labelme", labelme(*shapes), names=classes)
    assert [label for label, _ in found] == ["dirt", "cell"]
    with pytest.raises(UserError, match=r"names file does not have: 1 \('cell' of 1 objects\); expected dirt"):
        read(tmp_path / "3", "labelme", labelme(*shapes), names=Categories.from_names(["dirt"]))


def test_what_says_less_is_told(tmp_path: Path) -> None:
    polygon = {"name": "polygon", "all_points_x": [5, 15, 15], "all_points_y": [5, 5, 15]}
    found, notes = read(tmp_path, "via", via((polygon, {})))
    assert [label for label, _ in found] == ["object"]
    assert any("all belong to one class, 'object'" in note for note in notes)
    assert any(re.search(r"another number of bytes than when .*/a\.png' \(\d+, then 1\)", note) for note in notes)
    content = via((polygon, {}))
    content["a.png1"]["size"] = (tmp_path / "images" / "a.png").stat().st_size
    (tmp_path / "same").mkdir()
    _, notes = read(tmp_path / "same", "via", content)
    assert not any("another number of bytes" in note for note in notes)


@pytest.mark.parametrize("tool", ["labelme", "supervisely"])
def test_polygons_that_are_cut_off_where_they_are_joined_are_noted(tmp_path: Path, tool: ToolName) -> None:
    """Single polygons outside their image are noted when they are read; those here become masks before."""
    far = [[500, 500], [530, 500], [530, 530]]
    content, file = labelme({"points": far, "group_id": 1}, {**MASK, "group_id": 1}), "a.json"
    if tool == "supervisely":
        wide = [[-500, -500], [600, -500], [600, 600]]
        content = supervisely({"geometryType": "polygon", "points": {"exterior": wide, "interior": [SQUARE]}})
        file = "a.png.json"
    _, notes = read(tmp_path, tool, content, file)
    assert any(re.search(r"mostly outside their image .* cut off \(1\): 'a.png", note) for note in notes), notes


def test_annotations_may_be_in_an_archive(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    triangle = {"name": "polygon", "all_points_x": [1, 5, 5], "all_points_y": [1, 1, 5]}
    content = json.dumps(via((triangle, {"class": "cell"})))
    for name in ("x.zip", "ann.zip"):  # beside the named file; the archive of a folder
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("via.json", content)
    for source in ("via.json", "ann.zip"):
        samples = open_tool_files("via", [(tmp_path / source, tmp_path)])
        assert samples.num_objects.tolist() == [1]


def test_ids_tell_images_apart_whose_names_differ_in_their_suffix(tmp_path: Path) -> None:
    images = "".join(f"<image name='{name}' width='8' height='8'></image>" for name in ("a.png", "a.jpg", "b.png"))
    (tmp_path / "a.xml").write_text(f"<annotations>{images}</annotations>")
    for name in ("a.png", "a.jpg", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    samples = open_tool_files("cvat", [(tmp_path / "a.xml", tmp_path)], names=Categories.from_names(["cell"]))
    assert [samples.image_id(index) for index in range(3)] == ["a.png", "a.jpg", "b"]


@pytest.mark.parametrize("tool", ["via", "cvat"])
def test_an_image_that_a_file_lists_twice_is_refused_in_words_of_the_tool(tmp_path: Path, tool: ToolName) -> None:
    entry = next(iter(via(({"name": "circle", "cx": 9, "cy": 9, "r": 5}, {"class": "cell"})).values()))
    shape = '<polygon label="cell" points="1,1;9,1;9,9"/>'
    listed = f"<image name='a.png' width='{W}' height='{H}'>{shape}</image>"
    content = {"via": {"a.png1": entry, "a.png2": entry}, "cvat": f"<annotations>{listed * 2}</annotations>"}[tool]
    with pytest.raises(UserError, match=r"ann/a\.\w+' has annotations of 'a\.png' twice; keep one, or join them"):
        read(tmp_path, tool, content, "a.xml" if tool == "cvat" else "a.json")


def test_files_that_annotate_one_image_are_named_and_the_rest_is_still_checked(tmp_path: Path) -> None:
    Image.new("RGB", (W, H)).save(tmp_path / "a.png")
    (tmp_path / "ann").mkdir()
    for name, last in (("one", [15, 15]), ("two", [0, 0]), ("three", [15, 14])):
        points = [[5, 5], [15, 5], last]
        (tmp_path / "ann" / f"{name}.json").write_text(json.dumps(labelme({"points": points})))
    with collected_faults() as faults:
        samples = open_tool_files("labelme", [(tmp_path / "ann", tmp_path)])
    both = "are both annotations of 'a.png'; keep one, or join them"
    assert [fault.message for fault in faults] == [f"'one.json' and '{name}.json' {both}" for name in ("three", "two")]
    assert samples.num_objects.tolist() == [1]
