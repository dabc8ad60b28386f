"""Video panoptic quality compared with its definition, tube by tube, and each of its rules."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from mask2former.errors import UserError
from mask2former.metrics.identity import IdentityCounts, count_identities, count_panoptic_identities
from mask2former.metrics.panoptic import PanopticEvaluator
from mask2former.metrics.video_panoptic import VideoPanopticEvaluator, count_tubes
from mask2former.structures import Categories, PanopticSegmentation, Segment
from mask2former.structures.ground_truth import PanopticGroundTruth

CATEGORIES = Categories.from_names(["cat", "dog", "sky"], things=["cat", "dog"])
Clip = tuple[list[PanopticSegmentation], list[PanopticGroundTruth]]


def prediction(ids: np.ndarray, labels: dict[int, int]) -> PanopticSegmentation:
    present = [number for number in np.unique(ids).tolist() if number]
    segments = [Segment(n, labels[n], CATEGORIES[labels[n]].is_thing, 0.9, int((ids == n).sum())) for n in present]
    return PanopticSegmentation(ids.astype(np.int32), tuple(segments), CATEGORIES)


def ground_truth(ids: np.ndarray, labels: dict[int, int], crowds: frozenset[int] = frozenset()) -> PanopticGroundTruth:
    present = [number for number in np.unique(ids).tolist() if number]
    return PanopticGroundTruth(ids, [(n, labels[n], n in crowds) for n in present])


def random_clip(seed: int, num_frames: int = 6) -> Clip:
    """A random clip whose predicted and true blocks mostly agree, with void, a crowd, and ids sometimes swapped."""
    rng = np.random.default_rng(seed)
    labels = {1: 0, 2: 0, 3: 1, 4: 2, 5: 1}
    base = rng.choice([0, 1, 2, 3, 4, 5], size=(4, 4), p=[0.1, 0.2, 0.2, 0.2, 0.2, 0.1])
    predictions, ground_truths = [], []
    for _ in range(num_frames):
        moved = np.where(rng.random((4, 4)) < 0.1, rng.integers(0, 6, (4, 4)), base)
        guess = np.where(rng.random((4, 4)) < 0.15, rng.integers(0, 6, (4, 4)), moved)
        if rng.random() < 0.2:
            guess = np.array([0, 2, 1, 3, 4, 5])[guess]
        ground_truths.append(ground_truth(moved.repeat(3, 0).repeat(3, 1), labels, frozenset({5})))
        predictions.append(prediction(guess.repeat(3, 0).repeat(3, 1), labels))
    return predictions, ground_truths


def slow_quality(clips: list[Clip], length: int) -> dict[int, float]:
    """PQ of every class by the definition of the paper, with sets of pixels (frame, row, column)."""
    sums = {label: [0.0, 0, 0, 0] for label in range(3)}  # IoU, true positives, false positives, false negatives

    def pixels(frames: list[np.ndarray], number: int) -> set[tuple[int, ...]]:
        return {(t, *map(int, index)) for t, ids in enumerate(frames) for index in np.argwhere(ids == number)}

    for predictions, ground_truths in clips:
        for start in range(max(1, len(ground_truths) - length + 1)):
            chosen = slice(start, start + length)
            mine, theirs = [frame.ids for frame in predictions[chosen]], [frame.ids for frame in ground_truths[chosen]]
            void = pixels(theirs, 0)
            true_rows = {row for frame in ground_truths[chosen] for row in frame.segments}
            my_rows = {(segment.id, segment.label) for frame in predictions[chosen] for segment in frame.segments}
            matched_true, matched_mine = set(), set()
            for number, label, crowd in true_rows:
                for other, other_label in my_rows:
                    one, two = pixels(theirs, number), pixels(mine, other)
                    union = len((one | two) - (void - one))
                    if label == other_label and not crowd and len(one & two) / union > 0.5:
                        sums[label][0] += len(one & two) / union
                        sums[label][1] += 1
                        matched_true.add(number)
                        matched_mine.add(other)
            for number, label, crowd in true_rows:
                sums[label][3] += number not in matched_true and not crowd
            for number, label in my_rows:
                crowd_pixels = {p for n, k, crowd in true_rows if crowd and k == label for p in pixels(theirs, n)}
                tube = pixels(mine, number)
                excused = len(tube & (void | crowd_pixels)) / len(tube) > 0.5
                sums[label][2] += number not in matched_mine and not excused
    return {k: 100 * iou / (tp + fp / 2 + fn / 2) for k, (iou, tp, fp, fn) in sums.items() if tp + fp + fn}


@pytest.mark.parametrize("lengths", [(1, 2, 3, 4), (2,), (6, 9)])
def test_it_is_the_definition(lengths: tuple[int, ...]) -> None:
    clips = [random_clip(seed) for seed in range(4)]
    evaluator = VideoPanopticEvaluator(CATEGORIES, lengths=lengths)
    for predictions, ground_truths in clips:
        evaluator.update(predictions, ground_truths)
    metrics = evaluator.compute()
    means = []
    for length in lengths:
        expected = slow_quality(clips, length)
        assert metrics[f"panoptic/VPQ{length}"] == pytest.approx(np.mean(list(expected.values())), abs=1e-9)
        things = [value for label, value in expected.items() if label < 2]
        assert metrics[f"panoptic/VPQ{length}_things"] == pytest.approx(np.mean(things), abs=1e-9)
        assert 5 < metrics[f"panoptic/VPQ{length}"] < 95
        means.append(metrics[f"panoptic/VPQ{length}"])
    assert metrics["panoptic/VPQ"] == pytest.approx(np.mean(means))


def test_windows_of_one_frame_are_panoptic_quality() -> None:
    predictions, ground_truths = random_clip(7)
    video, images = VideoPanopticEvaluator(CATEGORIES, lengths=(1,)), PanopticEvaluator(CATEGORIES)
    video.update(predictions, ground_truths)
    for one, other in zip(predictions, ground_truths, strict=True):
        images.update(one, other)
    assert video.compute()["panoptic/VPQ"] == pytest.approx(images.compute()["panoptic/PQ"])


def halves(left: int, right: int) -> np.ndarray:
    return np.repeat([[left] * 4 + [right] * 4], 8, axis=0)


def test_a_swap_of_ids_costs_in_windows_that_see_it() -> None:
    labels = {1: 0, 2: 0}
    ground_truths = [ground_truth(halves(1, 2), labels)] * 4
    predictions = [prediction(halves(1, 2), labels)] * 2 + [prediction(halves(2, 1), labels)] * 2
    evaluator = VideoPanopticEvaluator(CATEGORIES)
    evaluator.update(predictions, ground_truths)
    metrics = evaluator.compute()
    assert metrics["panoptic/VPQ1"] == 100
    assert metrics["panoptic/VPQ2"] == pytest.approx(100 * 2 / 3)  # of three windows one sees the swap
    assert metrics["panoptic/VPQ4"] == 0
    assert math.isnan(metrics["panoptic/VPQ_stuff"])


def test_an_id_that_changes_its_class_is_two_tubes() -> None:
    ground_truths = [ground_truth(halves(1, 0), {1: 0})] * 2
    predictions = [prediction(halves(1, 0), {1: 0}), prediction(halves(1, 0), {1: 1})]
    counts = count_tubes(predictions, ground_truths, 2, 3)
    assert counts.true_positives.tolist() == [0, 0, 0]  # exactly one half
    assert counts.false_positives.tolist() == [1, 1, 0]


def test_parts_add_up_after_a_trip_to_another_process() -> None:
    whole, first, second = (VideoPanopticEvaluator(CATEGORIES) for _ in range(3))
    for evaluator, seed in ((first, 0), (second, 1), (whole, 0), (whole, 1)):
        evaluator.update(*random_clip(seed))
    first.merge(pickle.loads(pickle.dumps(second)))
    assert first.compute() == whole.compute()
    assert first.per_class() == whole.per_class()


def test_what_does_not_fit_is_refused() -> None:
    predictions, ground_truths = random_clip(0)
    evaluator = VideoPanopticEvaluator(CATEGORIES)
    with pytest.raises(UserError, match="got 5 predicted and 6 true frames"):
        evaluator.update(predictions[:5], ground_truths)
    with pytest.raises(UserError, match="got 0 predicted and 0 true"):
        evaluator.update([], [])
    with pytest.raises(UserError, match="frames of a clip must have the same size"):
        evaluator.update(predictions, [*ground_truths[:5], ground_truth(np.ones((4, 4), int), {1: 0})])
    with pytest.raises(UserError, match="the id 9, which its list lacks"):
        evaluator.update(predictions, [*ground_truths[:5], PanopticGroundTruth(np.full((12, 12), 9), [])])
    with pytest.raises(UserError, match="lengths of windows must be at least 1 and differ"):
        VideoPanopticEvaluator(CATEGORIES, lengths=(0, 1))


def test_identity_switches_are_those_of_the_things() -> None:
    """Switches of ids of things are counted whatever their class; here 1, 2 and 4 are cats, 3 is a dog, 9 sky."""
    labels = {1: 0, 2: 0, 3: 1, 4: 0, 9: 2}
    rows = np.array([[1, 1, 2, 2, 3, 3, 9, 9]])
    swapped = np.array([[2, 2, 1, 1, 3, 3, 9, 9]])
    other_class = np.array([[2, 2, 1, 1, 4, 4, 9, 9]])
    evaluator = VideoPanopticEvaluator(CATEGORIES)
    ground_truths = [ground_truth(rows, labels)] * 4
    evaluator.update([prediction(ids, labels) for ids in (rows, rows, swapped, other_class)], ground_truths)
    values = evaluator.compute()
    assert values["panoptic/id_switches"] == 3  # two, then the dog under another id, of whatever class
    assert values["panoptic/found"] == 100
    other = pickle.loads(pickle.dumps(evaluator))
    evaluator.merge(other)
    assert evaluator.compute()["panoptic/id_switches"] == 6


def test_identities_leave_out_crowds_and_take_void_off_the_union() -> None:
    labels = {1: 0, 2: 0, 9: 2}
    true = np.array([[1, 1, 0, 0, 0, 2, 2, 2]])
    found = np.array([[1, 1, 1, 1, 1, 2, 2, 2]])  # an IoU of 2/5, but 1 if void is taken off
    counts = count_panoptic_identities(
        [prediction(found, labels)], [ground_truth(true, labels, frozenset({2}))], CATEGORIES.thing_indices
    )
    assert counts == IdentityCounts(switches=0, found=1, present=1)


@pytest.mark.parametrize("seed", range(8))
def test_identities_of_maps_are_those_of_masks(seed: int) -> None:
    predictions, ground_truths = random_clip(seed, num_frames=8)
    ground_truths = [
        PanopticGroundTruth(np.where(frame.ids == 0, 4, frame.ids), frame.segments) for frame in ground_truths
    ]  # no void
    numbers = [1, 2, 3]  # those of things that are no crowds
    masks = np.stack([np.stack([frame.ids == number for frame in ground_truths]) for number in numbers])
    rows = [
        (
            np.array([s.id for s in frame.segments if s.is_thing], dtype=int),
            [s.id for s in frame.segments if s.is_thing],
        )
        for frame in predictions
    ]
    frames = [
        (ids, np.array([frame.ids == number for number in listed], dtype=bool).reshape(-1, *frame.ids.shape))
        for (ids, listed), frame in zip(rows, predictions, strict=True)
    ]
    assert count_panoptic_identities(predictions, ground_truths, CATEGORIES.thing_indices) == count_identities(
        frames, masks
    )
