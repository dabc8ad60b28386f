"""The set criterion: a list of weighted terms, each computed at every decoder depth.

The published terms (Mask2Former, Sec. 3.3) classify every query and compare the masks of matched queries at sampled
points. The caller provides the random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mask2former.config import CriterionConfig, parse_arguments
from mask2former.errors import UserError
from mask2former.losses.functional import binary_cross_entropy, dice, focal
from mask2former.losses.matcher import HungarianMatcher, Match
from mask2former.ops.mask_logits import MaskLogits, masks_of_queries
from mask2former.ops.points import (
    PointsCount,
    UniformPoints,
    pixel_centers,
    reads_mask,
    sample_masks,
    sample_points,
    uncertain_points,
)
from mask2former.ops.resizing import resize_masks
from mask2former.structures.outputs import MaskOutput, PilotOutput
from mask2former.structures.samples import Target

__all__ = ["Criterion", "LossTerm", "Losses", "MatchedDepth", "SampledMasks", "checked_weights"]

_DEFAULT = CriterionConfig()


@dataclass(frozen=True, slots=True)
class Losses:
    """Weighted total, and the unweighted terms by name.

    ``loss_ce``, ``loss_mask`` and ``loss_dice`` belong to the last layer, ``..._0`` to ``..._8`` to auxiliary outputs.
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]


class _LossPoints(NamedTuple):
    """The random points of matched masks, drawn before any computation to fix their order."""

    candidates: Float[Tensor, "N _C 2"]
    num_uncertain: int  # of the candidates, which are kept
    fresh: Float[Tensor, "N _F 2"]


class SampledMasks(NamedTuple):
    """Matched masks at the points where they are compared, with one row for each mask and frame.

    ``counts`` is 1 at points with known ground truth and 0 at others. None means that it is known at all points.
    """

    logits: Float[Tensor, "N P"]
    targets: Float[Tensor, "N P"]
    counts: Float[Tensor, "N P"] | None


@dataclass(frozen=True)
class MatchedDepth:
    """One decoder depth and the assignment of its queries: the input of a loss term.

    Attributes:
        output: outputs of this depth.
        targets: one per clip.
        masks: target masks of each clip, at the padded size.
        matches: for each clip, indices of the matched queries and of their targets, on the device of the output.
        mask_logits: of the matched queries of all clips, one row for each frame.
        num_masks: normaliser of sums over masks, at least 1; see :meth:`Criterion.forward`.
        is_pilot: whether the queries are pilots, of which only those in ``matches`` count.
        index: index of the auxiliary output, from 0; None: the last layer.
    """

    output: MaskOutput
    targets: Sequence[Target]
    masks: Sequence[Bool[Tensor, "_N T H W"]]
    matches: Sequence[Match]
    mask_logits: Float[Tensor, "N h w"]
    num_masks: float
    _points: _LossPoints | None
    is_pilot: bool = False
    index: int | None = None

    @property
    def target_masks(self) -> Bool[Tensor, "N H W"]:
        """The target mask of each row of ``mask_logits``, at the padded size."""
        pairs = zip(self.masks, self.matches, strict=True)
        return torch.cat([clip[chosen] for clip, (_, chosen) in pairs]).flatten(0, 1)

    @cached_property
    def sampled(self) -> SampledMasks:
        """The matched masks at points where the prediction is uncertain, or at all pixels; shared by all terms."""
        return _sampled(self, self._points)


@dataclass(frozen=True, slots=True)
class LossTerm:
    """A term of the loss.

    Attributes:
        name: its name in the log. Auxiliary outputs append their number.
        weight: its weight in the total.
        loss: returns one number for one depth, in at least float32.
    """

    name: str
    weight: float
    loss: Callable[[MatchedDepth], Float[Tensor, ""]]


class Criterion(nn.Module):
    """Loss of :class:`MaskOutput` against targets.

    Ignored pixels of a target are excluded from mask losses and matching costs: a point counts only if none of the
    pixels from which its ground truth is sampled is ignored. The class loss is over queries, not pixels.

    Args:
        num_classes: K; targets are in 0..K-1, and K is "no object".
        class_weight: weight of the class loss and of the class cost in matching.
        mask_weight: the same for the mask loss.
        dice_weight: the same for the dice loss.
        no_object_weight: weight of queries without a target in the class loss.
        class_weights: weights of queries with a target in the class loss, by class; None: 1.
        mask_loss: ``bce`` or ``focal``, for both the loss and the matching costs.
        match_on: ``points``, or ``masks``: costs then compare every pixel of the predicted masks.
        loss_on: ``points``, or ``masks``: losses then compare every pixel of the targets, to whose size predictions are
            resized.
        num_points: points sampled per mask.
        oversample_ratio: of candidates for the loss, to ``num_points``.
        importance_sample_ratio: share of the points for the loss that are the most uncertain candidates; the others are
            anywhere.
        terms: additional terms.

    Attributes:
        terms: all terms, the published ones first.
        matcher: may be replaced with an object of a subclass of :class:`HungarianMatcher` that adds costs of its own.

    Raises:
        UserError: two terms have the same name, a name ends in a number, or an argument is not what
            :class:`~mask2former.config.CriterionConfig` accepts.
    """

    def __init__(
        self,
        num_classes: int,
        class_weight: float = _DEFAULT.class_weight,
        mask_weight: float = _DEFAULT.mask_weight,
        dice_weight: float = _DEFAULT.dice_weight,
        no_object_weight: float = _DEFAULT.no_object_weight,
        mask_loss: str = _DEFAULT.mask_loss,
        match_on: str = _DEFAULT.match_on,
        loss_on: str = _DEFAULT.loss_on,
        num_points: int = _DEFAULT.num_points,
        oversample_ratio: float = _DEFAULT.oversample_ratio,
        importance_sample_ratio: float = _DEFAULT.importance_sample_ratio,
        terms: Sequence[LossTerm] = (),
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        settings = {
            "class_weight": class_weight,
            "mask_weight": mask_weight,
            "dice_weight": dice_weight,
            "no_object_weight": no_object_weight,
            "mask_loss": mask_loss,
            "match_on": match_on,
            "loss_on": loss_on,
            "num_points": num_points,
            "oversample_ratio": oversample_ratio,
            "importance_sample_ratio": importance_sample_ratio,
        }
        if terms:  # which may be all that is learned from
            settings = {name: value for name, value in settings.items() if not name.endswith("_weight") or value}
        parse_arguments(CriterionConfig, settings)
        self.num_classes = num_classes
        self.matcher = HungarianMatcher(class_weight, mask_weight, dice_weight, mask_loss)
        self.match_on = match_on
        self.loss_on = loss_on
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_sample_ratio = importance_sample_ratio
        self.no_object_weight = no_object_weight
        self.class_weights = checked_weights(class_weights, num_classes)
        self.terms = (
            LossTerm("loss_ce", class_weight, self.class_loss),
            LossTerm("loss_mask", mask_weight, _MASK_LOSSES[mask_loss]),
            LossTerm("loss_dice", dice_weight, dice_loss),
            *terms,
        )
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names) or any(name.rpartition("_")[2].isdecimal() for name in names):
            raise UserError(
                f"the terms of the loss are called {', '.join(names)}; expected unique names, none of which ends in _ "
                "and a number, as the names for earlier layers do"
            )

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each loss term, by name."""
        return {term.name: term.weight for term in self.terms}

    def forward(
        self,
        output: MaskOutput,
        targets: Sequence[Target],
        uniform: UniformPoints | None = None,
        num_masks: float | None = None,
    ) -> Losses:
        """Losses of all depths.

        Args:
            output: output of the model, with its auxiliary outputs.
            targets: one per clip, with masks at the padded size. A clip may have no objects.
            uniform: returns uniform random numbers of a given shape; default: those of torch on the device of
                ``output``. It is called for each depth, the last layer first and the auxiliary ones after it: once per
                clip with ``(1, P, 2)``, and then twice for all matched masks, for candidates and for the random share.
            num_masks: normaliser of the mask losses, at least 1; default: the number of targets here. Training passes
                the mean over ranks and accumulated batches.

        Raises:
            UserError: the output has scores for another number of classes, or a term is not one number.
            FloatingPointError: a logit is not finite; the message names the depth.
        """
        if output.class_logits.shape[2] != self.num_classes + 1:
            raise UserError(
                f"the model returned {output.class_logits.shape[2]} class scores for each query; expected "
                f"{self.num_classes + 1}, for {self.num_classes} classes and no object"
            )
        if uniform is None:
            uniform = partial(torch.rand, device=output.class_logits.device)
        if num_masks is None:
            num_masks = float(sum(len(target.labels) for target in targets))
        num_masks = max(num_masks, 1.0)
        depths = {"": output, **{f"_{index}": depth for index, depth in enumerate(output.aux_outputs)}}
        indices = [None, *range(len(output.aux_outputs))]
        masks = [target.masks.bool() for target in targets]
        clips = [depth.masks.clips() for depth in depths.values()]  # for each depth

        # First draw all points, in the published order; then use one transfer to the host for checks and assignments.
        draws = [self._draw(depth, targets, uniform) for depth in depths.values()]
        with torch.no_grad():  # costs of a matcher of one's own, too
            costs = [
                self.matcher.cost(
                    depth.class_logits[clip], predicted[clip], target.labels, masks[clip], points[clip], target.ignored
                )
                for depth, predicted, (points, _) in zip(depths.values(), clips, draws, strict=True)
                for clip, target in enumerate(targets)
            ]
        names, finite = _finite(depths, costs)
        finite, *costs = _on_host([finite.to(costs[0].dtype), *costs] if costs else [finite])
        for name, is_finite in zip(names, finite.tolist(), strict=True):
            if not is_finite:
                raise FloatingPointError(f"{name} are not finite")
        assigned = iter(_on_device(self.matcher.assign(costs), output.class_logits.device))
        matches = [[next(assigned) for _ in targets] for _ in depths]
        logits = _matched_logits(clips, matches)

        def matched() -> Iterator[tuple[str, MatchedDepth]]:
            """One after the other: only the points of the pilots of one depth are in memory."""
            rows = zip(depths.items(), indices, matches, logits, draws, strict=True)
            for (suffix, depth), index, chosen, of_depth, (_, points) in rows:
                yield suffix, MatchedDepth(depth, targets, masks, chosen, of_depth, num_masks, points, index=index)
            for (suffix, depth), index in zip(depths.items(), indices, strict=True):
                if depth.pilots is not None:
                    yield f"_pilot{suffix}", self._piloted(depth.pilots, targets, masks, num_masks, uniform, index)

        terms: dict[str, Tensor] = {}
        weighted: list[Tensor] = []
        for suffix, depth in matched():
            for term in self.terms:
                loss = term.loss(depth)
                if not isinstance(loss, Tensor) or loss.ndim:
                    got = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
                    raise UserError(
                        f"the loss term {term.name} returned {got}; expected a tensor with one number, as sum() returns"
                    )
                terms[term.name + suffix] = loss
                weighted.append(term.weight * loss)
        return Losses(torch.stack(weighted).sum(), terms)

    def _draw(
        self, depth: MaskOutput, targets: Sequence[Target], uniform: UniformPoints
    ) -> tuple[list[Tensor], _LossPoints | None]:
        """The points of one depth: of each clip for matching, and of all matched masks for the loss."""
        if self.match_on == "masks":
            match = [pixel_centers(depth.masks.shape[-2:], depth.class_logits)] * len(targets)
        else:
            match = [uniform((1, self.num_points, 2)) for _ in targets]
        num_queries, num_frames = depth.masks.shape[1:3]
        pairs = sum(min(len(target.labels), num_queries) for target in targets)
        return match, self._loss_points(pairs * num_frames, uniform)

    def _loss_points(self, count: int, uniform: UniformPoints) -> _LossPoints | None:
        """The points of ``count`` masks and frames; None where all pixels are used."""
        if self.loss_on == "masks":
            return None
        candidates = uniform((count, int(self.oversample_ratio * self.num_points), 2))
        num_uncertain = int(self.importance_sample_ratio * self.num_points)
        return _LossPoints(candidates, num_uncertain, uniform((count, self.num_points - num_uncertain, 2)))

    def _piloted(
        self,
        pilots: PilotOutput,
        targets: Sequence[Target],
        masks: Sequence[Bool[Tensor, "_N T H W"]],
        num_masks: float,
        uniform: UniformPoints,
        index: int | None,
    ) -> MatchedDepth:
        """The pilots of a depth with their known objects. Their points are drawn after all others."""
        clips = zip(pilots.output.masks.clips(), pilots.matches, strict=True)
        logits = torch.cat([clip.of_queries(queries) for clip, (queries, _) in clips]).flatten(0, 1)
        points, total = self._loss_points(len(logits), uniform), num_masks * pilots.groups
        return MatchedDepth(pilots.output, targets, masks, pilots.matches, logits, total, points, True, index)

    def class_loss(self, matched: MatchedDepth) -> Float[Tensor, ""]:
        """Weighted cross-entropy over all queries, or pilots with an object, divided by the sum of the weights.

        It is 0 if all of these weights are.
        """
        logits = matched.output.class_logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        weights = logits.new_ones(self.num_classes + 1)
        weights[-1] = self.no_object_weight
        if self.class_weights is not None:
            weights[:-1] = weights.new_tensor(self.class_weights)
        if matched.is_pilot:
            pairs = list(zip(logits, matched.targets, matched.matches, strict=True))
            known = torch.cat([scores[queries] for scores, _, (queries, _) in pairs])
            labels = torch.cat([target.labels[chosen] for _, target, (_, chosen) in pairs])
            return _cross_entropy(known, labels, weights)
        wanted = torch.full(logits.shape[:2], self.num_classes, dtype=torch.int64, device=logits.device)
        for row, (target, (queries, chosen)) in enumerate(zip(matched.targets, matched.matches, strict=True)):
            wanted[row, queries] = target.labels[chosen]
        return _cross_entropy(logits.transpose(1, 2), wanted, weights)


def _cross_entropy(
    logits: Float[Tensor, "N K1 ..."], labels: Int64[Tensor, "N ..."], weights: Float[Tensor, " K1"]
) -> Float[Tensor, ""]:
    """``F.cross_entropy``, but 0 instead of NaN where no label has a weight, for instance without objects."""
    if not labels.numel():
        return logits.sum()  # of nothing: zero, with a gradient
    # Without a branch on values, for which the host would wait. Where there are weights, nothing changes the loss.
    has_weight = weights[labels].sum() > 0
    return F.cross_entropy(logits, labels, torch.where(has_weight, weights, 1.0)) * has_weight


def checked_weights(class_weights: Sequence[float] | None, num_classes: int) -> tuple[float, ...] | None:
    """The weights as a tuple.

    Raises:
        UserError: the number of weights is not the number of classes.
    """
    if class_weights is not None and len(class_weights) != num_classes:
        raise UserError(
            f"there are {len(class_weights)} class weights for {num_classes} classes; expected one for each"
        )
    return None if class_weights is None else tuple(class_weights)


def mask_loss(matched: MatchedDepth) -> Float[Tensor, ""]:
    """Binary cross-entropy at the sampled points; every frame of a matched pair counts as a mask."""
    return binary_cross_entropy(*matched.sampled).sum() / matched.num_masks


def focal_loss(matched: MatchedDepth) -> Float[Tensor, ""]:
    """Focal loss, which replaces :func:`mask_loss` (MaskFormer, Sec. 4.2)."""
    return focal(*matched.sampled).sum() / matched.num_masks


_MASK_LOSSES = {"bce": mask_loss, "focal": focal_loss}


def dice_loss(matched: MatchedDepth) -> Float[Tensor, ""]:
    """Dice loss at the sampled points; every frame of a matched pair counts as a mask."""
    return dice(*matched.sampled).sum() / matched.num_masks


def _sampled(matched: MatchedDepth, points: _LossPoints | None) -> SampledMasks:
    """The matched masks at the points, or at all pixels."""
    predicted, matches, targets = matched.mask_logits.unsqueeze(1), matched.matches, matched.targets
    if not len(predicted):
        nothing = predicted.flatten(1)  # its sum still has a gradient, which is zero
        return SampledMasks(nothing, nothing.detach(), None)
    if points is None:
        return _at_all_pixels(matched)
    known = _known_points(targets, matches) if any(target.ignored is not None for target in targets) else None
    with torch.no_grad():
        uncertain = uncertain_points(predicted, points.candidates, points.num_uncertain, known)
        chosen_points = torch.cat((uncertain, points.fresh), dim=1)
        num_frames = matched.output.masks.shape[2]
        frames = torch.arange(num_frames, device=predicted.device)
        rows = [(chosen[:, None] * num_frames + frames).flatten() for _, chosen in matches]
        pieces = zip(matched.masks, rows, chosen_points.split([len(piece) for piece in rows]), strict=True)
        target = torch.cat([sample_masks(clip.flatten(0, 1), row, piece) for clip, row, piece in pieces])
    logits = sample_points(predicted, chosen_points).squeeze(1)
    return SampledMasks(logits, target, None if known is None else known(chosen_points).to(logits.dtype))


def _at_all_pixels(matched: MatchedDepth) -> SampledMasks:
    """Every pixel of the targets, and the predictions for it."""
    targets = matched.target_masks
    logits = resize_masks(matched.mask_logits, (targets.shape[1], targets.shape[2])).flatten(1)
    counts = None
    if any(target.ignored is not None for target in matched.targets):
        known = []
        for target, (_, chosen) in zip(matched.targets, matched.matches, strict=True):
            shape = (len(chosen), *target.masks.shape[1:])
            here = target.masks.new_ones((), dtype=torch.bool) if target.ignored is None else ~target.ignored
            known.append(here.expand(shape))
        counts = torch.cat(known).flatten(0, 1).flatten(1).to(logits)
    return SampledMasks(logits, targets.flatten(1).to(logits), counts)


def _known_points(targets: Sequence[Target], matches: Sequence[Match]) -> PointsCount:
    """A function that returns which points of the matched masks, frame by frame, have known ground truth."""

    def known(points: Tensor) -> Tensor:
        counts = [len(chosen) * target.masks.shape[1] for target, (_, chosen) in zip(targets, matches, strict=True)]
        pieces = []
        for target, (_, chosen), piece in zip(targets, matches, points.split(counts), strict=True):
            if target.ignored is None:
                pieces.append(torch.ones(piece.shape[:2], dtype=torch.bool, device=points.device))
            else:
                frames = torch.arange(target.masks.shape[1], device=points.device).repeat(len(chosen))
                pieces.append(~reads_mask(target.ignored, frames, piece))
        return torch.cat(pieces)

    return known


def _matched_logits(
    clips: Sequence[Sequence[MaskLogits]], matches: Sequence[Sequence[Match]]
) -> list[Float[Tensor, "_N h w"]]:
    """For each depth, the mask logits of the matched queries of all clips, one row for each frame."""
    of_clips = []
    for depths, matched in zip(zip(*clips, strict=True), zip(*matches, strict=True), strict=True):
        of_clips.append(masks_of_queries(depths, [queries for queries, _ in matched]))
    return [torch.cat(depth).flatten(0, 1) for depth in zip(*of_clips, strict=True)]


def _finite(depths: dict[str, MaskOutput], costs: Sequence[Tensor]) -> tuple[list[str], Bool[Tensor, " N"]]:
    """Names of the model's outputs that a step reads, and whether all values of each are finite."""
    finite_of: dict[int, Tensor] = {}  # tensors that depths share are checked once
    checks = {}
    for name, depth in depths.items():
        where = "the last layer" if not name else f"auxiliary output {name[1:]}"
        for factor in depth.masks.factors:
            if id(factor) not in finite_of:
                finite_of[id(factor)] = _is_finite(factor)
        checks[f"class logits of {where}"] = _is_finite(depth.class_logits)
        checks[f"mask logits of {where}"] = torch.stack([finite_of[id(factor)] for factor in depth.masks.factors]).all()
    if costs:
        checks["matching costs"] = torch.stack([_is_finite(cost) for cost in costs]).all()
    return list(checks), torch.stack(list(checks.values()))


def _on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors in main memory, after a single transfer."""
    flat = torch.cat([tensor.flatten() for tensor in tensors]).cpu()
    pieces = flat.split([tensor.numel() for tensor in tensors])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]


def _on_device(matches: Sequence[Match], device: torch.device) -> list[Match]:
    """The matches on a device, in a single transfer that does not block."""
    if device.type == "cpu" or not matches:
        return list(matches)
    flat = torch.cat([index for match in matches for index in match]).pin_memory()
    pieces = flat.to(device, non_blocking=True).split([len(index) for match in matches for index in match])
    return list(zip(pieces[::2], pieces[1::2], strict=True))


def _is_finite(values: Tensor) -> Tensor:
    """Whether all values are finite. If one is not, neither is their sum, so no array of flags is needed."""
    return values.detach().sum(dtype=torch.promote_types(values.dtype, torch.float32)).isfinite()
