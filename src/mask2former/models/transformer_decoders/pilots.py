"""Mask-piloted training: the decoder also receives ground truth, and learns to keep it (MP-Former).

A pilot is a query that starts from the class of an object, attends inside the mask of that object in every layer, and
is trained to predict both, without matching. So layers learn how to use a good mask before earlier layers predict good
ones. Pilots exist only in training.

Reference: MP-Former (Zhang et al., CVPR 2023), Sec. 3. Our additions: how many tokens outside the mask the noise adds,
and that pilots have no positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64
from torch import Tensor

from mask2former.models.transformer_decoders.attention import Grid
from mask2former.structures.samples import Target

__all__ = ["Pilots", "make_pilots"]


@dataclass(frozen=True)
class Pilots:
    """The pilots of a batch: the objects of each clip, several times, as groups that do not attend to each other.

    Attributes:
        labels: class of each pilot, some of them wrong on purpose; 0 where there is none.
        chosen: for each clip, the target of each of its pilots, which are the first ones of the P.
        masks: of the targets of each clip, one per pilot, at the padded size.
        groups: how often each object is repeated.
        noise: the share of a mask that is wrong.
    """

    labels: Int64[Tensor, "B P"]
    chosen: Sequence[Int64[Tensor, " _n"]]
    masks: Sequence[Bool[Tensor, "_n T H W"]]
    groups: int
    noise: float

    def apart(self, num_queries: int) -> Bool[Tensor, "B N N"]:
        """Where queries, then pilots, must not attend: queries not to pilots, pilots not to other groups."""
        batch, count = self.labels.shape
        size = count // self.groups
        device = self.labels.device
        group = torch.cat((torch.full((num_queries,), -1, device=device), torch.arange(count, device=device) // size))
        sees = (group[:, None] == group[None, :]) | (group[None, :] == -1)
        blocked = (~sees).expand(batch, -1, -1).clone()
        for clip, chosen in enumerate(self.chosen):  # in each group the first ones are used
            there = torch.zeros((self.groups, size), dtype=torch.bool, device=device)
            there[:, : len(chosen) // self.groups] = True
            absent = torch.cat((torch.zeros(num_queries, dtype=torch.bool, device=device), ~there.flatten()))
            blocked[clip] |= absent
        blocked.diagonal(dim1=1, dim2=2).fill_(False)  # everyone attends to itself
        return blocked

    def blocked(self, grids: Sequence[Grid]) -> Bool[Tensor, "B P S"]:
        """Where each pilot must not attend: outside its mask, with different noise in every layer."""
        batch, count = self.labels.shape
        total = sum(frames * height * width for frames, height, width in grids)
        blocked = torch.zeros((batch, count, total), dtype=torch.bool, device=self.labels.device)
        for clip, masks in enumerate(self.masks):
            if not len(masks):
                continue
            levels = [F.interpolate(masks.float(), grid[1:], mode="area").flatten(1) for grid in grids]
            outside = torch.cat(levels, dim=1) < 0.5  # (n, S)
            share = (~outside).float().mean(1, keepdim=True)
            wrong = torch.where(outside, self.noise * share / (1 - share).clamp(min=1e-6), self.noise)
            outside = outside ^ (torch.rand_like(wrong) < wrong)
            blocked[clip, self.indices(clip)] = outside & ~outside.all(1, keepdim=True)
        return blocked

    def indices(self, clip: int) -> Int64[Tensor, " n"]:
        """The indices of the pilots of a clip among P."""
        each = len(self.chosen[clip]) // self.groups
        size = self.labels.shape[1] // self.groups
        first = torch.arange(self.groups, device=self.labels.device)[:, None] * size
        return (first + torch.arange(each, device=self.labels.device)).flatten()


def make_pilots(targets: Sequence[Target], most: int, num_classes: int, noise: float) -> Pilots | None:
    """Pilots of the objects of a batch; None if there are none.

    Args:
        targets: one per clip; those labelled "no object", as in clips where an object is not visible, get no pilots.
        most: maximum number of pilots per clip; if there are more objects, some are chosen at random.
        num_classes: number of classes from which wrong ones are drawn, for the share ``noise`` of pilots.
        noise: the share of wrong pixels in a mask, and of wrong classes.
    """
    there = [(target.labels < num_classes).nonzero().flatten() for target in targets]
    sizes = [min(len(objects), most) for objects in there]
    if not (size := max(sizes)):
        return None
    groups = max(1, most // size)
    device = targets[0].labels.device
    labels = torch.zeros((len(targets), groups, size), dtype=torch.int64, device=device)
    chosen, masks = [], []
    for clip, (target, objects) in enumerate(zip(targets, there, strict=True)):
        some = objects[torch.randperm(len(objects), device=device)[:most]]
        labels[clip, :, : len(some)] = target.labels[some]
        chosen.append(some.repeat(groups))
        masks.append(target.masks[chosen[-1]])
    wrong = torch.rand(labels.shape, device=device) < noise
    labels = torch.where(wrong, torch.randint_like(labels, num_classes), labels)
    return Pilots(labels.flatten(1), chosen, masks, groups, noise)
