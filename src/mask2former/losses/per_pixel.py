"""Loss of models that classify pixels: cross-entropy of every labelled pixel, at the size of the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mask2former.errors import UserError
from mask2former.losses.criterion import Losses, checked_weights
from mask2former.ops.points import UniformPoints
from mask2former.structures.pixel_predictions import PixelOutput
from mask2former.structures.samples import Target

__all__ = ["PixelCriterion"]

_IGNORED = -100


class PixelCriterion(nn.Module):
    """Loss of :class:`PixelOutput` against targets (MaskFormer, Sec. 4.2, per-pixel baselines).

    The loss is the mean over the pixels on a mask, of all images of the batch. Other pixels, such as padding and
    ignored ones, do not count. Where masks overlap, the last one counts. Scores are resized to the image size first.

    Args:
        num_classes: K; targets are in 0..K-1.
        class_weights: weights of pixels by class, for a weighted mean; None: 1.
    """

    def __init__(self, num_classes: int, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_weights = checked_weights(class_weights, num_classes)

    def forward(
        self,
        output: PixelOutput,
        targets: Sequence[Target],
        uniform: UniformPoints | None = None,
        num_masks: float | None = None,
    ) -> Losses:
        """Losses of all depths, and their sum: ``loss_sem_seg``, and ``loss_sem_seg_0``, ... for earlier layers.

        Args:
            output: output of the model, with its auxiliary outputs.
            targets: one per clip, at the padded size.
            uniform: not used, since no points are sampled.
            num_masks: not used.

        Raises:
            UserError: the output has queries, or scores of another number of classes.
            FloatingPointError: a score is not finite; the message names the depth.
        """
        if not isinstance(output, PixelOutput):
            raise UserError("the loss is for pixels, but the model predicts masks of queries; use a Criterion")
        if (count := output.class_scores.shape[1]) != self.num_classes:
            raise UserError(f"the model returned scores of {count} classes; expected {self.num_classes}")
        labels = [_labels(target) for target in targets]
        depths = {"": output, **{f"_{index}": depth for index, depth in enumerate(output.aux_outputs)}}
        terms = {
            f"loss_sem_seg{suffix}": _cross_entropy(depth, labels, self.class_weights)
            for suffix, depth in depths.items()
        }
        finite = torch.stack([depth.class_scores.detach().isfinite().all() for depth in depths.values()])
        for suffix, is_finite in zip(depths, finite.tolist(), strict=True):
            if not is_finite:
                where = f"auxiliary output {suffix[1:]}" if suffix else "the last layer"
                raise FloatingPointError(f"class scores of {where} are not finite")
        return Losses(torch.stack(list(terms.values())).sum(), terms)


def _labels(target: Target) -> Int64[Tensor, "T H W"]:
    """The class of every pixel."""
    labels = torch.full(target.masks.shape[1:], _IGNORED, dtype=torch.int64, device=target.masks.device)
    for label, mask in zip(target.labels, target.masks, strict=True):
        labels = torch.where(mask.bool(), label, labels)
    return labels


def _cross_entropy(
    output: PixelOutput, labels: Sequence[Int64[Tensor, "T H W"]], class_weights: Sequence[float] | None
) -> Float[Tensor, ""]:
    """The mean over labelled pixels; 0 if there are none."""
    scores = output.class_scores
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    height, width = output.padded_size  # never smaller than an image; targets may have been padded further
    weights = None if class_weights is None else scores.new_tensor(class_weights)
    total, count = scores.sum() * 0.0, 0
    for clip, wanted in zip(scores, labels, strict=True):
        wanted = wanted[:, :height, :width]
        resized = F.interpolate(clip.transpose(0, 1), size=(height, width), mode="bilinear", align_corners=False)
        resized = resized[..., : wanted.shape[1], : wanted.shape[2]]  # (T, K, H, W)
        total = total + F.cross_entropy(resized, wanted, weights, ignore_index=_IGNORED, reduction="sum")
        known = wanted[wanted != _IGNORED]
        count += len(known) if weights is None else float(weights[known].sum())
    return total / (max(count, 1) if weights is None else count or 1)
