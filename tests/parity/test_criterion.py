"""Matching, losses and gradients against the published criterion, replaying its random draws, in float64."""

from __future__ import annotations

from collections.abc import Callable

import golden
import numpy as np
import pytest
import torch
from golden import arrays, facts
from torch import Tensor

from mask2former.losses import Criterion
from mask2former.structures import MaskOutput, Target


def replayed(case: str, prefix: str = "rand") -> Callable[[tuple[int, ...]], Tensor]:
    """A function that returns the stored draws in order and checks their shapes."""
    draws = iter(sorted(name for name in arrays(case) if name.startswith(prefix)))

    def uniform(shape: tuple[int, ...]) -> Tensor:
        name = next(draws)
        assert arrays(case)[name].shape == shape, name
        return torch.from_numpy(arrays(case)[name])

    return uniform


def outputs_of(case: str) -> tuple[MaskOutput, dict[str, tuple[Tensor, Tensor]]]:
    leaves: dict[str, tuple[Tensor, Tensor]] = {}

    def one(layer: str) -> tuple[Tensor, Tensor, Tensor]:
        logits = torch.from_numpy(arrays(case)[f"{layer}.pred_logits"]).requires_grad_()
        masks = torch.from_numpy(arrays(case)[f"{layer}.pred_masks"]).requires_grad_()
        leaves[layer] = (logits, masks)
        return logits, masks if masks.dim() == 5 else masks.unsqueeze(2), torch.zeros(*logits.shape[:2], 1)

    aux_outputs = [MaskOutput(*one(f"aux{index}")) for index in range(facts(case)["aux_layers"])]
    return MaskOutput(*one("final"), aux_outputs), leaves


def targets_of(case: str) -> list[Target]:
    targets = []
    for index in range(len(facts(case)["targets_per_item"])):
        masks = torch.from_numpy(arrays(case)[f"target{index}.masks"])
        masks = masks if masks.dim() == 4 else masks.unsqueeze(1)
        targets.append(Target(torch.from_numpy(arrays(case)[f"target{index}.labels"]), masks))
    return targets


def criterion_of(case: str) -> Criterion:
    fact = facts(case)
    return Criterion(fact["num_classes"], num_points=fact["num_points"])


@pytest.mark.parametrize("case", golden.CRITERIA)
def test_losses_and_gradients(case: str) -> None:
    output, leaves = outputs_of(case)
    losses = criterion_of(case)(output, targets_of(case), replayed(case))
    expected = facts(case)["losses_unweighted"]
    assert losses.terms.keys() == expected.keys()
    for name, value in expected.items():
        assert losses.terms[name].item() == pytest.approx(value, abs=1e-10), name
    assert losses.total.item() == pytest.approx(facts(case)["total_weighted"], abs=1e-9)
    losses.total.backward()
    for layer, (logits, masks) in leaves.items():
        assert logits.grad is not None
        assert masks.grad is not None
        np.testing.assert_allclose(logits.grad, arrays(case)[f"{layer}.grad_pred_logits"], atol=1e-12)
        np.testing.assert_allclose(masks.grad, arrays(case)[f"{layer}.grad_pred_masks"], atol=1e-12)


@pytest.mark.parametrize("case", golden.CRITERIA)
def test_costs_and_assignments(case: str) -> None:
    output, targets, matcher = outputs_of(case)[0], targets_of(case), criterion_of(case).matcher
    uniform = replayed(case)
    layers = {"final": output, **{f"aux{index}": depth for index, depth in enumerate(output.aux_outputs)}}
    for layer, depth in layers.items():
        costs = []
        for item, target in enumerate(targets):
            points = uniform((1, facts(case)["num_points"], 2))
            cost = matcher.cost(
                depth.class_logits[item], depth.mask_logits[item], target.labels, target.masks.double(), points
            )
            np.testing.assert_allclose(cost, arrays(case)[f"match.{layer}.item{item}.cost"], atol=1e-10)
            costs.append(cost)
        for item, (queries, chosen) in enumerate(matcher.assign(costs)):
            np.testing.assert_array_equal(queries, arrays(case)[f"match.{layer}.item{item}.query"])
            np.testing.assert_array_equal(chosen, arrays(case)[f"match.{layer}.item{item}.target"])
        for _ in range(2):  # the draws of the mask losses
            pairs = sum(min(len(target.labels), cost.shape[0]) for target, cost in zip(targets, costs, strict=True))
            share = 3 * facts(case)["num_points"] if _ == 0 else facts(case)["num_points"] // 4
            uniform((pairs * depth.mask_logits.shape[2], share, 2))


def test_normaliser_and_non_finite_values() -> None:
    case = "criterion_image"
    targets = targets_of(case)
    losses = criterion_of(case)(outputs_of(case)[0], targets, replayed(case))
    halved = criterion_of(case)(outputs_of(case)[0], targets, replayed(case), num_masks=10.0)  # 5 targets are there
    assert halved.terms["loss_mask"].item() == pytest.approx(losses.terms["loss_mask"].item() / 2)
    assert halved.terms["loss_ce"].item() == losses.terms["loss_ce"].item()
    broken, leaves = outputs_of(case)
    with torch.no_grad():
        leaves["aux1"][1][0, 3, 2, 2] = float("inf")
    with pytest.raises(FloatingPointError, match="mask logits of auxiliary output 1"):
        criterion_of(case)(broken, targets, torch.rand)
