from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import parquet

from mask2former.bulk.plan import PLAN, RESULTS, open_plan, results_file, shards_as_rows, shards_done
from mask2former.bulk.stores import open_store
from mask2former.errors import FailedError, UserError
from mask2former.notes import collect_notes

HEAD: dict[str, Any] = {
    "schema_version": 1,
    "task": "panoptic",
    "settings": {"short_edge": 64},
    "weights_sha256": "a",
    "categories_sha256": "b",
    "json_lines": False,
}
IMAGES = [f"/photos/{number}.jpg" for number in range(7)]


def write_shard(output: Path, number: int, errors: Sequence[str | None]) -> None:
    (output / RESULTS).mkdir(exist_ok=True)
    rows = {"image": ["x"] * len(errors), "error": pyarrow.array(list(errors), pyarrow.string())}
    parquet.write_table(pyarrow.table(rows), output / results_file(number))


@pytest.mark.parametrize("output", ["folder", "memory://plan"])
def test_a_plan_is_made_once_and_grows_by_new_shards(tmp_path: Path, output: str) -> None:
    store = open_store(output if "://" in output else tmp_path / output)
    first = open_plan(store, IMAGES, HEAD, 3)
    assert first.shards == [IMAGES[:3], IMAGES[3:6], IMAGES[6:]]
    assert first.num_images == 7
    assert open_plan(store, IMAGES, HEAD) == first
    assert open_plan(store, list(reversed(IMAGES)), HEAD, 3) == first
    with collect_notes() as notes:
        grown = open_plan(store, ["/new.jpg", *IMAGES[1:], "/b.jpg"], HEAD)
    assert grown.shards == [*first.shards, ["/new.jpg", "/b.jpg"]]
    assert [(message.partition(",")[0], example) for message, example in notes] == [
        ("images of the plan that the sources no longer name", "1, such as '/photos/0.jpg'"),
        ("images that are new since the output was planned", "2"),
    ]
    with collect_notes() as notes:
        assert open_plan(store, [*IMAGES, "/new.jpg", "/b.jpg"], HEAD).shards == grown.shards
    assert notes == []
    tables = list(shards_as_rows(grown.shards, [3, 1]))
    assert [table.to_pylist() for table in tables] == [
        [{"shard": 3, "images": ["/new.jpg", "/b.jpg"]}],
        [{"shard": 1, "images": IMAGES[3:6]}],
    ]


def test_results_of_something_else_are_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    open_plan(store, IMAGES, HEAD)
    for change, refusal in (
        ({"weights_sha256": "c"}, "made with other weights: choose another output, or overwrite to delete them"),
        ({"settings": {}}, "made with other settings"),
        ({"task": "semantic"}, "made with another task: choose"),
        ({"json_lines": True}, "made with other json_lines"),
    ):
        with pytest.raises(UserError, match=refusal):
            open_plan(store, IMAGES, HEAD | change)
    with pytest.raises(UserError, match="planned with shard_size 64, got 5; leave it out"):
        open_plan(store, IMAGES, HEAD, 5)
    with pytest.raises(UserError, match="are for images other than the sources"):
        open_plan(store, ["/else.jpg"], HEAD)
    (tmp_path / "out" / "images.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"images.parquet' cannot be read"):
        open_plan(store, IMAGES, HEAD)
    parquet.write_table(pyarrow.table({"shard": [0, 2], "image": ["a", "b"]}), tmp_path / "out" / "images.parquet")
    with pytest.raises(UserError, match="is damaged: its shards are out of order"):
        open_plan(store, IMAGES, HEAD)
    (tmp_path / "out" / "plan.json").write_text('{"kind": "something"}')
    with pytest.raises(UserError, match=r"plan.json' is not a plan of a bulk run"):
        open_plan(store, IMAGES, HEAD)
    (tmp_path / "out" / "plan.json").unlink()
    write_shard(tmp_path / "out", 0, [None])
    with pytest.raises(UserError, match=r"contains files, but no plan.json that describes them"):
        open_plan(store, IMAGES, HEAD)


def test_a_shard_is_done_when_its_file_is_whole(tmp_path: Path) -> None:
    for number, errors in enumerate([[None, None], [None, "broken"], [None], ["a", "b"]]):
        write_shard(tmp_path, number, errors)
    (tmp_path / results_file(4)).write_bytes((tmp_path / results_file(0)).read_bytes()[:-9])
    (tmp_path / results_file(5)).touch()
    assert shards_done(open_store(tmp_path), [2] * 7) == [0, 1, 3]
    assert shards_done(open_store(tmp_path / "gone"), [2]) == []
    for number in range(10, 60):  # read by many threads at once
        write_shard(tmp_path, number, [None])
    assert shards_done(open_store(tmp_path), [1] * 60) == [2, *range(10, 60)]


def test_a_store_is_one_place(tmp_path: Path) -> None:
    store = open_store(tmp_path / "out")
    with store.alone(), pytest.raises(UserError, match="another run is writing to"), store.alone():
        pass
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file; choose another folder"):
        open_store(tmp_path / "file")
    with pytest.raises(
        UserError, match=r"'' names neither a file nor a folder; give a path \('\.' is the working folder\)"
    ):
        open_store("")
    (tmp_path / "out" / RESULTS).touch()
    with pytest.raises(FailedError, match=r"cannot write '.*shard-00000.parquet'"):
        store.write(results_file(0), b"")
    remote = open_store("memory://place")
    remote.write("a/b.txt", b"one")
    remote.write("a/b.txt", b"two")
    assert (remote.names("a"), remote.read("a/b.txt"), remote.read("a/c.txt")) == (["b.txt"], b"two", None)
    assert remote.path("a/b.txt") == "memory://place/a/b.txt"
    remote.remove("a/b.txt")
    remote.remove("a/b.txt")
    assert remote.names("a") == remote.names("z") == []


def test_what_a_protocol_raises_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing about the file, which is neither missing nor damaged then."""
    remote = open_store("memory://out")
    remote.write(results_file(0), b"")
    for method in ("open", "rm_file"):
        monkeypatch.setattr(MemoryFileSystem, method, Mock(side_effect=RuntimeError("no credentials")))
    for call, what in (
        (lambda: remote.read(PLAN), "read 'memory://out/plan.json"),
        (lambda: shards_done(remote, [1]), "read 'memory://out/shards/shard-00000.parquet"),
        (lambda: remote.remove(PLAN), "remove 'memory://out/plan.json"),
    ):
        with pytest.raises(FailedError, match=f"cannot {what}': no credentials"):
            call()
