"""From class and mask logits to the results of the three image tasks (Mask2Former, Sec. 3 and 4.1) and to tracks.

Pure functions of one :class:`~mask2former.structures.MaskOutput`, sizes and thresholds. Nothing here knows where the
logits come from, how images were resized, or what happens to a result.

Masks at the output size are large (100 queries at 1024x2048 are 840 MB), so they never exist as a whole: every task
walks over strips of output rows that fit the cache, and keeps only what it needs of each strip.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mask2former.ops.masks import Patch, merged, tight
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures import (
    Categories,
    Instances,
    MaskOutput,
    PanopticSegmentation,
    Segment,
    SemanticSegmentation,
    VideoInstances,
)

__all__ = [
    "remove_overlaps",
    "best_pairs",
    "clip_masks",
    "instance",
    "panoptic",
    "panoptic_of_queries",
    "semantic",
    "semantic_scores",
    "video_instance",
]

Size = tuple[int, int]

# Values of one strip, over all of its queries. On a CPU a strip should stay in the second-level cache (2**19 to 2**21
# are equally fast, the whole image at once is five times slower); an accelerator wants few, large kernels.
_STRIP_VALUES_CPU = 2**20
_STRIP_VALUES_ACCELERATOR = 2**27
_BAND_PIXELS = 2**28  # bytes of binary masks that exist as a whole; 200 of 1024x1024, which ordinary images stay below


def semantic(
    output: MaskOutput,
    index: int,
    image_size_hw: Size,
    output_size_hw: Size,
    categories: Categories,
    *,
    resize_masks_first: bool = True,
) -> SemanticSegmentation:
    """The class of every pixel: the argmax of :func:`semantic_scores`, which are never held as a whole.

    Args:
        output: predictions of a batch of images (T = 1).
        index: which image of the batch.
        image_size_hw: size of the network input without its padding.
        output_size_hw: size of the answer, usually that of the original image.
        categories: the classes of the model.
        resize_masks_first: mask logits are resized before the formula; False resizes the class scores instead, as
            published for semantic-only models.
    """
    labels = _per_image(output, index)[1].new_empty(output_size_hw, dtype=torch.int32)
    with torch.inference_mode(), _full_precision(output):
        for rows, scores in _score_strips(output, index, image_size_hw, output_size_hw, resize_masks_first):
            labels[rows] = _first_argmax(scores).to(torch.int32)
    return SemanticSegmentation(labels.cpu().numpy(), categories)


def semantic_scores(
    output: MaskOutput,
    index: int,
    image_size_hw: Size,
    output_size_hw: Size,
    *,
    resize_masks_first: bool = True,
) -> Float[Tensor, "K H W"]:
    """Class scores per pixel: the sum over queries of class probability times mask probability, not normalised.

    On the device of the output, at least float32. Arguments as in :func:`semantic`.
    """
    class_logits, masks = _per_image(output, index)
    scores = masks.new_empty((class_logits.shape[-1] - 1, *output_size_hw))
    with torch.no_grad(), _full_precision(output):
        for rows, strip in _score_strips(output, index, image_size_hw, output_size_hw, resize_masks_first):
            scores[:, rows] = strip.transpose(0, 1)
    return scores


def panoptic(
    output: MaskOutput,
    index: int,
    image_size_hw: Size,
    output_size_hw: Size,
    categories: Categories,
    *,
    score_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
) -> PanopticSegmentation:
    """Non-overlapping segments: every pixel goes to the query with the largest class times mask probability.

    A query is dropped when its class is "no object", when its class probability is not above ``score_threshold``, or
    when it wins less than ``overlap_threshold`` of the pixels of its own mask (probability at least 0.5). All queries
    of one stuff class share one segment, whose score is that of its most certain query. Pixels outside are 0.

    Args:
        output: predictions of a batch of images (T = 1).
        index: which image of the batch.
        image_size_hw: size of the network input without its padding.
        output_size_hw: size of the answer.
        categories: the classes of the model.
        score_threshold: lower bound of the class probability, 0..1.
        overlap_threshold: lower bound of the share of a mask that is left to it, 0..1.
    """
    return panoptic_of_queries(
        output,
        index,
        image_size_hw,
        output_size_hw,
        categories,
        score_threshold=score_threshold,
        overlap_threshold=overlap_threshold,
    )[0]


def panoptic_of_queries(
    output: MaskOutput,
    index: int,
    image_size_hw: Size,
    output_size_hw: Size,
    categories: Categories,
    *,
    score_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
) -> tuple[PanopticSegmentation, dict[int, int]]:
    """Like :func:`panoptic`, with the query of every thing segment by the segment's id."""
    class_logits, masks = _per_image(output, index)
    with torch.inference_mode(), _full_precision(output):
        scores, labels = class_logits.softmax(dim=-1).max(dim=-1)
        kept = torch.nonzero((labels != len(categories)) & (scores > score_threshold))[:, 0]
        num_kept = len(kept)
        if num_kept == 0:
            ids = torch.zeros(output_size_hw, dtype=torch.int32)
            return PanopticSegmentation(ids.numpy(), (), categories), {}
        scores, labels = scores[kept], labels[kept]

        # Per pixel: twice the winning query, plus one where its own mask covers the pixel.
        codes = masks.new_empty(output_size_hw, dtype=torch.int32)
        original_areas = scores.new_zeros(num_kept, dtype=torch.int64)
        for rows, logits in _strips(masks[kept], output.padded_size, image_size_hw, output_size_hw):
            probabilities = logits.sigmoid_()  # (rows, kept, W)
            winner = _first_argmax(probabilities * scores[:, None])
            covered = torch.gather(probabilities, 1, winner[:, None])[:, 0] >= 0.5
            codes[rows] = (2 * winner + covered).to(torch.int32)
            original_areas += _count(probabilities.ge_(0.5))
        areas = torch.bincount(codes.flatten(), minlength=2 * num_kept).view(num_kept, 2)

        # The one transfer; the merging itself runs over a few small integers.
        table = torch.stack([labels, areas.sum(dim=1), original_areas, areas[:, 1]], dim=1).tolist()
        segments, id_of_query = _merge(table, scores.tolist(), categories, overlap_threshold)
        id_of_code = torch.zeros((num_kept, 2), dtype=torch.int32)
        id_of_code[:, 1] = torch.tensor(id_of_query, dtype=torch.int32)
        ids = id_of_code.flatten().to(codes.device)[codes]
    things = {segment.id for segment in segments if segment.is_thing}
    queries = {number: query for number, query in zip(id_of_query, kept.tolist(), strict=True) if number in things}
    return PanopticSegmentation(ids.cpu().numpy(), segments, categories), queries


def instance(
    output: MaskOutput,
    index: int,
    image_size_hw: Size,
    output_size_hw: Size,
    categories: Categories,
    *,
    things_only: bool = True,
    things_first: bool = False,
    max_instances: int = 100,
) -> Instances:
    """The most certain (query, class) pairs as instances, sorted by falling score.

    A query can appear with several classes, and masks may overlap or be empty (score 0); there is no threshold.
    The score is the class probability times the mean probability inside the binary mask (logit above 0). Boxes are the
    real boxes of the masks, (x1, y1, x2, y2) in pixels with x2 and y2 one past the last pixel.

    Args:
        output: predictions of a batch of images (T = 1).
        index: which image of the batch.
        image_size_hw: size of the network input without its padding.
        output_size_hw: size of the answer.
        categories: the classes of the model.
        things_only: drop stuff classes; after the choice of ``max_instances``, hence fewer may remain.
        things_first: drop them before that choice, which is ours.
        max_instances: how many pairs are chosen.
    """
    class_logits, masks = _per_image(output, index)
    with torch.inference_mode(), _full_precision(output):
        probabilities = class_logits.softmax(dim=-1)[:, :-1]
        scores, queries, labels = best_pairs(
            probabilities, categories, max_instances, things_only=things_only, things_first=things_first
        )
        unique, mask_of_pair = torch.unique(queries, return_inverse=True)

        inside_sum = masks.new_zeros(len(unique))
        areas = torch.zeros(len(unique), dtype=torch.int64, device=masks.device)
        bands = _Bands(len(unique), output_size_hw, masks.device)
        for rows, logits in _strips(masks[unique], output.padded_size, image_size_hw, output_size_hw):
            bands.add(rows, logits)
            inside = torch.gt(logits, 0, out=torch.empty_like(logits))
            areas += _count(inside)
            inside_sum += logits.sigmoid_().mul_(inside).sum(dim=(0, 2))
        scores = scores * (inside_sum / (areas.to(inside_sum) + 1e-6))[mask_of_pair]
        order = torch.argsort(scores, descending=True, stable=True)
    # A query with several classes has one mask, which is not copied.
    sparse = bands.masks().take(mask_of_pair[order].cpu().numpy())
    return Instances(
        masks=sparse,
        labels=labels[order].cpu().numpy(),
        scores=scores[order].cpu().double().numpy(),
        boxes=sparse.boxes,
        categories=categories,
    )


class _Bands:
    """Binary masks from strips of logits, cut to their boxes band by band, so that they never exist as a whole.

    A band is as many rows as fit a buffer: all of an ordinary image, since cutting many small strips takes longer.
    """

    def __init__(self, count: int, size_hw: Size, device: torch.device) -> None:
        self.size_hw = size_hw
        height, width = size_hw
        rows = min(height, max(1, _BAND_PIXELS // max(1, count * width)))
        self._buffer = torch.empty((count, rows, width), dtype=torch.bool, device=device)
        self._start, self._filled = 0, 0  # first row of the band in the image, rows that it has
        self._patches: list[list[Patch]] = [[] for _ in range(count)]

    def add(self, rows: slice, logits: Float[Tensor, "rows C W"]) -> None:
        """The next rows."""
        assert rows.start == self._start + self._filled
        while len(logits):
            room = self._buffer.shape[1] - self._filled
            part, logits = logits[:room], logits[room:]
            torch.gt(part.transpose(0, 1), 0, out=self._buffer[:, self._filled : self._filled + len(part)])
            self._filled += len(part)
            if self._filled == self._buffer.shape[1]:
                self._cut()

    def masks(self) -> SparseMasks:
        """All of them, when every row was added."""
        self._cut()
        return SparseMasks(map(merged, self._patches), self.size_hw)

    def _cut(self) -> None:
        for patches, mask in zip(self._patches, self._buffer[:, : self._filled].cpu().numpy(), strict=True):
            top, left, part = tight(Patch(self._start, 0, mask))
            if part.size:
                patches.append(Patch(top, left, part.copy()))  # the buffer is used again
        self._start, self._filled = self._start + self._filled, 0


def remove_overlaps(instances: Instances, overlap_threshold: float) -> Instances:
    """The instances without their overlaps, which is ours: every pixel goes to the best instance that covers it.

    Args:
        instances: that may overlap.
        overlap_threshold: an instance that keeps a smaller share of its mask is dropped, 0..1, and takes no pixels from
            later ones. Empty masks are dropped, too.
    """
    taken = np.zeros(instances.size_hw, dtype=bool)
    kept: list[int] = []
    parts: list[Patch] = []
    for index, (top, left, mask) in enumerate(instances.sparse):
        window = taken[top : top + mask.shape[0], left : left + mask.shape[1]]
        free = mask & ~window
        remaining = int(np.count_nonzero(free))
        if not remaining or remaining < overlap_threshold * int(np.count_nonzero(mask)):
            continue
        window |= free
        kept.append(index)
        parts.append(Patch(top, left, free))
    masks = SparseMasks(parts, instances.size_hw)
    return Instances(masks, instances.labels[kept], instances.scores[kept], masks.boxes, instances.categories)


def video_instance(
    output: MaskOutput,
    index: int,
    image_size_hw: Size,
    output_size_hw: Size,
    categories: Categories,
    *,
    things_only: bool = False,
    things_first: bool = False,
    max_instances: int = 10,
) -> VideoInstances:
    """The most certain (query, class) pairs of a whole clip as tracks, sorted by falling score.

    As for images a query can appear with several classes, and masks may overlap or be empty. The score is the class
    probability alone (Mask2Former for Video Instance Segmentation, Sec. 3).

    Args:
        output: predictions of a batch of clips.
        index: which clip of the batch.
        image_size_hw: size of the network input without its padding.
        output_size_hw: size of the answer.
        categories: the classes of the model.
        things_only: drop stuff classes; after the choice of ``max_instances``, hence fewer may remain.
        things_first: drop them before that choice, which is ours.
        max_instances: how many pairs are chosen.
    """
    class_logits, masks = _per_clip(output, index)
    with torch.inference_mode(), _full_precision(output):
        probabilities = class_logits.softmax(dim=-1)[:, :-1]
        scores, queries, labels = best_pairs(
            probabilities, categories, max_instances, things_only=things_only, things_first=things_first
        )
    binary = np.empty((len(queries), masks.shape[1], *output_size_hw), dtype=bool)
    for frame in range(masks.shape[1]):
        binary[:, frame] = clip_masks(output, index, queries, frame, image_size_hw, output_size_hw)
    return VideoInstances(
        masks=binary,
        labels=labels.cpu().numpy(),
        scores=scores.cpu().double().numpy(),
        categories=categories,
    )


def clip_masks(
    output: MaskOutput,
    index: int,
    queries: Int64[Tensor, " N"],
    frame: int,
    image_size_hw: Size,
    output_size_hw: Size,
) -> Bool[np.ndarray, "N H W"]:
    """Binary masks of some queries in one frame of a clip, on the host: a long clip would fill an accelerator.

    Args:
        output: predictions of a batch of clips.
        index: which clip of the batch.
        queries: which queries, in which order.
        frame: which frame.
        image_size_hw: size of the network input without its padding.
        output_size_hw: size of the answer.
    """
    with torch.inference_mode(), _full_precision(output):
        masks = _per_clip(output, index)[1][queries, frame]
        binary = torch.empty((len(queries), *output_size_hw), dtype=torch.bool)
        for rows, logits in _strips(masks, output.padded_size, image_size_hw, output_size_hw):
            binary[:, rows] = (logits.transpose(0, 1) > 0).cpu()
    return binary.numpy()


# --- shared steps ----------------------------------------------------------------------------------------------------


def _full_precision(output: MaskOutput) -> torch.autocast:
    """Thresholds follow: a surrounding autocast must not reach the matrix products here."""
    return torch.autocast(output.mask_logits.device.type, enabled=False)


def _per_image(output: MaskOutput, index: int) -> tuple[Float[Tensor, "Q K1"], Float[Tensor, "Q h w"]]:
    """Class and mask logits of one image, in one type that is at least float32."""
    assert output.mask_logits.shape[2] == 1, f"an image has one frame, got {output.mask_logits.shape[2]}"
    class_logits, masks = _per_clip(output, index)
    return class_logits, masks[:, 0]


def _per_clip(output: MaskOutput, index: int) -> tuple[Float[Tensor, "Q K1"], Float[Tensor, "Q T h w"]]:
    """Class and mask logits of one clip, in one type that is at least float32."""
    masks = output.mask_logits[index].detach()
    masks = masks.to(torch.promote_types(masks.dtype, torch.float32))
    return output.class_logits[index].detach().to(masks), masks


def best_pairs(
    probabilities: Float[Tensor, "Q K"],
    categories: Categories,
    most: int,
    *,
    things_only: bool,
    things_first: bool = False,
) -> tuple[Float[Tensor, " N"], Int64[Tensor, " N"], Int64[Tensor, " N"]]:
    """Probability, query and class of the ``most`` likely (query, class) pairs, in falling order.

    Args:
        probabilities: of the classes without "no object".
        categories: the classes.
        most: how many pairs are chosen.
        things_only: drop stuff classes, after that choice.
        things_first: with ``things_only``, drop them before it.
    """
    is_thing = torch.tensor([category.is_thing for category in categories], device=probabilities.device)
    if things_only and things_first:
        things = is_thing.nonzero()[:, 0]
        scores, pairs = probabilities[:, things].flatten().topk(min(most, len(probabilities) * len(things)))
        return scores, pairs // max(len(things), 1), things[pairs % max(len(things), 1)]
    scores, pairs = probabilities.flatten().topk(min(most, probabilities.numel()))
    queries, labels = pairs // len(categories), pairs % len(categories)
    if things_only:
        # Parity: stuff takes places among the best pairs before it is dropped.
        chosen = is_thing[labels]
        scores, queries, labels = scores[chosen], queries[chosen], labels[chosen]
    return scores, queries, labels


def _resize_last(values: Float[Tensor, "N n"], padded: int, size: int, target: int) -> Float[Tensor, "N target"]:
    """Bilinear resizing along one axis in the published three steps: to ``padded``, crop to ``size``, to ``target``."""
    if values.shape[-1] != padded:
        values = F.interpolate(values[None], size=padded, mode="linear", align_corners=False)[0]
    values = values[:, :size]
    if size != target:
        values = F.interpolate(values[None], size=target, mode="linear", align_corners=False)[0]
    return values


def _row_strips(
    height: int, padded: int, size: int, target: int, values_per_row: int, like: Tensor
) -> Iterator[tuple[slice, slice, Float[Tensor, "rows source"]]]:
    """Resizing of rows as small matrix products.

    Yields:
        Rows of the output, the rows of the source that they need, and the weights between the two: the resized unit
        vectors, at most four of them not zero per output row.
    """
    # On the host, so that the source rows of a strip are known without asking the device.
    weights = _resize_last(torch.eye(height, dtype=like.dtype), padded, size, target).T  # (target, height)
    used = (weights != 0).int()
    first = used.argmax(dim=1).tolist()
    last = (height - 1 - used.flip(1).argmax(dim=1)).tolist()
    weights = weights.to(like.device)
    budget = _STRIP_VALUES_CPU if like.device.type == "cpu" else _STRIP_VALUES_ACCELERATOR
    step = max(1, budget // values_per_row)
    for start in range(0, target, step):
        rows = slice(start, min(start + step, target))
        source = slice(min(first[rows]), max(last[rows]) + 1)
        yield rows, source, weights[rows, source]


def _strips(
    maps: Float[Tensor, "C h w"], padded_hw: Size, image_size_hw: Size, output_size_hw: Size
) -> Iterator[tuple[slice, Float[Tensor, "rows C W"]]]:
    """Network maps at the output size, a strip of rows at a time: upsampled to the padded size, cropped, resized.

    Bilinear resizing treats the axes one by one, so columns are done once, at the few rows of the network.

    Yields:
        Rows of the output and their values, which the caller may overwrite.
    """
    num_maps, height, width = maps.shape
    assert all(side <= padded for side, padded in zip(image_size_hw, padded_hw, strict=True)), (
        image_size_hw,
        padded_hw,
    )
    output_height, output_width = output_size_hw
    if num_maps == 0:  # interpolate refuses empty input
        yield slice(0, output_height), maps.new_empty((output_height, 0, output_width))
        return
    columns = maps.transpose(0, 1).reshape(-1, width)  # (h * C, w)
    columns = _resize_last(columns, padded_hw[1], image_size_hw[1], output_width).reshape(height, -1)  # (h, C * W)
    sides = (height, padded_hw[0], image_size_hw[0], output_height)
    for rows, source, weights in _row_strips(*sides, num_maps * output_width, maps):
        yield rows, (weights @ columns[source]).view(-1, num_maps, output_width)


def _score_strips(
    output: MaskOutput, index: int, image_size_hw: Size, output_size_hw: Size, resize_masks_first: bool
) -> Iterator[tuple[slice, Float[Tensor, "rows K W"]]]:
    """Semantic class scores at the output size, a strip of rows at a time."""
    class_logits, masks = _per_image(output, index)
    probabilities = class_logits.softmax(dim=-1)[:, :-1].T.contiguous()  # (K, Q)
    scores_size_hw = output_size_hw if resize_masks_first else image_size_hw
    strips = (
        (rows, probabilities @ logits.sigmoid_())
        for rows, logits in _strips(masks, output.padded_size, image_size_hw, scores_size_hw)
    )
    if scores_size_hw == output_size_hw:
        yield from strips
        return
    num_classes, (height, width), (output_height, output_width) = len(probabilities), image_size_hw, output_size_hw
    scores = masks.new_empty((height, num_classes, width))
    for rows, strip in strips:
        scores[rows] = strip
    # Rows first here: these maps are about as large as the answer, and it must not exist as a whole.
    values_per_row = num_classes * max(width, output_width)
    for rows, source, weights in _row_strips(height, height, height, output_height, values_per_row, masks):
        strip = (weights @ scores[source].flatten(1)).view(-1, width)  # (rows * K, w)
        yield rows, _resize_last(strip, width, width, output_width).reshape(-1, num_classes, output_width)


def _first_argmax(values: Float[Tensor, "rows C W"]) -> Int64[Tensor, "rows W"]:
    """Index of the largest value along the middle axis, the first of equals; overwrites ``values``.

    Two passes over floats are eight times faster than ``argmax`` over a strided axis on a CPU.
    """
    if values.device.type != "cpu":
        return values.argmax(dim=1)
    count = values.shape[1]
    rank = torch.arange(count, 0, -1, dtype=values.dtype)[:, None]
    best = torch.eq(values, values.amax(dim=1, keepdim=True), out=values).mul_(rank).amax(dim=1)
    return (count - best.to(torch.int64)).clamp_(max=count - 1)  # no value equals its maximum where it is NaN


def _count(zeros_and_ones: Float[Tensor, "rows C W"]) -> Int64[Tensor, " C"]:
    """How many ones per map. Rows are summed as floats (exact, and fast on a CPU), their sums as integers."""
    return zeros_and_ones.sum(dim=2).to(torch.int64).sum(dim=0)


def _merge(
    table: list[list[int]], scores: list[float], categories: Categories, overlap_threshold: float
) -> tuple[tuple[Segment, ...], list[int]]:
    """Segments in query order, and the segment id of every query (0 where it was dropped).

    ``table`` holds per query: label, pixels won, pixels of its mask, pixels that are both.
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
