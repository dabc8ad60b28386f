"""Mask losses on sampled points, element-wise for training and pairwise for matching (Mask2Former, Sec. 3.3).

``counts`` is 1 for points that count and 0 for points without effect. None means that all points count.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "binary_cross_entropy",
    "dice",
    "focal",
    "pairwise_binary_cross_entropy",
    "pairwise_dice",
    "pairwise_focal",
]

_FOCAL_WEIGHT, _FOCAL_EXPONENT = 0.25, 2  # as published


def binary_cross_entropy(
    logits: Float[Tensor, "N P"], targets: Float[Tensor, "N P"], counts: Float[Tensor, "N P"] | None = None
) -> Float[Tensor, " N"]:
    """Mean over the points that count, per mask; 0 for a mask without such points. Targets are in 0..1."""
    return _mean(F.binary_cross_entropy_with_logits(logits, targets, reduction="none"), counts)


def focal(
    logits: Float[Tensor, "N P"], targets: Float[Tensor, "N P"], counts: Float[Tensor, "N P"] | None = None
) -> Float[Tensor, " N"]:
    """:func:`binary_cross_entropy` in which points that are already right count little (Focal Loss, Eq. 5).

    Alpha is 0.25 for points on the mask and 0.75 for others, and the exponent is 2 (Lin et al., ICCV 2017).
    """
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probabilities = logits.sigmoid()
    wrong = probabilities * (1.0 - targets) + (1.0 - probabilities) * targets
    losses = losses * wrong**_FOCAL_EXPONENT * (_FOCAL_WEIGHT * targets + (1.0 - _FOCAL_WEIGHT) * (1.0 - targets))
    return _mean(losses, counts)


def _mean(losses: Float[Tensor, "N P"], counts: Float[Tensor, "N P"] | None) -> Float[Tensor, " N"]:
    if counts is None:
        return losses.mean(1)
    return (losses * counts).sum(1) / counts.sum(1).clamp(min=1.0)


def dice(
    logits: Float[Tensor, "N P"], targets: Float[Tensor, "N P"], counts: Float[Tensor, "N P"] | None = None
) -> Float[Tensor, " N"]:
    """``1 - (2 sum(p t) + 1) / (sum p + sum t + 1)`` per mask, in 0..1."""
    probabilities = logits.sigmoid()
    if counts is not None:
        probabilities, targets = probabilities * counts, targets * counts
    overlap = 2.0 * (probabilities * targets).sum(1)
    return 1.0 - (overlap + 1.0) / (probabilities.sum(1) + targets.sum(1) + 1.0)


def pairwise_binary_cross_entropy(
    logits: Float[Tensor, "Q P"], targets: Float[Tensor, "N P"], counts: Float[Tensor, " P"] | None = None
) -> Float[Tensor, "Q N"]:
    """:func:`binary_cross_entropy` of every query with every target."""
    return _pairwise_mean(F.softplus(-logits), F.softplus(logits), targets, counts)


def pairwise_dice(
    logits: Float[Tensor, "Q P"], targets: Float[Tensor, "N P"], counts: Float[Tensor, " P"] | None = None
) -> Float[Tensor, "Q N"]:
    """:func:`dice` of every query with every target."""
    probabilities = logits.sigmoid()
    if counts is not None:
        probabilities, targets = probabilities * counts, targets * counts
    overlap = 2.0 * (probabilities @ targets.T)
    return 1.0 - (overlap + 1.0) / (probabilities.sum(1)[:, None] + targets.sum(1)[None, :] + 1.0)


def pairwise_focal(
    logits: Float[Tensor, "Q P"], targets: Float[Tensor, "N P"], counts: Float[Tensor, " P"] | None = None
) -> Float[Tensor, "Q N"]:
    """The cost of :func:`focal` of every query with every target; equal to it where targets are 0 or 1."""
    probabilities = logits.sigmoid()
    positive = F.softplus(-logits) * (1.0 - probabilities) ** _FOCAL_EXPONENT * _FOCAL_WEIGHT
    negative = F.softplus(logits) * probabilities**_FOCAL_EXPONENT * (1.0 - _FOCAL_WEIGHT)
    return _pairwise_mean(positive, negative, targets, counts)


def _pairwise_mean(
    positive: Float[Tensor, "Q P"],
    negative: Float[Tensor, "Q P"],
    targets: Float[Tensor, "N P"],
    counts: Float[Tensor, " P"] | None,
) -> Float[Tensor, "Q N"]:
    """The mean over points whose cost is ``positive`` where they are on the target, and ``negative`` elsewhere."""
    if counts is None:
        return (positive @ targets.T + negative @ (1.0 - targets).T) / targets.shape[1]
    on, off = targets * counts, (1.0 - targets) * counts
    return (positive @ on.T + negative @ off.T) / counts.sum().clamp(min=1.0)
