"""Properties of the criterion that need no golden numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mask2former.errors import UserError
from mask2former.losses import Criterion, LossTerm, MatchedDepth
from mask2former.losses.functional import (
    binary_cross_entropy,
    dice,
    pairwise_binary_cross_entropy,
    pairwise_dice,
)
from mask2former.ops.points import UniformPoints
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


def test_a_perfect_prediction_costs_nearly_nothing() -> None:
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


def test_a_term_is_added_without_changing_the_others() -> None:
    """It sees the sampled masks that the published terms see, at every depth, and adds its weighted value."""
    torch.manual_seed(0)
    logits, masks, targets = (
        torch.randn(2, 5, 4),
        torch.randn(2, 5, 1, 8, 8),
        random_targets([2, 3]),
    )
    output = MaskOutput(logits, masks, torch.zeros(2, 5, 1), [output_of(logits, masks + 1)])
    seen: list[MatchedDepth] = []

    def term(matched: MatchedDepth) -> Tensor:
        seen.append(matched)
        return matched.sampled.logits.mean()

    def draws(seed: int = 1) -> UniformPoints:
        generator = torch.Generator().manual_seed(seed)
        return lambda shape: torch.rand(shape, generator=generator)

    before = Criterion(3, num_points=32)(output, targets, draws())
    after = Criterion(3, num_points=32, terms=[LossTerm("loss_level", 3.0, term)])(output, targets, draws())
    assert {name: after.terms[name] for name in before.terms} == before.terms
    assert after.terms.keys() - before.terms.keys() == {"loss_level", "loss_level_0"}
    added = 3.0 * (after.terms["loss_level"] + after.terms["loss_level_0"])
    torch.testing.assert_close(after.total, before.total + added)
    assert [matched.sampled.logits.shape for matched in seen] == [(5, 32), (5, 32)]
    assert seen[0].mask_logits.shape == (5, 8, 8)
    assert len(seen[0].matches) == 2


@pytest.mark.parametrize("names", [["loss_ce"], ["one", "one"], ["loss_area_2"]])
def test_terms_need_names_of_their_own(names: list[str]) -> None:
    with pytest.raises(UserError, match="expected names of their own"):
        Criterion(3, terms=[LossTerm(name, 1.0, lambda matched: matched.mask_logits.sum()) for name in names])


def test_another_number_of_classes_is_told() -> None:
    with pytest.raises(UserError, match="the model gives 6 class scores for each query; expected 4, for 3 classes"):
        Criterion(3, num_points=8)(output_of(torch.zeros(1, 2, 6), torch.zeros(1, 2, 1, 4, 4)), random_targets([1]))
