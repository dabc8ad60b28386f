from __future__ import annotations

import pytest

from mask2former.bulk.engine import Pool, pool_for, raised_by
from mask2former.errors import FailedError, UserError


@pytest.mark.parametrize(
    ("nodes", "actors", "device", "expected"),
    [
        ([(16, 0)], None, "auto", Pool(4, 4, 0)),
        ([(2, 0)], None, "auto", Pool(1, 2, 0)),
        ([(2, 0)], 2, "cpu", Pool(2, 1, 0)),
        ([(5, 0), (5, 0)], 3, "auto", Pool(3, 2, 0)),  # with 3 cores each, the third would not fit
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
    with pytest.raises(UserError, match="5 actors do not fit into the cluster, which has 4 CPU cores; lower actors"):
        pool_for([(2, 0), (2, 0)], 5, "auto")
    with pytest.raises(UserError, match="9 actors do not fit into the cluster, which has 8 GPUs and 64 CPU cores"):
        pool_for([(64, 8)], 9, "auto")
    with pytest.raises(UserError, match="Ray sees no GPU"):
        pool_for([(64, 0)], 1, "cuda")


def test_what_an_actor_raised_is_found_in_the_words_of_ray() -> None:
    trace = (
        "ray::Work() (pid=1)\n  File ...\nmask2former.errors.{}: no room for 'a'; make room\n\nThe above\nray.Error: x"
    )
    for kind in (UserError, FailedError):
        error = raised_by(RuntimeError(trace.format(kind.__name__)))
        assert (type(error), str(error)) == (kind, "no room for 'a'; make room")
    assert str(raised_by(RuntimeError("The actor died\n  because of \x1b[31mthis\n"))) == (
        "Ray stopped the run: because of \N{REPLACEMENT CHARACTER}[31mthis"
    )
