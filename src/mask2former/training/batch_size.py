"""``data.batch_size_per_device: auto``: as many images in one pass as fit into memory."""

from __future__ import annotations

import torch

from mask2former.config import RunConfig, changed
from mask2former.errors import UserError
from mask2former.memory import available_memory
from mask2former.structures.samples import Batch
from mask2former.training.memory import MemoryEstimate, estimate_memory
from mask2former.training.module import TrainingModule
from mask2former.training.resume import LastState
from mask2former.training.trainer import precision_of, uses_gpu

__all__ = ["check_auto", "fitting", "with_batch_size"]

_GIB = 2**30
_SETTING = "data.batch_size_per_device"
_MARGIN = 0.75  # share of the memory to use; the rest is for temporary data of operators, and for larger images


def check_auto(config: RunConfig, past: LastState | None) -> RunConfig:
    """The settings, with the batch size that was found when a resumed run began.

    Raises:
        UserError: there are several processes, each of which would find its own batch size.
    """
    if config.data.batch_size_per_device != "auto":
        return config
    if past is not None:
        return changed(config, {_SETTING: past.config.data.batch_size_per_device})
    if config.trainer.num_nodes * config.trainer.devices > 1:
        raise UserError(
            "data.batch_size_per_device auto works with a single process only; start the run with "
            "trainer.devices=1 to find the number for one device, and set that"
        )
    return config


def with_batch_size(config: RunConfig, module: TrainingModule, batch: Batch) -> tuple[RunConfig, str]:
    """The settings with the number of images that fits, and a sentence about it.

    Args:
        config: settings of a run with one process.
        module: the module to be trained; its state does not change.
        batch: images of the usual size.
    """
    model, on_gpu = module.model, uses_gpu(config.trainer)
    device, before = torch.device("cuda" if on_gpu else "cpu"), model.device
    available = torch.cuda.mem_get_info()[0] if on_gpu else available_memory()
    if available is None:
        raise UserError("the available memory cannot be determined here; set data.batch_size_per_device to a number")
    try:
        with module.frozen.held(), precision_of(config).forward_context():
            module.frozen.eval()
            estimate = estimate_memory(model.to(device), module.criterion, batch.to(device), 1, config.optim)
    finally:
        model.to(before)
    count, said = fitting(estimate, available, config.data.batch_size)
    return changed(config, {_SETTING: count}), said


def fitting(estimate: MemoryEstimate, available: int, share: int) -> tuple[int, str]:
    """The number of images that fits on a device in one pass, and a sentence about it.

    Args:
        estimate: memory of one image.
        available: bytes that the device has for the complete run.
        share: images of a step on this device; a multiple of the result.
    """
    fit = max(0, int(_MARGIN * available) - estimate.state) // max(estimate.activations, 1)
    count = max(number for number in range(1, share + 1) if share % number == 0 and number <= max(fit, 1))
    sizes = (
        f"{estimate.state / _GIB:.2f} GiB for weights, gradients and optimizer and {estimate.activations / _GIB:.2f} "
        f"GiB for each image, of {available / _GIB:.2f} GiB"
    )
    few = "" if fit else "; even one image may be too many: try trainer.gradient_checkpointing=true or smaller images"
    return count, f"data.batch_size_per_device auto is {count} ({sizes}){few}"
