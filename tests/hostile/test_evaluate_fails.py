"""An image that fails would make metrics incomplete, so the evaluation ends with one sentence that names it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mask2former.errors import FailedError
from mask2former.evaluation.cases import Case, match_classes
from mask2former.evaluation.evaluate import evaluate_predictor
from mask2former.evaluation.gallery import compare
from mask2former.inference.predictor import Predictor
from mask2former.structures import Categories, PanopticSegmentation, Segment
from mask2former.structures.ground_truth import PanopticGroundTruth


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("sizes"), "image 'b.jpg': ValueError: sizes; metrics without it would be for other data"),
        (MemoryError(), "image 'b.jpg' does not fit into the memory of cpu"),
    ],
)
def test_an_image_that_fails_is_named(error: Exception, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: Any, **options: Any) -> Any:
        raise error

    predictor = Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True)
    monkeypatch.setattr(predictor, "run", failing)
    case = Case(np.zeros((32, 32, 3), np.uint8), {}, "b.jpg")
    with pytest.raises(FailedError, match=expected):
        evaluate_predictor(predictor, [case], ["instance"])


def test_many_classes_take_no_room_for_their_pairs() -> None:
    categories = Categories.from_names([f"c{number}" for number in range(30_000)])
    assert len(match_classes(categories, categories)) == 30_000
    ids = np.ones((8, 8), np.int32)
    prediction = PanopticSegmentation(ids, (Segment(1, 29_999, is_thing=True, score=1.0, area=64),), categories)
    comparison = compare(prediction, PanopticGroundTruth(ids, [(1, 29_998, False)]), categories)
    assert comparison == (0.0, 1.0, "c29998 taken for c29999: 100 % of the image")
