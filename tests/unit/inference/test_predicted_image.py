from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mask2former.config import InferenceConfig
from mask2former.errors import UserError
from mask2former.inference.predictor import Predictor
from mask2former.inference.tta import AugmentedPredictor, MultiScaleFlip
from mask2former.models.mask2former import Mask2Former

IMAGE = np.random.default_rng(0).integers(0, 256, (50, 84, 3), dtype=np.uint8)


@pytest.fixture
def predictor(tiny_model: Mask2Former) -> Predictor:
    return Predictor(tiny_model, device="cpu")


def counted(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """A function that returns how often the network was called."""
    calls: list[int] = []
    real = predictor.network

    def network(images: Any) -> Any:
        calls.append(len(images))
        return real(images)

    monkeypatch.setattr(predictor, "network", network)
    return lambda: len(calls)


def test_results_are_read_again_without_another_pass(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[tuple[Any, dict[str, Any]]] = [
        ("panoptic", {"score_threshold": 0.1}),
        ("panoptic", {"overlap_threshold": 0.1, "score_threshold": 0.0}),
        ("instance", {"instance_threshold": 0.0, "max_instances": 3}),
        ("semantic", {}),
    ]
    expected = [predictor(IMAGE, task, **overrides).to_dict() for task, overrides in requests]
    passes = counted(predictor, monkeypatch)
    [found] = predictor.run([predictor.prepare(IMAGE)])
    assert [found(task, **overrides).to_dict() for task, overrides in requests] == expected
    assert passes() == 1
    both = found(("instance", "semantic"))
    assert both["semantic"].to_dict() == expected[-1]
    assert found().to_dict() == predictor(IMAGE).to_dict()


def test_tiles_are_read_above_another_threshold(instance_predictor: Predictor) -> None:
    predictor = instance_predictor
    [found] = predictor.run([predictor.prepare(IMAGE, tile=32, tile_overlap=8)])
    for threshold in (0.0, 0.3, 0.6):
        expected = predictor(IMAGE, tile=32, tile_overlap=8, instance_threshold=threshold)
        assert found(instance_threshold=threshold).to_dict() == expected.to_dict()
    assert len(found("instance", instance_threshold=0.0))
    with pytest.raises(
        UserError, match=r"max_instances cannot change .* only instance_threshold, class_thresholds, classes"
    ):
        found(max_instances=2)


@pytest.fixture
def instance_predictor(predictor: Predictor) -> Predictor:
    predictor.settings = InferenceConfig(tasks=("instance",), short_edge=32)
    return predictor


def test_what_belongs_to_the_pass_is_refused_afterwards(predictor: Predictor) -> None:
    [found] = predictor.run([predictor.prepare(IMAGE, short_edge=40)], ["panoptic"])
    assert found(short_edge=40).to_dict() == predictor(IMAGE, "panoptic", short_edge=40).to_dict()
    with pytest.raises(UserError, match=r"short_edge cannot change after the pass .*; pass it to prepare"):
        found(short_edge=48)
    with pytest.raises(UserError, match="was predicted for panoptic; pass 'semantic' to run"):
        found("semantic")


def test_images_of_other_padded_sizes_cannot_share_a_call(predictor: Predictor) -> None:
    one, other = predictor.prepare(IMAGE), predictor.prepare(IMAGE[:, :40])
    assert predictor.batch_key(one.size_hw) != predictor.batch_key(other.size_hw)
    with pytest.raises(UserError, match="cannot share a call"):
        predictor.run([one, other])
    assert predictor.run([]) == []
    assert len(predictor.run([one, one])) == 2


def test_with_views_the_chosen_tasks_alone_are_predicted(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    augmented = AugmentedPredictor(predictor, MultiScaleFlip((40, 48)))
    expected = augmented(IMAGE, "panoptic", score_threshold=0.1).to_dict()
    passes = counted(augmented, monkeypatch)
    [found] = augmented.run([augmented.prepare(IMAGE)], ["panoptic"])
    assert found(score_threshold=0.1).to_dict() == expected
    assert passes() == 4
