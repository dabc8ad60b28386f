from __future__ import annotations

import io
import json
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.ops.packed_map import PackedMap
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.results_io.packed import packed_files
from mask2former.structures import Categories, Instances, PanopticSegmentation, Segment, SemanticSegmentation
from mask2former.structures.packed_results import PackedPanoptic, PackedSemantic

SIZE = (70, 90)


def strips(values: np.ndarray) -> PackedMap:
    """A packed map with these values in strips of 16 rows."""
    packed = PackedMap(SIZE, values.dtype)
    for top in range(0, len(values), 16):
        packed.append(values[top : top + 16])
    return packed


@pytest.mark.parametrize("task", ["panoptic", "semantic", "many classes"])
@pytest.mark.parametrize("columns", [1, 13, 90])
def test_files_are_those_of_ordinary_results(task: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mask2former.results_io.packed.PIXELS_AT_ONCE", columns * SIZE[0])
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 6, (7, 9))
    coarse[:, 4:6] = [[5, 5], [1, 2], [1, 2], [1, 3], [2, 3], [2, 1], [5, 5]]  # runs that go on in the next column
    values = np.repeat(np.repeat(coarse, 10, axis=0), 10, axis=1)
    if task == "panoptic":
        categories = Categories.from_names(["cat", "sky"], ["cat"])
        numbers = np.array([0, 1, 2, 300, 70_000, 5], dtype=np.int32)
        segments = tuple(
            Segment(number, number % 2, number % 2 == 0, 0.5, int((numbers[values] == number).sum()))
            for number in numbers[1:].tolist()
        )
        ordinary = PanopticSegmentation(numbers[values], segments, categories)
        packed = PackedPanoptic(strips(ordinary.ids), segments, categories)
    else:
        categories = Categories.from_names([f"class {n}" for n in range(300 if task == "many classes" else 6)])
        ordinary = SemanticSegmentation(values.astype(np.int32) * (50 if task == "many classes" else 1), categories)
        packed = PackedSemantic(strips(ordinary.labels.astype(np.uint16)), categories)
    about: dict[str, Any] = {"model": "m", "settings": {"tile": 16}, "extra": {"provenance": {}}}
    expected = ordinary.encoded(**about)
    found = packed_files(packed, np.zeros((14, 18, 3), np.uint8), 5, **about)
    assert set(found) == {*expected, ".png"}
    for ending, content in expected.items():
        if ending == ".json":
            assert json.loads(found[ending]) == json.loads(content)
        else:
            one, other = (Image.open(io.BytesIO(part)) for part in (found[ending], content))
            assert (one.mode, one.info["Software"]) == (other.mode, other.info["Software"])
            assert np.array_equal(np.asarray(one), np.asarray(other))
    drawn = Image.open(io.BytesIO(found[".png"]))
    assert drawn.size[0] % 18 == 0


def test_one_strip_of_a_map_is_unpacked_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most the previous strip is still alive: views of all strips held the whole map, 0.4 GB at 105 megapixels."""
    monkeypatch.setattr("mask2former.results_io.packed.PIXELS_AT_ONCE", 10 * SIZE[0])
    packed = strips(np.zeros(SIZE, np.int32))
    alive: list[weakref.ref[np.ndarray]] = []
    unpacked = PackedMap.strips

    def watched(mine: PackedMap) -> Iterator[tuple[int, np.ndarray]]:
        for top, strip in unpacked(mine):
            assert sum(one() is not None for one in alive) <= 1  # which the loop has just left
            alive.append(weakref.ref(strip))
            yield top, strip

    monkeypatch.setattr(PackedMap, "strips", watched)
    packed_files(PackedSemantic(packed, Categories.from_names(["cat"])), None, 1)
    assert len(alive) > 5 * 9


def test_instances_keep_their_masks() -> None:
    mask = np.zeros((1, *SIZE), bool)
    mask[0, 20:41, 30:62] = True
    masks = SparseMasks.of(mask)
    result = Instances(masks, np.zeros(1, np.int64), np.ones(1), masks.boxes, Categories.from_names(["cat"]))
    found = packed_files(result, None, 4)
    assert list(found) == [".json"]
    assert json.loads(found[".json"]) == result.to_dict()
    assert ".png" in packed_files(result, np.zeros((18, 23, 3), np.uint8), 4)
