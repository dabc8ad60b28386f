"""Annotation files with one field changed: the data is right, a note names what is lost, or the file is refused.

A small valid file is changed in one place, drawn with a fixed seed from all of its fields and a pool of values that
tools and people write there. What a changed file means is decided here, by the rules of its format alone; a file that
breaks them may still be read as it was meant, be read with a note that names the culprit, or be refused in a sentence.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from mask2former.data.datasets import CocoInstances
from mask2former.errors import RequestError
from mask2former.ops import masks as mask_ops
from mask2former.structures.truths import InstanceTruth

Json = dict[str, Any]
Place = tuple[str | int, ...]

# --- changing one field ----------------------------------------------------------------------------------------------

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, -1, 3.0, 0.5, -0.25, 7.5, 1e12, -1e12, 1e300, math.nan, math.inf, 2**70, 10**400),
    *("", " ", "0", "1", "3", "true", "no", "x", "nan", "a.png", "\ud800", "0\0", "../a.png"),
    *([], {}, [[]], [[[]]], [1], [None], ["1", "2"], [[1, 2], [3, 4], [9, 5]], {"size": [1, 1], "counts": [1]}),
)


def _as_pairs(value: Any) -> Any:
    """Innermost lists of numbers as lists of [x, y]."""
    if not isinstance(value, list) or not value or isinstance(value[0], (list, dict)):
        return [*map(_as_pairs, value)] if isinstance(value, list) else value
    return [list(pair) for pair in zip(value[::2], value[1::2], strict=False)]


def _swapped(value: Any) -> Any:
    """Innermost lists of numbers with x and y exchanged."""
    if not isinstance(value, list) or not value or isinstance(value[0], (list, dict)):
        return [*map(_swapped, value)] if isinstance(value, list) else value
    return [item for pair in _as_pairs(value) for item in reversed(pair)]


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """A change of every number within."""
    if isinstance(value, list):
        return [_each(change, item) for item in value]
    return change(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


_OF_LISTS: tuple[Callable[[list[Any]], Any], ...] = (
    lambda items: items[:-1],
    lambda items: items[1:],
    lambda items: items[::-1],
    lambda items: [*items, items[0]] if items else [0],
    lambda items: [*items, copy.deepcopy(items[-1])] if items else [None],
    lambda items: [*items, None],
    lambda items: [items],
    lambda items: items[0] if items else items,
    lambda items: dict(enumerate(map(str, items))),
    lambda items: _each(lambda number: number / 64, items),
    lambda items: _each(lambda number: number * 4, items),
    lambda items: _each(lambda number: number + 500, items),
    lambda items: _each(str, items),
    _as_pairs,
    _swapped,
)
_OF_NUMBERS: tuple[Callable[[Any], Any], ...] = (
    str,
    float,
    bool,
    lambda number: -number,
    lambda number: number * 10,
    lambda number: number + 0.5,
    lambda number: number + 1,
    lambda number: number - 1,
    lambda number: [number],
)
_OF_TEXTS: tuple[Callable[[str], Any], ...] = (
    lambda text: text[:-1],
    lambda text: text + text[-1:],
    lambda text: f"folder/{text}",
    lambda text: text.upper(),
    lambda text: [text],
    lambda text: text.encode().hex(),
)


def places(value: Any, above: Place = ()) -> Iterator[Place]:
    """The way to everything in a value."""
    if above:
        yield above
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*above, key))


def changed(values: Json, draw: random.Random, keys: tuple[str, ...]) -> tuple[Json, Place, str]:
    """A copy with one field changed, which one, and what it was made."""
    top = draw.choice(keys)
    ways = list(places(values[top], (top,)))
    depth = draw.choice((1, 2, 3, 3, 3, 3, 4, 5))  # else numbers of polygons would be nearly all
    place = draw.choice([way for way in ways if len(way) == depth] or ways)
    out = copy.deepcopy(values)
    node: Any = out
    for key in place[:-1]:
        node = node[key]
    last = place[-1]
    old = node[last]
    what = draw.random()
    if what < 0.1:
        del node[last]
        return out, place, "deleted"
    if what < 0.2 and isinstance(node, list):
        node.append(copy.deepcopy(old))
        return out, place, "twice"
    if what < 0.6:
        kinds: tuple[Callable[[Any], Any], ...] = (
            _OF_LISTS if isinstance(old, list) else _OF_TEXTS if isinstance(old, str) else _OF_NUMBERS
        )
        if not isinstance(old, dict):
            node[last] = draw.choice(kinds)(old)
            return out, place, repr(node[last])
    node[last] = copy.deepcopy(draw.choice(_VALUES))
    return out, place, repr(node[last])


class Outcome(NamedTuple):
    """What became of a changed file."""

    kind: str  # right, noted, refused
    said: str


def judge(
    read: Callable[[], tuple[Any, list[str]]],
    legal: Any,
    original: Any,
    culprit: str,
    disagrees: bool = False,
) -> Outcome:
    """Whether an outcome is one of the three that are allowed.

    Args:
        read: the data and the notes of the changed file.
        legal: the data by the rules of the format; None for a file that breaks them.
        original: the data before the change.
        culprit: what a note must name.
        disagrees: the file contradicts itself, so that right data needs a note, and a refusal is as good.
    """
    refused = None
    try:
        data, notes = read()
    except RequestError as error:
        data, notes, refused = None, [], str(error)
    if refused is not None:
        assert "\n" not in refused
        assert len(refused) > 20
        assert legal is None or disagrees, f"refused, but it is legal: {refused}"
        return Outcome("refused", refused)
    named = [note for note in notes if culprit in note]
    if legal is not None:
        assert data == legal, "read as something else"
        assert named or not disagrees, f"contradicts itself, and no note says so: {notes}"
        return Outcome("noted" if named else "right", "".join(named))
    if data == original:
        return Outcome("right", "")
    assert named, f"changed without a note that names {culprit!r}: {notes}"
    return Outcome("noted", "".join(named))


# --- COCO's instance format ------------------------------------------------------------------------------------------

H, W = 40, 64
_SIZES = {"a.png": (H, W), "b.png": (H, W), "c.png": (50, 30)}


def _mask(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (H, W)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def _compressed(mask: np.ndarray) -> Json:
    return mask_ops.encode(mask[None])[0]


def _uncompressed(mask: np.ndarray) -> Json:
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def coco() -> Json:
    """Three images, one without objects; every kind of segmentation."""
    round_one = (
        [40 + 12 * math.cos(angle / 4) for angle in range(25)],
        [20 + 9 * math.sin(angle / 4) for angle in range(25)],
    )
    corners = [round(value, 2) for pair in zip(*round_one, strict=True) for value in pair]
    return {
        "images": [
            {"id": 11, "file_name": "a.png", "height": H, "width": W},
            {"id": 7, "file_name": "b.png", "height": H, "width": W},
            {"id": 3, "file_name": "c.png", "height": 50, "width": 30},
        ],
        "categories": [{"id": 9, "name": "cell", "supercategory": "x"}, {"id": 1, "name": "dirt"}],
        "annotations": [
            _annotation(101, 11, 9, [[2, 3, 12, 3, 12, 30, 2, 30], [20, 5, 26, 5, 26, 9]], 282, [2, 3, 24, 27]),
            _annotation(102, 11, 1, [corners], 338.5, [28, 11.02, 23.97, 18]),
            _annotation(103, 7, 9, _compressed(_mask(3, 4, 20, 30)), 442, [4, 3, 26, 17]),
            _annotation(104, 7, 1, _uncompressed(_mask(20, 30, 33, 47)), 221, [30, 20, 17, 13]),
            _annotation(105, 7, 9, _uncompressed(_mask(0, 40, 9, 60)), 180, [40, 0, 20, 9], iscrowd=1),
        ],
    }


def _annotation(number: int, image: int, category: int, segmentation: Any, area: float, box: Any, **more: Any) -> Json:
    return {
        **{"id": number, "image_id": image, "category_id": category, "segmentation": segmentation},
        **{"area": area, "bbox": box, "iscrowd": 0, **more},
    }


Truths = list[tuple[Any, list[tuple[int, bool, float, bytes]]]]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9  # not NaN


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(value: Any) -> Any:
    """A number that a tool wrote as 7.0 is 7; None for what is no whole number."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if _is_whole(value) else None


def _unique(values: list[Any]) -> bool:
    return len({repr(value) for value in values}) == len(values)


def _legal_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray | None:
    """The mask that a segmentation is by the rules of the format, inside its image; None where it breaks them."""
    mask = np.zeros(size, dtype=bool)
    if isinstance(segmentation, dict):
        if segmentation.keys() != {"size", "counts"} or segmentation["size"] != list(size):
            return None
        if not all(map(_is_whole, segmentation["size"])):
            return None
        counts = segmentation["counts"]
        if isinstance(counts, list):
            if not all(_is_whole(run) and run >= 0 for run in counts) or sum(counts) != mask.size:
                return None
            mask = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[::-1]).T
            return mask if mask.any() else None
        try:
            mask = mask_ops.decode(segmentation)[0] if isinstance(counts, str) else mask
            return mask if mask.any() and mask_ops.encoded_area(segmentation) == mask.sum() else None
        except (RequestError, ValueError):
            return None
    if not isinstance(segmentation, list):
        return None
    for polygon in segmentation:
        if not isinstance(polygon, list) or not all(map(_is_number, polygon)) or len(polygon) % 2 or len(polygon) < 6:
            return None
        corners = np.array(polygon, dtype=np.float64).reshape(-1, 2)
        if np.linalg.matrix_rank(corners[1:] - corners[0], tol=1e-9) < 2:
            return None
        low, high = corners.min(axis=0), corners.max(axis=0)
        seen = np.clip(np.minimum(high, size[::-1]) - np.maximum(low, 0), 0, None)
        if seen.prod() < 0.4 * (high - low).prod():  # cut off by the image, but not for the most
            return None
        top, left, patch = mask_ops.polygons_to_patch([corners], size)
        mask[top : top + patch.shape[0], left : left + patch.shape[1]] |= patch
    return mask if segmentation else None


def legal_coco(values: Any) -> Truths | None:
    """The ground truth of a file that keeps the rules of the format."""
    values = copy.deepcopy(values)
    if not all(isinstance(values.get(key), list) for key in ("images", "annotations", "categories")):
        return None
    entries = [*values["images"], *values["annotations"], *values["categories"]]
    if not all(isinstance(entry, dict) for entry in entries) or not values["categories"]:
        return None
    images, classes, annotations = values["images"], values["categories"], values["annotations"]
    if not _unique([entry.get("id") for entry in images]) or not _unique([item.get("file_name") for item in images]):
        return None
    for entry in images:
        known = isinstance(entry.get("file_name"), str) and entry["file_name"] in _SIZES
        identified = _whole(entry.get("id")) is not None or isinstance(entry.get("id"), str)
        if not known or not identified:
            return None
        for key, side in zip(("height", "width"), _SIZES[entry["file_name"]], strict=True):
            if not _is_whole(entry.get(key)) or entry[key] != side:
                return None
    names = [entry.get("name") for entry in classes]
    if not all(isinstance(name, str) and name.strip() for name in names) or not _unique(names):
        return None
    if not all(_is_whole(entry.get("id")) for entry in classes) or not _unique([entry["id"] for entry in classes]):
        return None
    if not _unique([entry.get("id", index) for index, entry in enumerate(annotations)]):
        return None
    for entry in (*images, *annotations):
        for key in {"id", "image_id", "category_id"} & entry.keys():
            entry[key] = _whole(entry[key]) if isinstance(entry[key], float) else entry[key]
    truths: dict[Any, list[Any]] = {entry["id"]: [] for entry in images}
    sizes = {entry["id"]: _SIZES[entry["file_name"]] for entry in images}
    class_of_id = {entry["id"]: index for index, entry in enumerate(classes)}
    for entry in annotations:
        image, category, crowd = entry.get("image_id"), entry.get("category_id"), entry.get("iscrowd", 0)
        if not (_is_whole(image) or isinstance(image, str)) or not _is_whole(category) or not _is_whole(crowd):
            return None
        if not (_is_whole(entry.get("id", 0)) or isinstance(entry["id"], str)):
            return None
        if image not in truths or category not in class_of_id or crowd not in (0, 1):
            return None
        mask = _legal_mask(entry.get("segmentation"), sizes[image])
        if mask is None:
            return None
        area = entry.get("area", int(mask.sum()))
        if not _is_number(area) or not 0 < area <= mask.size:
            return None
        truths[image].append((class_of_id[category], bool(crowd), float(area), mask.tobytes()))
    return [(image, sorted(objects)) for image, objects in truths.items()]


def read_coco(file: Path, images: Path) -> tuple[Truths, list[str]]:
    """The same from the reader, as evaluation has it; training must see the same objects."""
    samples = CocoInstances([(file, images)])
    truths: Truths = []
    for place in range(len(samples)):
        truth = samples.truths(place, ["instance"])["instance"]
        assert isinstance(truth, InstanceTruth)
        assert truth.areas is not None
        rows = zip(truth.labels.tolist(), truth.iscrowd.tolist(), truth.areas.tolist(), truth.masks, strict=True)
        objects = [(label, crowd, area, mask.tobytes()) for label, crowd, area, mask in rows]
        target = samples[place].target
        assert target is not None
        trained = zip(target.labels.tolist(), target.masks[:, 0].numpy(), strict=True)
        seen = [(label, mask) for label, crowd, _, mask in objects if not crowd]
        assert [(label, mask.tobytes()) for label, mask in trained if mask.any()] == [
            one for one in seen if any(one[1])
        ]
        truths.append((samples.image_id(place), sorted(objects)))
    return truths, samples.notes


def _culprit(values: Mapping[Any, Any], place: Place) -> str:
    """How a note would name what was changed: by the id of an annotation or category, or the name of an image."""
    if len(place) < 2 or not isinstance(entry := values[place[0]][place[1]], dict):
        return "coco.json"
    return str(entry.get("file_name", entry.get("id")))


def _box_is_off(values: Any) -> bool:
    """Whether the box of an annotation is clearly not around its mask, or its area clearly not that of the mask."""
    for entry in values["annotations"]:
        size = next(_SIZES[image["file_name"]] for image in values["images"] if image["id"] == entry["image_id"])
        mask = _legal_mask(entry["segmentation"], size)
        box = entry.get("bbox")
        if mask is None or not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            continue
        x, y, width, height = box
        if width <= 0 or height <= 0:
            continue
        right, bottom = min(x + width, size[1]), min(y + height, size[0])
        x, y = max(x, 0), max(y, 0)
        x1, y1, x2, y2 = mask_ops.boxes_xyxy(mask[None])[0].tolist()
        common = max(0.0, min(x2, right) - max(x1, x)) * max(0.0, min(y2, bottom) - max(y1, y))
        union = max(0.0, right - x) * max(0.0, bottom - y) + (x2 - x1) * (y2 - y1) - common
        if common < 0.4 * union:
            return True
    return False


@pytest.fixture(scope="module")
def coco_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    for name, (height, width) in _SIZES.items():
        Image.fromarray(np.full((height, width, 3), 9, dtype=np.uint8)).save(folder / name)
    return folder


def coco_case(seed: int, folder: Path) -> tuple[Outcome, str]:
    values, place, what = changed(coco(), random.Random(seed), ("images", *["annotations"] * 4, "categories"))
    (folder / "coco.json").write_text(json.dumps(values))
    legal = legal_coco(values)
    described = f"{'.'.join(map(str, place))}: {what[:90]}"
    try:
        outcome = judge(
            lambda: read_coco(folder / "coco.json", folder),
            legal,
            legal_coco(coco()),
            _culprit(coco(), place),
            legal is not None and _box_is_off(values),
        )
    except BaseException as error:
        error.add_note(f"seed {seed}: {described}")
        raise
    return outcome, described


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_coco_files_with_one_field_changed(coco_images: Path, start: int) -> None:
    for seed in range(start, start + 20):
        coco_case(seed, coco_images)


def test_the_file_that_is_changed_is_read_without_a_note(coco_images: Path) -> None:
    (coco_images / "coco.json").write_text(json.dumps(coco()))
    truths, notes = read_coco(coco_images / "coco.json", coco_images)
    assert truths == legal_coco(coco())
    assert notes == []
    assert [len(objects) for _, objects in truths] == [2, 3, 0]
