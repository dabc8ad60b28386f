from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from scipy import ndimage

from mask2former.errors import UserError
from mask2former.metrics.panoptic import PanopticEvaluator, PanopticGroundTruth, count_boundary_matches, count_matches
from mask2former.structures import Categories, PanopticSegmentation, Segment

CATEGORIES = Categories.from_names(["cat", "dog", "sky"], ["cat", "dog"])


def _segmentation(ids: np.ndarray, segments: list[tuple[int, int]]) -> PanopticSegmentation:
    return PanopticSegmentation(
        ids.astype(np.int32),
        tuple(Segment(n, label, label < 2, 1.0, int((ids == n).sum())) for n, label in segments),
        CATEGORIES,
    )


def _line(*runs: tuple[int, int]) -> np.ndarray:
    """A map of one row from (id, length) pairs."""
    return np.concatenate([np.full(length, identifier) for identifier, length in runs])[None]


def _boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    inner = ndimage.binary_erosion(np.pad(mask, 1), np.ones((3, 3)), iterations=distance, border_value=1)
    return mask & np.logical_not(inner)[1:-1, 1:-1]


def _counts_slowly(
    predicted: np.ndarray,
    predicted_segments: list[tuple[int, int]],
    ground_truth: PanopticGroundTruth,
    distance: int | None = None,
) -> dict[str, list[float]]:
    """Counts by the published rules, one pair of segments after the other."""
    values: dict[str, list[float]] = {name: [0.0] * 3 for name in ("tp", "fp", "fn", "iou")}
    matched_true, matched_predicted = set(), set()
    for true_id, true_label, crowd in ground_truth.segments:
        for predicted_id, label in predicted_segments:
            if crowd or label != true_label:
                continue
            a, b = ground_truth.ids == true_id, predicted == predicted_id
            union = (a | b).sum() - (b & (ground_truth.ids == 0)).sum()
            iou = (a & b).sum() / union if (a & b).any() else 0.0
            if distance is not None and iou > 0.5:
                c, d = _boundary(a, distance), _boundary(b, distance)
                iou = min(iou, (c & d).sum() / ((c | d).sum() - (d & (ground_truth.ids == 0)).sum()))
            if iou > 0.5:
                values["tp"][label] += 1
                values["iou"][label] += iou
                matched_true.add(true_id)
                matched_predicted.add(predicted_id)
    for true_id, label, crowd in ground_truth.segments:
        values["fn"][label] += not crowd and true_id not in matched_true
    for predicted_id, label in predicted_segments:
        if predicted_id in matched_predicted:
            continue
        crowds = [true_id for true_id, true_label, crowd in ground_truth.segments if crowd and true_label == label]
        b = predicted == predicted_id
        ignored = (b & np.isin(ground_truth.ids, [0, *crowds[-1:]])).sum()
        values["fp"][label] += ignored / b.sum() <= 0.5
    return values


@pytest.mark.parametrize("seed", range(20))
def test_counts_equal_the_slow_reading(seed: int) -> None:
    generator = np.random.default_rng(seed)
    true_ids = np.kron(generator.integers(0, 7, (5, 6)), np.ones((4, 4), dtype=np.int64))
    predicted = np.where(generator.random(true_ids.shape) < 0.2, generator.integers(0, 7, true_ids.shape), true_ids)
    predicted = np.roll(predicted, 1, axis=1) * 3001  # ids need not be dense
    ground_truth = PanopticGroundTruth(
        true_ids, [(n, int(generator.integers(3)), bool(generator.random() < 0.3)) for n in np.unique(true_ids) if n]
    )
    label_of = {n: label for n, label, _ in ground_truth.segments}
    segments = [
        (int(n), label_of[n // 3001] if generator.random() < 0.8 else int(generator.integers(3)))
        for n in np.unique(predicted)
        if n
    ]
    plain, lesser = count_boundary_matches(predicted, segments, ground_truth, 3)
    for got, distance in ((count_matches(predicted, segments, ground_truth, 3), None), (plain, None), (lesser, 1)):
        expected = _counts_slowly(predicted, segments, ground_truth, distance)
        assert got.true_positives.tolist() == expected["tp"]
        assert got.false_positives.tolist() == expected["fp"]
        assert got.false_negatives.tolist() == expected["fn"]
        np.testing.assert_allclose(got.iou_sums, expected["iou"], rtol=1e-12)


def test_a_segment_at_the_right_position_and_a_wrong_outline_matches_in_pixels_alone() -> None:
    ids = np.zeros((100, 100), dtype=np.int32)
    ids[20:80, 20:80] = 1
    ids[50, 50] = 0  # void inside of the segment, too
    predicted = np.zeros_like(ids)
    predicted[25:75, 25:75] = 1
    ground_truth = PanopticGroundTruth(np.where(ids == 0, 2, ids), [(1, 0, False), (2, 2, False)])
    plain, lesser = count_boundary_matches(predicted, [(1, 0)], ground_truth, 3)
    assert plain.true_positives.tolist() == [1, 0, 0]
    assert lesser.true_positives.tolist() == [0, 0, 0]
    assert lesser.false_positives.tolist() == [1, 0, 0]
    assert lesser.false_negatives.tolist() == [1, 0, 1]


def test_a_prediction_mostly_on_void_or_on_the_crowd_of_its_class_is_no_error() -> None:
    ground_truth = PanopticGroundTruth(_line((0, 10), (1, 10), (2, 10)), [(1, 0, True), (2, 1, False)])
    predicted = _line((1, 10), (2, 10), (3, 10))
    counts = count_matches(predicted, [(1, 0), (2, 0), (3, 0)], ground_truth, 3)
    assert counts.false_positives.tolist() == [1, 0, 0]  # the third, on the dog
    assert counts.false_negatives.tolist() == [0, 1, 0]  # the dog; a crowd is not missed
    other_class = count_matches(predicted, [(1, 1), (2, 1), (3, 1)], ground_truth, 3)
    assert other_class.false_positives.tolist() == [0, 1, 0]  # a dog on a crowd of cats
    assert other_class.true_positives.tolist() == [0, 1, 0]


def test_void_is_taken_off_the_union_and_half_is_not_enough() -> None:
    ground_truth = PanopticGroundTruth(_line((1, 10), (0, 10)), [(1, 0, False)])
    whole = count_matches(_line((1, 20)), [(1, 0)], ground_truth, 3)
    assert whole.iou_sums.tolist() == [1.0, 0, 0]
    half = count_matches(_line((1, 5), (0, 15)), [(1, 0)], ground_truth, 3)
    assert half.true_positives.tolist() == [0, 0, 0]


def test_the_ground_truth_itself_scores_100_and_absent_classes_do_not_count() -> None:
    ids = _line((1, 4), (2, 5))
    evaluator = PanopticEvaluator(CATEGORIES, boundary=True)
    evaluator.update(_segmentation(ids, [(1, 0), (2, 2)]), (ids, [(1, 0, False), (2, 2, False)]))
    assert set(evaluator.compute().values()) == {100.0}
    assert len(evaluator.compute()) == 18
    assert math.isnan(evaluator.per_class()["dog"]["PQ"])


def test_nothing_seen_is_undefined() -> None:
    assert all(math.isnan(value) for value in PanopticEvaluator(CATEGORIES).compute().values())


def test_parts_that_travelled_between_processes_add_up() -> None:
    generator = np.random.default_rng(0)
    whole, parts = PanopticEvaluator(CATEGORIES), [PanopticEvaluator(CATEGORIES) for _ in range(2)]
    for number in range(4):
        ids = np.kron(generator.integers(1, 4, (3, 3)), np.ones((3, 3), dtype=np.int64))
        moved = np.roll(ids, 1, axis=0)
        segments = [(int(n), int(n) - 1) for n in np.unique(ids)]
        image = _segmentation(moved, segments), (ids, [(n, label, False) for n, label in segments])
        whole.update(*image)
        parts[number % 2].update(*image)
    parts[0].merge(pickle.loads(pickle.dumps(parts[1])))
    assert parts[0].compute() == pytest.approx(whole.compute(), nan_ok=True)


def test_no_segments_on_either_side() -> None:
    empty = PanopticGroundTruth(np.zeros((3, 4), dtype=np.uint8), [])
    assert sum(counts.sum() for counts in count_matches(np.zeros((3, 4), dtype=np.int32), [], empty, 3)) == 0


@pytest.mark.parametrize(
    ("predicted", "segments", "ground_truth", "message"),
    [
        (_line((1, 4)), [(1, 0)], PanopticGroundTruth(_line((1, 5)), [(1, 0, False)]), "resize the prediction"),
        (_line((1, 4)), [], PanopticGroundTruth(_line((1, 4)), [(1, 0, False)]), "list of segments differ"),
        (
            _line((1, 4)),
            [(1, 0), (2, 0)],
            PanopticGroundTruth(_line((1, 4)), [(1, 0, False)]),
            "list of segments differ",
        ),
        (_line((1, 4)), [(1, 0)], PanopticGroundTruth(_line((1, 4)), [(1, 0, False), (1, 1, False)]), "must be unique"),
        (_line((1, 4)), [(1, 0)], PanopticGroundTruth(_line((-1, 4)), []), "must be in 0"),
    ],
)
def test_inconsistent_input_is_refused(
    predicted: np.ndarray, segments: list[tuple[int, int]], ground_truth: PanopticGroundTruth, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        count_matches(predicted, segments, ground_truth, 3)


def test_areas_of_the_ground_truth_make_the_union_where_they_are_given() -> None:
    ids, segments = _line((1, 8), (0, 2)), [(1, 0, False), (2, 1, False)]  # the second has no pixel
    seen = count_matches(ids, [(1, 0)], PanopticGroundTruth(ids, segments), 3)
    assert (seen.iou_sums[0], seen.false_negatives.tolist()) == (1, [0, 1, 0])
    before = count_matches(ids, [(1, 0)], PanopticGroundTruth(ids, segments, np.array([10, 4])), 3)
    assert (before.iou_sums[0], before.false_negatives.tolist()) == (0.8, [0, 1, 0])
    missed = count_matches(ids, [(1, 0)], PanopticGroundTruth(ids, segments, np.array([16, 4])), 3)
    assert (missed.true_positives[0], missed.false_positives[0], missed.false_negatives.tolist()) == (0, 1, [1, 1, 0])
