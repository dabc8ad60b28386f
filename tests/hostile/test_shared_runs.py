"""Untrusted run directories and data sets: they run no code, exhaust nothing, and nothing is written elsewhere."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mask2former.config import InferenceConfig, RunConfig, parse
from mask2former.dataset_tools.suggest import run_file
from mask2former.errors import UserError
from mask2former.evaluation.curves import plot_runs
from mask2former.structures.categories import Categories
from mask2former.training.checkpointing import best_of
from mask2former.training.lock import LOCK, check_links
from mask2former.training.resume import LastState, record_of

CLASSES = Categories.from_names(["cat", "dog", "sky"])
DAMAGED = r"cannot resume: .*last\.ckpt is damaged \(.+\); restore it from a copy"


def state() -> dict[str, Any]:
    return {
        "global_step": 3,
        "state_dict": {"model.transformer_decoder.class_head.bias": torch.zeros(4)},
        "optimizer_states": [{"state": {}}],
        "run": record_of(RunConfig(), CLASSES, (5, 2), "MIT"),
        "callbacks": {"KeepCheckpoints": {"best_value": 1.0}, "EarlyStopping": {"wait_count": 2}},
        "instance_threshold": 0.5,
    }


def written(tmp_path: Path, content: Any, name: str = "last.ckpt") -> Path:
    path = tmp_path / "checkpoints" / name
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ("callbacks", [1, 2]),
        ("callbacks", {5: 1}),
        ("callbacks EarlyStopping", {}),
        ("callbacks EarlyStopping wait_count", -1),
        ("callbacks KeepCheckpoints best_value", "abc"),
        ("callbacks KeepCheckpoints start_value", "abc"),
        ("callbacks KeepCheckpoints num_rows", "abc"),
        ("global_step", -5),
        ("global_step", 10**30),  # steps would be skipped forever
        ("global_step", "3"),
        ("optimizer_states", []),  # weights would go on without the moments
        ("run", [1]),
        ("run", {}),
        ("run num_samples", [1, 2, 3]),
        ("run num_samples", "ab"),
        ("run license", {"a": 1}),
        ("run validation", [3]),
    ],
)
def test_a_checkpoint_of_other_content_is_refused_in_one_sentence(tmp_path: Path, keys: str, value: Any) -> None:
    content = part = state()
    *parents, last = keys.split()
    for key in parents:
        part = part[key]
    part[last] = value
    with pytest.raises(UserError, match=DAMAGED):
        LastState.read(written(tmp_path, content))


@pytest.mark.parametrize("keys", ["run", "instance_threshold"])
def test_so_is_one_of_the_best_validation(tmp_path: Path, keys: str) -> None:
    past = LastState.read(written(tmp_path, state()))
    path = written(tmp_path, {**state(), keys: ["x"]}, "best.ckpt")
    with pytest.raises(UserError, match=r"best\.ckpt is damaged"):
        best_of(path.parent, lambda found: past.is_comparable(found, RunConfig(), 2, None))


class _Command:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, ("touch ran",)


def archive(pickled: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        file.writestr("a/data.pkl", pickled)
        file.writestr("a/version", "3")
    return stream.getvalue()


def _nested_key() -> bytes:
    doubled = b"".join(b"2\x86" for _ in range(60))  # a tuple of the last one twice, sixty times, as a key
    return b"\x80\x02}K\x01" + doubled + b"K\x01s."


@pytest.mark.parametrize(
    "content",
    [
        lambda: archive(pickle.dumps(_Command(), 2)),
        lambda: pickle.dumps(_Command()),
        lambda: archive(b"\x80\x02" + b"(" * 100_000_000 + b".", zipfile.ZIP_DEFLATED),
        lambda: archive(b"\x80\x02" + b"(" * 5_000_000 + b"."),
        lambda: archive(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\0\0\0\0\x02\x85R."),  # eight gigabytes of zeros
        lambda: archive(_nested_key()),
    ],
    ids=["runs a command", "without archive", "grows", "million marks", "mere length", "key to hash for ever"],
)
def test_a_hostile_pickle_is_refused(tmp_path: Path, limited: Callable[..., Any], content: Callable[[], bytes]) -> None:
    path = written(tmp_path, content())
    kind, message, _ = limited(lambda: LastState.read(path), seconds=20, megabytes=600)
    assert kind in ("UserError", "OptionError"), message
    assert not Path("ran").exists()


@pytest.mark.parametrize("text", [None, "[" * 600, "[1]", "!!python/object/apply:os.system ['touch ran']"])
def test_so_is_the_run_file_beside_an_old_checkpoint(tmp_path: Path, limited: Any, text: str | None) -> None:
    content = state()
    del content["run"]
    path = written(tmp_path, content)
    if text is None:
        os.mkfifo(tmp_path / "run.yaml")
    else:
        (tmp_path / "run.yaml").write_text(text)
    kind, message, _ = limited(lambda: LastState.read(path))
    assert (kind, "has no record of its settings" in message) == ("UserError", True)


@pytest.mark.parametrize(
    "name", [LOCK, "run.yaml", "metrics.csv", "times.csv", "model.safetensors", "checkpoints/last.ckpt"]
)
def test_files_of_a_run_that_are_links_to_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    mine, run = tmp_path / "mine.txt", tmp_path / "run"
    mine.write_text("precious")
    (run / name).parent.mkdir(parents=True)
    (run / name).symlink_to(mine)
    with pytest.raises(UserError, match=r"is a link to '.*mine\.txt', outside its folder"):
        check_links(run)


def test_other_links_are_fine(tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(tmp_path / "large disk")
    (run / "checkpoints" / "epoch.ckpt").touch()
    (run / "checkpoints" / "last.ckpt").symlink_to("epoch.ckpt")
    check_links(run)
    check_links(tmp_path / "not there")


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x85", "\u2028", "\u2029"])
def test_names_do_not_end_the_comments_of_a_proposed_run_file(end: str) -> None:
    name = f"cell{end}output: /elsewhere{end}# "
    run = RunConfig(output="runs/mine")
    text = run_file(run, [f"one class, '{name}'"], f"a{end}b: 1{end}.json")
    assert yaml.safe_load(text)["output"] == "runs/mine"
    assert all(line.startswith("#") for line in text.splitlines()[:4])


@pytest.mark.parametrize(("short_edge", "good"), [(2048, True), (2049, False), (60_000, False)])
def test_tiles_are_not_enlarged_without_end(short_edge: int, good: bool) -> None:
    values = {"tasks": ["instance"], "tile": 64, "short_edge": short_edge}
    if good:
        assert parse(InferenceConfig, values, "m").short_edge == short_edge
    else:
        with pytest.raises(UserError, match=r"short_edge \d+ must be at most 32 times tile 64"):
            parse(InferenceConfig, values, "m")


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("step," + ",".join(f"c{number}" for number in range(3000)) + "\n0" + ",1" * 3000 + "\n", "UserError"),
        ("step,loss\n0,1e308\n1,-1e308\n2,1\n", "returned"),
        (f"step,{'x' * 100_000}\n0,1\n", "returned"),
    ],
    ids=["3,000 panels", "values beyond all axes", "a name of 100,000 letters"],
)
def test_tables_of_metrics_are_drawn_or_refused(tmp_path: Path, limited: Any, table: str, kind: str) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "metrics.csv").write_text(table)
    outcome = limited(lambda: plot_runs([tmp_path], tmp_path / "curves.png"), seconds=20)
    assert outcome.kind == kind, outcome.message
