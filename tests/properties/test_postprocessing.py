"""For any finite logits of a model, results have valid ids, areas, scores, boxes and sizes."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mask2former import postprocessing
from mask2former.config import InferenceConfig
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures import Categories, Instances, Prediction

CATEGORIES = Categories.from_names(["cat", "dog", "sky"], ["cat", "dog"])
EXTREME = torch.finfo(torch.float32).max
SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))


@st.composite
def predictions(draw: st.DrawFn, frames: int = 1) -> Prediction:
    """One to six queries with logits that are ordinary, extreme, equal or zero, on up to 16x16 pixels."""
    queries = draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 32)))
    scales = [draw(st.sampled_from([0.0, 1e-30, 1.0, 20.0, 1e4, 1e30, EXTREME / 8])) for _ in range(2)]
    shapes = (queries, 4), (queries, frames, 4, 4)
    logits = [
        (scale * torch.randn(shape, generator=generator).clamp(-8, 8))
        for scale, shape in zip(scales, shapes, strict=True)
    ]
    if draw(st.booleans()):
        logits = [part.round() for part in logits]
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    image_size = draw(st.integers(1, 16)), draw(st.integers(1, 16))
    return Prediction(logits[0].to(dtype), logits[1].to(dtype), image_size, (16, 16))


@given(predictions(), SIZES, st.floats(0, 1), st.floats(0, 1))
def test_panoptic_segments_are_disjoint_and_listed(
    prediction: Prediction, size: tuple[int, int], score: float, overlap: float
) -> None:
    settings = InferenceConfig(score_threshold=score, overlap_threshold=overlap)
    result = postprocessing.panoptic(prediction, size, CATEGORIES, settings)
    assert result.ids.shape == size
    areas = {int(number): int(count) for number, count in zip(*np.unique(result.ids, return_counts=True), strict=True)}
    areas.pop(0, None)
    assert {segment.id: segment.area for segment in result.segments} == areas
    assert [segment.id for segment in result.segments] == list(range(1, len(result.segments) + 1))
    assert all(0 <= segment.label < len(CATEGORIES) and score < segment.score <= 1 for segment in result.segments)
    stuff = [segment.label for segment in result.segments if not CATEGORIES[segment.label].is_thing]
    assert len(set(stuff)) == len(stuff)


@given(predictions(), SIZES, st.integers(1, 20), st.booleans(), st.booleans())
def test_instances_are_ranked_and_lie_in_their_boxes(
    prediction: Prediction, size: tuple[int, int], most: int, things: bool, first: bool
) -> None:
    settings = InferenceConfig(things_only=things, things_first=first, max_instances=most, instance_threshold=0)
    result = postprocessing.instance(prediction, size, CATEGORIES, settings)
    assert len(result) <= most
    assert result.masks.shape == (len(result), *size)
    assert ((result.scores >= 0) & (result.scores <= 1)).all()
    assert (np.diff(result.scores) <= 0).all()
    assert np.isin(result.labels, CATEGORIES.thing_indices if things else range(len(CATEGORIES))).all()
    for mask, (x1, y1, x2, y2) in zip(result.masks, result.boxes.astype(int), strict=True):
        assert 0 <= x1 <= x2 <= size[1]
        assert 0 <= y1 <= y2 <= size[0]
        assert mask.sum() == mask[y1:y2, x1:x2].sum()
    alone = postprocessing.remove_overlaps(result, 0.5)
    assert (alone.masks.sum(axis=0) <= 1).all()
    assert alone.masks.any(axis=(1, 2)).all()


def without_overlaps(masks: np.ndarray, threshold: float) -> tuple[list[int], np.ndarray]:
    """Which masks (N, H, W) are kept, and their pixels: each goes to the first kept mask that covers it."""
    taken, kept, found = np.zeros(masks.shape[1:], dtype=bool), [], []
    for index, mask in enumerate(masks):
        free = mask & ~taken
        if free.any() and free.sum() >= threshold * mask.sum():
            taken |= free
            kept.append(index)
            found.append(free)
    return kept, np.array(found, dtype=bool).reshape(-1, *masks.shape[1:])


@given(st.integers(0, 1 << 32), st.integers(0, 12), SIZES, st.sampled_from([0.0, 0.3, 0.8, 1.0]))
def test_overlaps_go_to_the_better_instance(seed: int, count: int, size: tuple[int, int], threshold: float) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((count, *size)) < rng.choice([0, 0.1, 0.5, 1], (count, 1, 1))
    sparse, scores = SparseMasks.of(masks), np.sort(rng.random(count))[::-1]
    given = Instances(sparse, np.arange(count) % 3, scores, sparse.boxes, CATEGORIES)
    found = postprocessing.remove_overlaps(given, threshold)
    kept, expected = without_overlaps(masks, threshold)
    np.testing.assert_array_equal(found.masks, expected)
    assert found.sparse.packed == SparseMasks.of(expected).packed
    np.testing.assert_array_equal(found.scores, scores[kept])
    np.testing.assert_array_equal(found.labels, given.labels[kept])
    np.testing.assert_array_equal(found.boxes, found.sparse.boxes)


@given(predictions(), SIZES, st.booleans())
def test_every_pixel_has_a_class(prediction: Prediction, size: tuple[int, int], masks_first: bool) -> None:
    settings = InferenceConfig(resize_masks_first=masks_first)
    result = postprocessing.semantic(prediction, size, CATEGORIES, settings)
    assert result.labels.shape == size
    assert ((result.labels >= 0) & (result.labels < len(CATEGORIES))).all()
    scores = postprocessing.semantic_scores(prediction, size, settings)
    assert torch.isfinite(scores).all()


@given(predictions(frames=3), SIZES, st.integers(1, 20))
def test_tracks_have_all_frames(prediction: Prediction, size: tuple[int, int], most: int) -> None:
    settings = InferenceConfig(things_only=False, max_instances=most, instance_threshold=0)
    result = postprocessing.video_instance(prediction, size, CATEGORIES, settings)
    assert result.masks.shape == (len(result.scores), 3, *size)
    assert ((result.scores >= 0) & (result.scores <= 1)).all()
    assert (np.diff(result.scores) <= 0).all()
