"""Resizing of mask logits."""

import pytest
import torch
import torch.nn.functional as F

from mask2former.ops.resizing import resize_masks


@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 3, 1), (0,)])
def test_resizing_keeps_leading_axes(leading: tuple[int, ...]) -> None:
    logits = torch.randn(*leading, 5, 7, generator=torch.Generator().manual_seed(0))
    resized = resize_masks(logits, (11, 13))
    assert resized.shape == (*leading, 11, 13)
    expected = F.interpolate(logits.reshape(-1, 1, 5, 7), size=(11, 13), mode="bilinear") if logits.numel() else resized
    torch.testing.assert_close(resized, expected.reshape(resized.shape))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
@pytest.mark.parametrize("size", [(4, 4), (6, 9)])
def test_resizing_is_at_least_float32(given: torch.dtype, expected: torch.dtype, size: tuple[int, int]) -> None:
    assert resize_masks(torch.zeros(2, 4, 4, dtype=given), size).dtype == expected
