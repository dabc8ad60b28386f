from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from mask2former.errors import UserError
from mask2former.metrics.panoptic import PanopticEvaluator
from mask2former.metrics.semantic import SemanticEvaluator, boundary_confusion, confusion_matrix
from mask2former.structures import Categories, PanopticSegmentation, Segment, SemanticSegmentation
from mask2former.structures.ground_truth import PanopticGroundTruth

CATEGORIES = Categories.from_names(["cat", "dog", "sky"])


def _evaluated(predicted: list[int], ground_truth: list[int]) -> SemanticEvaluator:
    evaluator = SemanticEvaluator(CATEGORIES)
    evaluator.update(SemanticSegmentation(np.array([predicted]), CATEGORIES), np.array([ground_truth]))
    return evaluator


def test_numbers_of_a_small_case_by_hand() -> None:
    evaluator = _evaluated([0, 0, 0, 1, 2, 0], [0, 0, 1, 1, 1, 255])
    per_class = evaluator.per_class()
    assert per_class["cat"] == pytest.approx({"IoU": 100 * 2 / 3, "ACC": 100.0})
    assert per_class["dog"] == pytest.approx({"IoU": 100 * 1 / 3, "ACC": 100 / 3})
    assert math.isnan(per_class["sky"]["IoU"])  # predicted only
    assert evaluator.compute() == pytest.approx(
        {
            "semantic/mIoU": 50.0,
            "semantic/fwIoU": 100 * (2 / 5 * 2 / 3 + 3 / 5 * 1 / 3),
            "semantic/mACC": 100 * (1 + 1 / 3) / 2,
            "semantic/pACC": 60.0,
        }
    )


def test_ignored_pixels_do_not_matter() -> None:
    assert _evaluated([0, 1, 2], [0, 1, 255]).compute() == _evaluated([0, 1, 0], [0, 1, 255]).compute()


def test_pixels_predicted_as_no_class_are_missed() -> None:
    assert _evaluated([0, 200], [0, 0]).compute()["semantic/pACC"] == 50.0


@pytest.mark.parametrize("seed", range(5))
def test_panoptic_quality_of_label_maps_is_that_of_maps_with_a_segment_of_stuff_per_class(seed: int) -> None:
    generator = np.random.default_rng(seed)
    categories = Categories.from_names(["a", "b", "c", "d", "e"], [])
    by_pixel = SemanticEvaluator(categories, segments=True)
    by_segment = PanopticEvaluator(categories)
    for _ in range(3):
        ground_truth = np.kron(generator.integers(0, 6, (4, 5)), np.ones((6, 6), dtype=np.int64))
        predicted = np.where(
            generator.random(ground_truth.shape) < 0.3, generator.integers(0, 6, ground_truth.shape), ground_truth
        )
        ground_truth, predicted = (np.where(labels == 5, 255, labels) for labels in (ground_truth, predicted))
        by_pixel.update(SemanticSegmentation(predicted, categories), ground_truth)
        maps = [np.where(labels == 255, 0, labels + 1).astype(np.int32) for labels in (predicted, ground_truth)]
        present = [[n for n in np.unique(ids).tolist() if n] for ids in maps]
        segments = tuple(Segment(n, n - 1, False, 1.0, 0) for n in present[0])
        true = PanopticGroundTruth(maps[1], [(n, n - 1, False) for n in present[1]])
        by_segment.update(PanopticSegmentation(maps[0], segments, categories), true)
    got, expected = by_pixel.compute(), by_segment.compute()
    assert 0 < got["semantic/PQ"] < 100
    for name in ("PQ", "SQ", "RQ"):
        assert got[f"semantic/{name}"] == pytest.approx(expected[f"panoptic/{name}"], rel=1e-12)
        for category, row in by_segment.per_class().items():
            assert by_pixel.per_class()[category][name] == pytest.approx(row[name], rel=1e-12)


def test_the_mean_over_seen_classes_counts_those_that_are_only_predicted_as_zero() -> None:
    evaluator = SemanticEvaluator(CATEGORIES, segments=True)
    evaluator.update(SemanticSegmentation(np.array([[0, 0, 1, 1]]), CATEGORIES), np.array([[0, 0, 0, 0]]))
    got = evaluator.compute()
    assert (got["semantic/mIoU"], got["semantic/mIoU_seen"]) == (50.0, 25.0)


def test_boundary_iou_compares_differences_of_indices_to_the_least_index_around() -> None:
    ground_truth = np.zeros((9, 9), dtype=np.int64)
    ground_truth[2:7, 2:7] = 2
    predicted = ground_truth.copy()
    predicted[2] = 0
    matrix = boundary_confusion(predicted, ground_truth, 3)
    # The outline of the square is 2 in both; where only one has it, the other has 0 or, one row further in, 2.
    assert matrix[2, 2] == 16 - 5
    assert matrix[0, 2] == 5
    assert matrix[2, 0] == 3
    assert matrix.sum() == 81


def test_nothing_labelled_is_undefined() -> None:
    assert all(math.isnan(value) for value in _evaluated([0, 1], [255, 255]).compute().values())


def test_narrow_integers_do_not_overflow() -> None:
    many = np.full((2, 2), 254, dtype=np.uint8)
    matrix = confusion_matrix(many, many, 255)
    assert matrix[254, 254] == 4 == matrix.sum()


def test_parts_that_travelled_between_processes_add_up() -> None:
    first, second = _evaluated([0, 1, 2], [0, 1, 1]), _evaluated([2, 2, 1], [2, 0, 1])
    first.merge(pickle.loads(pickle.dumps(second)))
    assert first.compute() == _evaluated([0, 1, 2, 2, 2, 1], [0, 1, 1, 2, 0, 1]).compute()


def test_sizes_must_agree() -> None:
    with pytest.raises(UserError, match="resize the prediction"):
        _evaluated([0, 1], [0])
