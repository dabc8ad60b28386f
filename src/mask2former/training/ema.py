"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mask2former.training.sharding import local, share_of, whole

__all__ = ["MovingAverage"]


class MovingAverage:
    """Averaged copies of all floating-point parameters and buffers of a model.

    Early on the decay is ``(1 + n) / (10 + n)`` after n updates, so that the initial weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = {name: value.detach().clone() for name, value in self._entries(model).items()}

    @staticmethod
    def _entries(model: nn.Module) -> dict[str, Tensor]:
        return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the averages towards the current values of the model."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = self._entries(model)
        averages = [local(value) for value in self.values.values()]
        if averages[0].device != next(iter(current.values())).device:
            self.values = {name: value.to(current[name].device) for name, value in self.values.items()}
            averages = [local(value) for value in self.values.values()]
        torch._foreach_lerp_(averages, [local(current[name]) for name in self.values], 1.0 - decay)

    @torch.no_grad()
    def begin(self, state: Mapping[str, Tensor]) -> None:
        """Discard the averages and start with these values."""
        self.updates = 0
        for name, value in self.values.items():
            value.copy_(state[name])

    def shard_like(self, model: nn.Module) -> None:
        """Keep this rank's share of each average, as it has of the parameters of the model."""
        self.values = {name: share_of(self.values[name], value) for name, value in self._entries(model).items()}

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Give the averages to a model of the same architecture, which is whole; all ranks that share them do it."""
        for name, value in self._entries(model).items():
            value.copy_(whole(self.values[name]))

    def state_dict(self) -> dict[str, object]:
        return {"updates": self.updates, "values": self.values}

    def load_state_dict(self, state: dict) -> None:
        self.updates = int(state["updates"])
        for name, value in state["values"].items():
            self.values[name].copy_(value)
