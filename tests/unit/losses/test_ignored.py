"""Ignored pixels do not affect mask losses and matching costs, and nothing else changes."""

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
from mask2former.losses.matcher import HungarianMatcher
from mask2former.ops.points import UniformPoints
from mask2former.structures import MaskOutput, Target

SIZE = 24


def draws(seed: int = 0) -> UniformPoints:
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.rand(shape, generator=generator, dtype=torch.float64)


def scene(frames: int, seed: int = 0) -> tuple[MaskOutput, list[Target]]:
    """Output and targets of two clips with three and two objects and an ignored band; logits have the masks' size."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    targets = []
    for index, count in enumerate((3, 2)):
        masks = random(count, frames, SIZE, SIZE) > 0
        ignored = torch.zeros((frames, SIZE, SIZE), dtype=torch.bool)
        ignored[:, 5 : 12 + 4 * index, 3:20] = True
        targets.append(Target(torch.arange(count), masks & ~ignored, ignored))
    leaf = random(2, 6, frames, SIZE, SIZE).requires_grad_()
    return MaskOutput(random(2, 6, 5), leaf, torch.zeros(2, 6, 1)), targets


def unknown(targets: list[Target]) -> Tensor:
    """Whether pixels are ignored, ``(B, 1, T, H, W)``."""
    ignored = [target.ignored for target in targets if target.ignored is not None]
    return torch.stack(ignored).unsqueeze(1)


def elsewhere(output: MaskOutput, targets: list[Target], value: float) -> MaskOutput:
    """The same output, but with another mask logit at every ignored pixel."""
    changed = torch.where(unknown(targets), -output.mask_logits.detach() + value, output.mask_logits.detach())
    return MaskOutput(output.class_logits, changed.requires_grad_(), output.query_features)


@pytest.mark.parametrize("frames", [1, 2])
def test_mask_logits_at_ignored_pixels_have_no_gradient(frames: int) -> None:
    output, targets = scene(frames)
    losses = Criterion(4, num_points=400)(output, targets, draws())
    (losses.terms["loss_mask"] + losses.terms["loss_dice"]).backward()
    gradient = output.mask_logits.grad
    assert gradient is not None
    hidden = unknown(targets).expand_as(gradient)
    assert (gradient[hidden] == 0).all()
    assert (gradient[~hidden] != 0).any()
    plain = scene(frames)[0]
    background = [Target(target.labels, target.masks) for target in targets]
    Criterion(4, num_points=400)(plain, background, draws()).total.backward()
    assert plain.mask_logits.grad is not None
    assert (plain.mask_logits.grad[hidden] != 0).any()  # as published


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("value", [-9.0, 9.0])
def test_matching_and_loss_do_not_depend_on_what_is_said_there(frames: int, value: float) -> None:
    output, targets = scene(frames)
    other = elsewhere(output, targets, value)
    matcher, points = HungarianMatcher(), draws(1)((1, 300, 2))
    for index, target in enumerate(targets):
        first, second, published = (
            matcher.cost(
                prediction.class_logits[index],
                prediction.mask_logits[index],
                target.labels,
                target.masks,
                points,
                ignored,
            )
            for prediction, ignored in ((output, target.ignored), (other, target.ignored), (other, None))
        )
        assert torch.equal(first, second)
        assert not torch.equal(first, published)
    criterion = Criterion(4, num_points=300)
    losses = criterion(output, targets, draws()), criterion(other, targets, draws())
    assert torch.equal(losses[0].total, losses[1].total)
    assert losses[0].total.isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_nothing_is_ignored_nothing_changes(dtype: torch.dtype) -> None:
    output, targets = scene(1)
    found = []
    for ignored in (None, torch.zeros((1, SIZE, SIZE), dtype=torch.bool)):
        leaf = output.mask_logits.detach().to(dtype).requires_grad_()
        prediction = MaskOutput(output.class_logits.to(dtype), leaf, output.query_features)
        objects = [Target(target.labels, target.masks, ignored) for target in targets]
        losses = Criterion(4, num_points=250)(prediction, objects, lambda shape: draws()(shape).to(dtype))
        losses.total.backward()
        found.append((losses.total, leaf.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_one_image_with_ignored_pixels_leaves_the_others_alone() -> None:
    output, targets = scene(1)
    mixed = [targets[0], Target(targets[1].labels, targets[1].masks)]
    gradients = []
    for chosen in ([Target(target.labels, target.masks) for target in targets], mixed):
        output.mask_logits.grad = None
        Criterion(4, num_points=200)(output, chosen, draws()).total.backward()
        assert output.mask_logits.grad is not None
        gradients.append(output.mask_logits.grad.clone())
    assert not torch.equal(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=1e-12, atol=1e-15)


def test_a_image_that_is_ignored_wholly_has_no_mask_loss() -> None:
    output, targets = scene(1)
    everything = torch.ones((1, SIZE, SIZE), dtype=torch.bool)
    hidden = [Target(target.labels, torch.zeros_like(target.masks), everything) for target in targets]
    losses = Criterion(4, num_points=100)(output, hidden, draws())
    assert losses.terms["loss_mask"].item() == 0
    assert losses.terms["loss_dice"].item() == 0
    losses.total.backward()
    assert output.mask_logits.grad is not None
    assert not output.mask_logits.grad.any()


def test_the_draws_are_those_of_the_published_training() -> None:
    output, targets = scene(2)
    shapes: list[list[tuple[int, ...]]] = []
    for chosen in (targets, [Target(target.labels, target.masks) for target in targets]):
        shapes.append([])
        source = draws()

        def uniform(shape: tuple[int, ...], source: UniformPoints = source) -> Tensor:
            shapes[-1].append(shape)
            return source(shape)

        Criterion(4, num_points=64)(output, chosen, uniform)
    assert shapes[0] == shapes[1]


def test_losses_of_the_points_that_count_are_those_of_these_points_alone() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn((3, 40), generator=generator, dtype=torch.float64)
    targets = torch.rand((3, 40), generator=generator, dtype=torch.float64)
    kept = torch.rand(40, generator=generator) < 0.6
    counts = kept.double()
    for loss in (binary_cross_entropy, dice):
        expected = loss(logits[:, kept], targets[:, kept])
        torch.testing.assert_close(loss(logits, targets, counts.expand(3, -1)), expected)
    for pairwise in (pairwise_binary_cross_entropy, pairwise_dice):
        expected = pairwise(logits[:, kept], targets[:, kept])
        torch.testing.assert_close(pairwise(logits, targets, counts), expected)
