"""Tensors of a few Python numbers, created on their device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["filled"]


def filled(numbers: Sequence[int] | Sequence[float], dtype: torch.dtype, device: torch.device) -> Float[Tensor, " N"]:
    """What ``torch.tensor`` makes of ``numbers``, without a copy from the host, for which it would wait on a GPU."""
    return torch.stack([torch.full((), number, dtype=dtype, device=device) for number in numbers])
