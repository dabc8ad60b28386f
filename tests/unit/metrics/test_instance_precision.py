from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from mask2former.errors import UserError
from mask2former.metrics.average_precision import InstanceEvaluator, match
from mask2former.structures import Categories, Instances
from mask2former.structures.ground_truth import InstanceGroundTruth

CATEGORIES = Categories.from_names(["cat", "dog", "sky"], ["cat", "dog"])


def _masks(*columns: tuple[int, int]) -> np.ndarray:
    masks = np.zeros((len(columns), 40, 60), dtype=bool)
    for mask, (start, stop) in zip(masks, columns, strict=True):
        mask[:, start:stop] = True
    return masks


def _instances(masks: np.ndarray, labels: list[int], scores: list[float]) -> Instances:
    return Instances(masks, np.array(labels, dtype=np.int64), np.array(scores), np.zeros((len(masks), 4)), CATEGORIES)


def _ground_truth(masks: np.ndarray, labels: list[int], crowd: list[bool] | None = None) -> InstanceGroundTruth:
    return InstanceGroundTruth(
        masks, np.array(labels, dtype=np.int64), np.array(crowd or [False] * len(labels), dtype=bool)
    )


def test_the_ground_truth_itself_scores_100(capsys: pytest.CaptureFixture[str]) -> None:
    evaluator = InstanceEvaluator(CATEGORIES)
    evaluator.update(
        _instances(_masks((0, 9), (10, 30)), [0, 1], [0.9, 0.8]), _ground_truth(_masks((0, 9), (10, 30)), [0, 1])
    )
    got = evaluator.compute()
    assert got["instance/AP"] == pytest.approx(100.0)
    assert got["instance/AR1"] == pytest.approx(100.0)
    assert math.isnan(got["instance/APl"])
    assert evaluator.per_class() == {name: pytest.approx({"AP": 100.0, "AP50": 100.0}) for name in ("cat", "dog")}
    assert capsys.readouterr() == ("", "")


def test_computing_twice_and_adding_later_give_the_same_as_adding_first() -> None:
    images = [
        (_instances(_masks((0, 9), (11, 30)), [0, 1], [0.9, 0.8]), _ground_truth(_masks((0, 9), (10, 30)), [0, 1])),
        (_instances(_masks((0, 8)), [1], [0.7]), _ground_truth(_masks((2, 9)), [1])),
    ]
    once, twice = InstanceEvaluator(CATEGORIES), InstanceEvaluator(CATEGORIES)
    for image in images:
        once.update(*image)
        twice.update(*image)
        twice.compute()
    assert twice.compute() == pytest.approx(once.compute(), nan_ok=True)


def test_no_image_no_object_and_no_prediction_are_undefined_or_zero() -> None:
    evaluator = InstanceEvaluator(CATEGORIES)
    assert all(math.isnan(value) for value in evaluator.compute().values())
    evaluator.update(_instances(_masks(), [], []), _ground_truth(_masks(), []))
    assert all(math.isnan(value) for value in evaluator.compute().values())
    evaluator.update(_instances(_masks(), [], []), _ground_truth(_masks((0, 5)), [0]))
    assert evaluator.compute()["instance/AP"] == 0.0


def test_an_empty_predicted_mask_is_only_a_false_positive() -> None:
    evaluator = InstanceEvaluator(CATEGORIES)
    evaluator.update(_instances(_masks((0, 9), (3, 3)), [0, 0], [0.9, 0.0]), _ground_truth(_masks((0, 9)), [0]))
    assert evaluator.compute()["instance/AP"] == pytest.approx(100.0)


def test_detections_on_a_crowd_do_not_count() -> None:
    evaluator = InstanceEvaluator(CATEGORIES)
    masks = _masks((0, 9), (20, 60))
    found = _instances(_masks((22, 30), (40, 50), (0, 9)), [0, 0, 0], [0.9, 0.8, 0.7])
    evaluator.update(found, _ground_truth(masks, [0, 0], [False, True]))
    assert evaluator.compute()["instance/AP"] == pytest.approx(100.0)


def test_max_detections_limits_what_counts() -> None:
    found = _instances(_masks((30, 40), (0, 9)), [0, 0], [0.9, 0.8])
    for limit, expected in ((1, 0.0), (2, 50.0)):
        evaluator = InstanceEvaluator(CATEGORIES, max_detections=limit)
        evaluator.update(found, _ground_truth(_masks((0, 9)), [0]))
        assert evaluator.compute()["instance/AP"] == pytest.approx(expected)


def test_area_limits_say_what_is_small_and_large() -> None:
    masks = _masks((0, 2), (10, 20), (30, 60))  # 80, 400 and 1200 pixels
    evaluator = InstanceEvaluator(CATEGORIES, area_limits=(100, 500))
    evaluator.update(_instances(masks[1:], [0, 0], [0.9, 0.8]), _ground_truth(masks, [0, 0, 0]))
    got = evaluator.compute()
    assert [got[f"instance/AR{size}"] for size in "sml"] == pytest.approx([0.0, 100.0, 100.0])


def test_a_shifted_boundary_costs_more_than_a_shifted_mask() -> None:
    evaluator = InstanceEvaluator(CATEGORIES, boundary=True)
    evaluator.update(_instances(_masks((2, 38)), [0], [0.9]), _ground_truth(_masks((0, 38)), [0]))
    got = evaluator.compute()
    assert 0 < got["instance/boundary_AP"] < got["instance/AP"]
    assert evaluator.per_class()["cat"]["boundary_AP"] == pytest.approx(got["instance/boundary_AP"])
    assert math.isnan(evaluator.per_class()["dog"]["boundary_AP"])


def test_pooled_precision_is_there_when_requested() -> None:
    evaluator = InstanceEvaluator(CATEGORIES, pooled_threshold=0.5)
    evaluator.update(_instances(_masks((0, 9), (20, 30)), [0, 0], [0.9, 0.8]), _ground_truth(_masks((0, 9)), [0]))
    assert evaluator.compute()["instance/pooled_AP"] == pytest.approx(50.0)
    assert evaluator.per_class()["cat"]["pooled_AP"] == pytest.approx(50.0)


def test_parts_that_travelled_between_processes_add_up() -> None:
    *parts, whole = (InstanceEvaluator(CATEGORIES, boundary=True, pooled_threshold=0.3) for _ in range(3))
    for number, part in enumerate(parts):
        image = _instances(_masks((number, 9)), [0], [0.5]), _ground_truth(_masks((0, 9)), [0])
        part.update(*image)
        whole.update(*image)
    parts[0].merge(pickle.loads(pickle.dumps(parts[1])))
    assert parts[0].compute() == pytest.approx(whole.compute(), nan_ok=True)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    with pytest.raises(UserError, match=f"ground truth has the label {label}; expected class indices, 0 to 2"):
        InstanceEvaluator(CATEGORIES).update(_instances(_masks(), [], []), _ground_truth(_masks((0, 9)), [label]))


def test_requests_that_do_not_fit_are_refused() -> None:
    evaluator = InstanceEvaluator(CATEGORIES)
    with pytest.raises(UserError, match="resize the prediction"):
        evaluator.update(_instances(_masks(), [], []), _ground_truth(np.zeros((1, 5, 5), dtype=bool), [0]))
    with pytest.raises(UserError, match="2 labels"):
        evaluator.update(_instances(_masks(), [], []), _ground_truth(_masks((0, 9)), [0, 1]))
    with pytest.raises(UserError, match="max_detections"):
        InstanceEvaluator(CATEGORIES, max_detections=0)
    with pytest.raises(UserError, match="ascending"):
        InstanceEvaluator(CATEGORIES, area_limits=(9216, 1024))


@pytest.mark.parametrize("seed", range(10))
def test_matching_equals_one_decision_after_the_other(seed: int) -> None:
    generator = np.random.default_rng(seed)
    ious = np.round(generator.random((9, 6)), 1)  # with ties
    is_crowd = generator.random(6) < 0.3
    ignored = is_crowd | (generator.random((4, 6)) < 0.3)
    matched, excused = match(ious, is_crowd, ignored)
    for area in range(4):
        for column, threshold in enumerate(np.linspace(0.5, 0.95, 10)):
            taken: set[int] = set()
            for row in range(9):
                best: tuple[bool, float, int] | None = None
                for true in range(6):
                    if ious[row, true] >= threshold and (true not in taken or is_crowd[true]):
                        candidate = (not ignored[area, true], float(ious[row, true]), true)
                        best = candidate if best is None else max(best, candidate)
                assert matched[row, area, column] == (best is not None)
                assert excused[row, area, column] == (best is not None and not best[0])
                if best is not None:
                    taken.add(best[2])


def test_a_panoptic_model_is_measured_on_the_things_alone() -> None:
    masks = _masks((0, 9), (10, 30), (30, 60))
    with_stuff = _instances(masks, [0, 1, 2], [0.9, 0.8, 0.7])  # the sky as an instance
    true = _ground_truth(_masks((0, 9), (11, 30)), [0, 1])
    whole, things = InstanceEvaluator(CATEGORIES), InstanceEvaluator(CATEGORIES.things())
    whole.update(with_stuff, true)
    alone = Instances(
        masks[:2], with_stuff.labels[:2], with_stuff.scores[:2], with_stuff.boxes[:2], CATEGORIES.things()
    )
    things.update(alone, true)
    assert whole.compute() == pytest.approx(things.compute(), nan_ok=True)
    assert whole.per_class() == things.per_class()
    assert set(whole.curves()) == {"cat", "dog"}


def test_curves_are_there_for_classes_with_true_objects_and_their_mean_is_the_precision() -> None:
    evaluator = InstanceEvaluator(CATEGORIES)
    evaluator.update(
        _instances(_masks((0, 9), (20, 30), (40, 50)), [0, 0, 1], [0.9, 0.8, 0.7]),
        _ground_truth(_masks((0, 9), (45, 60)), [0, 0]),
    )
    (curve,) = evaluator.curves().values()
    assert curve.at_50[50] == pytest.approx(1.0)  # the first of two objects is found first
    assert curve.at_50[51] == 0.0  # the second never
    assert 100 * curve.mean.mean() == pytest.approx(evaluator.per_class()["cat"]["AP"])
    assert InstanceEvaluator(CATEGORIES).curves() == {}


def test_operating_points_count_what_is_above_each_score() -> None:
    evaluator = InstanceEvaluator(CATEGORIES)
    assert evaluator.operating_points() is None
    found = _masks((0, 9), (50, 58), (10, 20), (12, 20), (22, 30), (40, 50))
    # Right, of a class that the data do not have, right, the same once more, in a crowd, and wrong.
    evaluator.update(
        _instances(found, [0, 1, 0, 0, 0, 0], [0.9, 0.8, 0.7, 0.6, 0.5, 0.3]),
        _ground_truth(_masks((0, 9), (10, 20), (21, 39), (55, 60)), [0, 0, 0, 0], [False, False, True, False]),
    )
    points = evaluator.operating_points()
    assert points is not None
    at = {round(score, 2): tuple(values) for score, *values in zip(*points, strict=True)}
    assert list(at) == [round(0.05 * step, 2) for step in range(1, 20)]
    assert at[0.05] == at[0.3] == pytest.approx((2 / 4, 2 / 3, 4 / 7))
    assert at[0.35] == at[0.6] == pytest.approx((2 / 3, 2 / 3, 4 / 6))
    assert at[0.65] == at[0.7] == pytest.approx((1.0, 2 / 3, 4 / 5))
    assert at[0.75] == at[0.9] == pytest.approx((1.0, 1 / 3, 2 / 4))
    assert at[0.95] == pytest.approx((math.nan, 0.0, 0.0), nan_ok=True)
    assert points.scores[points.best] == pytest.approx(0.7)
