"""Depthwise convolutions that train in float32 on a CPU, whatever the precision of the run.

There, PyTorch 2.x has no fast kernels for their gradients in bfloat16: 8 to 17 times slower than in float32 at a
stride of two, 4 to 5 times for 5x5 kernels (one thread, AMD Zen 4). They have few operations, and float32 is no less
exact, so nothing is lost.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

__all__ = ["set_depthwise_precision"]


class _Depthwise(nn.Conv2d):
    """Comes first among the bases of a convolution's class."""

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and input.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())

    def __prepare_scriptable__(self) -> nn.Conv2d:
        """The plain convolution with the same weights, which ``torch.jit.script`` compiles: it does not know super.

        That function also puts it in place of this one in the model, until a training starts again.
        """
        kind: type[nn.Conv2d] = type(self).__bases__[1]
        plain = kind.__new__(kind)
        plain.__dict__.update(vars(self))
        return plain

    def __reduce__(self) -> tuple[Any, ...]:  # the class was made at run time, so pickle cannot find it by name
        return _restored, (type(self).__bases__[1],), vars(self)


@cache
def _in_full(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    return type(kind.__name__, (_Depthwise, kind), {})


def _restored(kind: type[nn.Conv2d]) -> nn.Conv2d:
    made = _in_full(kind)
    return made.__new__(made)


def set_depthwise_precision(model: nn.Module) -> int:
    """Let the depthwise convolutions of a model train in float32 under autocast on a CPU.

    Convolutions with more than one channel in each group, and those with a parametrization, whose class is torch's own,
    are left alone. Evaluation, other devices, names and weights stay as they are.

    Returns:
        The number of convolutions that will.
    """
    found = [
        part
        for part in model.modules()
        if isinstance(part, nn.Conv2d) and 1 < part.groups == part.in_channels and not is_parametrized(part)
    ]
    for part in found:
        if not isinstance(part, _Depthwise):
            part.__class__ = _in_full(type(part))
    return len(found)
