"""Properties of the criterion that need no golden numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mask2former.losses import Criterion
from mask2former.losses.functional import (
    binary_cross_entropy,
    dice,
    pairwise_binary_cross_entropy,
    pairwise_dice,
)
from mask2former.structures import MaskOutput, Target


def output_of(logits: Tensor, masks: Tensor) -> MaskOutput:
    return MaskOutput(logits, masks, torch.zeros(*logits.shape[:2], 1))


def random_targets(counts: list[int], size: int = 16) -> list[Target]:
    return [Target(torch.randint(0, 3, (n,)), torch.rand(n, 1, size, size) > 0.5) for n in counts]


def test_pairwise_losses_are_the_losses_of_all_pairs() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 30).double(), torch.rand(3, 30).double()
    for pairwise, single in ((pairwise_binary_cross_entropy, binary_cross_entropy), (pairwise_dice, dice)):
        expected = torch.stack([single(logits, row.expand(4, -1)) for row in targets], dim=1)
        torch.testing.assert_close(pairwise(logits, targets), expected)


def test_half_precision_logits_give_a_wide_loss() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(1, 5, 4).bfloat16(), torch.randn(1, 5, 1, 8, 8).bfloat16()
    criterion = Criterion(3, num_points=32)
    generator = torch.Generator().manual_seed(1)
    losses = criterion(output_of(logits, masks), random_targets([2]), lambda s: torch.rand(s, generator=generator))
    assert losses.total.dtype == torch.float32


def test_a_perfect_answer_costs_nearly_nothing() -> None:
    target = random_targets([3])[0]
    logits = torch.full((1, 4, 4), -20.0)
    for query, label in enumerate([*target.labels.tolist(), 3]):
        logits[0, query, label] = 20.0
    blocks = torch.zeros(3, 1, 16, 16, dtype=torch.bool)
    for index in range(3):
        blocks[index, 0, :, 4 * index : 4 * index + 4] = True
    masks = torch.full((1, 4, 1, 16, 16), -30.0)
    masks[0, :3][blocks] = 30.0
    # Uniform points only: the uncertain ones all lie on borders, where targets are fractional.
    criterion = Criterion(3, num_points=4096, importance_sample_ratio=0.0)
    right = criterion(output_of(logits, masks), [Target(target.labels, blocks)], torch.rand)
    wrong = criterion(output_of(logits, -masks), [Target(target.labels, blocks)], torch.rand)
    assert right.terms["loss_ce"] < 1e-6
    assert right.terms["loss_dice"] < 0.15
    assert right.terms["loss_mask"] < wrong.terms["loss_mask"] / 10


@pytest.mark.parametrize("broken", ["class", "mask"])
def test_non_finite_logits_are_named(broken: str) -> None:
    logits, masks = torch.randn(1, 5, 4), torch.randn(1, 5, 1, 8, 8)
    (logits if broken == "class" else masks)[0, 1] = float("nan")
    with pytest.raises(FloatingPointError, match=f"{broken} logits of the last layer"):
        Criterion(3, num_points=32)(output_of(logits, masks), random_targets([2]), torch.rand)


class _Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Linear(4, 5 * 4)
        self.masks = nn.Linear(4, 5 * 64)

    def forward(self, x: Tensor) -> MaskOutput:
        return output_of(self.classes(x).view(-1, 5, 4), self.masks(x).view(-1, 5, 1, 8, 8))


def _gradients(counts: list[int], num_masks: float, model: nn.Module) -> None:
    torch.manual_seed(7)
    targets = random_targets(counts)
    losses = Criterion(3, num_points=32)(model(torch.ones(1, 4)), targets, torch.rand, num_masks)
    losses.total.backward()


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = _Tiny()
    counts = [[3], [0]][rank]
    _gradients(counts, 1.5, DistributedDataParallel(model))
    torch.save([parameter.grad for parameter in model.parameters()], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_one_rank_without_targets(tmp_path: Path) -> None:
    """Both ranks take part in every reduction, and the result is the mean of what each would compute alone."""
    mp.spawn(_rank, (str(tmp_path),), nprocs=2)
    together = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    alone = []
    for counts in ([3], [0]):
        torch.manual_seed(0)
        model = _Tiny()
        _gradients(counts, 1.5, model)
        alone.append([parameter.grad for parameter in model.parameters()])
    for first, second, left, right in zip(*together, *alone, strict=True):
        assert left is not None
        assert right is not None
        torch.testing.assert_close(first, second)
        torch.testing.assert_close(first, (left + right) / 2)
