"""How much memory a run will take, said before its first step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mask2former.config import OptimConfig
from mask2former.losses import Criterion
from mask2former.models.mask2former import Mask2Former
from mask2former.structures.samples import Batch

__all__ = ["MemoryEstimate", "estimate_memory"]

_GIB = 2**30


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes per device.

    Attributes:
        state: weights, gradients, the two moments of AdamW, and the average if there is one.
        activations: what the forward pass and the loss keep for the backward pass, for all pictures of a pass.
        pictures: how many these are.
    """

    state: int
    activations: int
    pictures: int

    def __str__(self) -> str:
        return (
            f"Predicted memory per device: {(self.state + self.activations) / _GIB:.2f} GiB "
            f"(weights, gradients and optimizer {self.state / _GIB:.2f}, {self.pictures} pictures in one pass "
            f"{self.activations / _GIB:.2f})"
        )


def estimate_memory(
    model: Mask2Former, criterion: Criterion, batch: Batch, pictures: int, optim: OptimConfig
) -> MemoryEstimate:
    """Run one forward pass and loss on ``batch``, count what is kept for the backward pass, and scale it up.

    The model and the random state are left as they were.

    Args:
        model: on its device, in training mode.
        criterion: its loss.
        batch: a few pictures of the usual size, on the device.
        pictures: of a pass in the run.
        optim: tells whether weights are averaged.
    """
    trained = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    stored = sum(value.nbytes for value in model.state_dict().values())
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    buffers = {name: value.clone() for name, value in model.named_buffers()}
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        losses = criterion(model(batch.images), batch.targets, lambda shape: torch.rand(shape, device=model.device))
    with torch.no_grad():
        for name, value in model.named_buffers():
            value.copy_(buffers[name])
    activations = sum(kept.values()) * pictures // len(batch.images.sizes)
    del losses
    return MemoryEstimate(stored + 3 * trained + (stored if optim.ema_decay else 0), activations, pictures)
