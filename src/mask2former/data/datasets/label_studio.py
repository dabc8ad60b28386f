"""Label Studio tasks as records.

Sources: its export formats and ``label_studio_sdk.converter.brush``. Reads no image files.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from mask2former.data.datasets.tool_records import (
    Record,
    Shape,
    Source,
    check_pixels,
    ellipse,
    flat,
    label_of,
    mask_of_image,
    run_lengths,
    stated_side,
    within,
)
from mask2former.errors import UserError
from mask2former.media.images import IMAGE_SUFFIXES
from mask2former.notes import note
from mask2former.ops.masks import Patch
from mask2former.text import quoted

__all__ = ["is_label_studio", "parse_label_studio"]

_MOST_LABELS = 40  # of one region; more than one are refused, and a message has no room for as many as these


def parse_label_studio(source: Source) -> Iterator[Record]:
    """The tasks that have been annotated, as records; the others are noted.

    Raises:
        UserError: the export lacks information, a task has several images, or a choice cannot be read.
        DamagedError: something differs from what Label Studio writes.
    """
    for position, task in enumerate(source.content, start=1):
        if "annotations" not in task and "completions" not in task:
            if "predictions" in task:
                raise UserError(
                    "its tasks contain predictions that were never submitted; correct and submit them in Label "
                    "Studio and export 'JSON' (for predictions as they are: predict --also coco-dataset)"
                )
            raise UserError("it is a JSON-MIN export of Label Studio, which lacks required information; export 'JSON'")
        with within(f"task {quoted(task.get('id', position), 40)}"):
            image = _task_image(task["data"])
        done = [entry for entry in task.get("annotations", task.get("completions")) if not entry.get("was_cancelled")]
        if not done:  # an unannotated task is not known to have no objects
            note("Label Studio tasks that were skipped or not annotated, left out", f"'{image}'")
            continue
        if len(done) > 1:
            note(
                "images with several Label Studio annotations, of which only the first is read",
                f"'{image}' ({len(done)})",
            )
        with within(f"task {quoted(task.get('id', position), 40)}"):
            _check_one_image(done[0]["result"], task["data"], image)
            size, shapes = _task_shapes(done[0]["result"], image)
        yield Record(image, size, shapes, image)


def _task_image(data: dict[str, Any]) -> str:
    for key in ("image", "img", "url"):
        if isinstance(data.get(key), str):
            return data[key]
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    images = {key: value for key, value in texts.items() if value.lower().endswith(IMAGE_SUFFIXES)}
    if len(set(images.values())) > 1:
        raise _several_images(list(images))
    names = [*images.values(), *texts.values()]
    if not names:
        raise ValueError("a task has no image in 'data'")
    return names[0]


def _several_images(keys: Sequence[Any]) -> UserError:
    return UserError(
        f"it has several images ({quoted(keys, 80)}); expected one image per task: create one task per image with "
        "its own annotations, or export COCO"
    )


def _check_one_image(results: Sequence[dict[str, Any]], data: dict[str, Any], image: str) -> None:
    """Regions name the tag that they were drawn on, and the position in it where it shows several images.

    Raises:
        UserError: they do not all lie on the image of the task.
    """
    regions = [result for result in results if _is_region(result.get("value") or {})]
    tags = list(dict.fromkeys(str(region["to_name"]) for region in regions if region.get("to_name") is not None))
    others = [tag for tag in tags if data.get(tag, image) != image]
    if len(tags) > 1 or others:
        raise _several_images(tags if len(tags) > 1 else list(data))
    if any(region.get("item_index") for region in regions):
        raise _several_images([f"'item_index' of {tag}" for tag in tags])


_GEOMETRY = ("points", "rle", "imageDataURL", "radiusX", "radiusY", "x", "y", "width", "height", "rotation", "vertices")


def _is_region(value: dict[str, Any]) -> bool:
    return any(name in value for name in ("points", "rle", "imageDataURL", "radiusX", "x", "vertices"))


def _task_shapes(results: Sequence[dict[str, Any]], image: str) -> tuple[tuple[int, int], list[Shape]]:
    """Regions and their labels, which may be two results of one id, each with the geometry."""
    size = 0, 0
    regions: dict[Any, dict[str, Any]] = {}
    labels: dict[Any, list[Any]] = {}
    kinds: dict[Any, Any] = {}
    for position, result in enumerate(results, start=1):
        value, key = result.get("value") or {}, result.get("id")
        key = f"{position} without an id" if key is None else key
        given = next((value[name] for name in value if name.endswith("labels") and isinstance(value[name], list)), None)
        if given is not None:
            before = labels.setdefault(key, given)
            if before is not given and len(before) < _MOST_LABELS:
                labels[key] = [*before, *(name for name in given if name not in before)]
            kinds[key] = result.get("type")
        if not _is_region(value):
            if given is None:
                note("Label Studio results that are not regions (choices, relations, ...)", f"'{image}'")
            continue
        geometry = {name: value[name] for name in _GEOMETRY if name in value}
        with within(f"result {quoted(key, 40)}"):
            stated = stated_side(result, "original_height"), stated_side(result, "original_width")
            if size not in ((0, 0), stated):
                raise ValueError(f"its image has {stated} pixels (height, width), but {size} in the results before it")
            if regions.setdefault(key, geometry) != geometry:
                raise ValueError("another region has the same id; expected a different id for each region")
        size = stated
        if result.get("image_rotation"):
            raise UserError(f"{quoted(image)} was rotated in Label Studio; annotate it without rotation")
    shapes = []
    for key in dict.fromkeys((*regions, *labels)):
        chosen = labels.get(key) or [None]
        with within(f"region {quoted(key, 40)} of {quoted(image, 60)}"):
            if len(chosen) != 1:
                raise UserError(f"it has the labels {quoted(chosen)}; expected one class per region")
            shape = _region(regions[key], size) if key in regions else (None, str(kinds[key])[:40])
            shapes.append(Shape(label_of(chosen[0]), *shape))
    return size, shapes


def _region(value: dict[str, Any], size_hw: tuple[int, int]) -> tuple[Any, str]:
    """Its segmentation, and what it is; coordinates are percent of width and height."""
    height, width = size_hw
    if "rle" in value:
        if not isinstance(value["rle"], list):  # given a number, bytes() would return that many zeros
            raise ValueError(f"'rle' is {quoted(value['rle'], 40)}; expected a list of numbers")
        mask = _decoded_brush(bytes(value["rle"]), size_hw)
        return run_lengths(Patch(0, 0, mask), size_hw), "brush"
    if "imageDataURL" in value:
        head, _, png = value["imageDataURL"].partition("base64,")
        if not head.startswith("data:image/"):
            raise ValueError(f"its image is {quoted(value['imageDataURL'], 40)}; expected 'data:image/png;base64,...'")
        mask = mask_of_image("bitmask", base64.b64decode(png, validate=True))
        if mask.shape != size_hw:
            raise ValueError(f"its mask has {mask.shape} pixels, but its image has {size_hw} (height, width)")
        return run_lengths(Patch(0, 0, mask), size_hw), "bitmask"
    if "points" in value:
        flat(value["points"])
        return [[part for x, y in value["points"] for part in (x * width / 100, y * height / 100)]], "polygon"
    if "radiusX" in value:
        across, down = value["radiusX"] * width / 100, value["radiusY"] * height / 100
        return ellipse(
            value["x"] * width / 100, value["y"] * height / 100, across, down, value.get("rotation", 0)
        ), "ellipse"
    return None, "rectangle" if "height" in value else "keypoint" if "vertices" not in value else "vector"


class _Bits:
    """Numbers of some bits each, one after the other."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._position = 0

    def read(self, count: int) -> int:
        stop = self._position + count
        last = -(-stop // 8)
        if last > len(self._content):
            raise ValueError("the run lengths of a brush mask are incomplete")
        whole = int.from_bytes(self._content[self._position // 8 : last], "big")
        self._position = stop
        return whole >> (8 * last - stop) & ((1 << count) - 1)


def _decoded_brush(content: bytes, size_hw: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The mask in Label Studio's run lengths: the alpha of R, G, B, alpha, R, ..., packed by ``@thi.ng/rle-pack``."""
    bits = _Bits(content)
    count, bits_of_word = bits.read(32), bits.read(5) + 1
    bits_of_run = [bits.read(4) + 1 for _ in range(4)]
    check_pixels(*size_hw)
    if count != 4 * size_hw[0] * size_hw[1]:
        raise ValueError(
            f"the run lengths of a brush mask cover {count} values; expected 4 for each of {size_hw} pixels"
        )
    alpha = np.zeros(count // 4, dtype=bool)
    position = 0
    while position < count:
        is_run = bits.read(1)
        stop = min(count, position + 1 + bits.read(bits_of_run[bits.read(2)]))
        pixels = slice(position // 4, stop // 4)  # whose alpha lies in the run
        if is_run:
            alpha[pixels] = bits.read(bits_of_word) > 0
        else:
            values = [bits.read(bits_of_word) > 0 for _ in range(stop - position)]
            alpha[pixels] = values[3 - position % 4 :: 4]
        position = stop
    return alpha.reshape(size_hw)


def is_label_studio(content: Any) -> bool:
    """Whether the content of a JSON file is a Label Studio export."""
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        return False
    return isinstance(content[0].get("data"), dict) or "label" in content[0] or "annotation_id" in content[0]
