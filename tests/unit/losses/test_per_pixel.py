"""The pixel loss compared with a slow form of its definition, and which pixels it leaves out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former.config import CriterionConfig
from mask2former.errors import UserError
from mask2former.losses import Criterion, PixelCriterion, build_criterion
from mask2former.structures import MaskOutput, PixelOutput, Target


def target_of(labels: list[int], masks: Tensor, ignored: Tensor | None = None) -> Target:
    return Target(torch.tensor(labels), masks, ignored)


def test_the_loss_is_the_mean_over_labelled_pixels_of_the_batch() -> None:
    torch.manual_seed(0)
    output = PixelOutput(torch.randn(2, 3, 1, 4, 5).double(), [PixelOutput(torch.randn(2, 3, 1, 4, 5).double())])
    parts = torch.randint(0, 4, (2, 1, 16, 20))  # 3: on no mask
    targets = [target_of([2, 0, 1], torch.stack([part == 0, part == 1, part == 2])) for part in parts]
    losses = PixelCriterion(3)(output, targets)
    for name, scores in (
        ("loss_sem_seg", output.class_scores),
        ("loss_sem_seg_0", output.aux_outputs[0].class_scores),
    ):
        large = F.interpolate(scores[:, :, 0], scale_factor=4, mode="bilinear", align_corners=False)
        wanted = torch.tensor([2, 0, 1, -100])[parts[:, 0]]
        values = [
            -large[clip, :, y, x].log_softmax(0)[wanted[clip, y, x]]
            for clip, y, x in (wanted != -100).nonzero().tolist()
        ]
        torch.testing.assert_close(losses.terms[name], torch.stack(values).mean())
    torch.testing.assert_close(losses.total, losses.terms["loss_sem_seg"] + losses.terms["loss_sem_seg_0"])


def test_targets_that_were_padded_further_are_cut_and_later_masks_win() -> None:
    torch.manual_seed(0)
    output = PixelOutput(torch.randn(1, 2, 1, 3, 3))
    masks = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    masks[0, :, :10, :10], masks[1, :, :10, :10] = True, True
    losses = PixelCriterion(2)(output, [target_of([0, 1], masks)])
    only = PixelCriterion(2)(output, [target_of([1], masks[1:, :, :12, :12])])
    torch.testing.assert_close(losses.total, only.total)


def test_a_batch_without_labels_has_a_loss_of_zero_with_gradients() -> None:
    scores = torch.randn(1, 2, 1, 3, 3, requires_grad=True)
    losses = PixelCriterion(2)(PixelOutput(scores), [target_of([], torch.zeros(0, 1, 12, 12, dtype=torch.bool))])
    losses.total.backward()
    assert losses.total == 0
    assert scores.grad is not None
    assert scores.grad.abs().sum() == 0


@pytest.mark.unchecked  # passes an output of another kind
def test_what_does_not_fit_is_refused() -> None:
    target = target_of([0], torch.ones(1, 1, 12, 12, dtype=torch.bool))
    output = PixelOutput(torch.randn(1, 2, 1, 3, 3))
    with pytest.raises(UserError, match="scores of 2 classes; expected 3"):
        PixelCriterion(3)(output, [target])
    with pytest.raises(FloatingPointError, match="class scores of auxiliary output 0 are not finite"):
        PixelCriterion(2)(
            PixelOutput(output.class_scores, [PixelOutput(torch.full((1, 2, 1, 3, 3), torch.nan))]), [target]
        )
    queries = MaskOutput(torch.randn(1, 4, 3), torch.randn(1, 4, 1, 3, 3), torch.randn(1, 4, 8))
    with pytest.raises(UserError, match="use a Criterion"):
        PixelCriterion(2)(queries, [target])  # pyright: ignore[reportArgumentType]


def test_the_model_decides_which_loss_it_has() -> None:
    assert isinstance(build_criterion(3, CriterionConfig(), of_pixels=True), PixelCriterion)
    plain = build_criterion(3, CriterionConfig(mask_weight=20.0, mask_loss="focal"))
    assert isinstance(plain, Criterion)
    assert plain.weights["loss_mask"] == 20.0


def test_class_weights_make_it_a_weighted_mean() -> None:
    torch.manual_seed(0)
    scores, weights = torch.randn(1, 2, 1, 4, 4).double(), torch.tensor([3.0, 0.5], dtype=torch.float64)
    part = torch.randint(0, 3, (1, 16, 16))  # 2: on no mask
    loss = PixelCriterion(2, weights.tolist())(
        PixelOutput(scores, []), [target_of([0, 1], torch.stack([part == 0, part == 1]))]
    )
    large = F.interpolate(scores[:, :, 0], scale_factor=4, mode="bilinear", align_corners=False)[0]
    known = part[0] < 2
    each, scale = -large.log_softmax(0).permute(1, 2, 0)[known], weights[part[0][known]]
    chosen = each.gather(1, part[0][known][:, None])[:, 0]
    torch.testing.assert_close(loss.total, (chosen * scale).sum() / scale.sum())
