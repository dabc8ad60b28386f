from __future__ import annotations

from itertools import islice

import pytest
import torch

from mask2former.data.collate import collate
from mask2former.data.sampling import StepSampler
from mask2former.structures import Sample, Target


def test_draws_depend_on_seed_and_step_only() -> None:
    whole = list(islice(StepSampler(10, 4, seed=3), 8))
    resumed = list(islice(StepSampler(10, 4, seed=3, first_step=5), 3))
    assert whole[5:] == resumed
    assert whole != list(islice(StepSampler(10, 4, seed=4), 8))


def test_every_epoch_shows_each_sample_once() -> None:
    draws = [draw for step in islice(StepSampler(12, 4, seed=0), 9) for draw in step]
    epochs = [[draw.index for draw in draws[start : start + 12]] for start in (0, 12, 24)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert len({draw.seed for draw in draws}) == len(draws)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_draws_of_one_process(world_size: int) -> None:
    for step in range(5):
        alone = StepSampler(10, 4, seed=1).draws(step)
        parts = [StepSampler(10, 4, seed=1, rank=rank, world_size=world_size).draws(step) for rank in range(world_size)]
        assert sorted(alone, key=repr) == sorted((draw for part in parts for draw in part), key=repr)


def test_collate_pads_pictures_and_targets_alike() -> None:
    def sample(height: int, width: int, count: int) -> Sample:
        target = Target(torch.arange(count), torch.ones(count, 1, height, width, dtype=torch.bool))
        return Sample(torch.full((1, 3, height, width), 7, dtype=torch.uint8), target, f"{height}")

    batch = collate([sample(33, 20, 2), sample(10, 65, 0)])
    assert batch.images.pixels.shape == (2, 1, 3, 64, 96)
    assert batch.images.sizes == ((33, 20), (10, 65))
    assert [tuple(target.masks.shape) for target in batch.targets] == [(2, 1, 64, 96), (0, 1, 64, 96)]
    assert batch.targets[0].masks.sum() == 2 * 33 * 20
    assert batch.images.pixels.sum() == 7 * 3 * (33 * 20 + 10 * 65)
    assert batch.names == ("33", "10")
