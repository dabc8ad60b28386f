from __future__ import annotations

import math

import numpy as np
import pytest

from mask2former.errors import UserError
from mask2former.metrics.cityscapes import CityscapesInstanceEvaluator, CityscapesPixelEvaluator, plain_ground_truth
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures import Categories, Instances, SemanticSegmentation
from mask2former.structures.ground_truth import CityscapesGroundTruth, InstanceGroundTruth

CATEGORIES = Categories.load("cityscapes")
ROAD, SKY, PERSON, RIDER, CAR = (CATEGORIES.names.index(name) for name in ("road", "sky", "person", "rider", "car"))
SIZE = (20, 60)


def _ground_truth(*regions: tuple[int, int, int], background: int = 7) -> CityscapesGroundTruth:
    """Ground truth with vertical strips (id, first column, column after the last)."""
    ids = np.full(SIZE, background, dtype=np.int32)
    for identifier, start, stop in regions:
        ids[:, start:stop] = identifier
    return CityscapesGroundTruth(ids)


def _precision(ground_truth: CityscapesGroundTruth, *found: tuple[int, int, int]) -> CityscapesInstanceEvaluator:
    """An evaluator updated with strips (class index, first column, column after the last), the best first."""
    masks = np.zeros((len(found), *SIZE), dtype=bool)
    for mask, (_, start, stop) in zip(masks, found, strict=True):
        mask[:, start:stop] = True
    labels = np.array([label for label, _, _ in found], dtype=np.int64)
    scores = np.linspace(0.9, 0.5, len(found))
    evaluator = CityscapesInstanceEvaluator(CATEGORIES)
    evaluator.update(Instances(masks, labels, scores, np.zeros((len(found), 4)), CATEGORIES), ground_truth)
    return evaluator


def _at_50(ground_truth: CityscapesGroundTruth, *found: tuple[int, int, int]) -> float:
    return _precision(ground_truth, *found).compute()["instance/AP50"]


def test_the_ground_truth_itself_scores_100_and_absent_classes_do_not_count() -> None:
    evaluator = _precision(_ground_truth((26001, 0, 10), (24001, 20, 30)), (CAR, 0, 10), (PERSON, 20, 30))
    assert evaluator.compute() == {"instance/AP": 100.0, "instance/AP50": 100.0}
    assert math.isnan(evaluator.per_class()["bus"]["AP"])
    assert "road" not in evaluator.per_class()


def test_the_overlap_must_be_exceeded() -> None:
    assert _at_50(_ground_truth((26001, 0, 20)), (CAR, 0, 10)) == 0.0
    assert _at_50(_ground_truth((26001, 0, 20)), (CAR, 0, 11)) == 100.0


def test_of_two_that_match_one_object_the_worse_is_wrong() -> None:
    two = _ground_truth((26001, 0, 10), (26002, 30, 40))
    assert _at_50(two, (CAR, 0, 10), (CAR, 30, 40)) == 100.0
    # Right, wrong, right: steps of 1, 1/2 and 2/3 at recalls 1/2, 1/2 and 1, each halfway between its neighbours.
    expected = 100 * (1 / 4 * 1 + 1 / 4 * 1 + 1 / 4 * 1 / 2 + 1 / 4 * 2 / 3)
    assert _at_50(two, (CAR, 0, 10), (CAR, 0, 9), (CAR, 30, 40)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("beside", "forgiven"),
    [
        (0, True),  # unlabelled
        (9, True),  # parking is void
        (26, True),  # a group of cars
        (24, False),  # a group of persons is no excuse for a car
        (24009, False),  # nor is a person
        (7, False),  # nor the road
        (29001, False),  # a caravan is no void, though its class is
    ],
)
def test_what_lies_mostly_on_void_or_on_a_group_of_its_class_is_no_error(beside: int, forgiven: bool) -> None:
    ground_truth = _ground_truth((26001, 0, 10), (beside, 30, 50))
    # The extra one comes first, so it lowers the curve where it counts.
    got = _precision(ground_truth, (CAR, 28, 50), (CAR, 0, 10)).per_class()["car"]["AP50"]
    assert got == (100.0 if forgiven else pytest.approx(25.0))


def test_small_objects_are_neither_looked_for_nor_held_against_a_prediction() -> None:
    ground_truth = _ground_truth((26001, 0, 10), (26002, 30, 34))  # 80 pixels
    assert _at_50(ground_truth, (CAR, 0, 10)) == 100.0
    assert _at_50(ground_truth, (CAR, 30, 34), (CAR, 0, 10)) == 100.0
    assert math.isnan(_precision(_ground_truth((26002, 30, 34))).compute()["instance/AP"])


def test_missed_classes_are_zero_and_stuff_and_empty_masks_are_left_out() -> None:
    assert _at_50(_ground_truth((26001, 0, 10)), (ROAD, 0, 10)) == 0.0
    assert _at_50(_ground_truth((26001, 0, 10)), (CAR, 5, 5), (CAR, 0, 10)) == 100.0


def _pixels(ground_truth: CityscapesGroundTruth, labels: np.ndarray) -> CityscapesPixelEvaluator:
    evaluator = CityscapesPixelEvaluator(CATEGORIES)
    evaluator.update(SemanticSegmentation(labels, CATEGORIES), ground_truth)
    return evaluator


def test_in_iiou_every_object_weighs_the_same() -> None:
    ground_truth = _ground_truth((26001, 0, 30), (26002, 30, 40))
    labels = np.full(SIZE, ROAD)
    labels[:, :30] = CAR  # the large one is found, the small one is not
    got = _pixels(ground_truth, labels)
    assert got.per_class()["car"]["IoU"] == pytest.approx(75.0)
    assert got.per_class()["car"]["iIoU"] == pytest.approx(50.0)
    assert math.isnan(got.per_class()["road"]["iIoU"])
    assert got.confusion.sum() == labels.size


def test_within_a_group_of_classes_mistakes_do_not_count() -> None:
    ground_truth = _ground_truth((24001, 0, 10))
    labels = np.full(SIZE, ROAD)
    labels[:, :10] = RIDER
    got = _pixels(ground_truth, labels).compute()
    assert got["semantic/IoU"] == pytest.approx(100 / 3)  # road, person, rider
    assert got["semantic/mIoU"] == pytest.approx(50.0)  # the rider is never true
    assert (got["semantic/IoU_sup"], got["semantic/iIoU_sup"]) == (100.0, 100.0)


def test_void_does_not_count() -> None:
    labels = np.full(SIZE, ROAD)
    assert _pixels(_ground_truth((4, 0, 50)), labels).compute()["semantic/IoU"] == 100.0
    nothing = _pixels(_ground_truth((4, 0, 60)), labels).compute()
    assert all(math.isnan(value) for value in nothing.values())


def test_an_instance_map_as_other_data_sets_have_it() -> None:
    ground_truth = _ground_truth((26001, 0, 10), (26002, 10, 20), (24, 20, 30), (4, 30, 40))
    objects = plain_ground_truth(ground_truth, "instance", CATEGORIES)
    assert isinstance(objects, InstanceGroundTruth)
    areas = SparseMasks.of(objects.masks).areas
    found = zip(objects.labels.tolist(), objects.iscrowd.tolist(), areas.tolist(), strict=True)
    assert sorted(found) == [(PERSON, True, 200), (CAR, False, 200), (CAR, False, 200)]
    labels = plain_ground_truth(ground_truth, "semantic", CATEGORIES)
    assert isinstance(labels, np.ndarray)
    assert labels[0, ::10].tolist() == [CAR, CAR, PERSON, CATEGORIES.ignore_label, ROAD, ROAD]


def test_sizes_must_agree_and_ids_must_be_those_of_the_files() -> None:
    labels = np.full((4, 4), ROAD)
    with pytest.raises(UserError, match="resize the prediction"):
        _pixels(_ground_truth(), labels)
    with pytest.raises(UserError, match="16-bit integers"):
        _pixels(CityscapesGroundTruth(np.full((4, 4), -1)), labels)
