"""Mask logits with their sparse backward pass against plain automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mask2former.ops.mask_product import mask_product, with_gradient


def inputs(num_frames: int) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(num_frames)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    return [draw(2, 5, 4) for _ in range(3)], draw(2, num_frames, 4, 6, 7)


def products(embeddings: list[Tensor], features: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        logits = [mask_product(depth, features) for depth in embeddings]
    return with_gradient(logits, embeddings, features)


def chosen(logits: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    """A loss of some queries of the first clip, one of the second, and none of the second depth."""
    return logits[0][0, [1, 3]].square().sum() + logits[2][0, 1].sum() + logits[2][1, 4].sin().sum()


@pytest.mark.parametrize("num_frames", [1, 3])
def test_gradients_of_chosen_queries_equal_those_of_the_plain_product(num_frames: int) -> None:
    embeddings, features = inputs(num_frames)
    leaves = [*embeddings, features]
    expected = torch.autograd.grad(
        chosen([mask_product(depth, features) for depth in embeddings]), leaves, allow_unused=True
    )
    found = torch.autograd.grad(chosen(products(embeddings, features)), leaves)
    for plain, sparse in zip(expected, found, strict=True):
        torch.testing.assert_close(sparse, torch.zeros_like(sparse) if plain is None else plain, rtol=1e-12, atol=1e-12)


def test_values_are_those_given_and_all_gradients_are_right() -> None:
    embeddings, features = inputs(2)
    for depth, logits in zip(embeddings, products(embeddings, features), strict=True):
        assert torch.equal(logits, mask_product(depth, features))
    assert torch.autograd.gradcheck(
        lambda *leaves: torch.stack(products(list(leaves[:3]), leaves[3])), (*embeddings, features)
    )


def test_no_chosen_query_gives_no_gradient() -> None:
    embeddings, features = inputs(1)
    loss = torch.stack([logits[:, [], :].sum() for logits in products(embeddings, features)]).sum()
    for gradient in torch.autograd.grad(loss, [*embeddings, features]):
        assert not gradient.any()
