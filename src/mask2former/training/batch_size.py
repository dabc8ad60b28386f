"""``data.batch_size_per_device: auto``: as many images in one pass as fit into memory."""

from __future__ import annotations

import torch

from mask2former.config import RunConfig
from mask2former.errors import UserError
from mask2former.memory import available_memory
from mask2former.structures.samples import Batch
from mask2former.training.memory import MemoryEstimate, estimate_memory
from mask2former.training.module import TrainingModule
from mask2former.training.resume import LastState

__all__ = ["check_auto", "fitting", "with_batch_size"]

_GIB = 2**30
_MARGIN = 0.75  # of the memory; the rest is for temporary buffers of operators, and for larger images
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_auto(config: RunConfig, past: LastState | None) -> RunConfig:
    """The settings; for a resumed run, with the number that was found at its start.

    Raises:
        UserError: several processes would each find a different number.
    """
    if config.data.batch_size_per_device != "auto":
        return config
    if past is not None:
        return _with(config, past.config.data.batch_size_per_device)
    if config.trainer.num_nodes * config.trainer.devices > 1:
        raise UserError(
            "data.batch_size_per_device auto works with a single process only; start the run with "
            "trainer.devices=1 to find the number for one device, and set that"
        )
    return config


def with_batch_size(config: RunConfig, module: TrainingModule, batch: Batch) -> tuple[RunConfig, str]:
    """The settings with the number of images that fits, and a sentence about it.

    Args:
        config: of a run with one process.
        module: to be trained; unchanged afterwards.
        batch: images of the usual size.
    """
    model, on_gpu = module.model, config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    device, before = torch.device("cuda" if on_gpu else "cpu"), model.device
    available = torch.cuda.mem_get_info()[0] if on_gpu else available_memory()
    if available is None:
        raise UserError("the available memory cannot be determined here; set data.batch_size_per_device to a number")
    half = _HALVES.get(config.trainer.precision)
    try:
        with module.frozen.held(), torch.autocast(device.type, half, enabled=half is not None):
            module.frozen.eval()
            estimate = estimate_memory(model.to(device), module.criterion, batch.to(device), 1, config.optim)
    finally:
        model.to(before)
    count, said = fitting(estimate, available, config.data.batch_size)
    return _with(config, count), said


def fitting(estimate: MemoryEstimate, available: int, share: int) -> tuple[int, str]:
    """The number of images per device in one pass, and a sentence about it.

    Args:
        estimate: for one image.
        available: bytes on the device for the complete run.
        share: images of a step on this device; the result divides it.
    """
    fit = max(0, int(_MARGIN * available) - estimate.state) // max(estimate.activations, 1)
    count = max(number for number in range(1, share + 1) if share % number == 0 and number <= max(fit, 1))
    sizes = (
        f"{estimate.state / _GIB:.2f} GiB for weights, gradients and optimizer and {estimate.activations / _GIB:.2f} "
        f"GiB for each image, of {available / _GIB:.2f} GiB"
    )
    few = "" if fit else "; even one image may be too many: try trainer.gradient_checkpointing=true or smaller images"
    return count, f"data.batch_size_per_device auto is {count} ({sizes}){few}"


def _with(config: RunConfig, count: int | str | None) -> RunConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"batch_size_per_device": count})})
