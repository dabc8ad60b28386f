"""One training run at a time in a directory, and no lock outlives its owner."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import resource
import time
import warnings
from pathlib import Path

import pytest

from mask2former.errors import UserError
from mask2former.training.lock import LOCK, locked


def hold(run: Path, writing: int) -> None:
    """Hold the lock of a run as a training does, with a child process that reads samples."""
    os.setsid()
    with locked(run):
        os.fork()  # stands for a process that reads samples
        os.write(writing, b"!")
        time.sleep(100)


def test_a_second_one_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with locked(run) as notes:
        assert notes == []
        with pytest.raises(UserError, match=rf"in use by another training run \(process {os.getpid()} on .*, since 20"):
            locked(run).__enter__()
        assert (run / LOCK).exists()
    assert not run.exists()  # nothing was put into it


def test_a_killed_holder_is_named_and_its_processes_do_not_hold_on(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    holder = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path, writing))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of newer Pythons, about threads
        holder.start()
    assert holder.pid is not None
    try:
        for _ in range(2):  # from the holder, and from its child, which no longer holds the lock then
            os.read(reading, 1)
        with pytest.raises(UserError, match=f"process {holder.pid} "):
            locked(tmp_path).__enter__()
        holder.kill()
        holder.join()
        with locked(tmp_path) as notes:
            assert f"(process {holder.pid} on " in notes[0]
            assert "was killed; its lock" in notes[0]
    finally:
        os.killpg(holder.pid, 9)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "\0\0\0", json.dumps({"host": "a"}), '{"process": "' + "[" * 5000])
def test_whatever_is_in_the_file_of_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK).write_text(content)
    begin = time.monotonic()
    with locked(tmp_path) as notes:
        assert all(len(note) < 400 and note.isprintable() for note in notes)
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EIO])
def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    with locked(tmp_path) as notes:
        assert notes == []
        with pytest.raises(UserError, match=rf"process {os.getpid()} .* delete .*\{LOCK}"):
            locked(tmp_path).__enter__()
    with locked(tmp_path) as notes:
        assert notes == []


def test_other_ranks_do_not_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    with locked(tmp_path):
        monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
        with locked(tmp_path) as notes:
            assert notes == []


def test_a_directory_that_cannot_be_written_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / LOCK).mkdir()  # cannot be opened for writing, not even by root
    with locked(tmp_path) as notes:  # others can still write there
        assert notes == [
            f"{tmp_path} is not locked, so another training run could write to it, too ({tmp_path / LOCK}: Is a "
            "directory)"
        ]
    monkeypatch.setattr(os, "access", lambda *_: False)
    with locked(tmp_path) as notes:
        assert notes == []


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError, match=rf"File too large: '.*\{LOCK}'"), locked(tmp_path / "run"):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "run").exists()


def test_a_lock_that_is_removed_while_it_is_taken_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, path = fcntl.flock, tmp_path / LOCK

    def removed_meanwhile(*arguments: object) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()  # by its last holder
        flock(*arguments)  # pyright: ignore[reportCallIssue, reportArgumentType]

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with locked(tmp_path):
        assert json.loads(path.read_text())["process"] == os.getpid()
