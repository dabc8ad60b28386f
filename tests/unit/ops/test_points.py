"""Masks and maps at continuous points."""

from __future__ import annotations

import pytest
import torch

from mask2former.ops.points import sample_masks, sample_points, uncertain_points


@pytest.mark.parametrize("size", [(7, 5), (1, 9), (1, 1), (64, 48)])
def test_sampled_masks_equal_grid_sampling_of_their_copies(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(size[0])
    masks = torch.rand((4, *size), generator=generator) < 0.5
    rows = torch.tensor([3, 0, 0, 2, 1])
    points = torch.rand((5, 200, 2), generator=generator, dtype=torch.float64) * 1.2 - 0.1  # some outside
    expected = sample_points(masks[rows].double().unsqueeze(1), points).squeeze(1)
    torch.testing.assert_close(sample_masks(masks, rows, points), expected, rtol=0, atol=1e-13)


def test_one_set_of_points_serves_all_masks() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand((3, 8, 9), generator=generator) < 0.5
    points = torch.rand((1, 50, 2), generator=generator)
    every = torch.arange(3)
    assert torch.equal(sample_masks(masks, every, points), sample_masks(masks, every, points.expand(3, -1, -1)))


def test_without_masks_there_is_nothing() -> None:
    assert sample_masks(torch.zeros((0, 4, 4), dtype=torch.bool), torch.arange(0), torch.rand((1, 6, 2))).shape == (
        0,
        6,
    )


def test_uncertain_points_lie_nearer_to_the_edge_than_random_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.linspace(-8, 8, 64).expand(2, 1, 64, 64)  # the edge is the vertical middle line
    points = uncertain_points(logits, 400, 3.0, 0.75, lambda shape: torch.rand(shape, generator=generator))
    distance = (points[..., 0] - 0.5).abs()
    assert points.shape == (2, 400, 2)
    assert distance[:, :300].max() < distance[:, 300:].max()
    assert distance[:, :300].mean() < 0.5 * distance[:, 300:].mean()
