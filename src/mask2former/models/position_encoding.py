"""Sine position codes of image rows, columns and clip frames (as in DETR, and the 3-D form of the video model)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["sine_encoding", "token_encoding"]

_TEMPERATURE = 10000.0
_EPSILON = 1e-6


def _axis_code(length: int, features: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "L F"]:
    """Sine and cosine codes of positions 1..length scaled to (0, 2 pi]."""
    position = torch.arange(1, length + 1, dtype=dtype, device=device) / (length + _EPSILON) * (2 * math.pi)
    index = torch.arange(features, dtype=dtype, device=device)
    frequency = _TEMPERATURE ** (2 * torch.div(index, 2, rounding_mode="floor") / features)
    angle = position[:, None] / frequency
    return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)


def sine_encoding(
    frames: int, height: int, width: int, dim: int, *, temporal: bool, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "T H W C"]:
    """Codes for every position of a clip, in at least float32.

    The first half of the channels encodes the row, the second the column. With ``temporal`` a code of the frame index
    over all channels is added.

    Reference: Mask2Former for Video Instance Segmentation, Sec. 2.2.
    """
    dtype = torch.promote_types(dtype, torch.float32)
    rows = _axis_code(height, dim // 2, dtype, device)[:, None, :].expand(-1, width, -1)
    columns = _axis_code(width, dim // 2, dtype, device)[None, :, :].expand(height, -1, -1)
    code = torch.cat((rows, columns), dim=2).expand(frames, -1, -1, -1)
    if temporal:
        code = code + _axis_code(frames, dim, dtype, device)[:, None, None, :]
    return code


def token_encoding(
    size_hw: Sequence[int], dim: int, like: Tensor, num_frames: int = 1, *, temporal: bool = False
) -> Float[Tensor, "S C"]:
    """:func:`sine_encoding` with a row for each token, in the precision and on the device of ``like``."""
    height, width = size_hw
    code = sine_encoding(num_frames, height, width, dim, temporal=temporal, dtype=like.dtype, device=like.device)
    return code.flatten(0, 2).to(like.dtype)
