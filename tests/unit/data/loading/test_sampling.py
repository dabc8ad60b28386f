from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from mask2former.data.loading.collate import pack
from mask2former.data.loading.sampling import StepSampler
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


def test_a_batch_pads_images_and_targets_alike() -> None:
    def sample(height: int, width: int, count: int) -> Sample:
        target = Target(torch.arange(count), torch.ones(count, 1, height, width, dtype=torch.bool))
        return Sample(torch.full((1, 3, height, width), 7, dtype=torch.uint8), target, f"{height}")

    batch = pack([sample(33, 20, 2), sample(10, 65, 0)]).unpack()
    assert batch.images.pixels.shape == (2, 1, 3, 64, 96)
    assert batch.images.sizes == ((33, 20), (10, 65))
    assert [tuple(target.masks.shape) for target in batch.targets] == [(2, 1, 64, 96), (0, 1, 64, 96)]
    assert batch.targets[0].masks.sum() == 2 * 33 * 20
    assert batch.images.pixels.sum() == 7 * 3 * (33 * 20 + 10 * 65)
    assert batch.names == ("33", "10")


# --- groups of one shape ---------------------------------------------------------------------------------------------

WIDE = np.random.default_rng(0).random(23) < 0.7


def grouped(batch_size: int = 8, micro: int = 2, **kwargs: int) -> StepSampler:
    return StepSampler(len(WIDE), batch_size, 5, groups=WIDE, micro=micro, **kwargs)


@pytest.mark.parametrize("micro", [1, 2, 4, 8])
def test_every_pass_has_images_of_one_group(micro: int) -> None:
    seeds = set()
    for draws in islice(grouped(micro=micro), 60):
        assert len(draws) == 8
        for start in range(0, 8, micro):
            assert len({bool(WIDE[draw.index]) for draw in draws[start : start + micro]}) == 1
        seeds |= {draw.seed for draw in draws}
    assert len(seeds) == 8 * 60


@pytest.mark.parametrize("micro", [1, 2, 8])
def test_each_group_goes_round_once_before_it_begins_again(micro: int) -> None:
    indices = [draw.index for draws in islice(grouped(micro=micro), 230) for draw in draws]
    counts = np.bincount(indices, minlength=len(WIDE))
    assert len(indices) == 80 * 23
    assert counts.min() >= 79  # after 80 epochs, counts differ only by unfinished rounds
    assert counts.max() <= 81
    if micro == 1:
        assert all(sorted(indices[start : start + 23]) == list(range(23)) for start in range(0, len(indices), 23))


def test_grouped_draws_depend_on_seed_and_step_only() -> None:
    whole = list(islice(grouped(), 90))
    assert whole[37:] == list(islice(grouped(first_step=37), 53))
    backwards = grouped()
    assert [backwards.draws(step) for step in range(89, -1, -1)] == whole[::-1]
    assert whole[:9] != list(islice(StepSampler(len(WIDE), 8, 6, groups=WIDE, micro=2), 9))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_units_of_one_process(world_size: int) -> None:
    for step in range(12):
        alone = grouped().draws(step)
        parts = [grouped(rank=rank, world_size=world_size).draws(step) for rank in range(world_size)]
        units = [[part[start : start + 2] for start in range(0, len(part), 2)] for part in parts]
        together = [unit for row in zip(*units, strict=True) for unit in row]
        assert [draw for unit in together for draw in unit] == alone


@pytest.mark.parametrize("groups", [np.zeros(5, bool), np.ones(5, bool), np.array([True, False, False, False, False])])
def test_groups_may_be_empty_or_smaller_than_a_pass(groups: np.ndarray) -> None:
    sampler = StepSampler(5, 6, 0, groups=groups, micro=3)
    indices = [draw.index for draws in islice(sampler, 50) for draw in draws]
    assert np.bincount(indices, minlength=5).min() >= 58
    passes = [indices[start : start + 3] for start in range(0, len(indices), 3)]
    assert all(len(set(groups[unit])) == 1 for unit in passes)


@pytest.mark.parametrize(("micro", "world_size"), [(2, 4), (8, 1), (4, 2), (1, 8), (2, 1), (4, 1), (1, 2)])
def test_another_split_draws_the_same_samples_where_the_unit_is_kept(micro: int, world_size: int) -> None:
    """A run that started with units of two draws the same samples in each step, whatever the number of ranks."""
    began = grouped(micro=2)
    for step in range(60):
        expected = sorted(began.draws(step), key=repr)
        parts = [
            grouped(micro=micro, unit=2, rank=rank, world_size=world_size).draws(step) for rank in range(world_size)
        ]
        assert {len(part) for part in parts} == {8 // world_size}
        assert sorted((draw for part in parts for draw in part), key=repr) == expected
        if micro <= 2:  # no micro-batch has samples of both groups
            for part in parts:
                pairs = [part[start : start + micro] for start in range(0, len(part), micro)]
                assert all(len({bool(WIDE[draw.index]) for draw in pair}) == 1 for pair in pairs)


def test_units_of_eight_are_parted_among_ranks() -> None:
    began = grouped(micro=8)
    for step in range(20):
        parts = [grouped(micro=2, unit=8, rank=rank, world_size=4).draws(step) for rank in range(4)]
        assert sorted((draw for part in parts for draw in part), key=repr) == sorted(began.draws(step), key=repr)
