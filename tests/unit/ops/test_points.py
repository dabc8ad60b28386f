"""Masks and maps at continuous points."""

from __future__ import annotations

import pytest
import torch

from mask2former.ops.points import pixel_centers, reads_mask, sample_masks, sample_points, uncertain_points


@pytest.mark.parametrize("size", [(7, 5), (1, 9), (1, 1), (64, 48)])
def test_sampled_masks_equal_grid_sampling_of_their_copies(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(size[0])
    masks = torch.rand((4, *size), generator=generator) < 0.5
    rows = torch.tensor([3, 0, 0, 2, 1])
    points = torch.rand((5, 200, 2), generator=generator, dtype=torch.float64) * 1.2 - 0.1  # some outside
    expected = sample_points(masks[rows].double().unsqueeze(1), points).squeeze(1)
    torch.testing.assert_close(sample_masks(masks, rows, points), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [(7, 5), (1, 9), (1, 1), (64, 48)])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_a_point_reads_a_mask_where_its_sample_is_above_zero(size: tuple[int, int], share: float) -> None:
    generator = torch.Generator().manual_seed(size[1])
    masks = torch.rand((4, *size), generator=generator) < share
    rows = torch.tensor([3, 0, 0, 2, 1])
    points = torch.rand((5, 300, 2), generator=generator, dtype=torch.float64)
    assert torch.equal(reads_mask(masks, rows, points), sample_masks(masks, rows, points) > 0)
    one = points[:1]
    assert torch.equal(reads_mask(masks, rows, one), reads_mask(masks, rows, one.expand(5, -1, -1)))


def test_one_set_of_points_serves_all_masks() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand((3, 8, 9), generator=generator) < 0.5
    points = torch.rand((1, 50, 2), generator=generator)
    interval = torch.arange(3)
    assert torch.equal(sample_masks(masks, interval, points), sample_masks(masks, interval, points.expand(3, -1, -1)))


def test_without_masks_there_is_nothing() -> None:
    assert sample_masks(torch.zeros((0, 4, 4), dtype=torch.bool), torch.arange(0), torch.rand((1, 6, 2))).shape == (
        0,
        6,
    )


def test_uncertain_points_lie_nearer_to_the_edge_than_random_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.linspace(-8, 8, 64).expand(2, 1, 64, 64)  # the edge is the vertical middle line
    candidates = torch.rand((2, 1200, 2), generator=generator)
    points = uncertain_points(logits, candidates, 300)
    distance, of_all = (points[..., 0] - 0.5).abs(), (candidates[..., 0] - 0.5).abs()
    assert points.shape == (2, 300, 2)
    assert distance.max() < of_all.max()
    assert distance.mean() < 0.5 * of_all.mean()


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_candidates_that_count_come_before_those_that_do_not(share: float) -> None:
    """Of 900 candidates 225 are kept, those that count first; at a share of a tenth, fewer than 225 count."""
    candidates = torch.rand((2, 900, 2), generator=torch.Generator().manual_seed(3))
    logits = torch.randn((2, 1, 16, 16), generator=torch.Generator().manual_seed(4))
    kept = uncertain_points(logits, candidates, 225, lambda p: p[..., 0] < share)[..., 0]
    there = (candidates[..., 0] < share).sum(dim=1)
    assert ((kept < share).sum(dim=1) == there.clamp(max=225)).all()


def test_pixel_centers_are_xy_row_by_row() -> None:
    expected = [[[(x + 0.5) / 3, (y + 0.5) / 2] for y in range(2) for x in range(3)]]
    got = pixel_centers((2, 3), torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)
