"""Optimal one-to-one matching of queries and targets (DETR, Sec. 3.1; costs of Mask2Former, Sec. 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mask2former.config import CriterionConfig
from mask2former.losses.functional import pairwise_binary_cross_entropy, pairwise_dice, pairwise_focal
from mask2former.ops.mask_logits import MaskLogits, as_mask_logits
from mask2former.ops.points import reads_mask, sample_masks

__all__ = ["HungarianMatcher", "Match"]

_DEFAULT = CriterionConfig()

Match = tuple[Int64[Tensor, " _n"], Int64[Tensor, " _n"]]
"""Matched query and target indices, queries ascending."""


class HungarianMatcher:
    """Matching costs on sampled points, and the assignment that minimises their sum."""

    def __init__(
        self,
        class_weight: float = _DEFAULT.class_weight,
        mask_weight: float = _DEFAULT.mask_weight,
        dice_weight: float = _DEFAULT.dice_weight,
        mask_loss: str = _DEFAULT.mask_loss,
    ) -> None:
        self.class_weight = class_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight
        self._mask_cost = {"bce": pairwise_binary_cross_entropy, "focal": pairwise_focal}[mask_loss]

    @torch.no_grad()
    def cost(
        self,
        class_logits: Float[Tensor, "Q K1"],
        mask_logits: MaskLogits | Float[Tensor, "Q T h w"],
        labels: Int64[Tensor, " N"],
        masks: Bool[Tensor, "N T H W"],
        points: Float[Tensor, "1 P 2"],
        ignored: Bool[Tensor, "T H W"] | None = None,
    ) -> Float[Tensor, "Q N"]:
        """Cost of each pair of query and target, in at least float32; all masks and frames use the same points.

        A point counts where its ground truth is known: where no pixel from which it is sampled is ``ignored``.
        """
        with torch.autocast(class_logits.device.type, enabled=False):
            wide = torch.promote_types(class_logits.dtype, torch.float32)
            probabilities = class_logits.to(wide).softmax(1)
            if not len(labels):
                return probabilities.new_zeros((class_logits.shape[0], 0))
            logits = as_mask_logits(mask_logits).detach()
            # The same points in every frame: (Q, T*P), (N, T*P).
            sampled = logits.to(logits.device, wide).at_points(points).flatten(1)
            every = torch.arange(masks.shape[0] * masks.shape[1], device=masks.device)
            target = sample_masks(masks.flatten(0, 1), every, points.to(sampled.dtype))
            target = target.unflatten(0, (-1, masks.shape[1])).flatten(1)
            counts = None
            if ignored is not None:
                counts = (~reads_mask(ignored, every[: len(ignored)], points)).to(sampled).flatten()
            return (
                self.mask_weight * self._mask_cost(sampled, target, counts)
                - self.class_weight * probabilities[:, labels]
                + self.dice_weight * pairwise_dice(sampled, target, counts)
            )

    @staticmethod
    def assign(costs: Sequence[Float[Tensor, "Q _N"]]) -> list[Match]:
        """The cheapest assignment of each cost matrix, with ``min(Q, N)`` pairs; all tensors are in main memory."""
        pairs = [linear_sum_assignment(cost.numpy()) for cost in costs]
        return [(torch.as_tensor(queries), torch.as_tensor(targets)) for queries, targets in pairs]
