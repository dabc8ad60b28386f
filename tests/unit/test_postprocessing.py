from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mask2former import postprocessing
from mask2former.ops import masks as mask_ops
from mask2former.structures import Categories, MaskOutput

CATEGORIES = Categories.from_names(["cat", "dog", "sky"], ["cat", "dog"])
SURE = 20.0


def _output(class_of_query: list[int], masks: torch.Tensor, dtype: torch.dtype = torch.float32) -> MaskOutput:
    """Queries that are certain of their class (3 = no object); masks (Q, h, w) are logits."""
    class_logits = SURE * torch.nn.functional.one_hot(torch.tensor(class_of_query), 4).to(dtype)
    return MaskOutput(class_logits[None], masks[None, :, None].to(dtype), torch.zeros(1, len(masks), 1))


def _blocks(*columns: tuple[int, int]) -> torch.Tensor:
    """Logits of ±SURE on a 4 x 8 map, positive in the given range of columns."""
    masks = torch.full((len(columns), 4, 8), -SURE)
    for mask, (start, stop) in zip(masks, columns, strict=True):
        mask[:, start:stop] = SURE
    return masks


def test_stuff_of_one_class_becomes_one_segment_and_things_stay_apart() -> None:
    output = _output([2, 0, 2, 0], _blocks((0, 2), (2, 4), (4, 6), (6, 8)))
    result = postprocessing.panoptic(output, 0, (16, 32), (16, 32), CATEGORIES)
    assert [(segment.id, segment.label) for segment in result.segments] == [(1, 2), (2, 0), (3, 0)]
    assert set(np.unique(result.ids[:, [1, 17, 22]])) == {1}
    for segment in result.segments:
        assert segment.area == np.count_nonzero(result.ids == segment.id)
        assert 0.99 < segment.score <= 1.0


@pytest.mark.parametrize("certain", [0, 1])
def test_a_merged_segment_has_the_score_of_its_most_certain_query(certain: int) -> None:
    output = _output([2, 2], _blocks((0, 4), (4, 8)))
    output.class_logits[0, 1 - certain] /= 5
    result = postprocessing.panoptic(output, 0, (16, 32), (16, 32), CATEGORIES)
    assert [segment.area for segment in result.segments] == [16 * 32]
    assert result.segments[0].score == pytest.approx(float(output.class_logits[0, certain].softmax(-1).max()))


def test_a_covered_mask_is_dropped_by_the_overlap_threshold() -> None:
    masks = _blocks((0, 6), (2, 8))
    masks[1] -= 15.0  # the second keeps only the third of its mask that the first leaves
    output = _output([0, 1], masks)
    sizes = ((16, 32), (16, 32))
    strict = postprocessing.panoptic(output, 0, *sizes, CATEGORIES, overlap_threshold=0.8)
    assert [segment.label for segment in strict.segments] == [0]
    lenient = postprocessing.panoptic(output, 0, *sizes, CATEGORIES, overlap_threshold=0.1)
    assert [segment.label for segment in lenient.segments] == [0, 1]


@pytest.mark.parametrize("class_logits", [torch.tensor([0.0, 0, 0, SURE]), torch.zeros(4)], ids=["none", "doubtful"])
def test_without_objects_results_are_empty_but_shaped(class_logits: torch.Tensor) -> None:
    output = MaskOutput(class_logits.expand(1, 2, 4), torch.zeros(1, 2, 1, 4, 8), torch.zeros(1, 2, 1))
    panoptic = postprocessing.panoptic(output, 0, (15, 31), (40, 50), CATEGORIES)
    assert panoptic.ids.shape == (40, 50)
    assert not panoptic.ids.any()
    assert panoptic.segments == ()


def test_no_instance_remains_when_only_stuff_is_chosen() -> None:
    output = _output([2], _blocks((0, 4)))
    result = postprocessing.instance(output, 0, (16, 32), (10, 20), CATEGORIES, things_only=True, max_instances=1)
    assert result.masks.shape == (0, 10, 20)
    assert result.boxes.shape == (0, 4)


def test_things_can_be_chosen_before_stuff_takes_their_places() -> None:
    masks = _blocks((0, 4), (4, 6), (6, 8))
    class_logits = torch.log(torch.tensor([[0.1, 0.1, 0.7, 0.1], [0.5, 0.2, 0.2, 0.1], [0.1, 0.35, 0.45, 0.1]]))
    output = MaskOutput(class_logits[None], masks[None, :, None], torch.zeros(1, 3, 1))
    for kind in (postprocessing.instance, postprocessing.video_instance):

        def labels(most: int, kind: Any = kind, **chosen: bool) -> list[int]:
            return kind(output, 0, (16, 32), (16, 32), CATEGORIES, max_instances=most, **chosen).labels.tolist()

        assert labels(2, things_only=True) == [0]  # as published: the best two are stuff and a thing
        assert labels(1, things_only=True, things_first=True) == [0]
        assert labels(2, things_only=True, things_first=True) == [0, 1]
        assert len(labels(99, things_only=True, things_first=True)) == 6
        assert labels(2, things_only=False, things_first=True) == labels(2, things_only=False)


def test_an_empty_mask_has_score_and_box_zero() -> None:
    output = _output([0, 1], _blocks((0, 4), (0, 0)))
    result = postprocessing.instance(output, 0, (16, 32), (16, 32), CATEGORIES, max_instances=2)
    assert result.labels.tolist() == [0, 1]
    assert result.scores[1] == 0
    assert not result.boxes[1].any()


def test_boxes_are_those_of_the_masks() -> None:
    generator = torch.Generator().manual_seed(3)
    masks = torch.nn.functional.interpolate(torch.randn(1, 12, 3, 4, generator=generator), size=(12, 16))[0] - 0.8
    output = MaskOutput(torch.randn(1, 12, 4, generator=generator), masks[None, :, None], torch.zeros(1, 12, 1))
    result = postprocessing.instance(output, 0, (45, 60), (77, 81), CATEGORIES, things_only=False)
    np.testing.assert_array_equal(result.boxes, mask_ops.boxes_xyxy(result.masks))
    assert (np.diff(result.scores) <= 0).all()


def test_semantic_labels_are_the_argmax_of_the_scores_and_the_first_of_equals() -> None:
    output = MaskOutput(torch.zeros(1, 2, 4), torch.zeros(1, 2, 1, 4, 8), torch.zeros(1, 2, 1))
    assert not postprocessing.semantic(output, 0, (16, 32), (9, 9), CATEGORIES).labels.any()


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_the_index_chooses_the_image_and_its_neighbours_do_not_matter(task: str) -> None:
    generator = torch.Generator().manual_seed(0)
    both = MaskOutput(
        4 * torch.randn(2, 9, 4, generator=generator),
        4 * torch.randn(2, 9, 1, 8, 8, generator=generator),
        torch.zeros(2, 9, 1),
    )
    alone = MaskOutput(both.class_logits[1:], both.mask_logits[1:], both.query_features[1:])
    function = getattr(postprocessing, task)
    first, second = (
        function(both, 1, (30, 32), (40, 41), CATEGORIES),
        function(alone, 0, (30, 32), (40, 41), CATEGORIES),
    )
    for name in ("ids", "masks", "labels"):
        if hasattr(first, name):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_half_precision_and_autocast_are_promoted(task: str) -> None:
    generator = torch.Generator().manual_seed(0)
    half = MaskOutput(
        (4 * torch.randn(1, 9, 4, generator=generator)).bfloat16(),
        (4 * torch.randn(1, 9, 1, 8, 8, generator=generator)).bfloat16(),
        torch.zeros(1, 9, 1),
    )
    full = MaskOutput(half.class_logits.float(), half.mask_logits.float(), half.query_features)
    function = getattr(postprocessing, task)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = function(half, 0, (30, 32), (40, 41), CATEGORIES)
    expected = function(full, 0, (30, 32), (40, 41), CATEGORIES)
    for name in ("ids", "masks", "labels", "scores"):
        if hasattr(expected, name):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))


def test_the_output_is_left_as_it_was_also_when_it_has_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 9, 1, 8, 8, generator=generator)
    output = MaskOutput(
        torch.randn(1, 9, 4, generator=generator), logits.clone().requires_grad_(), torch.zeros(1, 9, 1)
    )
    for function in (postprocessing.panoptic, postprocessing.instance, postprocessing.semantic):
        function(output, 0, (32, 32), (32, 32), CATEGORIES)
    scores = postprocessing.semantic_scores(output, 0, (32, 32), (32, 32))
    assert torch.equal(output.mask_logits, logits)
    assert not scores.requires_grad
    scores.add_(1)  # an ordinary tensor: test-time augmentation accumulates into it


def test_a_clip_is_refused() -> None:
    output = MaskOutput(torch.zeros(1, 2, 4), torch.zeros(1, 2, 3, 4, 8), torch.zeros(1, 2, 1))
    with pytest.raises(AssertionError, match="one frame"):
        postprocessing.semantic(output, 0, (16, 32), (16, 32), CATEGORIES)


def test_tracks_have_one_class_and_score_for_the_whole_clip() -> None:
    masks = torch.stack([_blocks((0, 2), (2, 6)), _blocks((2, 4), (0, 0))], dim=1)  # (Q, T, h, w)
    class_logits = torch.log(torch.tensor([[0.6, 0.1, 0.2, 0.1], [0.05, 0.7, 0.15, 0.1]]))
    output = MaskOutput(class_logits[None], masks[None], torch.zeros(1, 2, 1))
    result = postprocessing.video_instance(output, 0, (16, 32), (16, 32), CATEGORIES, max_instances=3)
    np.testing.assert_allclose(result.scores, [0.7, 0.6, 0.2], rtol=1e-6)  # no mask score
    assert result.labels.tolist() == [1, 0, 2]
    assert [mask_ops.areas(track).tolist() for track in result.masks] == [[256, 0], [128, 128], [128, 128]]
    things = postprocessing.video_instance(output, 0, (16, 32), (16, 32), CATEGORIES, things_only=True, max_instances=3)
    assert things.labels.tolist() == [1, 0]


def test_a_clip_of_one_frame_has_the_masks_of_the_image() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(5, 1, 9, 12, generator=generator)
    output = MaskOutput(torch.randn(1, 5, 4, generator=generator), masks[None], torch.zeros(1, 5, 1))
    sizes = ((33, 45), (50, 70))
    clip = postprocessing.video_instance(output, 0, *sizes, CATEGORIES, max_instances=15)
    image = postprocessing.instance(output, 0, *sizes, CATEGORIES, things_only=False, max_instances=15)
    pairs = {(label, mask.tobytes()) for label, mask in zip(clip.labels, clip.masks[:, 0], strict=True)}
    assert pairs == {(label, mask.tobytes()) for label, mask in zip(image.labels, image.masks, strict=True)}
    assert clip.scores.sum() > image.scores.sum()  # which are multiplied with the certainty of the mask
