"""Exports of Label Studio: every region becomes a mask, is named in a note, or is rejected; none is lost."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import ALONE, OTHER, SQUARE, H, W, box, check_disc, check_turned, png, read

from mask2former.errors import UserError


def task(*results: dict[str, Any], **other: Any) -> list[dict[str, Any]]:
    filled = [{"original_width": W, "original_height": H, "id": f"r{n}", **result} for n, result in enumerate(results)]
    return [{"data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "annotations": [{"result": filled}], **other}]


def packed(mask: np.ndarray) -> list[int]:
    """Run lengths in the format of Label Studio's brush: R, G, B and alpha are each the mask times 255."""
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
SEVERAL = r"task 1: it has several images \(.*\); expected one image per task: create one task per"

READ: dict[str, tuple[Any, list[np.ndarray]]] = {
    "brush": (
        task({"type": "brushlabels", "value": {"format": "rle", "rle": packed(ALONE), "brushlabels": ["cell"]}}),
        [ALONE],
    ),
    "a region and its label apart": (
        task(
            {"id": "x", "type": "polygon", "value": {"points": [[100 * x / W, 100 * y / H] for x, y in SQUARE]}},
            {"id": "x", "type": "labels", "value": {"labels": ["cell"]}},
        ),
        [box(5, 5, 15, 15)],
    ),
    "regions without an id": (
        task(region(SQUARE, id=None), region(OTHER, id=None)),
        [box(5, 5, 15, 15), box(30, 20, 50, 30)],
    ),
    "geometry in both results of a region": (
        task(
            region(SQUARE, id="x", to_name="image"),
            {**region(SQUARE, id="x", to_name="image"), "type": "labels"},
            {"id": "x", "type": "choices", "to_name": "image", "value": {"choices": ["good"]}},
        ),
        [box(5, 5, 15, 15)],
    ),
    "an image among other texts": (
        task_of({"title": "Plate", "photo": "/data/upload/1/0a1b2c3d-a.png"}, region(SQUARE, to_name="photo")),
        [box(5, 5, 15, 15)],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_regions_become_their_masks(tmp_path: Path, name: str) -> None:
    content, expected = READ[name]
    found, _ = read(tmp_path, "label-studio", content)
    assert [label for label, _ in found] == ["cell"] * len(expected)
    assert all((mask == wanted).all() for (_, mask), wanted in zip(found, expected, strict=True))


def test_ellipses_are_the_pixels_inside_them(tmp_path: Path) -> None:
    share = {"x": 50, "y": 50, "radiusX": 1000 / W, "radiusY": 1000 / H, "ellipselabels": ["cell"]}
    ((_, mask),), _ = read(tmp_path, "label-studio", task({"type": "ellipselabels", "value": share}))
    check_disc(mask)


def test_an_ellipse_turns_clockwise_as_the_image_shows_it(tmp_path: Path) -> None:
    share = {"x": 50, "y": 50, "radiusX": 1600 / W, "radiusY": 400 / H, "rotation": 30, "ellipselabels": ["cell"]}
    ((_, mask),), _ = read(tmp_path, "label-studio", task({"type": "ellipselabels", "value": share}))
    check_turned(mask)


NO_MASKS: dict[str, tuple[Any, str]] = {
    "label-studio": (
        task(
            {"type": "polygonlabels", "value": {"points": [[9, 9], [30, 9], [30, 30]], "polygonlabels": ["cell"]}},
            {
                "type": "rectanglelabels",
                "value": {"x": 1, "y": 1, "width": 8, "height": 8, "rectanglelabels": ["cell"]},
            },
        ),
        "rectangle",
    ),
    "a kind that no reader knows": (
        task(
            {"type": "polygonlabels", "value": {"points": [[9, 9], [30, 9], [30, 30]], "polygonlabels": ["cell"]}},
            {"type": "meshlabels", "value": {"mesh": [1, 2], "meshlabels": ["cell"]}},
        ),
        "meshlabels",
    ),
}


@pytest.mark.parametrize("name", NO_MASKS)
def test_what_is_no_mask_is_refused_or_left_out_with_its_count(tmp_path: Path, name: str) -> None:
    content, what = NO_MASKS[name]
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    with pytest.raises(UserError, match=rf"annotations 1 \(.*object 2 \({what}\)\) have no segmentation"):
        read(tmp_path / "1", "label-studio", content)
    found, notes = read(tmp_path / "2", "label-studio", content, missing_masks="skip")
    assert len(found) == 1
    assert any("left out objects without segmentation: annotations 1 (" in note for note in notes), notes


BROKEN: dict[str, tuple[Any, str]] = {
    "a bitmask of another size": (
        task(
            {
                "type": "bitmasklabels",
                "value": {
                    "imageDataURL": f"data:image/png;base64,{base64.b64encode(png(np.ones((3, 4), bool))).decode()}",
                    "bitmasklabels": ["cell"],
                },
            }
        ),
        r"its mask has \(3, 4\) pixels, but its image has \(40, 60\)",
    ),
    "a bitmask elsewhere": (
        task({"type": "bitmasklabels", "value": {"imageDataURL": "https://host/m.png", "bitmasklabels": ["cell"]}}),
        "its image is 'https://host/m.png'; expected 'data:image/png;base64,...'",
    ),
    "JSON-MIN": ([{"image": "a.png", "id": 1, "label": []}], "JSON-MIN"),
    "two images": (
        task_of(TWO_IMAGES, region(SQUARE, to_name="img1"), region(OTHER, to_name="img2")),
        SEVERAL,
    ),
    "two images, one of them in the usual key": (
        task_of(
            {"image": TWO_IMAGES["img1"], "other": "b"},
            region(SQUARE, to_name="image"),
            region(OTHER, to_name="second"),
        ),
        SEVERAL,
    ),
    "two images, regions on the second": (
        task_of({"image": TWO_IMAGES["img1"], "other": TWO_IMAGES["img2"]}, region(SQUARE, to_name="other")),
        SEVERAL,
    ),
    "an image of a list": (task(region(SQUARE, to_name="image", item_index=1)), SEVERAL),
    "a width of 0": (
        task(region(SQUARE, original_width=0)),
        r"result 'r0': 'original_width' is 0; expected pixels of the image",
    ),
    "a height that is no number": (
        task(region(SQUARE, original_height=math.nan)),
        "'original_height' is nan; expected pixels of the image",
    ),
    "a height as text": (
        task(region(SQUARE, original_height="40")),
        "'original_height' is '40'; expected pixels of the image",
    ),
    "two sizes of one image": (
        task(region(SQUARE), region(OTHER, original_width=W + 1)),
        r"result 'r1': its image has \(40, 61\) pixels \(height, width\), but \(40, 60\)",
    ),
    "two regions of one id": (
        task(region(SQUARE, id="x"), region(OTHER, id="x")),
        "result 'x': another region has the same id",
    ),
    "two labels of one id": (
        task(region(SQUARE, id="x"), {"id": "x", "type": "labels", "value": {"labels": ["dirt"]}}),
        "region 'x' of .*: it has the labels .*; expected one class per region",
    ),
    "a number as a brush": (
        task({"value": {"rle": 10_000_000_000_000, "brushlabels": ["cell"]}}),
        "'rle' is 10000000000000; expected a list of numbers",
    ),
    "a corner of one number": (
        task({"value": {"points": [[1, 1], [2], [3, 4]], "polygonlabels": ["cell"]}}),
        r"a corner is \[2\]; expected x and y",
    ),
    "two labels": (
        task({"type": "polygonlabels", "value": {"points": [[1, 1]], "polygonlabels": ["cell", "dirt"]}}),
        r"task 1: region '\w+' of .*: it has the labels .*; expected one class per region",
    ),
    "a rotated image": (
        task({"image_rotation": 90, "value": {"points": [[1, 1]], "polygonlabels": ["cell"]}}),
        "was rotated in Label Studio",
    ),
    "a brush that is cut short": (
        task({"value": {"rle": packed(ALONE)[:-2], "brushlabels": ["cell"]}}),
        "incomplete",
    ),
    "a brush of another image": (
        task({"value": {"rle": packed(np.ones((2, 2), bool)), "brushlabels": ["cell"]}}),
        "of a brush mask cover 16 values",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    content, words = BROKEN[name]
    with pytest.raises(UserError, match=words):
        read(tmp_path, "label-studio", content)


def test_what_is_not_read_is_noted(tmp_path: Path) -> None:
    twice = task(region(SQUARE), {"type": "choices", "value": {"choices": ["good"]}})
    twice[0]["annotations"].append({"result": []})
    found, notes = read(tmp_path, "label-studio", twice)
    assert len(found) == 1
    assert any("several Label Studio annotations, of which only the first is read" in note for note in notes)
    assert any("are not regions" in note for note in notes)


def test_many_labels_of_one_region_take_time_in_proportion_to_their_number(tmp_path: Path) -> None:
    more = [{"id": "x", "value": {"labels": [f"label {number}"]}} for number in range(40_000)]
    begin = time.process_time()
    with pytest.raises(UserError, match=r"has the labels \['cell', 'label 0', .*expected one class per region"):
        read(tmp_path, "label-studio", task(region(SQUARE, id="x"), *more))
    assert time.process_time() - begin < 4
