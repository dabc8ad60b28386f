"""Post-processing inside a graph: the rules of the tasks, without shapes or branches that depend on values.

It is for programs that run a file without this package. :mod:`mask2former.postprocessing` is the readable form of the
same rules, against which this form is tested, and needs a fraction of its memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int32, Int64, UInt8
from torch import Tensor

from mask2former.config import InferenceConfig, Task
from mask2former.errors import UserError

__all__ = ["check_settings", "instances", "panoptic", "resized", "semantic"]


def check_settings(settings: InferenceConfig, task: Task) -> None:
    """Check that a graph can apply the settings.

    Raises:
        UserError: the model was not trained for the task, its results contain only some classes or sizes, or its
            instances are joined from tiles, non-overlapping or have thresholds by class.
    """
    if task not in settings.tasks:
        raise UserError(f"the model has no results of task '{task}'; it was trained for: {', '.join(settings.tasks)}")
    of_instances = ("tile", "non_overlapping", "class_thresholds") if task == "instance" else ()
    depends = [name for name in (*of_instances, "classes", "min_area") if getattr(settings, name)]
    if depends:
        raise UserError(
            f"{task} results of this model depend on its setting '{depends[0]}', which an exported file cannot apply; "
            "export it without results, and run the file with this package"
        )


def resized(masks: Float[Tensor, "B Q h w"], size: tuple[int, int]) -> Float[Tensor, "B Q H W"]:
    """Mask logits at the padded size of the input."""
    return F.interpolate(masks, size=size, mode="bilinear", align_corners=False)


def semantic(
    class_logits: Float[Tensor, "B Q K1"], masks: Float[Tensor, "B Q H W"], inside: Bool[Tensor, "B H W"]
) -> Int32[Tensor, "B H W"]:
    """The class index of every pixel; -1 on padding."""
    probabilities = class_logits.softmax(-1)[..., :-1]
    labels = torch.einsum("bqk,bqhw->bkhw", probabilities, masks.sigmoid()).argmax(1)
    return torch.where(inside, labels, -1).to(torch.int32)


def instances(
    class_logits: Float[Tensor, "B Q K1"],
    masks: Float[Tensor, "B Q H W"],
    inside: Bool[Tensor, "B H W"],
    is_thing: Sequence[bool],
    settings: InferenceConfig,
) -> tuple[UInt8[Tensor, "B N H W"], Int64[Tensor, "B N"], Float[Tensor, "B N"], Float[Tensor, "B N 4"]]:
    """Masks (0 or 1), class indices, scores and boxes (x1, y1, x2, y2) of the best pairs of query and class.

    Sorted by falling score. A pair that is no instance, because it is stuff or its score is below the threshold, has
    label -1 and score 0.
    """
    probabilities = class_logits.softmax(-1)[..., :-1]
    things = torch.tensor(is_thing)
    if settings.things_only and settings.things_first:
        probabilities = torch.where(things, probabilities, -1.0)
    classes = probabilities.shape[-1]
    scores, pairs = probabilities.flatten(1).topk(min(settings.max_instances, masks.shape[1] * classes))
    queries, labels = pairs // classes, pairs % classes

    binary = (masks > 0) & inside[:, None]
    areas = binary.sum((2, 3))
    mean = (masks.sigmoid() * binary).sum((2, 3)) / (areas + 1e-6)
    scores = scores * mean.gather(1, queries)
    chosen = scores >= settings.instance_threshold
    if settings.things_only:
        chosen = chosen & things[labels]
    # All of them, in order to sort: ONNX has no stable sort.
    scores, order = torch.where(chosen, scores, -1.0).topk(scores.shape[1])
    queries, labels, chosen = queries.gather(1, order), labels.gather(1, order), scores >= 0

    picked = queries[:, :, None, None].expand(-1, -1, *masks.shape[2:])
    boxes = _boxes(binary).gather(1, queries[:, :, None].expand(-1, -1, 4))
    return (
        (binary.gather(1, picked) & chosen[:, :, None, None]).to(torch.uint8),
        torch.where(chosen, labels, -1),
        scores.clamp_min(0),
        boxes * chosen[:, :, None],
    )


def _boxes(binary: Bool[Tensor, "B Q H W"]) -> Float[Tensor, "B Q 4"]:
    """x1, y1, x2, y2 with x2 and y2 one past the last pixel; zeros for an empty mask."""
    sides = []
    for axis, length in ((2, binary.shape[3]), (3, binary.shape[2])):
        occupied = binary.any(axis).to(torch.float32)  # (B, Q, W), then (B, Q, H)
        index = torch.arange(length, dtype=torch.float32)
        last = (occupied * (index + 1)).amax(2)
        first = length - (occupied * (length - index)).amax(2)
        sides.append((first * (last > 0), last))
    (x1, x2), (y1, y2) = sides
    return torch.stack((x1, y1, x2, y2), dim=2)


def panoptic(
    class_logits: Float[Tensor, "B Q K1"],
    masks: Float[Tensor, "B Q H W"],
    inside: Bool[Tensor, "B H W"],
    is_thing: Sequence[bool],
    settings: InferenceConfig,
) -> tuple[Int32[Tensor, "B H W"], Int64[Tensor, "B Q"], Int64[Tensor, "B Q"], Float[Tensor, "B Q"]]:
    """Segment id of every pixel (0: none), then segment id (0: none), class index and score of every query.

    Queries of one stuff class share a segment, which has the largest of their scores.
    """
    probabilities = class_logits.softmax(-1)
    scores, labels = probabilities.max(-1)
    kept = (labels != len(is_thing)) & (scores > settings.score_threshold)
    coverage = masks.sigmoid()
    # Below all others, a query that was not kept wins nowhere. If none was kept, no segment is made of the winner.
    winner = torch.where(kept[:, :, None, None], coverage * scores[:, :, None, None], -1.0).argmax(1)  # (B, H, W)
    numbers = torch.arange(masks.shape[1])
    won = (winner[:, None] == numbers[:, None, None]) & inside[:, None]
    covered = (coverage >= 0.5) & inside[:, None]
    both = won & covered
    won_area, own_area, area = (part.sum((2, 3)) for part in (won, covered, both))
    made = kept & (area > 0) & (won_area >= settings.overlap_threshold * own_area)

    stuff = ~torch.tensor([*is_thing, True])[labels]
    same = (labels[:, :, None] == labels[:, None, :]) & stuff[:, :, None]  # (B, Q, Q)
    earlier = (same & made[:, None, :] & (numbers[None, :] < numbers[:, None])).any(2)
    first = made & ~earlier
    ids = first.cumsum(1) * first
    shared = (same & first[:, None, :]).to(ids.dtype) * ids[:, None, :]
    ids = torch.where(made & earlier, shared.amax(2), ids)
    id_map = (both.to(torch.int32) * ids[:, :, None, None].to(torch.int32)).amax(1)
    return id_map, ids, torch.where(made, labels, -1), scores * made
