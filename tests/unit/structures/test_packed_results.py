"""Compressed results keep the same parts as plain ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mask2former.ops.packed_map import PackedMap
from mask2former.structures import Categories, PanopticSegmentation, Segment, SemanticSegmentation
from mask2former.structures.packed_results import PackedPanoptic, PackedSemantic

CATEGORIES = Categories.from_names(["a", "b", "c"])
CHOICES: list[dict[str, Any]] = [
    {},
    {"classes": "b"},
    {"classes": ["a", 2]},
    {"min_area": 120},
    {"min_area": 10_000},
    {"classes": "c", "min_area": 120},
]


@pytest.mark.parametrize("chosen", CHOICES)
def test_classes_and_areas_of_a_label_map(chosen: dict[str, Any]) -> None:
    labels = np.random.default_rng(0).choice([0, 1, 2, 255], (20, 30), p=[0.1, 0.2, 0.4, 0.3]).astype(np.int32)
    packed = PackedSemantic(PackedMap.of(labels.astype(np.uint16)), CATEGORIES)
    plain = SemanticSegmentation(labels, CATEGORIES).filter(**chosen)
    np.testing.assert_array_equal(packed.filter(**chosen).unpacked().labels, plain.labels)
    assert len(packed.filter(**chosen)) == len(plain)  # "no class" is none of them


@pytest.mark.parametrize("chosen", CHOICES)
def test_classes_and_areas_of_segments(chosen: dict[str, Any]) -> None:
    ids = np.zeros((20, 30), dtype=np.int32)
    ids[:5], ids[6:8], ids[10:] = 1, 3, 7
    segments = tuple(
        Segment(number, label, is_thing=True, score=0.9, area=int((ids == number).sum()))
        for number, label in ((1, 0), (3, 1), (7, 0))
    )
    packed = PackedPanoptic(PackedMap.of(ids), segments, CATEGORIES).filter(**chosen)
    plain = PanopticSegmentation(ids, segments, CATEGORIES).filter(**chosen)
    assert len(packed) == len(plain)
    packed = packed.unpacked()
    np.testing.assert_array_equal(packed.ids, plain.ids)
    assert packed.segments == plain.segments
