"""Objects that may overlap."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mask2former.config import InferenceConfig
from mask2former.ops.masks import Patch
from mask2former.ops.pixel_set import PixelSet
from mask2former.ops.sparse_masks import PackedPatch, SparseMasks
from mask2former.postprocessing.binary_masks import MaskBands
from mask2former.postprocessing.resampling import Size, count, full_precision, parts, strips
from mask2former.structures import Categories, Instances, Prediction

__all__ = ["best_pairs", "instance", "remove_overlaps"]


def instance(prediction: Prediction, output_size: Size, categories: Categories, settings: InferenceConfig) -> Instances:
    """The most certain (query, class) pairs as instances, sorted by falling score.

    A query can appear with several classes, and masks may overlap or be empty (score 0), unless ``non_overlapping`` is
    set. The score is the class probability times the mean probability inside the binary mask (logit above 0). Boxes are
    the tight boxes of the masks, (x1, y1, x2, y2) in pixels with x2 and y2 one past the last pixel.

    Args:
        prediction: prediction for an image (T = 1).
        output_size: height and width of the result.
        categories: the classes of the model.
        settings: ``max_instances``, ``things_only``, ``things_first``, ``non_overlapping``, ``instance_threshold`` and
            ``class_thresholds`` are used; with a threshold of 0 all candidates are kept, as published.
    """
    assert prediction.num_frames == 1, f"an image has one frame, got {prediction.num_frames}"
    with torch.inference_mode(), full_precision(prediction):
        scores, queries, labels = best_pairs(prediction.probabilities[:, :-1], categories, settings)
        unique, mask_of_pair = torch.unique(queries, return_inverse=True)

        sums, areas, patches = [], [], []
        for part in parts(unique, prediction, output_size):
            inside_sum = torch.zeros(len(part), dtype=prediction.dtype, device=prediction.device)
            area = torch.zeros(len(part), dtype=torch.int64, device=prediction.device)
            bands = MaskBands(len(part), output_size, prediction.device)
            for rows, logits in strips(prediction.masks_of(part)[:, 0], prediction, output_size):
                bands.add(rows, logits)
                inside = torch.gt(logits, 0, out=torch.empty_like(logits))
                area += count(inside)
                inside_sum += logits.sigmoid_().mul_(inside).sum(dim=(0, 2))
            sums.append(inside_sum)
            areas.append(area)
            patches += bands.masks()
        inside_sum, areas = torch.cat(sums), torch.cat(areas)
        scores = scores * (inside_sum / (areas.to(inside_sum) + 1e-6))[mask_of_pair]
        order = torch.argsort(scores, descending=True, stable=True)
    # A query with several classes shares one mask, which is not copied.
    sparse = SparseMasks(patches, output_size).take(mask_of_pair[order].cpu().numpy())
    found = Instances(
        masks=sparse,
        labels=labels[order].cpu().numpy(),
        scores=scores[order].cpu().double().numpy(),
        boxes=sparse.boxes,
        categories=categories,
    )
    if settings.non_overlapping:
        found = remove_overlaps(found, settings.overlap_threshold)
    return found.at_least(settings.instance_threshold, settings.class_thresholds)


def remove_overlaps(instances: Instances, overlap_threshold: float) -> Instances:
    """The instances without overlaps, an addition to the paper: every pixel goes to the best instance that covers it.

    Args:
        instances: instances that may overlap.
        overlap_threshold: an instance that keeps a smaller share of its mask (0..1) is dropped, and takes no pixels
            from later ones. Empty masks are dropped, too.
    """
    taken = PixelSet()
    kept: list[int] = []
    parts: list[PackedPatch] = []
    for index, whole in enumerate(instances.sparse.packed):
        if not whole.bits:
            continue
        top, left, free = whole.unpacked()
        better = taken.within(top, left, whole.height, whole.width)
        if is_covered := bool((better & free).any()):
            free &= ~better
        remaining = int(np.count_nonzero(free))
        if not remaining or remaining < overlap_threshold * whole.area:
            continue
        taken.add(Patch(top, left, free))
        parts.append(PackedPatch.of(Patch(top, left, free)) if is_covered else whole)
        kept.append(index)
    masks = SparseMasks(parts, instances.size_hw)
    return Instances(masks, instances.labels[kept], instances.scores[kept], masks.boxes, instances.categories)


def best_pairs(
    probabilities: Float[Tensor, "Q K"], categories: Categories, settings: InferenceConfig
) -> tuple[Float[Tensor, " N"], Int64[Tensor, " N"], Int64[Tensor, " N"]]:
    """Probability, query and class of the most likely (query, class) pairs, in falling order.

    Args:
        probabilities: class probabilities without "no object".
        categories: the classes.
        settings: ``max_instances`` pairs are chosen. ``things_only`` drops stuff classes after that choice, so fewer
            pairs may remain, or before it with ``things_first``, an addition to the paper.
    """
    most = settings.max_instances
    is_thing = torch.tensor([category.is_thing for category in categories], device=probabilities.device)
    if settings.things_only and settings.things_first:
        things = is_thing.nonzero()[:, 0]
        scores, pairs = probabilities[:, things].flatten().topk(min(most, len(probabilities) * len(things)))
        return scores, pairs // max(len(things), 1), things[pairs % max(len(things), 1)]
    scores, pairs = probabilities.flatten().topk(min(most, probabilities.numel()))
    queries, labels = pairs // len(categories), pairs % len(categories)
    if settings.things_only:
        # Parity: stuff counts among the best pairs before it is dropped.
        chosen = is_thing[labels]
        scores, queries, labels = scores[chosen], queries[chosen], labels[chosen]
    return scores, queries, labels
