from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

from mask2former.errors import RequestError
from mask2former.evaluation.semantic import SemanticEvaluator, confusion_matrix
from mask2former.structures import Categories, SemanticSegmentation, Target

CATEGORIES = Categories.from_names(["cat", "dog", "sky"])


def _evaluated(predicted: list[int], truth: list[int]) -> SemanticEvaluator:
    evaluator = SemanticEvaluator(CATEGORIES)
    evaluator.update(SemanticSegmentation(np.array([predicted]), CATEGORIES), np.array([truth]))
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


def test_a_target_becomes_a_label_map() -> None:
    masks = torch.zeros(2, 1, 1, 4, dtype=torch.bool)
    masks[0, ..., :2] = masks[1, ..., 1:3] = True
    truth = SemanticEvaluator(CATEGORIES).truth_of_target(Target(torch.tensor([2, 0]), masks))
    assert truth.tolist() == [[2, 2, 0, 255]]


def test_sizes_must_agree() -> None:
    with pytest.raises(RequestError, match="resize the prediction"):
        _evaluated([0, 1], [0])
