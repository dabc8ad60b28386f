from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mask2former.models.position_encoding import sine_encoding


def written_out(frames: int, height: int, width: int, dim: int, temporal: bool) -> Tensor:
    """The encoding computed from the formulas, one channel of one position at a time."""

    def code(index: int, length: int, channel: int, features: int) -> float:
        angle = index / (length + 1e-6) * 2 * math.pi / 10000 ** (2 * (channel // 2) / features)
        return math.cos(angle) if channel % 2 else math.sin(angle)

    result = torch.empty(frames, height, width, dim, dtype=torch.float64)
    half = dim // 2
    for t in range(frames):
        for y in range(height):
            for x in range(width):
                for channel in range(dim):
                    if channel < half:
                        value = code(y + 1, height, channel, half)
                    else:
                        value = code(x + 1, width, channel - half, half)
                    result[t, y, x, channel] = value + temporal * code(t + 1, frames, channel, dim)
    return result


@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, 5, 16), (3, 4, 2, 8), (2, 1, 1, 12)])
def test_codes_are_those_of_the_formulas(shape: tuple[int, int, int, int], temporal: bool) -> None:
    frames, height, width, dim = shape
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        code = sine_encoding(frames, height, width, dim, temporal=temporal, dtype=dtype, device=torch.device("cpu"))
        assert code.dtype == dtype
        expected = written_out(frames, height, width, dim, temporal)
        torch.testing.assert_close(code.double(), expected, rtol=0, atol=tolerance)


def test_codes_are_in_float32_at_least() -> None:
    for half in (torch.bfloat16, torch.float16):
        code = sine_encoding(1, 20, 30, 64, temporal=False, dtype=half, device=torch.device("cpu"))
        full = sine_encoding(1, 20, 30, 64, temporal=False, dtype=torch.float32, device=torch.device("cpu"))
        assert code.dtype == torch.float32
        assert torch.equal(code, full)


def test_without_time_all_frames_have_one_code() -> None:
    code = sine_encoding(4, 3, 3, 32, temporal=False, dtype=torch.float32, device=torch.device("cpu"))
    assert torch.equal(code, code[:1].expand_as(code))
