"""``trainer.strategy: fsdp``: weights, gradients, moments and averages in shares, one per rank (FSDP2 of torch).

What leaves a rank is complete: checkpoints have the same content under either strategy, so a run can continue under the
other one and on any number of ranks. Lightning's own two strategies for this store the optimizer in their own layouts,
or need a GPU to be tested at all.

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

LEAST = 2**18  # parameters of a block that is gathered by itself; what is smaller is gathered with the rest


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Leave every rank its share of all parameters, which forward and backward passes gather when needed.

    The blocks of the backbone, where the weights are, are gathered one after the other; everything else, of which parts
    read the weights of others, for the whole pass.

    Args:
        model: on the device of the mesh; has a part ``backbone`` whose maps need gradients: they tell when the backward
            pass comes, which the output of the model, no tensor, does not.
        mesh: the ranks.
    """
    # Nobody changes the output of the model in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    backbone = model.get_submodule("backbone")
    for group in [module for module in backbone.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]:
        for block in group:
            # Of what holds blocks itself, a stage for one, parts are called without it.
            is_inner = not any(isinstance(module, nn.ModuleList | nn.Sequential) for module in block.modules())
            if is_inner and sum(value.numel() for value in block.parameters()) >= LEAST:
                fully_shard(block, mesh=mesh)
    # One that hands on its last blocks and norm is needed for as long as they are.
    fully_shard(backbone, mesh=mesh, reshard_after_forward=not getattr(backbone, "joint_blocks", 0))
    fully_shard(model, mesh=mesh)


def check_gradients(model: nn.Module) -> None:
    """After the backward passes of a step: sums the gradients over the ranks.

    Raises:
        UserError: naming a parameter that received none.
    """
    for name, value in model.named_parameters():
        if value.requires_grad and not (isinstance(value, DTensor) and value.grad is not None):
            raise UserError(
                f"trainer.strategy fsdp: '{name}' has received no gradient; every parameter that requires one must "
                "take part, including those of the backbone: freeze the others (requires_grad_(False)), or train "
                "with trainer.strategy=ddp"
            )


def whole(value: Tensor) -> Tensor:
    """The complete tensor, where ranks may hold shares of it; all of them take part."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(value: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its memory."""
    return value.to_local() if isinstance(value, DTensor) else value


def gathered(values: Any, *, keep: bool) -> Any:
    """Containers with complete tensors, in main memory, instead of shares; all ranks take part.

    Args:
        values: tensors, in mappings or not; anything else stays.
        keep: whether this rank needs them.
    """
    if isinstance(values, Mapping):
        return type(values)((name, gathered(value, keep=keep)) for name, value in values.items())  # pyright: ignore[reportCallIssue]
    if not isinstance(values, DTensor):
        return values
    full = values.full_tensor()
    return full.cpu() if keep else full.new_empty(0)


def share_of(value: Tensor, like: Tensor) -> Tensor:
    """This rank's share of a tensor that all ranks have, divided like another one; all of it if that is complete."""
    if not isinstance(like, DTensor):
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


class Sharded(Joining):
    """Starts and joins ranks as DDP does, but shards the model when training starts.

    Weights are loaded before that, and the optimizer, which is made after it, takes its share of what is loaded.
    """

    def configure_ddp(self) -> None:
        module: Any = self.lightning_module
        for value in module.model.state_dict().values():  # as DDP does: what the first rank has counts
            torch.distributed.broadcast(value, 0)
        module.shard(init_device_mesh(self.root_device.type, (self.world_size,)))

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """As under DDP, running statistics are those of the first rank."""
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
        """Shares stay on their devices, where they are gathered from at the end."""
        assert self.cluster_environment is not None
        assert self.accelerator is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()
