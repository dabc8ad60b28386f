"""Files of annotation tools: every shape is a mask, or told by name as none, or refused; nothing is lost."""

from __future__ import annotations

import base64
import io
import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.data.datasets.tool_files import open_tool_files
from mask2former.data.datasets.tool_formats import ToolName
from mask2former.errors import UserError
from mask2former.structures import Categories

H, W = 40, 60
SQUARE = [[5, 5], [15, 5], [15, 15], [5, 15]]
OTHER = [[30, 20], [50, 20], [50, 30], [30, 30]]


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((H, W), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, format="PNG")
    return buffer.getvalue()


def read(root: Path, tool: ToolName, content: Any, name: str = "a.json", **options: Any) -> tuple[list[Any], list[str]]:
    """Class and mask of the objects of the image ``a.png``, and the notes."""
    (root / "images").mkdir()
    Image.fromarray(np.zeros((H, W, 3), dtype=np.uint8)).save(root / "images" / "a.png")
    file = root / "ann" / name
    file.parent.mkdir()
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    path = file.parent if tool == "supervisely" else file
    samples = open_tool_files(tool, [(path, root / "images")], **options)
    target = samples[0].target
    assert target is not None
    labels = [samples.categories[label].name for label in target.labels.tolist()]
    return list(zip(labels, target.masks[:, 0].numpy(), strict=True)), samples.notes


def labelme(*shapes: dict[str, Any], **other: Any) -> dict[str, Any]:
    filled = [{"label": "cell", "group_id": None, "flags": {}, **shape} for shape in shapes]
    return {"version": "5.5.0", "imagePath": "a.png", "shapes": filled, "imageHeight": H, "imageWidth": W, **other}


def via(*regions: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    entries = [{"shape_attributes": shape, "region_attributes": attributes} for shape, attributes in regions]
    return {"a.png1": {"filename": "a.png", "size": 1, "regions": entries, "file_attributes": {}}}


def cvat(shapes: str) -> str:
    return f'<annotations><image id="0" name="a.png" width="{W}" height="{H}">{shapes}</image></annotations>'


def task(*results: dict[str, Any], **other: Any) -> list[dict[str, Any]]:
    filled = [{"original_width": W, "original_height": H, "id": f"r{n}", **result} for n, result in enumerate(results)]
    return [{"data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "annotations": [{"result": filled}], **other}]


def supervisely(*shapes: dict[str, Any]) -> dict[str, Any]:
    return {"size": {"height": H, "width": W}, "objects": [{"classTitle": "cell", **shape} for shape in shapes]}


def packed(mask: np.ndarray) -> list[int]:
    """Run lengths as Label Studio's brush has them: of R, G, B and alpha, each the mask times 255."""
    values = np.repeat(mask.astype(np.uint8) * 255, 4)
    bits = [f"{values.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in (3, 4, 8, 16))]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1, [values.size]])
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        for first in range(start, stop, 1 << 16):
            run = min(stop - first, 1 << 16)
            if run == 4:  # single numbers, as they also occur
                bits += ["0", "00", f"{run - 1:03b}", *(f"{values[first]:08b}" for _ in range(run))]
            else:
                bits += ["1", "11", f"{run - 1:016b}", f"{values[first]:08b}"]
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]


def region(corners: Sequence[Sequence[float]], **other: Any) -> dict[str, Any]:
    """A polygon of Label Studio."""
    points = [[100 * x / W, 100 * y / H] for x, y in corners]
    return {"type": "polygonlabels", "value": {"points": points, "polygonlabels": ["cell"]}, **other}


def task_of(data: dict[str, str], *results: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**task(*results)[0], "data": data}]


TWO_IMAGES = {"img1": "/data/upload/1/0a1b2c3d-a.png", "img2": "/data/upload/1/0a1b2c3d-b.png"}
SEVERAL = r"task 1: it has several images \(.*\); expected one image in a task: make a task of each"

ALONE = np.zeros((H, W), dtype=bool)
ALONE[3, 7] = ALONE[20, 0:30] = ALONE[-1, -1] = True
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
    "Label Studio: brush": (
        "label-studio",
        task({"type": "brushlabels", "value": {"format": "rle", "rle": packed(ALONE), "brushlabels": ["cell"]}}),
        [ALONE],
    ),
    "Label Studio: a region and its label apart": (
        "label-studio",
        task(
            {"id": "x", "type": "polygon", "value": {"points": [[100 * x / W, 100 * y / H] for x, y in SQUARE]}},
            {"id": "x", "type": "labels", "value": {"labels": ["cell"]}},
        ),
        [box(5, 5, 15, 15)],
    ),
    "Label Studio: regions without an id": (
        "label-studio",
        task(region(SQUARE, id=None), region(OTHER, id=None)),
        [box(5, 5, 15, 15), box(30, 20, 50, 30)],
    ),
    "Label Studio: geometry in both results of a region": (
        "label-studio",
        task(
            region(SQUARE, id="x", to_name="image"),
            {**region(SQUARE, id="x", to_name="image"), "type": "labels"},
            {"id": "x", "type": "choices", "to_name": "image", "value": {"choices": ["good"]}},
        ),
        [box(5, 5, 15, 15)],
    ),
    "Label Studio: an image among other texts": (
        "label-studio",
        task_of({"title": "Plate", "photo": "/data/upload/1/0a1b2c3d-a.png"}, region(SQUARE, to_name="photo")),
        [box(5, 5, 15, 15)],
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
    "label-studio": (
        "label-studio",
        task(
            {
                "type": "ellipselabels",
                "value": {"x": 50, "y": 50, "radiusX": 1000 / W, "radiusY": 1000 / H, "ellipselabels": ["cell"]},
            }
        ),
    ),
}


@pytest.mark.parametrize("name", CIRCLES)
def test_circles_and_ellipses_are_the_pixels_inside_them(tmp_path: Path, name: str) -> None:
    tool, content = CIRCLES[name]
    ((_, mask),), _ = read(tmp_path, tool, content, f"a.{'xml' if tool == 'cvat' else 'json'}")
    y, x = np.mgrid[:H, :W] + 0.5
    inside = np.hypot(x - 30, y - 20)
    assert mask[inside < 9.4].all()
    assert not mask[inside > 10.6].any()


@pytest.mark.parametrize("name", ["cvat", "label-studio"])
def test_an_ellipse_turns_clockwise_as_the_image_shows_it(tmp_path: Path, name: str) -> None:
    """Both programs say so of theirs; y grows downwards."""
    share = {"x": 50, "y": 50, "radiusX": 1600 / W, "radiusY": 400 / H, "rotation": 30, "ellipselabels": ["cell"]}
    content = {
        "cvat": cvat('<ellipse label="cell" cx="30" cy="20" rx="16" ry="4" rotation="30"/>'),
        "label-studio": task({"type": "ellipselabels", "value": share}),
    }[name]
    tool: ToolName = "cvat" if name == "cvat" else "label-studio"
    ((_, mask),), _ = read(tmp_path, tool, content, f"a.{'xml' if tool == 'cvat' else 'json'}")
    ends = [
        (round(20 + side * 13 * math.sin(math.radians(30))), round(30 + side * 13 * math.cos(math.radians(30))))
        for side in (1, -1)
    ]
    assert all(mask[end] for end in ends)
    assert not any(mask[40 - y, x] for y, x in ends)  # of the one that turns the other way


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
    "label-studio": (
        "label-studio",
        task(
            {"type": "polygonlabels", "value": {"points": [[9, 9], [30, 9], [30, 30]], "polygonlabels": ["cell"]}},
            {
                "type": "rectanglelabels",
                "value": {"x": 1, "y": 1, "width": 8, "height": 8, "rectanglelabels": ["cell"]},
            },
        ),
        "rectangle",
    ),
    "label-studio, a kind that no reader knows": (
        "label-studio",
        task(
            {"type": "polygonlabels", "value": {"points": [[9, 9], [30, 9], [30, 30]], "polygonlabels": ["cell"]}},
            {"type": "meshlabels", "value": {"mesh": [1, 2], "meshlabels": ["cell"]}},
        ),
        "meshlabels",
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
    "a bitmask of another size": (
        "label-studio",
        task(
            {
                "type": "bitmasklabels",
                "value": {
                    "imageDataURL": f"data:image/png;base64,{base64.b64encode(png(np.ones((3, 4), bool))).decode()}",
                    "bitmasklabels": ["cell"],
                },
            }
        ),
        r"its mask has \(3, 4\) pixels, but its image \(40, 60\)",
    ),
    "a bitmask elsewhere": (
        "label-studio",
        task({"type": "bitmasklabels", "value": {"imageDataURL": "https://host/m.png", "bitmasklabels": ["cell"]}}),
        "its image is 'https://host/m.png', no 'data:image/png;base64,...'",
    ),
    "another tool": ("labelme", via(), r"not in the format of LabelMe; it looks like VIA"),
    "no points": (
        "labelme",
        labelme({"points": 3}),
        r"writes it: object 1: something in it has an unexpected type \(TypeError",
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
        "say which one is the class",
    ),
    "two checkboxes": (
        "via",
        via(({"name": "point"}, {"kind": {"cell": True, "dirt": True}})),
        r"object \d of 'a.png': .* expected one class for each region",
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
        "a mask has pixels: 1,000,000,000,000; at most",
    ),
    "JSON-MIN": ("label-studio", [{"image": "a.png", "id": 1, "label": []}], "JSON-MIN"),
    "two images": (
        "label-studio",
        task_of(TWO_IMAGES, region(SQUARE, to_name="img1"), region(OTHER, to_name="img2")),
        SEVERAL,
    ),
    "two images, one of them in the usual key": (
        "label-studio",
        task_of(
            {"image": TWO_IMAGES["img1"], "other": "b"},
            region(SQUARE, to_name="image"),
            region(OTHER, to_name="second"),
        ),
        SEVERAL,
    ),
    "two images, regions on the second": (
        "label-studio",
        task_of({"image": TWO_IMAGES["img1"], "other": TWO_IMAGES["img2"]}, region(SQUARE, to_name="other")),
        SEVERAL,
    ),
    "an image of a list": ("label-studio", task(region(SQUARE, to_name="image", item_index=1)), SEVERAL),
    "a width of 0": (
        "label-studio",
        task(region(SQUARE, original_width=0)),
        r"result 'r0': 'original_width' is 0; expected pixels of the image",
    ),
    "a height that is not a number": (
        "label-studio",
        task(region(SQUARE, original_height=math.nan)),
        "'original_height' is nan; expected pixels of the image",
    ),
    "a height as text": (
        "label-studio",
        task(region(SQUARE, original_height="40")),
        "'original_height' is '40'; expected pixels of the image",
    ),
    "two sizes of one image": (
        "label-studio",
        task(region(SQUARE), region(OTHER, original_width=W + 1)),
        r"result 'r1': its image has \(40, 61\) pixels \(height, width\), but \(40, 60\)",
    ),
    "two regions of one id": (
        "label-studio",
        task(region(SQUARE, id="x"), region(OTHER, id="x")),
        "result 'x': another region has the same id",
    ),
    "two labels of one id": (
        "label-studio",
        task(region(SQUARE, id="x"), {"id": "x", "type": "labels", "value": {"labels": ["dirt"]}}),
        "region 'x' of .*: it has the labels .*; expected one class for each",
    ),
    "a number as a brush": (
        "label-studio",
        task({"value": {"rle": 10_000_000_000_000, "brushlabels": ["cell"]}}),
        "'rle' is 10000000000000; expected a list of numbers",
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
    "a corner of one number, Label Studio": (
        "label-studio",
        task({"value": {"points": [[1, 1], [2], [3, 4]], "polygonlabels": ["cell"]}}),
        r"a corner is \[2\]; expected x and y",
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
    "two labels": (
        "label-studio",
        task({"type": "polygonlabels", "value": {"points": [[1, 1]], "polygonlabels": ["cell", "dirt"]}}),
        r"task 1: region '\w+' of .*: it has the labels .*; expected one class for each",
    ),
    "a rotated image": (
        "label-studio",
        task({"image_rotation": 90, "value": {"points": [[1, 1]], "polygonlabels": ["cell"]}}),
        "was rotated in Label Studio",
    ),
    "a brush that is cut short": (
        "label-studio",
        task({"value": {"rle": packed(ALONE)[:-2], "brushlabels": ["cell"]}}),
        "cut short",
    ),
    "a brush of another image": (
        "label-studio",
        task({"value": {"rle": packed(np.ones((2, 2), bool)), "brushlabels": ["cell"]}}),
        "of a brush are of 16 values",
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
    for folder in ("1", "2"):
        (tmp_path / folder).mkdir()
    polygon = {"name": "polygon", "all_points_x": [5, 15, 15], "all_points_y": [5, 5, 15]}
    found, notes = read(tmp_path / "1", "via", via((polygon, {})))
    assert [label for label, _ in found] == ["object"]
    assert any("all are of one class, 'object'" in note for note in notes)
    twice = task(region(SQUARE), {"type": "choices", "value": {"choices": ["good"]}})
    twice[0]["annotations"].append({"result": []})
    found, notes = read(tmp_path / "2", "label-studio", twice)
    assert len(found) == 1
    assert any("several annotations of Label Studio, of which the first is read" in note for note in notes)
    assert any("are not regions" in note for note in notes)
