"""Results inside a graph compared with the readable rules of the tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mask2former import postprocessing
from mask2former.config import InferenceConfig
from mask2former.errors import UserError
from mask2former.export import traced_postprocessing
from mask2former.structures import Categories, Prediction

CATEGORIES = Categories.from_names(["cat", "dog", "sky", "sea", "sand"], ["cat", "dog"])
IS_THING = [category.is_thing for category in CATEGORIES]
SIZE, PADDED = (61, 90), (64, 96)


def logits(seed: int, *, queries: int = 12, sharpness: float = 6.0) -> tuple[Tensor, Tensor]:
    """Confident class logits, and mask logits of overlapping blobs of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    classes = sharpness * torch.randn(2, queries, len(CATEGORIES) + 1, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(24.0), indexing="ij")
    centres = torch.rand(2, queries, 2, generator=generator) * torch.tensor([16.0, 24.0])
    radius = 1 + 6 * torch.rand(2, queries, generator=generator)
    distance = (rows - centres[..., :1, None]) ** 2 + (columns - centres[..., 1:, None]) ** 2
    return classes, 3 * (radius[..., None, None] ** 2 - distance) / radius[..., None, None] ** 2


def inputs(seed: int) -> tuple[Tensor, Tensor, Tensor, list[tuple[int, int]], list[Prediction]]:
    """Inputs of traced post-processing, and the predictions of two images: one fills the input, one is padded."""
    classes, masks = logits(seed)
    sizes = [SIZE, (40, 77)]
    inside = torch.zeros((2, *PADDED), dtype=torch.bool)
    for index, (height, width) in enumerate(sizes):
        inside[index, :height, :width] = True
    predictions = [Prediction(classes[i], masks[i][:, None], sizes[i], PADDED) for i in range(2)]
    return classes, traced_postprocessing.resized(masks, PADDED), inside, sizes, predictions


@pytest.mark.parametrize("seed", range(4))
def test_semantic(seed: int) -> None:
    classes, masks, inside, sizes, predictions = inputs(seed)
    found = traced_postprocessing.semantic(classes, masks, inside)
    for index, (height, width) in enumerate(sizes):
        expected = postprocessing.semantic(predictions[index], sizes[index], CATEGORIES, InferenceConfig())
        np.testing.assert_array_equal(found[index, :height, :width].numpy(), expected.labels)
        assert (found[index][~inside[index]] == -1).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"things_only": False},
        {"things_first": True, "max_instances": 9},
        {"max_instances": 7, "instance_threshold": 0.0},
        {"max_instances": 1000, "instance_threshold": 0.2},
    ],
    ids=str,
)
def test_instances(seed: int, changes: dict[str, Any]) -> None:
    settings = InferenceConfig(**{"instance_threshold": 0.3, **changes})
    classes, masks, inside, sizes, predictions = inputs(seed)
    found = traced_postprocessing.instances(classes, masks, inside, IS_THING, settings)
    for index, (height, width) in enumerate(sizes):
        expected = postprocessing.instance(predictions[index], sizes[index], CATEGORIES, settings)
        masks_here, labels, scores, boxes = (values[index].numpy() for values in found)
        count = int((labels >= 0).sum())
        assert count == len(expected)
        np.testing.assert_allclose(scores[:count], expected.scores, atol=1e-6)
        sure = slice(int((expected.scores > 0).sum()))  # the order of equal scores is free
        np.testing.assert_array_equal(labels[sure], expected.labels[sure])
        np.testing.assert_array_equal(masks_here[sure, :height, :width].astype(bool), expected.masks[sure])
        np.testing.assert_array_equal(boxes[sure], expected.boxes[sure])
        assert not masks_here[:, ~inside[index].numpy()].any()
        assert not masks_here[count:].any()
        assert not scores[count:].any()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("score", "overlap"), [(0.8, 0.8), (0.0, 0.0), (0.5, 0.3), (0.999999, 0.5)])
def test_panoptic(seed: int, score: float, overlap: float) -> None:
    settings = InferenceConfig(score_threshold=score, overlap_threshold=overlap)
    classes, masks, inside, sizes, predictions = inputs(seed)
    found = traced_postprocessing.panoptic(classes, masks, inside, IS_THING, settings)
    for index, (height, width) in enumerate(sizes):
        expected = postprocessing.panoptic(predictions[index], sizes[index], CATEGORIES, settings)
        id_map, ids, labels, scores = (values[index].numpy() for values in found)
        np.testing.assert_array_equal(id_map[:height, :width], expected.ids)
        assert not id_map[~inside[index].numpy()].any()
        assert sorted(set(ids[ids > 0])) == [segment.id for segment in expected.segments]
        for segment in expected.segments:
            assert set(labels[ids == segment.id]) == {segment.label}
            assert scores[ids == segment.id].max() == pytest.approx(segment.score)
        assert (labels[ids == 0] == -1).all()


def test_pixels_that_no_query_covers_belong_to_a_kept_one() -> None:
    """Probabilities there are 0; the pixels that the kept query wins decide whether it wins enough of its own mask."""
    settings = InferenceConfig(score_threshold=0.5, overlap_threshold=0.8)
    classes = torch.full((1, 3, len(CATEGORIES) + 1), -9.0)
    classes[0, 0, -1] = classes[0, 1, 0] = 9.0  # the first query is no object
    classes[0, 2, 1] = 9.0
    masks = torch.full((1, 3, *PADDED), -400.0)
    masks[0, 1, :2] = 5.0
    masks[0, 2, :1] = 8.0  # takes half of the mask of the second
    inside = torch.ones((1, *PADDED), dtype=torch.bool)
    expected = postprocessing.panoptic(
        Prediction(classes[0], masks[0][:, None], PADDED, PADDED), PADDED, CATEGORIES, settings
    )
    found = traced_postprocessing.panoptic(classes, masks, inside, IS_THING, settings)
    assert len(expected.segments) == 2
    np.testing.assert_array_equal(found[0][0].numpy(), expected.ids)


def test_what_no_graph_can_follow_is_refused() -> None:
    semantic_only = InferenceConfig(tasks=("semantic",))
    with pytest.raises(UserError, match="no results of task 'panoptic'; it was trained for: semantic"):
        traced_postprocessing.check_settings(semantic_only, "panoptic")
    refused: tuple[dict[str, Any], ...] = ({"tile": 64, "short_edge": 64}, {"non_overlapping": True})
    for changes in refused:
        with pytest.raises(UserError, match=f"its setting '{next(iter(changes))}'"):
            traced_postprocessing.check_settings(InferenceConfig(tasks=("instance",), **changes), "instance")
    filters: tuple[dict[str, Any], ...] = ({"min_area": 9}, {"classes": ("cat",)})
    for task in ("panoptic", "instance", "semantic"):
        for changes in filters:
            with pytest.raises(UserError, match=f"{task} results of this model depend on its setting"):
                traced_postprocessing.check_settings(InferenceConfig(**changes), task)
