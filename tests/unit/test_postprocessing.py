from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mask2former import memory, postprocessing
from mask2former.config import InferenceConfig
from mask2former.errors import UserError
from mask2former.ops import masks as mask_ops
from mask2former.ops.sparse_masks import PackedPatch, SparseMasks
from mask2former.postprocessing import resampling
from mask2former.structures import Categories, Instances, MaskOutput, Prediction

CATEGORIES = Categories.from_names(["cat", "dog", "sky"], ["cat", "dog"])
SURE = 20.0
EVERY = InferenceConfig(things_only=False, instance_threshold=0)  # all candidates


def _read(class_logits: torch.Tensor, masks: torch.Tensor, size: tuple[int, int] | None = None) -> Prediction:
    """A prediction with masks (Q, h, w) or (Q, T, h, w) for an image of this size, by default without padding."""
    padded = (4 * masks.shape[-2], 4 * masks.shape[-1])
    return Prediction(class_logits, masks if masks.ndim == 4 else masks[:, None], size or padded, padded)


def _sure(class_of_query: list[int], masks: torch.Tensor) -> Prediction:
    """Queries that are certain of their class (3 = no object); masks (Q, h, w) are logits."""
    return _read(SURE * torch.nn.functional.one_hot(torch.tensor(class_of_query), 4).float(), masks)


def _blocks(*columns: tuple[int, int]) -> torch.Tensor:
    """Logits of ±SURE on a 4 x 8 map, positive in the given range of columns."""
    masks = torch.full((len(columns), 4, 8), -SURE)
    for mask, (start, stop) in zip(masks, columns, strict=True):
        mask[:, start:stop] = SURE
    return masks


def test_stuff_of_one_class_becomes_one_segment_and_things_stay_apart() -> None:
    prediction = _sure([2, 0, 2, 0], _blocks((0, 2), (2, 4), (4, 6), (6, 8)))
    result = postprocessing.panoptic(prediction, (16, 32), CATEGORIES, InferenceConfig())
    assert [(segment.id, segment.label) for segment in result.segments] == [(1, 2), (2, 0), (3, 0)]
    assert set(np.unique(result.ids[:, [1, 17, 22]])) == {1}
    for segment in result.segments:
        assert segment.area == np.count_nonzero(result.ids == segment.id)
        assert 0.99 < segment.score <= 1.0


@pytest.mark.parametrize("certain", [0, 1])
def test_a_merged_segment_has_the_score_of_its_most_certain_query(certain: int) -> None:
    prediction = _sure([2, 2], _blocks((0, 4), (4, 8)))
    prediction.class_logits[1 - certain] /= 5
    result = postprocessing.panoptic(prediction, (16, 32), CATEGORIES, InferenceConfig())
    assert [segment.area for segment in result.segments] == [16 * 32]
    assert result.segments[0].score == pytest.approx(float(prediction.class_logits[certain].softmax(-1).max()))


def test_a_covered_mask_is_dropped_by_the_overlap_threshold() -> None:
    masks = _blocks((0, 6), (2, 8))
    masks[1] -= 15.0  # the second keeps only the third of its mask that the first leaves
    prediction = _sure([0, 1], masks)
    strict = postprocessing.panoptic(prediction, (16, 32), CATEGORIES, InferenceConfig(overlap_threshold=0.8))
    assert [segment.label for segment in strict.segments] == [0]
    lenient = postprocessing.panoptic(prediction, (16, 32), CATEGORIES, InferenceConfig(overlap_threshold=0.1))
    assert [segment.label for segment in lenient.segments] == [0, 1]


@pytest.mark.parametrize("class_logits", [torch.tensor([0.0, 0, 0, SURE]), torch.zeros(4)], ids=["none", "doubtful"])
def test_without_objects_results_are_empty_but_shaped(class_logits: torch.Tensor) -> None:
    prediction = _read(class_logits.expand(2, 4), torch.zeros(2, 4, 8), (15, 31))
    panoptic = postprocessing.panoptic(prediction, (40, 50), CATEGORIES, InferenceConfig())
    assert panoptic.ids.shape == (40, 50)
    assert not panoptic.ids.any()
    assert panoptic.segments == ()


def test_no_instance_remains_when_only_stuff_is_chosen() -> None:
    prediction = _sure([2], _blocks((0, 4)))
    settings = InferenceConfig(things_only=True, max_instances=1, instance_threshold=0)
    result = postprocessing.instance(prediction, (10, 20), CATEGORIES, settings)
    assert result.masks.shape == (0, 10, 20)
    assert result.boxes.shape == (0, 4)


def test_things_can_be_chosen_before_stuff_takes_their_places() -> None:
    masks = _blocks((0, 4), (4, 6), (6, 8))
    class_logits = torch.log(torch.tensor([[0.1, 0.1, 0.7, 0.1], [0.5, 0.2, 0.2, 0.1], [0.1, 0.35, 0.45, 0.1]]))
    prediction = _read(class_logits, masks)
    for kind in (postprocessing.instance, postprocessing.video_instance):

        def labels(most: int, kind: Any = kind, **chosen: Any) -> list[int]:
            settings = InferenceConfig(max_instances=most, instance_threshold=0, **chosen)
            return kind(prediction, (16, 32), CATEGORIES, settings).labels.tolist()

        assert labels(2, things_only=True) == [0]  # as published: the best two are stuff and a thing
        assert labels(1, things_only=True, things_first=True) == [0]
        assert labels(2, things_only=True, things_first=True) == [0, 1]
        assert len(labels(99, things_only=True, things_first=True)) == 6
        assert labels(2, things_only=False, things_first=True) == labels(2, things_only=False)


def test_an_empty_mask_has_score_and_box_zero() -> None:
    prediction = _sure([0, 1], _blocks((0, 4), (0, 0)))
    settings = InferenceConfig(max_instances=2, instance_threshold=0)
    result = postprocessing.instance(prediction, (16, 32), CATEGORIES, settings)
    assert result.labels.tolist() == [0, 1]
    assert result.scores[1] == 0
    assert not result.boxes[1].any()


def test_boxes_are_those_of_the_masks() -> None:
    generator = torch.Generator().manual_seed(3)
    masks = torch.nn.functional.interpolate(torch.randn(1, 12, 3, 4, generator=generator), size=(12, 16))[0] - 0.8
    prediction = _read(torch.randn(12, 4, generator=generator), masks, (45, 60))
    result = postprocessing.instance(prediction, (77, 81), CATEGORIES, EVERY)
    np.testing.assert_array_equal(result.boxes, mask_ops.boxes_xyxy(result.masks))
    assert (np.diff(result.scores) <= 0).all()


def test_queries_are_read_in_parts_to_the_same_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(9, 8, 10, generator=generator, dtype=torch.float64)
    prediction = _read(torch.randn(9, 4, generator=generator, dtype=torch.float64), masks, (30, 38))
    categories, settings = Categories.from_names(list("abc")), InferenceConfig(max_instances=20, instance_threshold=0)
    whole = postprocessing.instance(prediction, (45, 57), categories, settings)
    queries = torch.tensor([4, 0, 7])
    frame = postprocessing.frame_masks(prediction, (45, 57), queries)
    for values in (1, 8 * 57 * 2):  # one query at a time, two
        monkeypatch.setattr(resampling, "_PART_VALUES", values)
        found = postprocessing.instance(prediction, (45, 57), categories, settings)
        np.testing.assert_array_equal(found.masks, whole.masks)
        np.testing.assert_array_equal(found.labels, whole.labels)
        np.testing.assert_allclose(found.scores, whole.scores, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(postprocessing.frame_masks(prediction, (45, 57), queries).dense(), frame.dense())


def test_semantic_labels_are_the_argmax_of_the_scores_and_the_first_of_equals() -> None:
    prediction = _read(torch.zeros(2, 4), torch.zeros(2, 4, 8))
    assert not postprocessing.semantic(prediction, (9, 9), CATEGORIES, InferenceConfig()).labels.any()


def test_a_batch_is_split_into_its_images() -> None:
    generator = torch.Generator().manual_seed(0)
    both = MaskOutput(
        torch.randn(2, 9, 4, generator=generator),
        torch.randn(2, 9, 1, 8, 8, generator=generator),
        torch.randn(2, 9, 5, generator=generator),
    )
    first, second = both.predictions([(30, 32), (32, 17)])
    assert (first.image_size, second.image_size, second.padded_size) == ((30, 32), (32, 17), (32, 32))
    assert torch.equal(second.class_logits, both.class_logits[1])
    assert torch.equal(second.masks_of(torch.tensor([4, 2])), both.mask_logits[1, [4, 2]])
    assert second.query_features is not None
    assert torch.equal(second.query_features, both.query_features[1])


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_half_precision_and_autocast_are_promoted(task: str) -> None:
    generator = torch.Generator().manual_seed(0)
    class_logits, masks = (4 * torch.randn(shape, generator=generator) for shape in ((9, 4), (9, 8, 8)))
    half = _read(class_logits.bfloat16(), masks.bfloat16(), (30, 32))
    full = _read(half.class_logits.float(), half.mask_logits.float(), (30, 32))
    function = getattr(postprocessing, task)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = function(half, (40, 41), CATEGORIES, EVERY)
    expected = function(full, (40, 41), CATEGORIES, EVERY)
    for name in ("ids", "masks", "labels", "scores"):
        if hasattr(expected, name):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))


def test_the_prediction_is_left_as_it_was_also_when_it_has_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 1, 8, 8, generator=generator)
    prediction = _read(torch.randn(9, 4, generator=generator), logits.clone().requires_grad_())
    for task in ("panoptic", "instance", "semantic"):
        postprocessing.segmentation(prediction, (32, 32), CATEGORIES, EVERY, task)
    scores = postprocessing.semantic_scores(prediction, (32, 32), EVERY)
    assert torch.equal(prediction.mask_logits, logits)
    assert not scores.requires_grad
    scores.add_(1)  # an ordinary tensor: test-time augmentation accumulates into it


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_a_clip_is_refused(task: Any) -> None:
    prediction = _read(torch.zeros(2, 4), torch.zeros(2, 3, 4, 8))
    with pytest.raises(AssertionError, match="one frame"):
        postprocessing.segmentation(prediction, (16, 32), CATEGORIES, EVERY, task)


def test_tracks_have_one_class_and_score_for_the_whole_clip() -> None:
    masks = torch.stack([_blocks((0, 2), (2, 6)), _blocks((2, 4), (0, 0))], dim=1)  # (Q, T, h, w)
    class_logits = torch.log(torch.tensor([[0.6, 0.1, 0.2, 0.1], [0.05, 0.7, 0.15, 0.1]]))
    prediction = _read(class_logits, masks)
    settings = EVERY.model_copy(update={"max_instances": 3})
    result = postprocessing.video_instance(prediction, (16, 32), CATEGORIES, settings)
    np.testing.assert_allclose(result.scores, [0.7, 0.6, 0.2], rtol=1e-6)  # no mask score
    assert result.labels.tolist() == [1, 0, 2]
    assert [mask_ops.areas(track).tolist() for track in result.masks] == [[256, 0], [128, 128], [128, 128]]
    settings = settings.model_copy(update={"things_only": True})
    things = postprocessing.video_instance(prediction, (16, 32), CATEGORIES, settings)
    assert things.labels.tolist() == [1, 0]


def test_a_clip_of_one_frame_has_the_masks_of_the_image() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(5, 1, 9, 12, generator=generator)
    prediction = _read(torch.randn(5, 4, generator=generator), masks, (33, 45))
    settings = EVERY.model_copy(update={"max_instances": 15})
    clip = postprocessing.video_instance(prediction, (50, 70), CATEGORIES, settings)
    image = postprocessing.instance(prediction, (50, 70), CATEGORIES, settings)
    pairs = {(label, mask.tobytes()) for label, mask in zip(clip.labels, clip.masks[:, 0], strict=True)}
    assert pairs == {(label, mask.tobytes()) for label, mask in zip(image.labels, image.masks, strict=True)}
    assert clip.scores.sum() > image.scores.sum()  # which are multiplied with the certainty of the mask


def test_a_clip_whose_masks_would_not_fit_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 200 << 20)
    prediction = _sure([0], torch.full((1, 6000, 4, 4), SURE))
    bits = "needs about 0.3 GiB"  # as results hold them, eight pixels in a byte
    with pytest.raises(UserError, match=f"the result of 6000 frames of 600x600 pixels .* {bits} .* use track"):
        postprocessing.video_instance(prediction, (600, 600), CATEGORIES, EVERY)


def test_each_mask_is_unpacked_once_to_remove_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask is not unpacked again for each one that overlaps it, which took seconds for 200 masks of a megapixel."""
    masks = SparseMasks.of(np.random.default_rng(0).random((40, 30, 50)) < 0.1)
    instances = Instances(masks, np.zeros(40, dtype=np.int64), np.linspace(1, 0.1, 40), masks.boxes, CATEGORIES)
    unpacked: list[PackedPatch] = []
    plain = PackedPatch.unpacked
    monkeypatch.setattr(PackedPatch, "unpacked", lambda self: unpacked.append(self) or plain(self))
    assert len(postprocessing.remove_overlaps(instances, 0.0)) > 30
    assert len(unpacked) == 40
