"""The memory that is left, and requests that do not fit into it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mask2former import limits, memory
from mask2former.data.transforms import Geometry, Resize, shortest_edge_size
from mask2former.errors import UserError
from mask2former.inference import network
from mask2former.inference.predictor import Predictor


@pytest.mark.skipif(
    not Path("/proc/meminfo").exists(), reason="memory is read from /proc/meminfo, which only Linux has"
)
def test_the_machine_has_some_memory() -> None:
    left = memory.available_memory()
    assert left is not None
    assert 1 << 20 < left < 1 << 50


def test_the_narrowest_group_counts(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("1:name=systemd:/x\n0::/outer/inner\n")
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1500\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 400\n")
    assert memory.available_in_group(tmp_path, own) == 1900
    (inner / "memory.max").write_text("900\n")
    (inner / "memory.current").write_text("500\n")
    (inner / "memory.stat").write_text("inactive_file 100\n")
    assert memory.available_in_group(tmp_path, own) == 500
    for group in (tmp_path, inner):
        (group / "memory.max").write_text("max\n")
    assert memory.available_in_group(tmp_path, own) is None
    own.write_text("1:name=systemd:/x\n")
    assert memory.available_in_group(tmp_path, own) is None


def test_groups_of_version_1_limit_as_well(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("9:cpuset:/\n4:memory:/services/this\n0::/unlimited\n")
    outer = tmp_path / "memory"
    inner = outer / "services/this"
    inner.mkdir(parents=True)
    for group, most in ((outer, 9223372036854771712), (inner, 3000)):
        (group / "memory.limit_in_bytes").write_text(f"{most}\n")
        (group / "memory.usage_in_bytes").write_text("1500\n")
        (group / "memory.stat").write_text("inactive_file 1\ntotal_cache 700\ntotal_inactive_file 400\n")
    assert memory.available_in_group(tmp_path, own) == 1900
    (inner / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory.available_in_group(tmp_path, own) is None
    own.write_text("4:memory:/\n")  # a container that sees its own group as the root
    (outer / "memory.limit_in_bytes").write_text("2000\n")
    assert memory.available_in_group(tmp_path, own) == 900


def test_what_does_not_fit_is_refused_with_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2**30)
    memory.check_memory("it", 2**30, "wait")
    with pytest.raises(UserError, match=r"it needs about 3\.0 GiB of memory, and 1\.0 GiB are left; wait"):
        memory.check_memory("it", 3 * 2**30, "wait")
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    memory.check_memory("it", 2**60, "wait")


def test_lack_of_memory_is_one_sentence_whoever_has_it() -> None:
    for fail in (lambda: np.ones(1 << 50), lambda: torch.ones(1 << 50)):
        with pytest.raises(UserError, match="it does not fit into the memory that is left; wait"):  # noqa: SIM117
            with memory.refusing_lack_of_memory("it", "wait"):
                fail()
    with pytest.raises(RuntimeError, match="shape"), memory.refusing_lack_of_memory("it", "wait"):
        torch.ones(3).reshape(2, 2)


@pytest.mark.parametrize("size", [(60_000, 60_000), (1, 1 << 28)])
def test_sizes_beyond_all_use_are_refused_before_they_are_made(size: tuple[int, int]) -> None:
    for make in (lambda: Resize(size), lambda: Geometry((5, 5), (), size)):
        with pytest.raises(UserError, match=r"would be resized or padded to .*at most"):
            make()
    with pytest.raises(UserError, match="60000x60000"):
        shortest_edge_size((9, 9), 60_000, 60_000)
    assert limits.INPUT_PIXELS > 89_478_485  # images at their own size


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True)


def test_thin_images_are_refused(predictor: Predictor) -> None:
    for shape in ((2, 65_000, 3), (65_000, 2, 3), (1, 2_001, 3)):
        with pytest.raises(UserError, match=r"whose aspect ratio is [0-9,]+; at most 2,000"):
            predictor(np.zeros(shape, np.uint8))
    assert predictor(np.zeros((1, 2_000, 3), np.uint8)).size_hw == (1, 2_000)


def test_images_that_the_model_has_no_memory_for_are_refused(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "_SURELY_FITS", 0)
    monkeypatch.setattr(network, "available_memory", lambda: 300 << 20)
    monkeypatch.setattr(memory, "available_memory", lambda: 300 << 20)
    assert predictor(np.zeros((64, 64, 3), np.uint8)).size_hw == (64, 64)
    with pytest.raises(UserError, match=r"the model on an image of 3000x4000 .* GiB of memory, and 0\.3 GiB are left"):
        predictor(np.zeros((3000, 4000, 3), np.uint8), short_edge=0)
