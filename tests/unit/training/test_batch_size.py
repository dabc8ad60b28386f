"""How many images fit, given the estimate for one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mask2former.config import RunConfig, parse
from mask2former.errors import UserError
from mask2former.training.batch_size import check_auto, fitting
from mask2former.training.memory import MemoryEstimate


@given(st.integers(0, 10**10), st.integers(0, 10**10), st.integers(0, 10**11), st.integers(1, 64))
def test_the_largest_divisor_that_fits(state: int, image: int, available: int, share: int) -> None:
    count, said = fitting(MemoryEstimate(state, image, 1), available, share)
    assert share % count == 0
    room = int(0.75 * available) - state
    assert count == 1 or count * image <= room
    larger = [number for number in range(count + 1, share + 1) if share % number == 0]
    assert not larger or larger[0] * max(image, 1) > room
    assert ("even one image may be too many" in said) == (max(image, 1) > max(room, 0))


def test_one_process_alone_decides(tmp_path: Path) -> None:
    values = {"data": {"batch_size_per_device": "auto"}, "trainer": {"devices": 2}}
    with pytest.raises(
        UserError, match=r"auto works with a single process only; start the run with trainer\.devices=1"
    ):
        check_auto(parse(RunConfig, values, "test"), None)
