from __future__ import annotations

import pytest

from mask2former.bulk.engine import Pool, pool_for
from mask2former.errors import UserError


@pytest.mark.parametrize(
    ("nodes", "actors", "device", "expected"),
    [
        ([(16, 0)], None, "auto", Pool(4, 4, 0)),
        ([(2, 0)], None, "auto", Pool(1, 2, 0)),
        ([(2, 0)], 2, "cpu", Pool(2, 1, 0)),
        ([(5, 0), (5, 0)], 3, "auto", Pool(3, 2, 0)),  # 3 cores each would leave one without room
        ([(32, 8), (32, 8), (64, 0)], None, "auto", Pool(16, 4, 1)),
        ([(32, 8)], 4, "cuda", Pool(4, 8, 1)),
        ([(32, 8)], None, "cpu", Pool(8, 4, 0)),
    ],
)
def test_actors_get_as_many_cores_as_fit(
    nodes: list[tuple[int, int]], actors: int | None, device: str, expected: Pool
) -> None:
    assert pool_for(nodes, actors, device) == expected


def test_actors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="5 actors do not fit the cluster, which has 4 CPU cores; lower actors"):
        pool_for([(2, 0), (2, 0)], 5, "auto")
    with pytest.raises(UserError, match="9 actors do not fit the cluster, which has 8 GPUs and 64 CPU cores"):
        pool_for([(64, 8)], 9, "auto")
    with pytest.raises(UserError, match="Ray sees no GPU"):
        pool_for([(64, 0)], 1, "cuda")
