"""``trainer.strategy: fsdp``: weights, gradients, moments and averages are sharded over the ranks (FSDP2 of torch).

Everything that leaves a rank is unsharded: checkpoints have the same content with both strategies, so a run can be
resumed with the other one and on any number of ranks. Lightning's own two strategies for this store the optimizer in
layouts of their own, or cannot be tested without a GPU.

Reference: Zhao et al., PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel, VLDB 2023.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mask2former.errors import UserError
from mask2former.training.meeting import Joining

__all__ = ["LEAST", "Sharded", "check_gradients", "gathered", "local", "shard", "share_of", "whole"]

LEAST = 2**18  # parameters of a block that is gathered on its own; smaller blocks are gathered with the rest


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Keep on every rank its share of all parameters, which forward and backward passes gather when they need them.

    The blocks of the backbone, which has most of the weights, are gathered one after the other. Everything else, where
    some parts read the weights of others, is gathered for the complete pass.

    Args:
        model: on the device of the mesh; has a part ``backbone`` whose maps need gradients. These maps signal the start
            of the backward pass, which the output of the model cannot, as it is no tensor.
        mesh: the ranks.
    """
    # No code changes the output of the model in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    backbone = model.get_submodule("backbone")
    for group in [module for module in backbone.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]:
        for block in group:
            # Parts of modules that contain blocks, such as stages, may be called without the module itself.
            is_inner = not any(isinstance(module, nn.ModuleList | nn.Sequential) for module in block.modules())
            if is_inner and sum(value.numel() for value in block.parameters()) >= LEAST:
                fully_shard(block, mesh=mesh)
    # A backbone that passes on its last blocks and norm is needed for as long as they are.
    fully_shard(backbone, mesh=mesh, reshard_after_forward=not getattr(backbone, "joint_blocks", 0))
    fully_shard(model, mesh=mesh)


def check_gradients(model: nn.Module, *, is_sharded: bool) -> None:
    """Check, after the backward passes of a step, that gradients were summed over the ranks.

    torch exchanges them only if all parameters have some; with DDP, it would notice in the next step, and with FSDP not
    at all.

    Raises:
        UserError: a parameter has no gradient; the message names it.
    """
    for name, value in model.named_parameters():
        if value.requires_grad and (value.grad is None or (is_sharded and not isinstance(value, DTensor))):
            how = "" if is_sharded else " (optim.freeze)"  # which is not possible with shares
            raise UserError(
                f"'{name}' has received no gradient, but several devices can train only parameters that take part in "
                f"every step; freeze the part that it belongs to{how}, or train on one device"
            )


def whole(value: Tensor) -> Tensor:
    """The unsharded tensor; if ranks have shares of it, all of them must call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(value: Tensor) -> Tensor:
    """This rank's share of a tensor, using the same memory."""
    return value.to_local() if isinstance(value, DTensor) else value


def gathered(values: Any, *, keep: bool) -> Any:
    """Containers with complete tensors, in main memory, instead of shares; all ranks must call this.

    Args:
        values: tensors, in mappings or not; other values are not changed.
        keep: whether this rank needs the result.
    """
    if isinstance(values, Mapping):
        return type(values)((name, gathered(value, keep=keep)) for name, value in values.items())  # pyright: ignore[reportCallIssue]
    if not isinstance(values, DTensor):
        return values
    full = values.full_tensor()
    return full.cpu() if keep else full.new_empty(0)


def share_of(value: Tensor, like: Tensor) -> Tensor:
    """This rank's share of a tensor that all ranks have, split like ``like``; the tensor itself if ``like`` is not."""
    if not isinstance(like, DTensor):
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


class Sharded(Joining):
    """Starts and connects ranks like DDP, but shards the model when training begins.

    Weights are loaded before that, and the optimizer, which is created afterwards, takes its share of the loaded state.
    """

    def configure_ddp(self) -> None:
        module: Any = self.lightning_module
        for value in module.model.state_dict().values():  # like DDP: the values of the first rank are used
            torch.distributed.broadcast(value, 0)
        module.shard(init_device_mesh(self.root_device.type, (self.world_size,)))

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """As with DDP, running statistics are those of the first rank."""
        assert self.lightning_module is not None
        for norm in self.lightning_module.modules():
            if isinstance(norm, _BatchNorm) and not isinstance(norm, nn.SyncBatchNorm):
                for value in norm.buffers():
                    torch.distributed.broadcast(value, 0)
        return super().training_step(*args, **kwargs)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return gathered(super().lightning_module_state_dict(), keep=self.is_global_zero)

    def optimizer_state(self, optimizer: torch.optim.Optimizer | LightningOptimizer) -> dict[str, Any]:
        state = super().optimizer_state(optimizer)  # pyright: ignore[reportArgumentType]  (Lightning has both)
        return gathered(state, keep=self.is_global_zero)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            ours = [value for group in optimizer.param_groups for value in group["params"]]
            stored = [index for group in state["param_groups"] for index in group["params"]]
            moments = {}
            for index, parameter in zip(stored, ours, strict=True):
                if index in state["state"]:
                    moments[index] = {
                        name: share_of(value, parameter) if value.shape == parameter.shape else value
                        for name, value in state["state"][index].items()
                    }
            optimizer.load_state_dict({**state, "state": moments})

    def teardown(self) -> None:
        """Keep shares on their devices, from which they are gathered at the end."""
        assert self.cluster_environment is not None
        assert self.accelerator is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()
