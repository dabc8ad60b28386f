from __future__ import annotations

import torch
from torch import nn

from mask2former.training.ema import MovingAverage


def test_average_follows_and_is_copied() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(3, 2)
    model = nn.Sequential(linear, nn.BatchNorm1d(2))
    average = MovingAverage(model, 0.5)
    start = linear.weight.detach().clone()
    with torch.no_grad():
        linear.weight += 1.0
    average.update(model)  # the first decay is 2 / 11, below 0.5
    expected = start + (1 - 2 / 11)
    torch.testing.assert_close(average.values["0.weight"], expected)
    average.copy_to(model)
    torch.testing.assert_close(linear.weight.detach(), expected)
    assert "1.running_mean" in average.values
    assert "1.num_batches_tracked" not in average.values


def test_state_round_trip() -> None:
    model = nn.Linear(2, 2)
    average = MovingAverage(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(3.0)
    average.update(model)
    other = MovingAverage(nn.Linear(2, 2), 0.9)
    other.load_state_dict(average.state_dict())
    assert other.updates == 1
    assert all(torch.equal(other.values[name], average.values[name]) for name in average.values)
