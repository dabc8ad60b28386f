"""Whatever finite logits a model gives, results keep their promises: ids, areas, scores, boxes and sizes."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mask2former import postprocessing
from mask2former.structures import Categories, MaskOutput

CATEGORIES = Categories.from_names(["cat", "dog", "sky"], ["cat", "dog"])
EXTREME = torch.finfo(torch.float32).max
SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))


@st.composite
def outputs(draw: st.DrawFn, frames: int = 1) -> MaskOutput:
    """One to six queries with logits that are usual, extreme, equal or zero."""
    queries = draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 32)))
    scales = [draw(st.sampled_from([0.0, 1e-30, 1.0, 20.0, 1e4, 1e30, EXTREME / 8])) for _ in range(2)]
    shapes = (1, queries, 4), (1, queries, frames, 4, 4)
    logits = [
        (scale * torch.randn(shape, generator=generator).clamp(-8, 8))
        for scale, shape in zip(scales, shapes, strict=True)
    ]
    if draw(st.booleans()):
        logits = [part.round() for part in logits]
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return MaskOutput(logits[0].to(dtype), logits[1].to(dtype), torch.zeros(1, queries, 1))


@st.composite
def sizes(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of the input without padding, which is 16x16 with it, and of the output."""
    return (draw(st.integers(1, 16)), draw(st.integers(1, 16))), draw(SIZES)


@given(outputs(), sizes(), st.floats(0, 1), st.floats(0, 1))
def test_panoptic_segments_are_disjoint_and_listed(
    output: MaskOutput, both: tuple[tuple[int, int], tuple[int, int]], score: float, overlap: float
) -> None:
    result = postprocessing.panoptic(output, 0, *both, CATEGORIES, score_threshold=score, overlap_threshold=overlap)
    assert result.ids.shape == both[1]
    areas = {int(number): int(count) for number, count in zip(*np.unique(result.ids, return_counts=True), strict=True)}
    areas.pop(0, None)
    assert {segment.id: segment.area for segment in result.segments} == areas
    assert [segment.id for segment in result.segments] == list(range(1, len(result.segments) + 1))
    assert all(0 <= segment.label < len(CATEGORIES) and score < segment.score <= 1 for segment in result.segments)
    stuff = [segment.label for segment in result.segments if not CATEGORIES[segment.label].is_thing]
    assert len(set(stuff)) == len(stuff)


@given(outputs(), sizes(), st.integers(1, 20), st.booleans(), st.booleans())
def test_instances_are_ranked_and_lie_in_their_boxes(
    output: MaskOutput, both: tuple[tuple[int, int], tuple[int, int]], most: int, things: bool, first: bool
) -> None:
    result = postprocessing.instance(
        output, 0, *both, CATEGORIES, things_only=things, things_first=first, max_instances=most
    )
    assert len(result) <= most
    assert result.masks.shape == (len(result), *both[1])
    assert ((result.scores >= 0) & (result.scores <= 1)).all()
    assert (np.diff(result.scores) <= 0).all()
    assert np.isin(result.labels, CATEGORIES.thing_indices if things else range(len(CATEGORIES))).all()
    for mask, (x1, y1, x2, y2) in zip(result.masks, result.boxes.astype(int), strict=True):
        assert 0 <= x1 <= x2 <= both[1][1]
        assert 0 <= y1 <= y2 <= both[1][0]
        assert mask.sum() == mask[y1:y2, x1:x2].sum()
    alone = postprocessing.apart(result, 0.5)
    assert (alone.masks.sum(axis=0) <= 1).all()
    assert alone.masks.any(axis=(1, 2)).all()


@given(outputs(), sizes(), st.booleans())
def test_every_pixel_has_a_class(
    output: MaskOutput, both: tuple[tuple[int, int], tuple[int, int]], masks_first: bool
) -> None:
    result = postprocessing.semantic(output, 0, *both, CATEGORIES, resize_masks_first=masks_first)
    assert result.labels.shape == both[1]
    assert ((result.labels >= 0) & (result.labels < len(CATEGORIES))).all()
    scores = postprocessing.semantic_scores(output, 0, *both, resize_masks_first=masks_first)
    assert torch.isfinite(scores).all()


@given(outputs(frames=3), sizes(), st.integers(1, 20))
def test_tracks_have_all_frames(output: MaskOutput, both: tuple[tuple[int, int], tuple[int, int]], most: int) -> None:
    result = postprocessing.video_instance(output, 0, *both, CATEGORIES, max_instances=most)
    assert result.masks.shape == (len(result.scores), 3, *both[1])
    assert ((result.scores >= 0) & (result.scores <= 1)).all()
    assert (np.diff(result.scores) <= 0).all()
