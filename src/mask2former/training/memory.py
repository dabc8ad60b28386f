"""Estimates the memory that a run will need, before its first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mask2former.config import OptimConfig
from mask2former.models.mask2former import Mask2Former
from mask2former.models.parts import targets_for
from mask2former.ops.peak_memory import peak_memory
from mask2former.structures.samples import Batch
from mask2former.text import count
from mask2former.training.sharding import local

__all__ = ["MemoryEstimate", "estimate_memory"]

_GIB = 2**30


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes per device.

    Attributes:
        state: weights, gradients, the two moments of AdamW, and the average if there is one.
        activations: what the forward pass and the loss keep for the backward pass, for all images of a pass.
        images: number of images of a pass.
        validation: a copy of the weights, and the peak memory of the prediction for one image or clip; 0 without
            validation.
        sample: what an image of a pass is called: ``image`` or ``clip``.
    """

    state: int
    activations: int
    images: int
    validation: int = 0
    sample: str = "image"

    def __str__(self) -> str:
        validation = f", or {self.validation / _GIB:.2f} in validation" if self.validation else ""
        return (
            f"Predicted memory per device: {(self.state + max(self.activations, self.validation)) / _GIB:.2f} GiB "
            f"(weights, gradients and optimizer {self.state / _GIB:.2f}, {count(self.images, self.sample)} in "
            f"one pass {self.activations / _GIB:.2f}{validation})"
        )


def estimate_memory(
    model: Mask2Former,
    criterion: nn.Module,
    batch: Batch,
    images: int,
    optim: OptimConfig,
    validate: Callable[[], object] | None = None,
) -> MemoryEstimate:
    """Run one forward pass and loss on ``batch``, measure what is kept for the backward pass, and scale it up.

    The model and the random state do not change.

    Args:
        model: on its device, in training mode.
        criterion: its loss.
        batch: a few images of the usual size, on the device.
        images: number of images of a pass in the run.
        optim: settings that determine whether weights are averaged.
        validate: predicts one image or clip of the validation data with a copy of the model.
    """
    trained = sum(local(parameter).nbytes for parameter in model.parameters() if parameter.requires_grad)
    stored = sum(local(value).nbytes for value in model.state_dict().values())
    own: set[int] = set()

    def remember_own(module: nn.Module, _: object) -> None:
        """Called before each module, when weights of which ranks have shares are gathered."""
        own.update(local(value).untyped_storage().data_ptr() for value in module.parameters(recurse=False))

    kept: dict[int, int] = {}

    def remember(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    buffers = {name: value.clone() for name, value in model.named_buffers()}
    devices = [model.device] if model.device.type == "cuda" else []
    hooks = [module.register_forward_pre_hook(remember_own) for module in model.modules()]
    with torch.random.fork_rng(devices), torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        output = model(batch.images, **targets_for(model.transformer_decoder, batch.targets))
        losses = criterion(output, batch.targets, lambda shape: torch.rand(shape, device=model.device))
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        for name, value in model.named_buffers():
            value.copy_(buffers[name])
    # Under autocast, the weights in half precision are kept, too, but once for all images.
    casts = trained // 2 if torch.is_autocast_enabled(model.device.type) else 0
    activations = max(sum(kept.values()) - casts, 0) * images // len(batch.images.sizes)
    del losses, output
    validation = 0 if validate is None else peak_memory(validate)
    return MemoryEstimate(
        stored + casts + 3 * trained + (stored if optim.ema_decay else 0), activations, images, validation
    )
