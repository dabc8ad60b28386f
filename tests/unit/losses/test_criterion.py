"""Properties of the criterion that need no golden numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mask2former.losses import Criterion
from mask2former.losses.functional import (
    binary_cross_entropy,
    dice,
    pairwise_binary_cross_entropy,
    pairwise_dice,
)
from mask2former.structures import MaskOutput, Target


def output_of(logits: Tensor, masks: Tensor) -> MaskOutput:
    return MaskOutput(logits, masks, torch.zeros(*logits.shape[:2], 1))


def random_targets(counts: list[int], size: int = 16) -> list[Target]:
    return [Target(torch.randint(0, 3, (n,)), torch.rand(n, 1, size, size) > 0.5) for n in counts]


def test_pairwise_losses_are_the_losses_of_all_pairs() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 30).double(), torch.rand(3, 30).double()
    for pairwise, single in ((pairwise_binary_cross_entropy, binary_cross_entropy), (pairwise_dice, dice)):
        expected = torch.stack([single(logits, row.expand(4, -1)) for row in targets], dim=1)
        torch.testing.assert_close(pairwise(logits, targets), expected)


def test_half_precision_logits_give_a_wide_loss() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(1, 5, 4).bfloat16(), torch.randn(1, 5, 1, 8, 8).bfloat16()
    criterion = Criterion(3, num_points=32)
    generator = torch.Generator().manual_seed(1)
    losses = criterion(output_of(logits, masks), random_targets([2]), lambda s: torch.rand(s, generator=generator))
    assert losses.total.dtype == torch.float32


def test_a_perfect_answer_costs_nearly_nothing() -> None:
    target = random_targets([3])[0]
    logits = torch.full((1, 4, 4), -20.0)
    for query, label in enumerate([*target.labels.tolist(), 3]):
        logits[0, query, label] = 20.0
    blocks = torch.zeros(3, 1, 16, 16, dtype=torch.bool)
    for index in range(3):
        blocks[index, 0, :, 4 * index : 4 * index + 4] = True
    masks = torch.full((1, 4, 1, 16, 16), -30.0)
    masks[0, :3][blocks] = 30.0
    # Uniform points only: the uncertain ones all lie on borders, where targets are fractional.
    criterion = Criterion(3, num_points=4096, importance_sample_ratio=0.0)
    right = criterion(output_of(logits, masks), [Target(target.labels, blocks)], torch.rand)
    wrong = criterion(output_of(logits, -masks), [Target(target.labels, blocks)], torch.rand)
    assert right.terms["loss_ce"] < 1e-6
    assert right.terms["loss_dice"] < 0.15
    assert right.terms["loss_mask"] < wrong.terms["loss_mask"] / 10


@pytest.mark.parametrize("broken", ["class", "mask"])
def test_non_finite_logits_are_named(broken: str) -> None:
    logits, masks = torch.randn(1, 5, 4), torch.randn(1, 5, 1, 8, 8)
    (logits if broken == "class" else masks)[0, 1] = float("nan")
    with pytest.raises(FloatingPointError, match=f"{broken} logits of the last layer"):
        Criterion(3, num_points=32)(output_of(logits, masks), random_targets([2]), torch.rand)
