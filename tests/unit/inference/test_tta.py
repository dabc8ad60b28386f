from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mask2former import checkpoints
from mask2former.config import InferenceConfig, Task
from mask2former.errors import UserError
from mask2former.inference.predictor import Predictor
from mask2former.inference.tta import AugmentedPredictor, MultiScaleFlip, View, consensus, through_views
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import Prediction

TASKS = ("panoptic", "instance", "semantic")


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@pytest.fixture
def predictor(tiny_model: Mask2Former) -> Predictor:
    return Predictor(tiny_model, device="cpu")


# --- views -----------------------------------------------------------------------------------------------------------


def _edges(views: Sequence[View]) -> list[int]:
    return [min(view.size_hw) for view in views]


def test_every_size_is_taken_plain_and_mirrored_the_nearest_first() -> None:
    views = MultiScaleFlip((30, 80, 60), long_edge=100).views((64, 96), InferenceConfig())
    assert views == [
        View((60, 90), False),
        View((60, 90), True),
        View((67, 100), False),  # capped
        View((67, 100), True),
        View((30, 45), False),
        View((30, 45), True),
    ]
    assert MultiScaleFlip((30,), flip=False).views((64, 96), InferenceConfig()) == [View((30, 45), False)]


@pytest.mark.parametrize(
    ("plain", "sizes"),
    [
        ((512, 2048), [256, 384, 512, 640, 768, 896]),
        ((640, 2560), [320, 480, 640, 800, 960, 1120]),
        ((1024, 2048), [512, 768, 1024, 1280, 1536, 1792]),
        ((800, 1333), [400, 500, 600, 700, 800, 900, 1000, 1100, 1200]),
        ((128, 1000), [64, 96, 128, 160, 192, 224]),  # nothing is published: factors
    ],
)
def test_sizes_follow_the_plain_size_of_the_model(plain: tuple[int, int], sizes: list[int]) -> None:
    settings = InferenceConfig(short_edge=plain[0], long_edge=plain[1])
    views = MultiScaleFlip(flip=False).views((plain[0], plain[0]), settings)
    assert sorted(_edges(views)) == sizes
    assert _edges(views)[0] == plain[0]


def test_a_model_without_a_size_of_its_own_gets_factors_of_the_image() -> None:
    views = MultiScaleFlip(flip=False).views((40, 70), InferenceConfig(short_edge=0))
    assert sorted(_edges(views)) == [20, 30, 40, 50, 60, 70]


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_segments_and_instances_are_predicted_in_their_own_size_only(task: Any) -> None:
    settings = InferenceConfig(short_edge=512, long_edge=2048)
    assert MultiScaleFlip().views((500, 2048), settings, task) == [View((500, 2048), False), View((500, 2048), True)]
    assert _edges(MultiScaleFlip((64, 48), flip=False).views((64, 96), settings, task)) == [64, 48]


@pytest.mark.parametrize("sizes", [(), (0,), (64, -1), (64, 64)])
def test_senseless_sizes_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="different sizes in pixels"):
        MultiScaleFlip(sizes)
    with pytest.raises(UserError, match="at least 1 pixel"):
        MultiScaleFlip((64,), long_edge=0)


# --- the predictor ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_one_plain_view_is_the_plain_prediction_bit_for_bit(predictor: Predictor, image: np.ndarray, task: Any) -> None:
    augmented = AugmentedPredictor(predictor, MultiScaleFlip((64,), long_edge=96, flip=False))
    assert augmented(image, task).to_dict() == predictor(image, task).to_dict()
    assert augmented(image[:50, :84], task).to_dict() == predictor(image[:50, :84], task).to_dict()


def _rows(result: Any, turn: int = 1) -> list[Any]:
    """Label, score and mask (mirrored if ``turn`` is -1) of each object, in an order independent of the queries."""
    rows = zip(result.masks[:, :, ::turn], result.labels, result.scores, strict=True)
    return sorted((int(label), round(float(score), 5), mask.tobytes()) for mask, label, score in rows)


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_the_prediction_of_a_mirrored_image_is_the_mirrored_prediction(
    predictor: Predictor, image: np.ndarray, task: Any
) -> None:
    # Widths are multiples of the stride of masks and of the padding, so that mirroring moves cells onto cells.
    augmented = AugmentedPredictor(predictor, MultiScaleFlip((64, 32)))
    mirror = np.ascontiguousarray(image[:, ::-1])
    assert _rows(augmented(mirror, task), -1) == _rows(augmented(image, task))
    assert _rows(predictor(mirror, task), -1) != _rows(predictor(image, task))


def _scores(predictor: Predictor, image: np.ndarray, augmentation: MultiScaleFlip) -> torch.Tensor:
    size = (image.shape[0], image.shape[1])
    views: dict[Task, list[View]] = {"semantic": augmentation.views(size, predictor.settings)}
    found, scores = through_views(predictor.predictions, image, size, views, predictor.settings)
    assert not found
    assert scores is not None
    return scores


def test_the_scores_of_a_mirrored_image_are_the_mirrored_scores(predictor: Predictor, image: np.ndarray) -> None:
    mirror = np.ascontiguousarray(image[:, ::-1])
    for flip in (True, False):
        one, other = (
            _scores(predictor, random_image, MultiScaleFlip((64, 32), flip=flip)) for random_image in (image, mirror)
        )
        assert torch.allclose(one, other.flip(-1), atol=1e-5) == flip


def test_semantic_scores_are_the_mean_of_the_views_mirrored_back(predictor: Predictor, image: np.ndarray) -> None:
    augmentation = MultiScaleFlip((64, 48))
    together = _scores(predictor, image, augmentation)
    alone = []
    for size, mirrored in ((64, False), (64, True), (48, False), (48, True)):
        random_image = np.ascontiguousarray(image[:, ::-1]) if mirrored else image
        scores = _scores(predictor, random_image, MultiScaleFlip((size,), flip=False))
        alone.append(scores.flip(-1) if mirrored else scores)
    torch.testing.assert_close(together, torch.stack(alone).mean(0))
    labels = AugmentedPredictor(predictor, augmentation)(image, "semantic").labels
    np.testing.assert_array_equal(labels, together.argmax(0))


def test_views_that_turn_out_equal_all_count(predictor: Predictor, image: np.ndarray) -> None:
    augmentation = MultiScaleFlip((60, 70, 80), long_edge=60)  # the cap makes one size of three
    views = augmentation.views((64, 96), predictor.settings)
    assert views == 3 * [View((40, 60), False), View((40, 60), True)]
    alone = _scores(predictor, image, MultiScaleFlip((40,)))
    torch.testing.assert_close(_scores(predictor, image, augmentation), alone)


def test_several_tasks_come_from_one_round_of_views(predictor: Predictor, image: np.ndarray) -> None:
    augmented = AugmentedPredictor(predictor, MultiScaleFlip((64, 48)))
    calls = []
    handle = predictor.model.register_forward_pre_hook(lambda *_: calls.append(1))
    predictions = augmented(image, TASKS)
    handle.remove()
    assert len(calls) == 4
    calls.clear()
    handle = predictor.model.register_forward_pre_hook(lambda *_: calls.append(1))
    assert len(AugmentedPredictor(predictor)(image, TASKS)) == 3
    handle.remove()
    assert len(calls) == 12  # views of the other tasks are among those of semantic segmentation
    assert {task: prediction.size_hw for task, prediction in predictions.items()} == dict.fromkeys(TASKS, (64, 96))


def test_it_is_loaded_like_any_predictor(predictor: Predictor, image: np.ndarray, tmp_path: Path) -> None:
    checkpoints.save(predictor.model, tmp_path / "model.safetensors")
    views = MultiScaleFlip((64, 48))
    loaded = AugmentedPredictor.from_pretrained(
        tmp_path / "model.safetensors", device="cpu", augmentation=views, max_instances=3
    )
    expected = AugmentedPredictor(predictor, views)(image, "instance", max_instances=3)
    assert loaded(image, "instance").to_dict() == expected.to_dict()
    assert len(expected) <= 3


def test_views_are_recorded_beside_the_results(predictor: Predictor) -> None:
    augmented = AugmentedPredictor(predictor, MultiScaleFlip((64, 48)))
    added = {"tta": {"short_edges": (64, 48), "long_edge": None, "flip": True}}
    assert augmented.recorded_settings == {**predictor.recorded_settings, **added}


# --- one prediction from several --------------------------------------------------------------------------------------

PLAIN, MIRRORED = View((32, 64), False), View((32, 64), True)
LEFT, RIGHT, TOP = (slice(0, 8), slice(0, 6)), (slice(0, 8), slice(10, 16)), (slice(0, 3), slice(0, 16))


def _prediction(*queries: tuple[tuple[slice, slice], Sequence[float]]) -> Prediction:
    """One query per (region of the 8x16 cells, class probabilities)."""
    masks = torch.full((len(queries), 1, 8, 16), -4.0)
    for number, (region, _) in enumerate(queries):
        masks[number, 0][region] = 4.0
    logits = torch.tensor([probabilities for _, probabilities in queries]).log()
    return Prediction(logits, masks, (32, 64), (32, 64))


def _content(prediction: Prediction) -> list[tuple[list[float], bytes]]:
    probabilities, masks = prediction.probabilities, prediction.mask_logits[:, 0] > 0
    return [
        ([round(value, 5) for value in row], mask.numpy().tobytes())
        for row, mask in zip(probabilities.tolist(), masks, strict=True)
    ]


def test_a_view_that_says_the_same_changes_nothing() -> None:
    output = _prediction((LEFT, [0.9, 0.04, 0.06]), (RIGHT, [0.1, 0.7, 0.2]))
    shuffled = _prediction((RIGHT, [0.1, 0.7, 0.2]), (LEFT, [0.9, 0.04, 0.06]))
    merged = consensus([output, shuffled], [PLAIN, PLAIN])
    assert _content(merged) == _content(output)
    torch.testing.assert_close(merged.mask_logits, output.mask_logits, atol=1e-4, rtol=1e-4)


def test_a_mirrored_view_is_mirrored_back() -> None:
    output = _prediction((LEFT, [0.9, 0.04, 0.06]))
    mirror = replace(output, masks=output.mask_logits.flip(-1))
    assert _content(consensus([output, mirror], [PLAIN, MIRRORED])) == _content(output)
    # If it is not mirrored back, it is another object.
    assert len(_content(consensus([output, mirror], [PLAIN, PLAIN]))) == 2


def test_what_two_views_see_differently_is_averaged() -> None:
    one, other = _prediction((LEFT, [0.8, 0.1, 0.1])), _prediction((LEFT, [0.2, 0.5, 0.3]))
    (probabilities, _), *rest = _content(consensus([one, other], [PLAIN, PLAIN]))
    assert probabilities == pytest.approx([0.5, 0.3, 0.2])
    assert not rest


def test_every_view_counts_once_however_they_are_grouped() -> None:
    outputs = [_prediction((LEFT, [p, 0.1, 0.9 - p])) for p in (0.8, 0.4, 0.3)]
    outputs[2] = replace(outputs[2], image_size=(32, 60))
    smaller = View((32, 60), False)
    (probabilities, _), *rest = _content(consensus(outputs, [PLAIN, PLAIN, smaller]))
    assert probabilities == pytest.approx([0.5, 0.1, 0.4])
    assert not rest


def test_a_view_that_misses_an_object_says_no_object() -> None:
    one = _prediction((LEFT, [0.9, 0.04, 0.06]), (TOP, [0.1, 0.8, 0.1]))
    other = _prediction((LEFT, [0.9, 0.04, 0.06]), (RIGHT, [0.02, 0.6, 0.38]))
    found = dict((mask, row) for row, mask in _content(consensus([one, other], [PLAIN, PLAIN])))
    for region, expected in ((LEFT, [0.9, 0.04, 0.06]), (TOP, [0.05, 0.4, 0.55]), (RIGHT, [0.01, 0.3, 0.69])):
        mask = np.zeros((8, 16), dtype=bool)
        mask[region] = True
        assert found.pop(mask.tobytes()) == pytest.approx(expected)
    assert not found


def test_overlapping_objects_of_different_classes_find_their_own_partners() -> None:
    # Both masks overlap by more than half with both of the other view: the classes decide.
    wide, narrow = (slice(0, 8), slice(0, 10)), (slice(0, 8), slice(0, 8))
    one = _prediction((wide, [0.9, 0.05, 0.05]), (narrow, [0.05, 0.9, 0.05]))
    other = _prediction((narrow, [0.05, 0.9, 0.05]), (wide, [0.9, 0.05, 0.05]))
    assert sorted(row for row, _ in _content(consensus([one, other], [PLAIN, PLAIN]))) == [
        pytest.approx([0.05, 0.9, 0.05]),
        pytest.approx([0.9, 0.05, 0.05]),
    ]


def test_the_number_of_queries_stays_bounded_and_the_likely_stay() -> None:
    rng = np.random.default_rng(3)
    outputs = []
    for _ in range(6):
        queries = [(TOP, [0.9, 0.05, 0.05])]
        for _ in range(3):
            top, left = int(rng.integers(3, 7)), int(rng.integers(0, 15))
            queries.append(((slice(top, top + 1), slice(left, left + 1)), [0.01, 0.01, 0.98]))
        outputs.append(_prediction(*queries))
    merged = consensus(outputs, [PLAIN] * 6)
    assert len(_content(merged)) <= 8
    assert _content(merged)[0][0] == pytest.approx([0.9, 0.05, 0.05])


def test_masks_of_another_size_are_resampled_to_the_first_grid() -> None:
    # A soft edge at the same share of the width in both, although padding and cells differ.
    def ramp(cells: int, size: int) -> Prediction:
        indices = (torch.arange(cells) + 0.5) * 4 / size
        masks = (6 - 12 * indices).clamp(-6, 6).expand(1, 1, 8, cells)
        return Prediction(torch.tensor([[2.0, 0.0]]), masks, (32, size), (32, 4 * cells))

    first, second = ramp(16, 64), ramp(24, 90)  # 96 pixels with padding
    merged = consensus([first, second], [PLAIN, View((32, 90), False)])
    inside = slice(1, 15)
    torch.testing.assert_close(
        merged.mask_logits[..., inside], first.mask_logits[..., inside], atol=0.02, rtol=0, check_stride=False
    )


def test_clips_are_refused_not_predicted_plainly(predictor: Predictor, image: np.ndarray) -> None:
    with pytest.raises(UserError, match="applies to images"):
        AugmentedPredictor(predictor).clip([image, image])
    with pytest.raises(UserError, match="applies to images"):
        AugmentedPredictor(predictor).track([image, image])
