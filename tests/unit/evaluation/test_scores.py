"""Thresholds that are chosen by measured scores."""

from __future__ import annotations

import numpy as np

from mask2former.config import EvaluationConfig
from mask2former.evaluation.scores import Evaluation
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures import Categories, Instances
from mask2former.structures.ground_truth import InstanceGroundTruth

CLASSES = Categories.from_names(["bee", "ant", "fly"], ["bee", "ant", "fly"])


def test_each_class_with_enough_objects_has_the_threshold_of_its_own_highest_f1() -> None:
    """Bees are right from 0.3 on and ants from 0.8 on; flies have no threshold unless four objects are enough."""
    evaluation = Evaluation(["instance"], CLASSES, EvaluationConfig(tasks=("instance",), monitor="instance/AP"))
    right = {0: 0.32, 1: 0.82, 2: 0.62}
    wrong = {0: 0.12, 1: 0.72, 2: 0.52}
    for image in range(12):
        labels = [0, 1, 2] if image < 4 else [0, 1]
        both = ((right, True), (wrong, False))
        found = sorted((scores[k], k, is_right) for scores, is_right in both for k in labels)
        true = np.zeros((len(labels), 9, 40), dtype=bool)
        for k in labels:
            true[k, 3 * k : 3 * k + 2, :9] = True
        masks = np.zeros((len(found), 9, 40), dtype=bool)
        for row, (_, k, is_right) in enumerate(found[::-1]):
            left = 0 if is_right else 20
            masks[row, 3 * k : 3 * k + 2, left : left + 9] = True
        sparse = SparseMasks.of(masks)
        scores = np.array([score for score, _, _ in found[::-1]])
        result = Instances(sparse, np.array([k for _, k, _ in found[::-1]]), scores, sparse.boxes, CLASSES)
        truth = InstanceGroundTruth(SparseMasks.of(true), np.array(labels), np.zeros(len(labels), dtype=bool))
        evaluation.add({"instance": result}, {"instance": truth})
    assert evaluation.class_thresholds() == {"bee": 0.3, "ant": 0.8}
    assert evaluation.class_thresholds(least=4) == {"bee": 0.3, "ant": 0.8, "fly": 0.6}
    assert evaluation.best_threshold() in (0.15, 0.3)
