from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from mask2former.config import EvaluationConfig, MetricStyle, Task
from mask2former.errors import UserError
from mask2former.metrics.build import evaluators
from mask2former.structures import Categories, Instances, PanopticSegmentation, Segment, SemanticSegmentation, Target
from mask2former.structures.ground_truth import CityscapesGroundTruth, ground_truths_of_target

CATEGORIES = Categories.from_names(["cat", "dog", "sky"], ["cat", "dog"])
CITY = Categories(tuple(item for item in Categories.load("cityscapes") if item.name in ("road", "person", "car")))
TASKS = ("panoptic", "instance", "semantic")
EVERYTHING = EvaluationConfig(boundary=True, pooled_threshold=0.3, semantic_segments=True)


def _results(masks: np.ndarray, labels: np.ndarray, categories: Categories) -> dict[str, object]:
    """The results of all tasks from masks that cover the image without overlaps."""
    ids = np.einsum("n,nhw->hw", np.arange(1, len(masks) + 1), masks).astype(np.int32)
    segments = tuple(
        Segment(n, int(label), categories[int(label)].is_thing, 1.0, 0)
        for n, label in enumerate(labels, 1)
        if (ids == n).any()
    )
    scores = np.linspace(0.9, 0.1, len(masks))
    return {
        "panoptic": PanopticSegmentation(ids, segments, categories),
        "instance": Instances(masks, labels, scores, np.zeros((len(masks), 4)), categories),
        "semantic": SemanticSegmentation(np.append(categories.ignore_label, labels)[ids], categories),
    }


def _ground_truth(target: Target, task: Task, style: MetricStyle) -> Any:
    """Ground truth in the form of the style: the metrics of Cityscapes need the map of ids of the data set."""
    if style == "coco" or task == "panoptic":
        return ground_truths_of_target(target, [task], CITY)[task]
    ids = np.zeros(target.masks.shape[2:], dtype=np.int32)
    for number, (label, mask) in enumerate(zip(target.labels.tolist(), target.masks[:, 0].numpy(), strict=True)):
        ids[mask] = CITY[label].id * 1000 + number if CITY[label].is_thing else CITY[label].id
    return CityscapesGroundTruth(ids)


@pytest.mark.parametrize("style", ["coco", "cityscapes"])
def test_three_processes_with_a_third_of_the_images_each_equal_one(style: MetricStyle) -> None:
    generator = np.random.default_rng(0)

    def fresh() -> dict:
        return evaluators(TASKS, CITY, EVERYTHING, style)

    one, ranks = fresh(), [fresh() for _ in range(3)]
    for number in range(7):  # not divisible by three
        labels = generator.integers(0, 3, 4)
        masks = np.arange(4)[:, None, None] == np.kron(generator.integers(0, 4, (2, 2)), np.ones((14, 15)))
        target = Target(torch.from_numpy(labels), torch.from_numpy(np.roll(masks, 1, axis=2))[:, None])
        found = _results(masks, labels, CITY)
        for built in (one, ranks[number % 3]):
            for task, evaluator in built.items():
                evaluator.update(found[task], _ground_truth(target, task, style))
    for task, evaluator in ranks[0].items():
        for rank in ranks[1:]:
            evaluator.merge(pickle.loads(pickle.dumps(rank[task])))
        assert evaluator.compute() == pytest.approx(one[task].compute(), nan_ok=True, rel=1e-12)
        for name, row in one[task].per_class().items():
            assert evaluator.per_class()[name] == pytest.approx(row, nan_ok=True, rel=1e-12)


@pytest.mark.parametrize("style", ["coco", "cityscapes"])
def test_what_is_kept_of_an_image_does_not_grow_with_its_size(style: MetricStyle) -> None:
    labels = np.array([0, 1, 2, 1])
    sizes = []
    for scale in (16, 64):
        masks = np.arange(4)[:, None, None] == np.kron(np.arange(4).reshape(2, 2), np.ones((scale, scale)))
        built = evaluators(TASKS, CITY, EVERYTHING, style)
        target = Target(torch.from_numpy(labels), torch.from_numpy(masks)[:, None])
        for task, evaluator in built.items():
            evaluator.update(_results(masks, labels, CITY)[task], _ground_truth(target, task, style))
        sizes.append({task: len(pickle.dumps(evaluator)) for task, evaluator in built.items()})
    assert sizes[0] == sizes[1]


def test_the_style_of_cityscapes_has_its_own_numbers_and_wants_its_own_classes() -> None:
    built = evaluators(TASKS, CITY, style="cityscapes")
    assert set(built["instance"].compute()) == {"instance/AP", "instance/AP50"}
    assert {f"semantic/{name}" for name in ("mIoU", "IoU", "iIoU", "IoU_sup", "iIoU_sup")} <= set(
        built["semantic"].compute()
    )
    assert "panoptic/PQ" in built["panoptic"].compute()
    for task in ("instance", "semantic"):
        with pytest.raises(UserError, match="Cityscapes apply to its own classes"):
            evaluators((task,), CATEGORIES, style="cityscapes")


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
        evaluator.update(predictions[task], ground_truths_of_target(target, [task], CATEGORIES)[task])
        values = evaluator.compute()
        assert all(name.startswith(f"{task}/") for name in values)
        assert {round(value, 9) for value in values.values() if value == value} == {100.0}
        assert set(evaluator.per_class()) <= set(CATEGORIES.names)


def test_nothing_requested_builds_nothing_and_each_call_is_fresh() -> None:
    assert evaluators((), CATEGORIES) == {}
    first, second = (evaluators(("semantic",), CATEGORIES)["semantic"] for _ in range(2))
    assert first is not second
