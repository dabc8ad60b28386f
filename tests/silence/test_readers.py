"""Annotation files with one changed field: the data is right, a note names what is lost, or the file is rejected.

A small valid file is changed in one place, drawn with a fixed seed from all of its fields and a pool of values that
tools and people write there. The meaning of a changed file is decided here, by the rules of its format alone. A file
that breaks them may be read as it was meant, be read with a note that names the fault, or be rejected in a sentence.
"""

from __future__ import annotations

import copy
import json
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

from mask2former.data.checks import unlisted_findings
from mask2former.data.datasets import CocoInstances
from mask2former.data.datasets.coco_panoptic import CocoPanoptic, PanopticFiles
from mask2former.data.datasets.reader import Reader, notes_of_some
from mask2former.data.datasets.yolo import YoloPolygons, read_yolo
from mask2former.data.datasets.youtube_vis import YouTubeVIS
from mask2former.data.label_maps import colors_of_ids
from mask2former.errors import UserError
from mask2former.notes import collect_notes, sentences
from mask2former.ops import masks as mask_ops
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures.ground_truth import InstanceGroundTruth, PanopticGroundTruth

Json = dict[str, Any]
Place = tuple[str | int, ...]

# --- changing one field ----------------------------------------------------------------------------------------------

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, -1, 3.0, 0.5, -0.25, 7.5, 1e12, -1e12, 1e300, math.nan, math.inf, 2**70, 10**400),
    *("", " ", "0", "1", "3", "true", "no", "x", "nan", "a.png", "\ud800", "0\0", "../a.png"),
    *([], {}, [[]], [[[]]], [1], [None], ["1", "2"], [[1, 2], [3, 4], [9, 5]], {"size": [1, 1], "counts": [1]}),
)


def _as_pairs(value: Any) -> Any:
    """The value with its innermost lists of numbers as lists of [x, y]."""
    if not isinstance(value, list) or not value or isinstance(value[0], (list, dict)):
        return [*map(_as_pairs, value)] if isinstance(value, list) else value
    return [list(pair) for pair in zip(value[::2], value[1::2], strict=False)]


def _swapped(value: Any) -> Any:
    """The value with x and y exchanged in its innermost lists of numbers."""
    if not isinstance(value, list) or not value or isinstance(value[0], (list, dict)):
        return [*map(_swapped, value)] if isinstance(value, list) else value
    return [item for pair in _as_pairs(value) for item in reversed(pair)]


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """The value with every number inside of it changed."""
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


def indices(value: Any, above: Place = ()) -> Iterator[Place]:
    """The path of keys to everything in a value."""
    if above:
        yield above
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from indices(item, (*above, key))


def changed(values: Json, draw: random.Random, keys: tuple[str, ...]) -> tuple[Json, Place, str]:
    """A copy with one field changed, the path of keys to it, and its new value."""
    top = draw.choice(keys)
    ways = list(indices(values[top], (top,)))
    depth = draw.choice((1, 2, 3, 3, 3, 3, 4, 5))  # else nearly all would be numbers of polygons
    index = draw.choice([way for way in ways if len(way) == depth] or ways)
    out = copy.deepcopy(values)
    node: Any = out
    for key in index[:-1]:
        node = node[key]
    last = index[-1]
    old = node[last]
    what = draw.random()
    if what < 0.1:
        del node[last]
        return out, index, "deleted"
    if what < 0.2 and isinstance(node, list):
        node.append(copy.deepcopy(old))
        return out, index, "twice"
    if what < 0.6:
        kinds: tuple[Callable[[Any], Any], ...] = (
            _OF_LISTS if isinstance(old, list) else _OF_TEXTS if isinstance(old, str) else _OF_NUMBERS
        )
        if isinstance(old, (list, str, int, float)):
            node[last] = draw.choice(kinds)(old)
            return out, index, repr(node[last])
    node[last] = copy.deepcopy(draw.choice(_VALUES))
    return out, index, repr(node[last])


class Outcome(NamedTuple):
    """The outcome of reading a changed file."""

    kind: str  # right, noted, refused
    said: str


def outcome_of(
    read: Callable[[], tuple[Any, list[str]]],
    legal: Any,
    original: Any,
    offenders: tuple[str, ...],
    disagrees: bool = False,
) -> Outcome:
    """Check that the outcome is one of the three that are allowed, and return it.

    Args:
        read: the data and the notes of the changed file.
        legal: the data by the rules of the format; None for a file that breaks them.
        original: the data before the change.
        offenders: names, one of which a note must contain.
        disagrees: the file contradicts itself, so that correct data needs a note, and a refusal is allowed, too.
    """
    refused = None
    try:
        data, notes = read()
    except UserError as error:
        data, notes, refused = None, [], str(error)
    if refused is not None:
        assert "\n" not in refused
        assert len(refused) > 20
        assert legal is None or disagrees, f"refused, but it is legal: {refused}"
        return Outcome("refused", refused)
    named = [note for note in notes if any(offender in note for offender in offenders)]
    if legal is not None:
        assert data == legal, "read as something else"
        assert named or not disagrees, f"contradicts itself, and no note says so: {notes}"
        return Outcome("noted" if named else "right", "".join(named))
    if data == original:
        return Outcome("right", "")
    assert named, f"changed without a note that names one of {offenders}: {notes}"
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
    """A file with three images, one without objects, and every kind of segmentation."""
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


Objects = list[tuple[Any, str, list[tuple[int, bool, float, bytes]]]]  # id, file and objects of each image
Truths = tuple[list[str], Objects]  # names of classes


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf  # not NaN


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(value: Any) -> Any:
    """A whole number, which may be given as 7.0; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if _is_whole(value) else None


def _flag(value: Any) -> int | None:
    """0 or 1, as tools write them; None for anything else."""
    return {"0": 0, "1": 1, "false": 0, "true": 1, "null": 0, "0.0": 0, "1.0": 1}.get(json.dumps(value).strip('"'))


def _names(entries: list[Json]) -> list[str] | None:
    """The names of classes, which may be numbers; None if one has none or two have the same."""
    names = [entry.get("name") for entry in entries]
    if not all(_is_number(name) or (isinstance(name, str) and name.strip()) for name in names):
        return None
    found = [str(name) for name in names]
    return found if _unique(found) else None


def _unique(values: list[Any]) -> bool:
    return len({repr(value) for value in values}) == len(values)


def _legal_mask(segmentation: Any, size: tuple[int, int]) -> np.ndarray | None:
    """The mask of a segmentation by the rules of the format, within its image; None if it breaks them."""
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
            return mask if mask.any() and mask_ops.encoded_extent(segmentation)[0] == mask.sum() else None
        except (UserError, ValueError):
            return None
    if not isinstance(segmentation, list):
        return None
    for polygon in segmentation:
        if not isinstance(polygon, list) or not all(map(_is_number, polygon)) or len(polygon) % 2 or len(polygon) < 6:
            return None
        if max(map(abs, polygon)) > 1e6:
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
    names = _names(classes)
    if names is None:
        return None
    if not all(_is_whole(entry.get("id")) for entry in classes) or not _unique([entry["id"] for entry in classes]):
        return None
    if not _unique([entry.get("id", index) for index, entry in enumerate(annotations)]):
        return None
    for entry in (*images, *annotations):
        for key in {"id", "image_id", "category_id"} & entry.keys():
            entry[key] = _whole(entry[key]) if isinstance(entry[key], float) else entry[key]
    ground_truths: dict[Any, list[Any]] = {entry["id"]: [] for entry in images}
    sizes = {entry["id"]: _SIZES[entry["file_name"]] for entry in images}
    class_of_id = {entry["id"]: index for index, entry in enumerate(classes)}
    for entry in annotations:
        image, category, crowd = entry.get("image_id"), entry.get("category_id"), _flag(entry.get("iscrowd", 0))
        if not (_is_whole(image) or isinstance(image, str)) or not _is_whole(category):
            return None
        if not isinstance(entry.get("id", 0), (int, float, str)):
            return None
        if image not in ground_truths or category not in class_of_id or crowd is None:
            return None
        mask = _legal_mask(entry.get("segmentation"), sizes[image])
        if mask is None:
            return None
        area = entry.get("area", int(mask.sum()))
        if not _is_number(area) or not 0 < area <= mask.size:
            return None
        ground_truths[image].append((class_of_id[category], bool(crowd), float(area), mask.tobytes()))
    files = {entry["id"]: entry["file_name"] for entry in images}
    return names, [(image, files[image], sorted(objects)) for image, objects in ground_truths.items()]


def read_coco(file: Path, images: Path) -> tuple[Truths, list[str]]:
    """What the reader gives for evaluation, in the same form; training must get the same objects."""
    samples = CocoInstances([(file, images)])
    ground_truths: Objects = []
    for index in range(len(samples)):
        ground_truth = samples.ground_truths(index, ["instance"])["instance"]
        assert isinstance(ground_truth, InstanceGroundTruth)
        assert ground_truth.areas is not None
        rows = zip(
            ground_truth.labels.tolist(),
            ground_truth.iscrowd.tolist(),
            ground_truth.areas.tolist(),
            SparseMasks.of(ground_truth.masks).dense(),
            strict=True,
        )
        objects = [(label, crowd, area, mask.tobytes()) for label, crowd, area, mask in rows]
        target = samples[index].target
        assert target is not None
        trained = zip(target.labels.tolist(), target.masks[:, 0].numpy(), strict=True)
        seen = [(label, mask) for label, crowd, _, mask in objects if not crowd]
        assert [(label, mask.tobytes()) for label, mask in trained if mask.any()] == [
            one for one in seen if any(one[1])
        ]
        ground_truths.append((samples.image_id(index), samples.file(index).name, sorted(objects)))
    return (list(samples.categories.names), ground_truths), samples.notes


def _offenders(values: Mapping[Any, Any], index: Place) -> tuple[str, ...]:
    """The words by which a note would name the changed entry: its id, or the id or name of its image."""
    if len(index) < 2 or not isinstance(entry := values[index[0]][index[1]], dict):
        return (".json",)
    return tuple(str(entry[key]) for key in ("id", "file_name", "image_id") if key in entry)


def _copies_are_off(values: Any) -> bool:
    """Whether the box of an annotation is clearly not around its mask, or its area clearly not that of the mask."""
    for entry in values["annotations"]:
        size = next(_SIZES[image["file_name"]] for image in values["images"] if image["id"] == entry["image_id"])
        mask = _legal_mask(entry["segmentation"], size)
        box, area = entry.get("bbox"), entry.get("area")
        if mask is not None and _is_number(area) and _area_is_off(area, entry["segmentation"], mask):
            return True
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


def _area_is_off(area: float, segmentation: Any, mask: np.ndarray) -> bool:
    """Whether an area is far below that of a mask, or far above that of a box around all of it, seen or not."""
    x1, y1, x2, y2 = mask_ops.boxes_xyxy(mask[None])[0].tolist()
    if isinstance(segmentation, list):
        corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
        (x1, y1), (x2, y2) = np.minimum(corners.min(axis=0), (x1, y1)), np.maximum(corners.max(axis=0), (x2, y2))
    return not mask.sum() / 2 - 30 < area < 1.2 * (x2 - x1) * (y2 - y1) + 30


@pytest.fixture(scope="module")
def coco_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    for name, (height, width) in _SIZES.items():
        Image.fromarray(np.full((height, width, 3), 9, dtype=np.uint8)).save(folder / name)
    return folder


def _case(seed: int, index: Place, what: str, outcome: Callable[[], Outcome]) -> tuple[Outcome, str]:
    described = f"{'.'.join(map(str, index))}: {what[:90]}"
    try:
        return outcome(), described
    except BaseException as error:
        error.add_note(f"seed {seed}: {described}")
        raise


def coco_case(seed: int, folder: Path) -> tuple[Outcome, str]:
    values, index, what = changed(coco(), random.Random(seed), ("images", *["annotations"] * 4, "categories"))
    (folder / "coco.json").write_text(json.dumps(values))
    legal = legal_coco(values)
    off = legal is not None and _copies_are_off(values)
    return _case(
        seed,
        index,
        what,
        lambda: outcome_of(
            lambda: read_coco(folder / "coco.json", folder), legal, legal_coco(coco()), _offenders(coco(), index), off
        ),
    )


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_coco_files_with_one_field_changed(coco_images: Path, start: int) -> None:
    for seed in range(start, start + 20):
        coco_case(seed, coco_images)


def test_the_file_that_is_changed_is_read_with_a_note_on_its_crowd(coco_images: Path) -> None:
    (coco_images / "coco.json").write_text(json.dumps(coco()))
    ground_truths, (note,) = read_coco(coco_images / "coco.json", coco_images)
    assert ground_truths == legal_coco(coco())
    assert "1 of 5 annotations are marked as crowd regions" in note
    assert [len(objects) for *_, objects in ground_truths[1]] == [2, 3, 0]


# --- COCO's panoptic format ------------------------------------------------------------------------------------------

_MAPS = {"a.png": ((1, 10), (2, 20), (3, 30)), "b.png": ((1, 11), (2, 70000))}  # by column from the left: part, id


def panoptic() -> Json:
    """A file with two images, one with a crowd region."""
    return {
        "images": [
            {"id": 1, "file_name": "a.jpg", "height": H, "width": W},
            {"id": 2, "file_name": "b.jpg", "height": H, "width": W},
        ],
        "annotations": [
            {
                **{"image_id": 1, "file_name": "a.png"},
                "segments_info": [_segment(10, 5, 1), _segment(20, 6, 2), _segment(30, 5, 3, iscrowd=1)],
            },
            {"image_id": 2, "file_name": "b.png", "segments_info": [_segment(11, 5, 1), _segment(70000, 6, 2)]},
        ],
        "categories": [{"id": 5, "name": "cell", "isthing": 1}, {"id": 6, "name": "glass", "isthing": 0}],
    }


def _segment(number: int, category: int, part: int, iscrowd: int = 0) -> Json:
    return {"id": number, "category_id": category, "iscrowd": iscrowd, "area": 400, "bbox": [10 * part, 0, 10, H]}


def _ids(name: str) -> np.ndarray:
    ids = np.zeros((H, W), dtype=np.int32)
    for part, number in _MAPS[name]:
        ids[:, part * 10 : part * 10 + 10] = number
    return ids


@pytest.fixture(scope="module")
def panoptic_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_panoptic(tmp_path_factory.mktemp("panoptic"))


def write_panoptic(folder: Path) -> Path:
    for name in _MAPS:
        Image.fromarray(colors_of_ids(_ids(name))).save(folder / name)
        Image.fromarray(np.full((H, W, 3), 9, dtype=np.uint8)).save(folder / name.replace(".png", ".jpg"))
    return folder


def _has_identities(entries: list[Json], key: str) -> bool:
    """Whether all entries have different ids, numbers or text; floats that are whole numbers are made integers."""
    for entry in entries:
        if isinstance(entry.get(key), float):
            entry[key] = _whole(entry[key])
        if not _is_whole(entry.get(key)) and not isinstance(entry.get(key), str):
            return False
    return _unique([entry[key] for entry in entries])


def legal_panoptic(values: Any) -> Any:
    """Classes and segments of a file that keeps the rules of the format."""
    values = copy.deepcopy(values)
    if not all(isinstance(values.get(key), list) and values[key] for key in ("images", "annotations", "categories")):
        return None
    images, annotations, classes = values["images"], values["annotations"], values["categories"]
    if not all(isinstance(entry, dict) for entry in (*images, *annotations, *classes)):
        return None
    if not (_has_identities(images, "id") and _has_identities(annotations, "image_id")):
        return None
    if {entry["id"] for entry in images} != {entry["image_id"] for entry in annotations}:
        return None
    if not _unique([entry.get("file_name") for entry in images]):
        return None
    for entry in images:
        if entry.get("file_name") not in ("a.jpg", "b.jpg") or (entry.get("height"), entry.get("width")) != (H, W):
            return None
    if not _unique([entry.get("file_name") for entry in annotations]):
        return None
    names = _names(classes)
    for entry in classes:
        if not _is_whole(entry.get("id")) or entry.get("isthing") is None or _flag(entry["isthing"]) is None:
            return None
    if names is None or not _unique([entry["id"] for entry in classes]):
        return None
    index_of_id = {entry["id"]: index for index, entry in enumerate(classes)}
    segments = []
    files = {entry["id"]: entry["file_name"] for entry in images}
    for entry in annotations:
        name, infos = entry.get("file_name"), entry.get("segments_info")
        if (
            not isinstance(name, str)
            or name not in _MAPS
            or not isinstance(infos, list)
            or not all(isinstance(info, dict) for info in infos)
        ):
            return None
        ids = _ids(name)
        if not all(_is_whole(info.get("id")) and _is_whole(info.get("category_id")) for info in infos):
            return None
        if sorted(info["id"] for info in infos) != sorted(number for _, number in _MAPS[name]):
            return None
        if any(info["category_id"] not in index_of_id for info in infos):
            return None
        if any(_flag(info.get("iscrowd", 0)) is None for info in infos):
            return None
        found = [
            (index_of_id[info["category_id"]], bool(_flag(info.get("iscrowd", 0))), (ids == info["id"]).tobytes())
            for info in infos
        ]
        segments.append((entry["image_id"], files[entry["image_id"]], sorted(found)))
    return [(name, bool(_flag(entry["isthing"]))) for name, entry in zip(names, classes, strict=True)], segments


def read_panoptic(folder: Path) -> tuple[Any, list[str]]:
    """What the reader gives, in the same form."""
    samples = CocoPanoptic([PanopticFiles(folder / "panoptic.json", folder, folder)])
    segments = []
    for index in range(len(samples)):
        ground_truth = samples.ground_truths(index, ["panoptic"])["panoptic"]
        assert isinstance(ground_truth, PanopticGroundTruth)
        found = [
            (label, crowd, (ground_truth.ids == number).tobytes()) for number, label, crowd in ground_truth.segments
        ]
        segments.append((samples.image_id(index), samples.file(index).name, sorted(found)))
    return ([(item.name, item.is_thing) for item in samples.categories], segments), samples.notes


def panoptic_case(seed: int, folder: Path) -> tuple[Outcome, str]:
    values, index, what = changed(
        panoptic(), random.Random(seed), ("images", "annotations", "annotations", "categories")
    )
    (folder / "panoptic.json").write_text(json.dumps(values))
    offenders = tuple(name.removesuffix("png") for name in _offenders(panoptic(), index))
    return _case(
        seed,
        index,
        what,
        lambda: outcome_of(
            lambda: read_panoptic(folder), legal_panoptic(values), legal_panoptic(panoptic()), (*offenders, "1 (")
        ),
    )


@pytest.mark.parametrize("start", range(0, 60, 20))
def test_panoptic_files_with_one_field_changed(panoptic_images: Path, start: int) -> None:
    (panoptic_images / "panoptic.json").write_text(json.dumps(panoptic()))
    assert read_panoptic(panoptic_images) == (legal_panoptic(panoptic()), [])
    for seed in range(start, start + 20):
        panoptic_case(seed, panoptic_images)


# --- YouTube-VIS -----------------------------------------------------------------------------------------------------

_FRAMES = ("v/0.png", "v/1.png", "w/0.png")


def clips() -> Json:
    """A file with two videos: a track in two frames, one in a single frame, a crowd."""
    first = [_uncompressed(_mask(2, 3, 12, 23)), _compressed(_mask(4, 5, 14, 25))]
    polygon = [[30, 12, 50, 12, 50, 32, 30, 32]]
    return {
        "videos": [
            {"id": 1, "width": W, "height": H, "length": 2, "file_names": ["v/0.png", "v/1.png"]},
            {"id": 2, "width": W, "height": H, "length": 1, "file_names": ["w/0.png"]},
        ],
        "annotations": [
            {
                **{"id": 41, "video_id": 1, "category_id": 8, "iscrowd": 0, "segmentations": first},
                **{"bboxes": [[3, 2, 20, 10], [5, 4, 20, 10]], "areas": [200, 200]},
            },
            {
                **{"id": 42, "video_id": 1, "category_id": 9, "iscrowd": 0, "segmentations": [None, polygon]},
                **{"bboxes": [None, [30, 12, 20, 20]], "areas": [None, 400]},
            },
            {
                **{"id": 43, "video_id": 2, "category_id": 8, "iscrowd": 1, "segmentations": [first[0]]},
                **{"bboxes": [[3, 2, 20, 10]], "areas": [200]},
            },
        ],
        "categories": [{"id": 8, "name": "dog"}, {"id": 9, "name": "cat"}],
    }


@pytest.fixture(scope="module")
def clip_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("clips"))


def write_frames(folder: Path) -> Path:
    for index, name in enumerate(_FRAMES):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((H, W, 3), 9 * index, dtype=np.uint8)).save(folder / name)
    return folder


def legal_clips(values: Any) -> Any:
    """Classes and tracks of a file that keeps the rules of the format."""
    values = copy.deepcopy(values)
    if not all(isinstance(values.get(key), list) for key in ("videos", "annotations", "categories")):
        return None
    videos, annotations, classes = values["videos"], values["annotations"], values["categories"]
    if not all(isinstance(entry, dict) for entry in (*videos, *annotations, *classes)):
        return None
    if not (_has_identities(videos, "id") and all(isinstance(entry.get("file_names"), list) for entry in videos)):
        return None
    names = [name for entry in videos for name in entry["file_names"]]
    if not all(name in _FRAMES for name in names) or not _unique(names):
        return None
    for entry in videos:
        figures = entry.get("height"), entry.get("width"), entry.get("length", len(entry["file_names"]))
        if not all(map(_is_whole, figures)) or figures != (H, W, len(entry["file_names"])) or not figures[2]:
            return None
    class_names = _names(classes)
    if not class_names or not videos or not all(_is_whole(entry.get("id")) for entry in classes):
        return None
    if not _unique([entry["id"] for entry in classes]):
        return None
    if not _unique([entry.get("id", f"at {index}") for index, entry in enumerate(annotations)]):
        return None
    index_of_id = {number: index for index, number in enumerate(sorted(entry["id"] for entry in classes))}
    tracks: dict[Any, list[Any]] = {entry["id"]: [] for entry in videos}
    length = {entry["id"]: len(entry["file_names"]) for entry in videos}
    for entry in annotations:
        video, category, crowd = (
            _whole(entry.get("video_id")),
            _whole(entry.get("category_id")),
            _flag(entry.get("iscrowd", 0)),
        )
        if not isinstance(entry.get("id", 0), (int, float, str)):
            return None
        if isinstance(entry.get("video_id"), str):
            video = entry["video_id"]
        if video not in tracks or category not in index_of_id or crowd is None:
            return None
        segmentations = entry.get("segmentations")
        boxes, areas = (entry[key] if entry.get(key) is not None else segmentations for key in ("bboxes", "areas"))
        lists = segmentations, boxes, areas
        if not all(isinstance(one, list) and len(one) == length[video] for one in lists):
            return None
        masks, known = [], []
        for segmentation, box, area in zip(*lists, strict=True):
            mask = None if segmentation is None else _legal_mask(segmentation, (H, W))
            if (segmentation is None) != (mask is None) or (box is None) != (mask is None):
                return None
            if mask is not None:
                given = int(mask.sum()) if area is None or areas is segmentations else area
                if not _is_number(given) or not 0 < given <= H * W:
                    return None
                known.append(given)
            masks.append(np.zeros((H, W), dtype=bool) if mask is None else mask)
        if not known or any(isinstance(box, list) and not box for box in boxes):
            return None
        tracks[video].append((index_of_id[category], bool(crowd), sum(known) / len(known), np.stack(masks).tobytes()))
    files = {entry["id"]: entry["file_names"] for entry in videos}
    ordered = sorted(tracks, key=lambda video: (isinstance(video, str), video))
    by_id = sorted(zip([entry["id"] for entry in classes], class_names, strict=True))
    return [name for _, name in by_id], [(video, files[video], sorted(tracks[video])) for video in ordered]


def read_clips(folder: Path) -> tuple[Any, list[str]]:
    """What the reader gives, in the same form; frames are recognised by their grey."""
    samples = YouTubeVIS([(folder / "clips.json", folder)])
    videos = []
    for index in range(len(samples)):
        ground_truth = samples.ground_truths(index, ["instance"])["instance"]
        assert ground_truth.areas is not None
        rows = zip(
            ground_truth.labels.tolist(),
            ground_truth.iscrowd.tolist(),
            ground_truth.areas.tolist(),
            ground_truth.masks,
            strict=True,
        )
        found = sorted((label, crowd, area, masks.tobytes()) for label, crowd, area, masks in rows)
        names = [_FRAMES[int(image[0, 0, 0]) // 9] for image in samples.images(index)]
        videos.append((samples.image_id(index), names, found))
    return (list(samples.categories.names), videos), samples.notes


def clips_case(seed: int, folder: Path) -> tuple[Outcome, str]:
    values, index, what = changed(clips(), random.Random(seed), ("videos", *["annotations"] * 4, "categories"))
    (folder / "clips.json").write_text(json.dumps(values))
    offenders = (*_offenders(clips(), index), "frames are listed")
    return _case(
        seed,
        index,
        what,
        lambda: outcome_of(lambda: read_clips(folder), legal_clips(values), legal_clips(clips()), offenders),
    )


@pytest.mark.parametrize("start", range(0, 80, 20))
def test_clips_with_one_field_changed(clip_frames: Path, start: int) -> None:
    (clip_frames / "clips.json").write_text(json.dumps(clips()))
    assert read_clips(clip_frames) == (legal_clips(clips()), [])
    for seed in range(start, start + 20):
        clips_case(seed, clip_frames)


# --- YOLO's polygons -------------------------------------------------------------------------------------------------

_LABELS = {
    "a": "0 0.1 0.1 0.5 0.1 0.5 0.75 0.1 0.75\n1 0.6 0.2 0.9 0.25 0.75 0.8\n",
    "b": "1 0 0 1 0 1 1 0.5 0.5 0 1\n",
    "c": "",
}
_WORDS = ("nan", "inf", "-1", "0", "1", "2", "0.5", "1.01", "-0.01", "3", "abc", "0,5", "1e3", "1_0", "0.30001", "1.0")


def write_yolo(folder: Path) -> Path:
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for name in _LABELS:
        Image.fromarray(np.full((H, W, 3), 9, dtype=np.uint8)).save(folder / "images" / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def yolo_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yolo(tmp_path_factory.mktemp("yolo"))


def _yolo_values() -> Json:
    return {"train": "images", "val": "images", "names": ["cell", "dirt"], "nc": 2}


def changed_yolo(draw: random.Random) -> tuple[Json, dict[str, str], Place, str]:
    """The content of data.yaml and of the text files with one word, line or entry changed."""
    values, texts = _yolo_values(), dict(_LABELS)
    if draw.random() < 0.2:
        values, index, what = changed(values, draw, ("names", "names", "nc"))
        return values, texts, index, what
    name = draw.choice("ab")
    lines = [line.split() for line in texts[name].splitlines()]
    line = draw.choice(lines)
    word = draw.randrange(len(line))
    way = draw.randrange(7)
    if way < 3:
        line[word] = draw.choice(_WORDS)
    elif way == 3:
        del line[word]
    elif way == 4:
        line.insert(word, line[word])
    elif way == 5:
        line[1:] = [f"{float(value) * 64:g}" for value in line[1:]]
    else:
        line[:] = draw.choice(([], line[:5], [*line, *line], [",".join(line)], line[:1]))
    texts[name] = "".join(" ".join(words) + "\n" for words in lines)
    return values, texts, (name, lines.index(line), word), " ".join(line)


def _legal_line(line: str) -> tuple[int, list[float]] | None:
    try:
        label, *numbers = [float(word) for word in line.split()]
    except ValueError:
        return None
    corners = np.array(numbers)
    if label not in (0, 1) or len(corners) < 6 or len(corners) % 2 or not ((corners >= 0) & (corners <= 1)).all():
        return None
    arms = corners.reshape(-1, 2)[1:] - corners[:2]
    return (int(label), numbers) if np.linalg.matrix_rank(arms, tol=1e-9) == 2 else None


def legal_yolo(values: Json, texts: Mapping[str, str]) -> Any:
    """Classes and polygons of files that keep the rules of the format."""
    names = values.get("names")
    if not isinstance(names, list) or not (named := _names([{"name": name} for name in names])):
        return None
    if not _is_whole(values.get("nc", len(names))) or values.get("nc", len(names)) != len(names):
        return None
    objects = []
    for name in sorted(texts):
        lines = [_legal_line(line) for line in texts[name].splitlines() if line.strip()]
        if None in lines or any(line is not None and line[0] >= len(names) for line in lines):
            return None
        objects.append((name, lines))
    return named, objects


def read_yolo_files(folder: Path) -> tuple[Any, list[str]]:
    """What the reader gives, in the same form."""
    samples = YoloPolygons(read_yolo(folder / "data.yaml"), "train")
    objects = []
    for position in range(len(samples)):
        annotated = samples.annotated(position)
        polygons = [(annotated.polygons[index][0] / [W, H]).ravel().tolist() for index in range(len(annotated.labels))]
        objects.append((samples.image_id(position), [*zip(annotated.labels.tolist(), polygons, strict=True)]))
    return (list(samples.categories.names), objects), samples.notes


def _write_yolo_files(folder: Path, values: Json, texts: Mapping[str, str]) -> None:
    (folder / "data.yaml").write_text(yaml.safe_dump(values))
    for name, text in texts.items():
        (folder / "labels" / f"{name}.txt").write_text(text)


def yolo_case(seed: int, folder: Path) -> tuple[Outcome, str]:
    values, texts, index, what = changed_yolo(random.Random(seed))
    _write_yolo_files(folder, values, texts)
    offenders = (f"{index[0]}.txt', line {int(index[1]) + 1}",) if index[0] in texts else ("data.yaml",)

    def rounded(found: Any) -> Any:
        return _each(lambda number: round(number, 9), json.loads(json.dumps(found)))

    def read() -> tuple[Any, list[str]]:
        data, notes = read_yolo_files(folder)
        return rounded(data), notes

    original = rounded(legal_yolo(_yolo_values(), _LABELS))
    return _case(seed, index, what, lambda: outcome_of(read, rounded(legal_yolo(values, texts)), original, offenders))


@pytest.mark.parametrize("start", range(0, 80, 20))
def test_yolo_files_with_one_word_changed(yolo_images: Path, start: int) -> None:
    _write_yolo_files(yolo_images, _yolo_values(), _LABELS)
    assert read_yolo_files(yolo_images)[1] == []
    for seed in range(start, start + 20):
        yolo_case(seed, yolo_images)


# --- whole files that go wrong in one way ----------------------------------------------------------------------------


def _all_notes(samples: Reader) -> tuple[str, str]:
    """The notes on a data set that an evaluation prints, and those that a training prints."""
    with collect_notes() as found:
        for index in range(len(samples)):
            samples.ground_truths(index, samples.tasks)
    return "\n".join([*samples.notes, *sentences(found)]), "\n".join([*samples.notes, *notes_of_some(samples)])


def _rectangle(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def _polygons_of_all(*polygons: list[float], sizes: bool = True) -> Callable[[Json], None]:
    """A change that gives each image these polygons and no other annotation."""

    def change(values: Json) -> None:
        values["annotations"] = [
            {"id": 10 * image["id"] + k, "image_id": image["id"], "category_id": 9, "segmentation": [polygon]}
            for image in values["images"]
            for k, polygon in enumerate(polygons)
        ]
        for image in values["images"] if not sizes else ():
            del image["height"], image["width"]

    return change


def _named(form: str) -> Callable[[Json], None]:
    def change(values: Json) -> None:
        for image in values["images"]:
            image["file_name"] = form.format(image["file_name"])

    return change


_GOOD, _FAR, _TINY = _rectangle(3, 3, 20, 20), _rectangle(500, 500, 520, 520), _rectangle(10.6, 10.6, 11.4, 11.4)


@pytest.mark.parametrize(
    ("change", "evaluation", "training"),
    [
        (_named("{}"), ("1 of 5 annotations are marked as crowd",), ("1 of 5 annotations are marked as crowd",)),
        (_named("val/{}"), ("3 ('val/a.png' as 'a.png', 'val/b.png' as 'b.png'",), ("3 ('val/a.png' as 'a.png'",)),
        (_named("deadbeef-{}"), ("3 ('deadbeef-a.png' as 'a.png'",), ("3 ('deadbeef-a.png' as 'a.png'",)),
        (_named("C:\\x\\{}"), ("under others: 3 (",), ("under others: 3 (",)),
        (_polygons_of_all(_GOOD), (), ()),
        (_polygons_of_all(_GOOD, sizes=False), (), ()),
        (
            _polygons_of_all(_GOOD, _TINY),
            ("no pixels; these objects count as missed, as in the official tool (3): ", "a.png' (1 of 2 objects)"),
            ("no pixels, and therefore no mask to learn (3): ",),
        ),
        (
            _polygons_of_all(_GOOD, _FAR, sizes=False),
            ("no pixels; these objects count as missed", "mostly outside", "a.png' (1 of 2 objects; it is 40x64"),
            ("no pixels, and therefore no mask to learn (3): ", "mostly outside", "y 520, x 520"),
        ),
        # As when images were shrunk after they were annotated: partly inside.
        (
            _polygons_of_all(_rectangle(25, 15, 200, 200), sizes=False),
            ("mostly outside",),
            ("no 'height' and 'width'",),
        ),
    ],
)
def test_what_a_coco_file_loses_is_told_to_all(
    coco_images: Path, change: Callable[[Json], None], evaluation: tuple[str, ...], training: tuple[str, ...]
) -> None:
    values = coco()
    change(values)
    (coco_images / "coco.json").write_text(json.dumps(values))
    said = _all_notes(CocoInstances([(coco_images / "coco.json", coco_images)]))
    for notes, expected in zip(said, (evaluation, training), strict=True):
        assert all(part in notes for part in expected), notes
        assert bool(notes) == bool(expected), notes


def test_objects_of_less_than_a_pixel_count_as_missed(coco_images: Path) -> None:
    values = coco()
    _polygons_of_all(_GOOD, _TINY)(values)
    (coco_images / "coco.json").write_text(json.dumps(values))
    ground_truth = CocoInstances([(coco_images / "coco.json", coco_images)]).ground_truths(0, ["instance"])["instance"]
    assert isinstance(ground_truth, InstanceGroundTruth)
    assert SparseMasks.of(ground_truth.masks).dense().any(axis=(1, 2)).tolist() == [True, False]
    assert not ground_truth.iscrowd.any()


def test_files_in_which_everything_is_stuff_have_no_instances(coco_images: Path, panoptic_images: Path) -> None:
    values = coco()
    for category in values["categories"]:
        category["isthing"] = 0
    (coco_images / "coco.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"coco.json': all categories have 'isthing' 0.*set it to 1"):
        CocoInstances([(coco_images / "coco.json", coco_images)])
    values = panoptic()
    values["categories"][0]["isthing"] = 0
    (panoptic_images / "panoptic.json").write_text(json.dumps(values))
    files = PanopticFiles(panoptic_images / "panoptic.json", panoptic_images, panoptic_images)
    with pytest.raises(UserError, match=r"panoptic.json': all categories have 'isthing' 0.*panoptic or semantic"):
        CocoPanoptic([files], "instance")
    assert len(CocoPanoptic([files]))


@pytest.mark.parametrize(
    ("training", "validation", "expected"),
    [
        (["t/a.png", "t/b.png"], ["v/a.png", "v/b.png"], {}),
        (["t/a.png"], ["v/a.png", "v/b.png"], {"train": 1}),  # t/b.png
        (["t/b.png"], ["v/b.png"], {"train": 1, "validation": 1}),
        (["t/a.png"], ["t/b.png"], {}),
        (["t/a.png"], ["t/a.png"], {}),  # t/b.png may be a third split's
        (["t/a.png"], None, {"train": 1}),
    ],
)
def test_images_beside_those_of_a_coco_file_are_counted(
    tmp_path: Path, training: list[str], validation: list[str] | None, expected: Mapping[str, int]
) -> None:
    for name in ("t/a.png", "t/b.png", "v/a.png", "v/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((H, W, 3), 9, dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "t" / "notes.txt").write_text("")

    def split(names: list[str]) -> CocoInstances:
        values = coco()
        values["images"] = [{"id": k, "file_name": name} for k, name in enumerate(names)]
        _polygons_of_all(_GOOD)(values)
        (tmp_path / "coco.json").write_text(json.dumps(values))
        return CocoInstances([(tmp_path / "coco.json", tmp_path)], filter_empty=True)

    found = unlisted_findings(
        {"train": split(training)}
        if validation is None
        else {"train": split(training), "validation": split(validation)}
    )
    assert {finding.split: finding.count for finding in found} == expected
    assert not any(finding.broken for finding in found)


def _each_segment(**changes: Any) -> Callable[[Json], None]:
    def change(values: Json) -> None:
        for annotation in values["annotations"]:
            for info in annotation["segments_info"]:
                info.update({key: value(info) if callable(value) else value for key, value in changes.items()})

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_each_segment(), ""),
        (_each_segment(bbox=[0, 0, 3, 3]), r"'bbox' .*\(2\): 'a.png' \(3 of 3 segments, such as 10\)"),
        (
            _each_segment(bbox=lambda s: [s["bbox"][0], 0, s["bbox"][0] + 10, H]),
            r"'bbox' .*'a.png' \(2 of 3 segments, such as 20",
        ),
        (_each_segment(bbox=[10**400, 0, 1, 1]), ""),
        (_each_segment(bbox=[math.nan, 0, 1, 1]), ""),
        (_each_segment(bbox=None), ""),
        (_each_segment(area=None), ""),
        (_each_segment(area=0), r"5 segments in 2 images .*no number above 0 in the file, 400 pixels"),
        (_each_segment(area=-5), r"5 segments in 2 images .*no number above 0 in the file, 400 pixels"),
        (_each_segment(area="300"), r"5 segments in 2 images .*no number above 0 in the file, 400 pixels"),
        (_each_segment(area=300), r"5 segments in 2 images .*300 in the file, 400 pixels"),
    ],
)
def test_what_a_panoptic_file_says_beside_its_png(
    panoptic_images: Path, change: Callable[[Json], None], expected: str
) -> None:
    values = panoptic()
    change(values)
    (panoptic_images / "panoptic.json").write_text(json.dumps(values))
    samples = CocoPanoptic([PanopticFiles(panoptic_images / "panoptic.json", panoptic_images, panoptic_images)])
    notes, _ = _all_notes(samples)
    assert re.search(expected, notes) if expected else not notes, notes


def test_a_panoptic_file_with_another_size_is_refused(panoptic_images: Path) -> None:
    values = panoptic()
    values["images"][0].update(height=W, width=H)
    (panoptic_images / "panoptic.json").write_text(json.dumps(values))
    samples = CocoPanoptic([PanopticFiles(panoptic_images / "panoptic.json", panoptic_images, panoptic_images)])
    for read in (samples.annotated, lambda index: samples.ground_truths(index, ["panoptic"])):
        read(1)
        with pytest.raises(UserError, match="its annotation file says"):
            read(0)


@pytest.mark.parametrize(
    ("encode", "expected"),
    [
        (lambda ids: ids.astype(np.uint8), "it is entirely grey; expected colours"),
        (lambda ids: np.where(ids, ids + 250, 0).astype(np.uint8), "it is entirely grey; expected colours"),  # cut off
        (lambda ids: colors_of_ids(ids)[..., ::-1], "its colours are in the order B, G, R; expected"),
        (lambda ids: colors_of_ids(ids + 1), "list them, or paint them black"),
    ],
)
def test_ids_in_other_colors_are_named(
    tmp_path: Path, encode: Callable[[np.ndarray], np.ndarray], expected: str
) -> None:
    write_panoptic(tmp_path)
    values = panoptic()
    del values["images"][1], values["annotations"][1]
    (tmp_path / "panoptic.json").write_text(json.dumps(values))
    Image.fromarray(np.ascontiguousarray(encode(_ids("a.png")))).save(tmp_path / "a.png")
    samples = CocoPanoptic([PanopticFiles(tmp_path / "panoptic.json", tmp_path, tmp_path)])
    with pytest.raises(UserError, match=expected):
        samples.annotated(0)


def _line(box: bool, *corners: float, label: int = 0) -> str:
    """The line of a polygon, optionally with the box around it first."""
    xs, ys = corners[::2], corners[1::2]
    around = ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys))
    return " ".join(f"{value:.4g}" for value in (label, *(around if box else ()), *corners)) + "\n"


_THREE, _FOUR = (0.1, 0.1, 0.5, 0.2, 0.3, 0.7), (0.6, 0.2, 0.9, 0.25, 0.75, 0.8, 0.62, 0.4)
_POSE = "0 0.5 0.5 0.4 0.6 0.4 0.3 0.6 0.7 0.5 0.5\n"


@pytest.mark.parametrize(
    ("lines", "refused", "note"),
    [
        (_line(True, *_THREE) * 2 + _line(True, *_FOUR), r"begin with a box .*: 3 \(.*remove the box", ""),
        (_line(True, 0.078123, 0.10417, 0.46875, 0.10417, 0.3, 0.41667) * 4, r"begin with a box .*: 4 \(", ""),
        (_line(True, *_FOUR) * 4, r"begin with a box .*: 4 \(", ""),
        (_line(True, *_FOUR) + _line(False, *_FOUR) + _line(False, *_THREE), "", r"a box .*remove the box: 1 \("),
        (_line(False, *_FOUR) + _line(False, *_THREE) * 2, "", ""),
        ("0 0.5 0.5 0.52 0.5 0.52 0.52 0.5 0.52\n" * 3 + _line(False, *_THREE), "", ""),  # the second corner as size
        (_POSE * 3 + _POSE.replace("\n", " 0.6 0.6\n"), "", r"4 of 4 lines have, .* a box .*keypoints"),
        ("0 0.501 0.501 0.503 0.501 0.503 0.503\n" + _line(False, *_FOUR), "", r"no pixel"),
    ],
)
def test_yolo_lines_of_other_kinds(tmp_path: Path, lines: str, refused: str, note: str) -> None:
    write_yolo(tmp_path)
    _write_yolo_files(tmp_path, _yolo_values(), {"a": lines, "b": "", "c": ""})
    dataset = read_yolo(tmp_path / "data.yaml")
    if refused:
        with pytest.raises(UserError, match=refused):
            YoloPolygons(dataset, "train")
        return
    for notes in _all_notes(YoloPolygons(dataset, "train")):
        assert re.search(note, notes) if note else not notes, notes
