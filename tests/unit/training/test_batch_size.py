"""How many images fit, given the estimate for one."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mask2former.config import RunConfig, parse
from mask2former.errors import UserError
from mask2former.training.batch_size import check_auto, fitting, with_batch_size
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
    alone = parse(RunConfig, {"data": {"batch_size_per_device": "auto"}}, "test")
    assert check_auto(alone, None) is alone
    before: Any = SimpleNamespace(config=parse(RunConfig, {"data": {"batch_size_per_device": 2}}, "test"))
    assert check_auto(alone, before).data.batch_size_per_device == 2  # when a run is resumed
    assert check_auto(before.config, None) is before.config


class Model(torch.nn.Linear):
    device = torch.device("cpu")


def test_the_estimate_of_one_image_decides_in_the_precision_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = {"accelerator": "cpu", "precision": "bf16"}
    config = parse(RunConfig, {"data": {"batch_size": 16, "batch_size_per_device": "auto"}, "trainer": trainer}, "test")
    model, eval_calls = Model(2, 2), list[int]()
    module: Any = SimpleNamespace(
        model=model,
        criterion=None,
        frozen=SimpleNamespace(held=lambda: nullcontext(), eval=lambda: eval_calls.append(1)),
    )
    batch: Any = torch.zeros(1)
    found: list[tuple[Any, ...]] = []

    def estimate(*arguments: Any) -> MemoryEstimate:
        found.append((*arguments, torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")))
        return MemoryEstimate(2**30, 2**28, 1)

    monkeypatch.setattr("mask2former.training.batch_size.estimate_memory", estimate)
    monkeypatch.setattr("mask2former.training.batch_size.available_memory", lambda: 3 * 2**30)
    settled, said = with_batch_size(config, module, batch)
    assert settled.data.batch_size_per_device == 4  # 0.75 * 3 GiB - 1 GiB hold five, and 16 is four times 4
    assert "auto is 4 (1.00 GiB" in said
    assert found == [(model, None, batch, 1, config.optim, torch.bfloat16, True)]
    assert eval_calls == [1]
    monkeypatch.setattr("mask2former.training.batch_size.available_memory", lambda: None)
    with pytest.raises(UserError, match=r"data\.batch_size_per_device"):
        with_batch_size(config, module, batch)
