from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from mask2former.errors import UserError
from mask2former.metrics.pooled import POOLED_THRESHOLDS, PooledEvaluator, count_pooled
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures import Categories, Instances
from mask2former.structures.ground_truth import InstanceGroundTruth

CATEGORIES = Categories.from_names(["nucleus", "debris", "never", "glass"], ["nucleus", "debris", "never"])
SIZE = (40, 60)


def _masks(*columns: tuple[int, int]) -> np.ndarray:
    masks = np.zeros((len(columns), *SIZE), dtype=bool)
    for mask, (start, stop) in zip(masks, columns, strict=True):
        mask[:, start:stop] = True
    return masks


def _instances(masks: np.ndarray, labels: list[int], scores: list[float]) -> Instances:
    return Instances(masks, np.array(labels, dtype=np.int64), np.array(scores), np.zeros((len(masks), 4)), CATEGORIES)


def _ground_truth(masks: np.ndarray, labels: list[int], crowd: list[bool] | None = None) -> InstanceGroundTruth:
    return InstanceGroundTruth(
        masks, np.array(labels, dtype=np.int64), np.array(crowd or [False] * len(labels), dtype=bool)
    )


def _slow_counts(
    masks: np.ndarray, labels: np.ndarray, ground_truth: InstanceGroundTruth
) -> dict[tuple[float, int], list[int]]:
    """TP, FP and FN by threshold and class, computed from dense masks by the definition."""

    def visible(layers: list[np.ndarray]) -> list[np.ndarray]:
        taken, left = np.zeros(SIZE, dtype=bool), []
        for layer in layers:
            left.append(layer & ~taken)
            taken |= layer
        return left

    order = [n for n, crowd in enumerate(ground_truth.iscrowd) if not crowd] + np.flatnonzero(
        ground_truth.iscrowd
    ).tolist()
    shown = visible(list(SparseMasks.of(ground_truth.masks).take(order).dense()))
    true = [
        (mask, ground_truth.labels[n], ground_truth.iscrowd[n])
        for mask, n in zip(shown, order, strict=True)
        if mask.any()
    ]
    found = [(mask, label) for mask, label in zip(visible(list(masks)), labels, strict=True) if mask.any()]
    counts = {}
    for threshold in POOLED_THRESHOLDS:
        for label in range(len(CATEGORIES)):
            objects = [mask for mask, other, crowd in true if other == label and not crowd]
            crowds = [mask for mask, other, crowd in true if other == label and crowd]
            crowd = np.any(crowds, axis=0) if crowds else np.zeros(SIZE, dtype=bool)
            free, hits, wrong = list(range(len(objects))), 0, 0
            for mask, other in found:  # greedy, best first
                if other != label:
                    continue
                ious = {n: (mask & objects[n]).sum() / (mask | objects[n]).sum() for n in free}
                best = max(ious, key=lambda n: ious[n], default=None)
                if best is not None and ious[best] > threshold:
                    free.remove(best)
                    hits += 1
                elif (mask & crowd).sum() <= mask.sum() / 2:
                    wrong += 1
            counts[threshold, label] = [hits, wrong, len(free)]
    return counts


@pytest.mark.parametrize("seed", range(8))
def test_counts_equal_the_definition_on_random_scenes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    count = int(generator.integers(0, 15))
    masks = np.zeros((count, *SIZE), dtype=bool)
    for mask in masks:
        top, left = (int(generator.integers(0, side - 6)) for side in SIZE)
        height, width = (int(side) for side in generator.integers(2, 20, size=2))
        mask[top : top + height, left : left + width] = True
    labels = generator.integers(0, 2, size=count)
    ground_truth = InstanceGroundTruth(masks, labels, generator.random(count) < 0.2)
    repeated = generator.integers(0, max(count, 1), size=2 * count)
    moved = np.array(
        [np.roll(masks[n], generator.integers(-1, 2, size=2), axis=(0, 1)) for n in repeated], dtype=bool
    ).reshape(-1, *SIZE)
    found_labels = np.where(generator.random(2 * count) < 0.9, labels[repeated], 1 - labels[repeated])
    got = count_pooled(SparseMasks.of(moved), found_labels, ground_truth, len(CATEGORIES))
    for (threshold, label), expected in _slow_counts(moved, found_labels, ground_truth).items():
        row = POOLED_THRESHOLDS.index(threshold)
        assert [int(counts[row, label]) for counts in got] == expected, (threshold, label)


def test_there_are_nine_thresholds_and_a_match_must_exceed_them() -> None:
    assert POOLED_THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
    evaluator = PooledEvaluator(CATEGORIES)
    evaluator.update(_instances(_masks((0, 7)), [0], [0.9]), _ground_truth(_masks((0, 10)), [0]))  # IoU 0.7
    got = evaluator.compute()
    hits = [got[f"instance/pooled_AP{number}"] for number in range(50, 95, 5)]
    assert hits == [100.0] * 4 + [0.0] * 5
    assert got["instance/pooled_AP"] == pytest.approx(400 / 9)


def test_images_are_pooled_not_averaged() -> None:
    evaluator = PooledEvaluator(CATEGORIES)
    evaluator.update(_instances(_masks((0, 9)), [0], [0.9]), _ground_truth(_masks((0, 9)), [0]))
    evaluator.update(_instances(_masks(), [], []), _ground_truth(_masks((0, 9), (10, 20), (30, 40)), [0, 0, 0]))
    assert evaluator.compute()["instance/pooled_AP"] == pytest.approx(25.0)


def test_uncertain_and_hidden_instances_are_no_part_of_the_prediction() -> None:
    evaluator = PooledEvaluator(CATEGORIES, score_threshold=0.6)
    found = _instances(_masks((0, 9), (2, 8), (30, 40)), [0, 0, 0], [0.9, 0.8, 0.6])
    evaluator.update(found, _ground_truth(_masks((0, 9)), [0]))
    assert evaluator.compute()["instance/pooled_AP"] == 100.0


def test_classes_are_kept_apart_and_those_without_objects_left_out() -> None:
    evaluator = PooledEvaluator(CATEGORIES)
    masks = _masks((0, 9), (20, 30))
    evaluator.update(_instances(masks, [0, 2], [0.9, 0.8]), _ground_truth(masks, [0, 1]))
    assert evaluator.compute()["instance/pooled_AP"] == pytest.approx(50.0)
    per_class = {name: values["pooled_AP"] for name, values in evaluator.per_class().items()}
    assert per_class == pytest.approx({"nucleus": 100.0, "debris": 0.0, "never": math.nan}, nan_ok=True)


def test_nothing_true_is_undefined() -> None:
    evaluator = PooledEvaluator(CATEGORIES)
    assert all(math.isnan(value) for value in evaluator.compute().values())
    evaluator.update(_instances(_masks((0, 9)), [0], [0.9]), _ground_truth(_masks(), []))
    assert all(math.isnan(value) for value in evaluator.compute().values())


def test_parts_that_travelled_between_processes_add_up() -> None:
    parts, whole = [PooledEvaluator(CATEGORIES) for _ in range(2)], PooledEvaluator(CATEGORIES)
    for number, part in enumerate(parts):
        image = _instances(_masks((2 * number, 9)), [0], [0.9]), _ground_truth(_masks((0, 9)), [0])
        part.update(*image)
        whole.update(*image)
    parts[0].merge(pickle.loads(pickle.dumps(parts[1])))
    assert parts[0].compute() == whole.compute()


def test_a_threshold_is_a_probability() -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        PooledEvaluator(CATEGORIES, 50)
