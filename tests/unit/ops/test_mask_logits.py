"""Masks that are only computed where they are read, compared with the complete product in torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mask2former.ops.mask_logits import DenseMasks, MaskLogits, MaskProduct, as_mask_logits, masks_of_queries
from mask2former.ops.points import sample_points
from mask2former.ops.resizing import resize_masks


def product(num_frames: int = 2, batch: tuple[int, ...] = (), dtype: torch.dtype = torch.float64) -> MaskProduct:
    generator = torch.Generator().manual_seed(num_frames)
    embeddings = torch.randn(*batch, 5, 4, generator=generator, dtype=torch.float64)
    features = torch.randn(*batch, num_frames, 4, 6, 7, generator=generator, dtype=torch.float64)
    return MaskProduct(embeddings.to(dtype), features.to(dtype))


def plain(masks: MaskProduct) -> Tensor:
    return torch.einsum("...qc,...tchw->...qthw", masks.embeddings, masks.features)


@pytest.mark.parametrize("num_frames", [1, 3])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_a_clip_reads_like_its_logits(num_frames: int, layout: str) -> None:
    masks = product(num_frames)
    if layout == "channels_last":
        masks = MaskProduct(masks.embeddings, masks.features.contiguous(memory_format=torch.channels_last))
    elif layout == "strided":
        masks = MaskProduct(masks.embeddings, masks.features.repeat_interleave(2, dim=3)[..., ::2, :])
    dense: MaskLogits = DenseMasks(plain(masks))
    points = torch.rand(1, 50, 2, dtype=torch.float64) * 1.4 - 0.2  # some of them outside
    queries = torch.tensor([3, 1, 3])
    for name, found, expected in (
        ("all", masks.all(), dense.all()),
        ("some", masks.of_queries(queries), dense.of_queries(queries)),
        ("none", masks.of_queries(queries[:0]), dense.of_queries(queries[:0])),
        ("points", masks.at_points(points), dense.at_points(points)),
        ("frame", masks.frame(num_frames - 1).all(), dense.frame(num_frames - 1).all()),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12, msg=name)
    assert masks.shape == dense.shape == tuple(dense.all().shape)
    assert masks.device == dense.device
    assert masks.dtype == dense.dtype == torch.float64


def test_points_are_those_of_the_masks() -> None:
    masks, points = product(2), torch.rand(1, 30, 2, dtype=torch.float64)
    expected = sample_points(plain(masks).flatten(0, 1)[None], points)[0].unflatten(0, (5, 2))
    torch.testing.assert_close(masks.at_points(points), expected, rtol=0, atol=1e-12)


def test_a_batch_is_its_clips() -> None:
    masks = product(2, (3,))
    dense = as_mask_logits(plain(masks))
    torch.testing.assert_close(masks.all(), dense.all(), rtol=0, atol=1e-12)
    assert masks.shape == dense.shape == (3, 5, 2, 6, 7)
    for one, other in zip(masks.clips(), dense.clips(), strict=True):
        torch.testing.assert_close(one.all(), other.all(), rtol=0, atol=1e-12)
    assert as_mask_logits(masks) is masks


def test_resizing_the_pixels_is_resizing_the_masks() -> None:
    masks = product(2)
    resized = MaskProduct(masks.embeddings, resize_masks(masks.features, (3, 5)))
    torch.testing.assert_close(resized.all(), resize_masks(plain(masks), (3, 5)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_the_rounded_product(dtype: torch.dtype) -> None:
    masks = product(1, dtype=dtype)
    exact = plain(masks.to(masks.device, torch.float64))
    assert masks.all().dtype == dtype
    torch.testing.assert_close(
        masks.all().double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-2 if dtype == torch.bfloat16 else 1e-6
    )


@pytest.mark.parametrize("num_frames", [1, 3])
def test_several_depths_are_one_product_with_the_gradients_of_each(num_frames: int) -> None:
    generator = torch.Generator().manual_seed(0)
    features = product(num_frames).features.requires_grad_()
    leaves = [torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    queries = [torch.tensor(chosen, dtype=torch.int64) for chosen in ([1, 3], [], [4])]

    def loss(logits: list[Tensor]) -> Tensor:
        return logits[0].square().sum() + logits[1].sum() + logits[2].sin().sum()

    found = masks_of_queries([MaskProduct(leaf, features) for leaf in leaves], queries)
    expected = [plain(MaskProduct(leaf, features))[chosen] for leaf, chosen in zip(leaves, queries, strict=True)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    sides = [torch.autograd.grad(loss(side), [*leaves, features], materialize_grads=True) for side in (found, expected)]
    for one, other in zip(*sides, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_depths_of_other_kinds_are_read_one_by_one() -> None:
    masks, other = product(1), product(1)
    queries = [torch.tensor([0, 2]), torch.tensor([4])]
    for depths in ([masks, other], [masks, DenseMasks(plain(other))]):
        found = masks_of_queries(depths, queries)
        for logits, chosen in zip(found, queries, strict=True):
            torch.testing.assert_close(logits, plain(masks)[chosen], rtol=0, atol=1e-12)


def test_the_bound_covers_products_that_are_not_finite() -> None:
    masks = product(2, dtype=torch.float32)
    assert masks.all().abs().max() <= masks.bound
    assert torch.equal(DenseMasks(masks.all()).bound, masks.all().abs().max())
    assert not MaskProduct(masks.embeddings * 1e30, masks.features * 1e30).bound.isfinite()
    masks.features[0, 1, 2, 3] = torch.nan
    assert masks.bound.isnan()


def test_detached_masks_have_no_gradient() -> None:
    masks = MaskProduct(product().embeddings.requires_grad_(), product().features)
    assert masks.all().requires_grad
    assert not masks.detach().all().requires_grad
    assert not DenseMasks(masks.all()).detach().all().requires_grad
