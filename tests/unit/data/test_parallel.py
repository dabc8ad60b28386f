"""Many jobs in several processes: order, faults, stopping."""

from __future__ import annotations

import math

import pytest

from mask2former.data.parallel import map_in_processes, num_processors


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_jobs(num_workers: int) -> None:
    assert list(map_in_processes(math.factorial, range(60), num_workers)) == [math.factorial(k) for k in range(60)]
    assert list(map_in_processes(math.factorial, [], num_workers)) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_fault_arrives_after_the_results_before_it(num_workers: int) -> None:
    jobs = [*range(50), -1, *range(50)]
    results = map_in_processes(math.factorial, jobs, num_workers)
    assert [next(results) for _ in range(48)] == [math.factorial(k) for k in range(48)]
    with pytest.raises(ValueError, match="negative"):
        list(results)


def test_closing_ends_it() -> None:
    results = map_in_processes(math.factorial, range(400), 2)
    assert next(results) == 1
    results.close()
    with pytest.raises(StopIteration):
        next(results)


def test_there_is_a_processor() -> None:
    assert num_processors() >= 1
