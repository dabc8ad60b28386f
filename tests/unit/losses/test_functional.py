"""Mask losses compared with slow forms of their definitions."""

from __future__ import annotations

import torch

from mask2former.losses import Criterion
from mask2former.losses.functional import focal, pairwise_focal
from mask2former.structures import MaskOutput, Target


def test_the_focal_loss_is_that_of_its_paper() -> None:
    torch.manual_seed(0)
    logits, targets = 3 * torch.randn(4, 50).double(), (torch.rand(4, 50) > 0.5).double()
    p = logits.sigmoid()
    right = torch.where(targets == 1, p, 1 - p)
    weight = torch.where(targets == 1, 0.25, 0.75)
    expected = -weight * (1 - right) ** 2 * right.log()
    torch.testing.assert_close(focal(logits, targets), expected.mean(1))
    counts = (torch.rand(4, 50) > 0.3).double()
    torch.testing.assert_close(focal(logits, targets, counts), (expected * counts).sum(1) / counts.sum(1))
    for chosen in (None, counts[0]):
        pairs = pairwise_focal(logits, targets, chosen)
        for query in range(4):
            alone = focal(logits[query].expand(4, -1), targets, None if chosen is None else chosen.expand(4, -1))
            torch.testing.assert_close(pairs[query], alone)


def test_a_criterion_with_focal_loss_has_it_in_loss_and_matching() -> None:
    torch.manual_seed(0)
    logits = 2 * torch.randn(1, 2, 1, 8, 8).double()
    output = MaskOutput(torch.zeros(1, 2, 3).double(), logits, torch.zeros(1, 2, 4).double())
    mask = torch.rand(1, 1, 8, 8) > 0.5
    options = {"mask_weight": 20.0, "dice_weight": 0.0, "match_on": "masks", "loss_on": "masks"}
    losses = Criterion(2, mask_loss="focal", **options)(output, [Target(torch.tensor([1]), mask)])
    costs = focal(logits[0].flatten(1), mask[0].flatten(1).expand(2, -1).double())
    torch.testing.assert_close(losses.terms["loss_mask"], costs.min())
