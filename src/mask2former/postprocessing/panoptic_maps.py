"""Segments that do not overlap."""

from __future__ import annotations

import torch

from mask2former.config import InferenceConfig
from mask2former.postprocessing.resampling import Size, count, first_argmax, full_precision, strips
from mask2former.structures import Categories, PanopticSegmentation, Prediction, Segment

__all__ = ["panoptic", "panoptic_with_queries"]


def panoptic(
    prediction: Prediction, output_size: Size, categories: Categories, settings: InferenceConfig
) -> PanopticSegmentation:
    """Non-overlapping segments: every pixel goes to the query with the largest class times mask probability.

    A query is dropped when its class is "no object", when its class probability does not exceed ``score_threshold``, or
    when it wins fewer pixels than ``overlap_threshold`` times the size of its own mask (probability at least 0.5); of
    the pixels that it wins, it keeps those inside its mask. All queries
    of one stuff class share one segment, which has the score of its most certain query. Other pixels are 0.

    Args:
        prediction: prediction for an image (T = 1).
        output_size: height and width of the result.
        categories: the classes of the model.
        settings: the two thresholds are used.
    """
    return panoptic_with_queries(prediction, output_size, categories, settings)[0]


def panoptic_with_queries(
    prediction: Prediction, output_size: Size, categories: Categories, settings: InferenceConfig
) -> tuple[PanopticSegmentation, dict[int, int]]:
    """Like :func:`panoptic`, plus the query of every thing segment, by segment id."""
    assert prediction.num_frames == 1, f"an image has one frame, got {prediction.num_frames}"
    with torch.inference_mode(), full_precision(prediction):
        scores, labels = prediction.probabilities.max(dim=-1)
        kept = torch.nonzero((labels != len(categories)) & (scores > settings.score_threshold))[:, 0]
        num_kept = len(kept)
        if num_kept == 0:
            ids = torch.zeros(output_size, dtype=torch.int32)
            return PanopticSegmentation(ids.numpy(), (), categories), {}
        scores, labels = scores[kept], labels[kept]

        # Per pixel: twice the winning query, plus one where its own mask covers the pixel.
        codes = torch.empty(output_size, dtype=torch.int32, device=prediction.device)
        original_areas = scores.new_zeros(num_kept, dtype=torch.int64)
        for rows, logits in strips(prediction.masks_of(kept)[:, 0], prediction, output_size):
            probabilities = logits.sigmoid_()  # (rows, kept, W)
            winner = first_argmax(probabilities * scores[:, None])
            covered = torch.gather(probabilities, 1, winner[:, None])[:, 0] >= 0.5
            codes[rows] = (2 * winner + covered).to(torch.int32)
            original_areas += count(probabilities.ge_(0.5))
        areas = torch.bincount(codes.flatten(), minlength=2 * num_kept).view(num_kept, 2)

        # The only transfer; the merging itself handles a few small integers.
        table = torch.stack([labels, areas.sum(dim=1), original_areas, areas[:, 1]], dim=1).tolist()
        segments, id_of_query = _merge(table, scores.tolist(), categories, settings.overlap_threshold)
        id_of_code = torch.zeros((num_kept, 2), dtype=torch.int32)
        id_of_code[:, 1] = torch.tensor(id_of_query, dtype=torch.int32)
        ids = id_of_code.flatten().to(codes.device)[codes]
    things = {segment.id for segment in segments if segment.is_thing}
    queries = {number: query for number, query in zip(id_of_query, kept.tolist(), strict=True) if number in things}
    return PanopticSegmentation(ids.cpu().numpy(), segments, categories), queries


def _merge(
    table: list[list[int]], scores: list[float], categories: Categories, overlap_threshold: float
) -> tuple[tuple[Segment, ...], list[int]]:
    """Segments in query order, and the segment id of every query (0 where it was dropped).

    ``table`` has one row per query: label, pixels won, pixels of its mask, and pixels that are both.
    """
    found: dict[int, Segment] = {}  # by id, in order
    id_of_stuff: dict[int, int] = {}
    id_of_query = []
    for (label, won, original, area), score in zip(table, scores, strict=True):
        if min(won, original, area) == 0 or won / original < overlap_threshold:
            id_of_query.append(0)
            continue
        is_thing = categories[label].is_thing
        identifier = len(found) + 1 if is_thing else id_of_stuff.setdefault(label, len(found) + 1)
        if identifier in found:
            score, area = max(score, found[identifier].score), area + found[identifier].area
        found[identifier] = Segment(identifier, label, is_thing, score, area)
        id_of_query.append(identifier)
    return tuple(found.values()), id_of_query
