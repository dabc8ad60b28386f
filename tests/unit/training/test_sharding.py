"""Shares of a model and what leaves a rank: with one rank here, with several in ``integration/test_distributed.py``."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from typing import Any

import lightning
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from mask2former.errors import UserError
from mask2former.training.ema import MovingAverage
from mask2former.training.sharding import LEAST, Sharded, check_gradients, gathered, local, shard, share_of, whole


class Model(nn.Module):
    """A backbone of two blocks, of which one is large enough to be gathered by itself, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(512, LEAST // 512), nn.BatchNorm1d(LEAST // 512))
        self.head = nn.Linear(LEAST // 512, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Iterator[DeviceMesh]:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # torch replaces it
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


def test_a_sharded_model_computes_the_same_and_is_gathered_whole(mesh: DeviceMesh, model: Model) -> None:
    images = torch.randn(3, 512)
    plain, before = copy.deepcopy(model), {name: value.clone() for name, value in model.state_dict().items()}
    average = MovingAverage(model, 0.9)
    shard(model, mesh)
    average.shard_like(model)
    for name, value in model.named_parameters():
        assert isinstance(value, DTensor)
        assert torch.equal(whole(value), before[name])
        assert torch.equal(whole(average.values[name]), before[name])
        assert local(value).data_ptr() == value.to_local().data_ptr()
    torch.testing.assert_close(model(images), plain(images))
    with pytest.raises(UserError, match=r"'backbone\.0\.weight' has received no gradient"):
        check_gradients(model, is_sharded=True)
    model(images).sum().backward()
    check_gradients(model, is_sharded=True)
    state = {"weights": model.state_dict(), "step": 3}
    kept, dropped = gathered(state, keep=True), gathered(state, keep=False)
    assert kept["step"] == dropped["step"] == 3
    for name, value in model.state_dict().items():
        assert type(kept["weights"][name]) is Tensor
        assert torch.equal(kept["weights"][name], whole(value))
        assert not isinstance(value, DTensor) or not dropped["weights"][name].numel()


def test_a_share_is_parted_as_another_tensor_is(mesh: DeviceMesh, model: Model) -> None:
    value = torch.randn(2, LEAST // 512)
    assert share_of(value, model.head.weight) is value
    shard(model, mesh)
    like = model.head.weight
    assert isinstance(like, DTensor)
    share: Any = share_of(value, like)
    assert share.placements == like.placements
    assert torch.equal(share.full_tensor(), value)


class Module(lightning.LightningModule):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def shard(self, mesh: DeviceMesh) -> None:
        shard(self.model, mesh)

    def training_step(self, images: Tensor) -> Tensor:
        return self.model(images).sum()


def test_checkpoints_are_whole_and_are_loaded_in_shares(mesh: DeviceMesh, model: Model) -> None:
    strategy, module = Sharded(CPUAccelerator(), [torch.device("cpu")], LightningEnvironment()), Module(model)
    strategy.connect(module)
    strategy.configure_ddp()
    assert all(isinstance(value, DTensor) for value in model.parameters())
    optimizer = torch.optim.AdamW([{"params": model.head.parameters()}, {"params": model.backbone.parameters()}])
    strategy.optimizers = [optimizer]
    loss: Any = strategy.training_step(torch.randn(3, 512))
    loss.backward()
    optimizer.step()

    weights = strategy.lightning_module_state_dict()
    stored = copy.deepcopy(strategy.optimizer_state(optimizer))
    assert not any(isinstance(value, DTensor) for value in weights.values())
    assert not any(isinstance(value, DTensor) for moments in stored["state"].values() for value in moments.values())
    assert stored["state"][0]["exp_avg"].abs().sum() > 0

    again = torch.optim.AdamW([{"params": model.head.parameters()}, {"params": model.backbone.parameters()}])
    strategy.optimizers = [again]
    strategy.load_optimizer_state_dict({"optimizer_states": [stored]})
    for value, moments in again.state.items():
        assert isinstance(value, DTensor)
        assert moments["exp_avg"].placements == value.placements
        assert torch.equal(moments["exp_avg"].full_tensor(), optimizer.state[value]["exp_avg"].full_tensor())
        assert moments["step"] == 1
    assert len(again.state) == 6

    strategy.teardown()
    assert all(isinstance(value, DTensor) for value in model.parameters())  # where they are gathered from
