from __future__ import annotations

import numpy as np
import torch

from mask2former.evaluation.build import evaluators
from mask2former.structures import Categories, Instances, PanopticSegmentation, Segment, SemanticSegmentation, Target

CATEGORIES = Categories.from_names(["cat", "dog", "sky"], ["cat", "dog"])


def test_a_target_evaluated_against_itself_is_perfect_in_every_task() -> None:
    masks = torch.zeros(3, 1, 24, 30, dtype=torch.bool)
    masks[0, 0, :10, :12] = masks[1, 0, 12:20, 5:28] = True
    masks[2, 0] = ~masks[:2, 0].any(0)
    target = Target(torch.tensor([0, 1, 2]), masks)
    built = evaluators(("panoptic", "instance", "semantic"), CATEGORIES)
    assert tuple(built) == ("panoptic", "instance", "semantic")
    ids = np.einsum("n,nhw->hw", np.arange(1, 4), masks[:, 0].numpy()).astype(np.int32)
    segments = tuple(Segment(n, n - 1, n < 3, 1.0, int((ids == n).sum())) for n in (1, 2, 3))
    predictions = {
        "panoptic": PanopticSegmentation(ids, segments, CATEGORIES),
        "instance": Instances(masks[:2, 0].numpy(), np.arange(2), np.ones(2), np.zeros((2, 4)), CATEGORIES),
        "semantic": SemanticSegmentation(ids.astype(np.int64) - 1, CATEGORIES),
    }
    for task, evaluator in built.items():
        evaluator.update(predictions[task], evaluator.truth_of_target(target))
        values = evaluator.compute()
        assert all(name.startswith(f"{task}/") for name in values)
        assert {round(value, 9) for value in values.values() if value == value} == {100.0}
        assert set(evaluator.per_class()) <= set(CATEGORIES.names)


def test_nothing_asked_builds_nothing_and_each_call_is_fresh() -> None:
    assert evaluators((), CATEGORIES) == {}
    first, second = (evaluators(("semantic",), CATEGORIES)["semantic"] for _ in range(2))
    assert first is not second
