"""Numbers of tracks within their class."""

from __future__ import annotations

from mask2former.visualization import ranks


def test_each_has_its_number_among_those_of_its_group() -> None:
    assert ranks([3, 3, 1, 3, 1]) == [0, 1, 0, 2, 1]
    assert ranks([]) == []
