"""The set criterion: classification of every query, masks of the matched ones, at every decoder depth.

Mask losses are computed on sampled points (Mask2Former, Sec. 3.3). Random numbers come from the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mask2former.losses.functional import binary_cross_entropy, dice
from mask2former.losses.matcher import HungarianMatcher, Match
from mask2former.ops.points import (
    PointsCount,
    UniformPoints,
    reads_mask,
    sample_masks,
    sample_points,
    uncertain_points,
)
from mask2former.structures.outputs import MaskOutput
from mask2former.structures.samples import Target

__all__ = ["Criterion", "Losses"]


@dataclass(frozen=True, slots=True)
class Losses:
    """Weighted total, and the unweighted terms by their published names.

    ``loss_ce``, ``loss_mask``, ``loss_dice`` belong to the last layer, ``..._0`` to ``..._8`` to the auxiliary ones.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


class Criterion(nn.Module):
    """Loss of :class:`MaskOutput` against targets.

    What a target says to be ignored is in no mask loss and in no matching cost: a point counts only where none of the
    pixels that its ground truth is read from is ignored. The class loss is over queries and knows no pixels.

    Args:
        num_classes: K; targets are in 0..K-1, K stands for "no object".
        class_weight, mask_weight, dice_weight: of the loss terms, and of the matching costs.
        no_object_weight: of queries without a target in the class loss.
        num_points: sampled per mask.
        oversample_ratio, importance_sample_ratio: see :func:`uncertain_points`.
    """

    def __init__(
        self,
        num_classes: int,
        class_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_sample_ratio: float = 0.75,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weights = {"loss_ce": class_weight, "loss_mask": mask_weight, "loss_dice": dice_weight}
        self.matcher = HungarianMatcher(class_weight, mask_weight, dice_weight)
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.no_object_weight = no_object_weight

    def forward(
        self,
        output: MaskOutput,
        targets: Sequence[Target],
        uniform: UniformPoints,
        num_masks: float | None = None,
    ) -> Losses:
        """Losses of all depths.

        Args:
            output: of the model, with its auxiliary outputs.
            targets: one per clip; masks have the padded size. They may be empty.
            uniform: gives uniform numbers of a shape. Called per depth (last layer first, then auxiliary ones): once
                with ``(1, P, 2)`` per clip, then for the candidates and for the random share of all matched masks.
            num_masks: normaliser of the mask losses, by default the number of targets here; at least 1. Training
                passes the mean over ranks and accumulated batches.

        Raises:
            FloatingPointError: a logit is not finite; the message names the depth.
        """
        if num_masks is None:
            num_masks = float(sum(len(target.labels) for target in targets))
        num_masks = max(num_masks, 1.0)
        depths = {"": output, **{f"_{index}": aux_outputs for index, aux_outputs in enumerate(output.aux_outputs)}}
        masks = [target.masks.bool() for target in targets]

        # All draws first, in the published order; then one transfer to the host for all assignments.
        draws = [_Draws.make(self, depth, targets, uniform) for depth in depths.values()]
        costs = [
            self.matcher.cost(
                depth.class_logits[index],
                depth.mask_logits[index],
                target.labels,
                masks[index],
                draw.match[index],
                target.ignored,
            )
            for depth, draw in zip(depths.values(), draws, strict=True)
            for index, target in enumerate(targets)
        ]
        _check_finite(depths, costs)
        matches = self.matcher.assign(costs)

        terms: dict[str, Tensor] = {}
        for position, ((suffix, depth), draw) in enumerate(zip(depths.items(), draws, strict=True)):
            matched = matches[position * len(targets) : (position + 1) * len(targets)]
            terms[f"loss_ce{suffix}"] = self._class_loss(depth, targets, matched)
            mask_loss, dice_loss = self._mask_losses(depth, targets, masks, matched, draw)
            terms[f"loss_mask{suffix}"] = mask_loss / num_masks
            terms[f"loss_dice{suffix}"] = dice_loss / num_masks
        total = torch.stack([self.weights["_".join(name.split("_")[:2])] * term for name, term in terms.items()]).sum()
        return Losses(total, terms)

    def _class_loss(self, depth: MaskOutput, targets: Sequence[Target], matches: Sequence[Match]) -> Tensor:
        """Weighted cross-entropy over all queries, divided by the sum of the weights of this batch."""
        logits = depth.class_logits.to(torch.promote_types(depth.class_logits.dtype, torch.float32))
        wanted = torch.full(logits.shape[:2], self.num_classes, dtype=torch.int64, device=logits.device)
        for row, (target, (queries, chosen)) in enumerate(zip(targets, matches, strict=True)):
            wanted[row, queries.to(logits.device)] = target.labels[chosen.to(logits.device)]
        weights = logits.new_ones(self.num_classes + 1)
        weights[-1] = self.no_object_weight
        return F.cross_entropy(logits.transpose(1, 2), wanted, weights)

    def _mask_losses(
        self,
        depth: MaskOutput,
        targets: Sequence[Target],
        masks: Sequence[Tensor],
        matches: Sequence[Match],
        draw: _Draws,
    ) -> tuple[Tensor, Tensor]:
        """Sums of cross-entropy and dice over matched masks; every frame of a pair counts as a mask."""
        device = depth.mask_logits.device
        predicted = torch.cat(
            [depth.mask_logits[row, queries.to(device)] for row, (queries, _) in enumerate(matches)]
        ).flatten(0, 1)  # (N*T, h, w)
        if not len(predicted):
            nothing = depth.mask_logits.flatten()[:0].sum()
            return nothing, nothing
        predicted = predicted.unsqueeze(1)
        known = _known_points(targets, matches) if any(target.ignored is not None for target in targets) else None
        with torch.no_grad():
            points = uncertain_points(
                predicted, self.num_points, self.oversample_ratio, self.importance_sample_ratio, draw.replay(), known
            )
            num_frames = depth.mask_logits.shape[2]
            frames = torch.arange(num_frames, device=device)
            rows = [(chosen.to(device)[:, None] * num_frames + frames).flatten() for _, chosen in matches]
            pieces = zip(masks, rows, points.split([len(piece) for piece in rows]), strict=True)
            target = torch.cat([sample_masks(clip.flatten(0, 1), row, piece) for clip, row, piece in pieces])
        logits = sample_points(predicted, points).squeeze(1)
        counts = None if known is None else known(points).to(logits.dtype)
        return binary_cross_entropy(logits, target, counts).sum(), dice(logits, target, counts).sum()


def _known_points(targets: Sequence[Target], matches: Sequence[Match]) -> PointsCount:
    """Which points of the matched masks, one frame after the other, have a known ground truth."""

    def known(points: Tensor) -> Tensor:
        pieces, start = [], 0
        for target, (_, chosen) in zip(targets, matches, strict=True):
            num_frames = target.masks.shape[1]
            piece = points[start : start + len(chosen) * num_frames]
            start += len(piece)
            if target.ignored is None:
                pieces.append(torch.ones(piece.shape[:2], dtype=torch.bool, device=points.device))
            else:
                frames = torch.arange(num_frames, device=points.device).repeat(len(chosen))
                pieces.append(~reads_mask(target.ignored, frames, piece))
        return torch.cat(pieces)

    return known


@dataclass(frozen=True, slots=True)
class _Draws:
    """The uniform numbers of one depth, drawn before anything is computed so that the order is fixed."""

    match: list[Tensor]
    masks: list[Tensor]

    @classmethod
    def make(cls, criterion: Criterion, depth: MaskOutput, targets: Sequence[Target], uniform: UniformPoints) -> _Draws:
        points = criterion.num_points
        num_queries, num_frames = depth.mask_logits.shape[1:3]
        pairs = sum(min(len(target.labels), num_queries) for target in targets) * num_frames
        fresh = points - int(criterion.importance_sample_ratio * points)
        match = [uniform((1, points, 2)) for _ in targets]
        candidates = uniform((pairs, int(criterion.oversample_ratio * points), 2))
        return cls(match, [candidates, uniform((pairs, fresh, 2))])

    def replay(self) -> UniformPoints:
        """A source that hands out the numbers for the mask losses."""
        remaining = iter(self.masks)

        def uniform(shape: tuple[int, ...]) -> Tensor:
            numbers = next(remaining)
            assert numbers.shape == shape, (numbers.shape, shape)
            return numbers

        return uniform


def _check_finite(depths: dict[str, MaskOutput], costs: Sequence[Tensor]) -> None:
    """One transfer to the host for all checks of a step."""
    checks = {}
    for name, depth in depths.items():
        where = "the last layer" if not name else f"auxiliary output {name[1:]}"
        checks[f"class logits of {where}"] = _is_finite(depth.class_logits)
        checks[f"mask logits of {where}"] = _is_finite(depth.mask_logits)
    checks["matching costs"] = torch.stack([_is_finite(cost) for cost in costs]).all()
    for name, finite in zip(checks, torch.stack(list(checks.values())).tolist(), strict=True):
        if not finite:
            raise FloatingPointError(f"{name} are not finite")


def _is_finite(values: Tensor) -> Tensor:
    """Whether all values are: their sum is not, if one of them is not. No array of flags is made."""
    return values.detach().sum(dtype=torch.promote_types(values.dtype, torch.float32)).isfinite()
