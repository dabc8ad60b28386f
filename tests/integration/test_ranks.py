"""Several processes compute the same loss as one."""

from __future__ import annotations

from pathlib import Path

import pytest
import ranks
import torch
import torch.multiprocessing as mp
from torch import nn

from mask2former.config import OptimConfig
from mask2former.errors import UserError
from mask2former.training import sharding
from mask2former.training.ema import MovingAverage
from mask2former.training.optim import build_optimizer

pytestmark = pytest.mark.long


def test_one_rank_without_targets(tmp_path: Path) -> None:
    """Both ranks take part in every reduction, and the result is the mean of what each would compute alone."""
    mp.start_processes(ranks.run, (str(tmp_path),), nprocs=2, start_method="fork")  # forks need not import
    together = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    alone = []
    for counts in ranks.COUNTS:
        torch.manual_seed(0)
        model = ranks.Tiny()
        ranks.gradients(counts, 1.5, model)
        alone.append([parameter.grad for parameter in model.parameters()])
    for first, second, left, right in zip(*together, *alone, strict=True):
        assert left is not None
        assert right is not None
        torch.testing.assert_close(first, second)
        torch.testing.assert_close(first, (left + right) / 2)


def test_a_rank_without_objects_has_no_pilots_and_the_same_gradients(tmp_path: Path) -> None:
    mp.start_processes(ranks.piloted, (str(tmp_path),), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"p{rank}.pt", weights_only=True) for rank in (0, 1))
    assert "loss_mask_pilot" in first["terms"]
    assert first["gradients"]["transformer_decoder.pilot_classes.weight"].any()
    for name, gradient in first["gradients"].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, second["gradients"][name])


@pytest.mark.parametrize(
    "kind", ["swin", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("pilots", "encoder-only"))]
)
def test_two_ranks_that_share_the_weights_learn_what_one_learns(kind: str, tmp_path: Path) -> None:
    """Moments, clipping, averages and stored states are those of a whole model that is trained on both images."""
    mp.start_processes(ranks.sharded, (str(tmp_path), kind), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"s{rank}.pt", weights_only=True) for rank in (0, 1))
    model = ranks.MODELS[kind]()
    average, optimizer = MovingAverage(model, 0.9), build_optimizer(model, OptimConfig(lr=1e-3))
    total = sum(value.numel() for value in model.parameters())
    assert first["shares"] + second["shares"] == total
    assert abs(first["shares"] / total - 0.5) < 0.02
    for index in range(ranks.STEPS):
        if index == ranks.STEPS - 1:
            stored, kept = optimizer.state_dict(), first["stored"]
            assert kept["optimizer"]["param_groups"] == stored["param_groups"]
            assert kept["average"]["updates"] == index
            for number, moments in stored["state"].items():
                torch.testing.assert_close(kept["optimizer"]["state"][number], moments, rtol=1e-3, atol=1e-6)
        norm = ranks.step(model, optimizer, average, [2 * index, 2 * index + 1])
        torch.testing.assert_close(first["norms"][index], norm, rtol=1e-4, atol=0)
        torch.testing.assert_close(second["norms"][index], norm, rtol=1e-4, atol=0)
    for found in (first["end"], second["end"]):
        torch.testing.assert_close(found["model"], dict(model.state_dict()), rtol=0, atol=5e-4)
        torch.testing.assert_close(found["average"], average.values, rtol=0, atol=5e-4)
    for kind in ("model", "average"):  # resuming changes nothing
        assert all(torch.equal(first["same"][kind][name], first["end"][kind][name]) for name in first["end"][kind])


def test_a_part_that_gets_no_gradient_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    for is_sharded in (False, True):
        with pytest.raises(UserError, match=r"'0\.weight' has received no gradient"):
            sharding.check_gradients(model, is_sharded=is_sharded)
    model(torch.ones(1, 2)).sum().backward()
    sharding.check_gradients(model, is_sharded=False)
    with pytest.raises(UserError, match=r"'0\.weight' has received no gradient"):  # that was exchanged
        sharding.check_gradients(model, is_sharded=True)
    model.requires_grad_(False)
    sharding.check_gradients(model, is_sharded=True)
