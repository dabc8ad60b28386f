from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mask2former.config import (
    MaskedDecoderConfig,
    ModelConfig,
    MSDeformAttnConfig,
    OptimConfig,
    RunConfig,
    TimmConfig,
    TrainerConfig,
)
from mask2former.losses import Criterion
from mask2former.models.build import build_model
from mask2former.ops.peak_memory import peak_memory
from mask2former.structures import Batch, Categories, ImageBatch, Target
from mask2former.training.memory import MemoryEstimate, estimate_memory
from mask2former.training.module import TrainingModule
from mask2former.training.trainer import precision_of

SMALL = ModelConfig(
    backbone=TimmConfig(model="resnet10t", norm="batch", kwargs={"channels": [16, 32, 32, 64]}),
    pixel_decoder=MSDeformAttnConfig(dim=32, mask_dim=32, num_layers=1, num_heads=2, feedforward_dim=32),
    transformer_decoder=MaskedDecoderConfig(dim=32, num_queries=5, num_layers=1, num_heads=2, feedforward_dim=32),
)


def test_the_peak_is_what_is_alive_at_once() -> None:
    there = torch.zeros(1000)

    def step() -> None:
        first = torch.zeros(1000)
        second = first + 1
        view = second.view(10, 100)[3:]
        del first, second
        third = torch.cat([view, view])  # 1000 of the view's storage and 1400
        kept = copy.deepcopy(torch.nn.Linear(10, 10, bias=False))  # 100 and, for a moment, 100
        there.add_(1).view(10, 100)
        del third, view
        _ = torch.zeros(500) + kept.weight.sum()  # less than before

    assert peak_memory(step) == 4 * (1000 + 1400 + 200)
    assert peak_memory(lambda: there.view(10, 100).add_(1)) == 0


def test_state_is_counted_activations_grow_with_images_and_nothing_changes() -> None:
    torch.manual_seed(0)
    model, criterion = build_model(SMALL, 3).train(), Criterion(3, num_points=64)

    def batch(size: int) -> Batch:
        target = Target(torch.tensor([1]), torch.ones(1, 1, size, size, dtype=torch.bool))
        return Batch(ImageBatch(torch.zeros(1, 1, 3, size, size), ((size, size),)), (target,))

    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    small = estimate_memory(model, criterion, batch(64), 2, OptimConfig())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    weights = sum(parameter.nbytes for parameter in model.parameters())
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    assert small.state == 4 * weights + buffers  # weights, gradients and two moments
    averaged = estimate_memory(model, criterion, batch(64), 2, OptimConfig(ema_decay=0.9))
    assert averaged.state == small.state + weights + buffers
    assert estimate_memory(model, criterion, batch(64), 4, OptimConfig()).activations == 2 * small.activations
    large = estimate_memory(model, criterion, batch(128), 2, OptimConfig())
    assert 3 < large.activations / small.activations < 4.5  # four times the pixels


def test_a_run_is_measured_in_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(model=SMALL, trainer=TrainerConfig(accelerator="cpu", precision="bf16"))
    model = build_model(SMALL, 3)
    model.categories = Categories.from_names(["a", "b", "c"])
    module, found = TrainingModule(model, config), list[bool]()

    def estimate(*_: Any) -> MemoryEstimate:
        found.append(torch.is_autocast_enabled("cpu"))
        return MemoryEstimate(0, 0, 1)

    monkeypatch.setattr("mask2former.training.module.estimate_memory", estimate)
    data = SimpleNamespace(sample_batch=lambda: torch.zeros(1), is_measured=False)
    trainer: Any = SimpleNamespace(datamodule=data, precision_plugin=precision_of(config), is_global_zero=False)
    module._trainer = trainer
    module.on_train_start()
    assert found == [True]
