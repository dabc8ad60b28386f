"""The post-processing of ``transformers`` equals ours, the published one, once its four differences are undone.

A loop with a switch for each difference connects the two. With all four it must give the results of ``transformers``,
with none of them ours. ``transformers`` also resizes every mask to 384x384 pixels, which does not matter here because
the input has this size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from mask2former import postprocessing
from mask2former.config import InferenceConfig
from mask2former.structures import Categories, Prediction

SIDE = 384  # pixels, input and output
NAMES = ["sky", "sea", "cat", "dog"]
CATEGORIES = Categories.from_names(NAMES, things=["cat", "dog"])
STUFF = {0, 1}


@dataclass(frozen=True)
class Ways:
    """The ways in which ``transformers`` differs from the published code; all False: as published."""

    weighted_areas: bool = False  # the area of a mask is counted after its probabilities were weighted by the score
    no_half_rule: bool = False  # a query gets all pixels that it wins, also those its own mask does not cover
    strictly_above: bool = False  # the share that must be kept has to be above the threshold, not at it
    reset_ids: bool = False  # after a region is fused with an earlier one, numbers go on from that one's, and repeat


THEIRS = Ways(True, True, True, True)
Found = tuple[Tensor, list[tuple[int, int]]]  # a number per pixel; number and class of every segment


def panoptic(class_logits: Tensor, mask_logits: Tensor, threshold: float, overlap: float, ways: Ways) -> Found:
    """Panoptic segmentation of ``(Q, K + 1)`` and ``(Q, h, w)`` logits, with the stuff of one class fused."""
    probabilities = torch.nn.functional.interpolate(mask_logits[None], (SIDE, SIDE), mode="bilinear")[0].sigmoid()
    scores, labels = class_logits.softmax(dim=1).max(dim=1)
    kept = (labels != len(NAMES)) & (scores > threshold)
    probabilities, scores, labels = probabilities[kept], scores[kept], labels[kept]
    weighted = probabilities * scores[:, None, None]
    winner = weighted.argmax(dim=0)
    ids = torch.zeros((SIDE, SIDE), dtype=torch.int64)
    segments: list[tuple[int, int]] = []
    current, of_stuff = 0, dict[int, int]()
    for query, label in enumerate(labels.tolist()):
        own = (weighted if ways.weighted_areas else probabilities)[query] >= 0.5
        won = winner == query
        if not ways.no_half_rule:
            won = won & (probabilities[query] >= 0.5)
        if not own.any() or not won.any():
            continue
        share = int((winner == query).sum()) / int(own.sum())
        if not (share > overlap if ways.strictly_above else share >= overlap):
            continue
        if label in of_stuff:
            ids[won] = of_stuff[label]
            if ways.reset_ids:
                current = of_stuff[label]
                segments.append((current, label))
            continue
        current += 1
        ids[won] = current
        segments.append((current, label))
        if label in STUFF:
            of_stuff[label] = current
    return ids, segments


def logits(seed: int) -> tuple[Tensor, Tensor]:
    """Twelve queries, most of them with a confident class, whose masks are blobs and bands."""
    generator = torch.Generator().manual_seed(seed)
    class_logits = 3 * torch.randn((12, len(NAMES) + 1), generator=generator)
    coarse = torch.randn((1, 12, 5, 6), generator=generator)
    masks = torch.nn.functional.interpolate(coarse, (SIDE // 4, SIDE // 4), mode="bicubic")[0]
    return class_logits, 4 * masks


def transformers_panoptic(class_logits: Tensor, mask_logits: Tensor, threshold: float, overlap: float) -> Found:
    processor: Any = transformers.Mask2FormerImageProcessor()
    output = SimpleNamespace(class_queries_logits=class_logits[None], masks_queries_logits=mask_logits[None])
    (found,) = processor.post_process_panoptic_segmentation(
        output,
        threshold=threshold,
        overlap_mask_area_threshold=overlap,
        label_ids_to_fuse=STUFF,
        target_sizes=[(SIDE, SIDE)],
    )
    return found["segmentation"].long(), [(item["id"], item["label_id"]) for item in found["segments_info"]]


def our_panoptic(class_logits: Tensor, mask_logits: Tensor, threshold: float, overlap: float) -> Found:
    prediction = Prediction(class_logits, mask_logits[:, None], (SIDE, SIDE), (SIDE, SIDE))
    settings = InferenceConfig(score_threshold=threshold, overlap_threshold=overlap)
    result = postprocessing.panoptic(prediction, (SIDE, SIDE), CATEGORIES, settings)
    return torch.from_numpy(result.ids.astype(np.int64)), [(item.id, item.label) for item in result.segments]


def same(one: Found, other: Found) -> bool:
    return torch.equal(one[0], other[0]) and one[1] == other[1]


@pytest.mark.parametrize("overlap", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", [1, 4, 7])
def test_their_panoptic_result_with_the_four_undone_equals_ours(seed: int, overlap: float) -> None:
    asked = (*logits(seed), 0.4, overlap)
    assert same(panoptic(*asked, THEIRS), transformers_panoptic(*asked))
    assert same(panoptic(*asked, Ways()), our_panoptic(*asked))


def halves() -> tuple[Tensor, Tensor]:
    """A cat on the left and a dog on the right, each of which keeps all of its mask: a share of 1."""
    left = torch.full((SIDE // 4, SIDE // 4), -5.0)
    left[:, : SIDE // 8] = 5.0
    class_logits = torch.zeros((2, len(NAMES) + 1))
    class_logits[0, 2] = class_logits[1, 3] = 6.0
    return class_logits, torch.stack([left, -left])


@pytest.mark.parametrize("way", ["weighted_areas", "no_half_rule", "strictly_above", "reset_ids"])
def test_each_way_alone_makes_another_result(way: str) -> None:
    asked = [(*halves(), 0.4, 1.0)]
    if way != "strictly_above":
        asked = [(*logits(seed), 0.4, 0.2) for seed in (1, 7)]
    changed = replace(Ways(), **{way: True})
    assert any(not same(panoptic(*case, changed), panoptic(*case, Ways())) for case in asked)
    assert any(not same(transformers_panoptic(*case), our_panoptic(*case)) for case in asked)
