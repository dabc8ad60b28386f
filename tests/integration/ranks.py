"""What the ranks of a distributed test run; a module of its own, because the processes import it by name."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mask2former.losses import Criterion
from mask2former.structures import MaskOutput, Target

COUNTS = ([3], [0])  # targets per clip of each rank


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Linear(4, 5 * 4)
        self.masks = nn.Linear(4, 5 * 64)

    def forward(self, x: Tensor) -> MaskOutput:
        logits, masks = self.classes(x).view(-1, 5, 4), self.masks(x).view(-1, 5, 1, 8, 8)
        return MaskOutput(logits, masks, torch.zeros(*logits.shape[:2], 1))


def gradients(counts: list[int], num_masks: float, model: nn.Module) -> None:
    torch.manual_seed(7)
    targets = [Target(torch.randint(0, 3, (n,)), torch.rand(n, 1, 16, 16) > 0.5) for n in counts]
    losses = Criterion(3, num_points=32)(model(torch.ones(1, 4)), targets, torch.rand, num_masks)
    losses.total.backward()


def run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)  # those of the parent are not here
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Tiny()
    gradients(COUNTS[rank], 1.5, DistributedDataParallel(model))
    torch.save([parameter.grad for parameter in model.parameters()], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
