"""One file from the web: from a server that breaks off, stalls, lies, refuses or serves something else."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from web import Server, Tricks, serve

from mask2former.checkpoints import download as module
from mask2former.checkpoints.download import Patience, cache_folder, download
from mask2former.errors import RequestError

BYTES = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(BYTES).hexdigest()[:6]
HASTE = Patience(timeout=0.3, attempts=3, pause=0.01)


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASK2FORMER_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "model.pkl").write_bytes(BYTES)
    return tmp_path / "web"


def fetch(server: Server, path: Path) -> list[tuple[int, int | None]]:
    """Download ``model.pkl`` and return the reports of progress."""
    reports: list[tuple[int, int | None]] = []
    assert download(f"{server.url}/model.pkl", path, MD5, lambda *report: reports.append(report), HASTE) == path
    return reports


def left(path: Path) -> set[str]:
    return {entry.name for entry in path.parent.iterdir()} - {f"{path.name}.lock"}


def test_a_file_arrives_whole_once_and_with_progress(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "cache" / "model.pkl"
    with serve(folder) as server:
        reports = fetch(server, path)
        assert reports[0] == (0, len(BYTES))
        assert reports[-1] == (len(BYTES), len(BYTES))
        assert reports == sorted(reports)
        assert fetch(server, path) == []  # nothing to do
        assert server.requests == [("/model.pkl", None)]
    assert path.read_bytes() == BYTES
    assert left(path) == {"model.pkl"}


MISBEHAVIOUR: dict[str, tuple[Callable[[int], Tricks], list[str | None]]] = {
    # name: what the server does, and the ranges that it is asked for
    "breaks off": (
        lambda n: Tricks(break_after=100_000 if n < 2 else None),
        [None, "bytes=100000-", "bytes=200000-"],
    ),
    "stalls": (lambda n: Tricks(stall_after=70_000 if n == 0 else None), [None, "bytes=70000-"]),
    "breaks off more often than it may bring nothing": (
        lambda n: Tricks(break_after=40_000),
        [None, *(f"bytes={40_000 * n}-" for n in range(1, 8))],
    ),
    "ignores ranges": (lambda n: Tricks(ranges=False, break_after=50_000 if n == 0 else None), [None, "bytes=50000-"]),
    "has another version in between": (
        lambda n: Tricks(content=b"old" * 90_000, etag='"old"', break_after=50_000) if n == 0 else Tricks(etag='"new"'),
        [None, "bytes=50000-"],
    ),
    "has another version and no tags": (
        lambda n: Tricks(content=b"old" * 90_000, etag="", break_after=50_000) if n == 0 else Tricks(etag=""),
        [None, "bytes=50000-", None],
    ),
    "has a shorter version and no tags": (
        lambda n: Tricks(content=BYTES + b"old" * 9, etag="", announced=5) if n == 0 else Tricks(etag=""),
        [None, f"bytes={len(BYTES) + 27}-", None],
    ),
    "announces too many bytes": (
        lambda n: Tricks(announced=1_000),
        [None, f"bytes={len(BYTES)}-"],
    ),
    "announces too few bytes once": (lambda n: Tricks(announced=-1_000 if n == 0 else 0), [None, None]),
    "sends another range": (
        lambda n: Tricks(break_after=50_000) if n == 0 else Tricks(range_shift=n == 1),
        [None, "bytes=50000-", None],
    ),
    "is busy": (lambda n: Tricks(status=503, headers={"Retry-After": "0"}) if n < 2 else Tricks(), [None, None, None]),
    "is asked too often": (lambda n: Tricks(status=429 if n == 0 else 200), [None, None]),
    "serves another file once": (lambda n: Tricks(content=b"x" if n == 0 else None), [None, None]),
    "redirects": (lambda n: Tricks(location="/model.pkl") if n == 0 else Tricks(), [None, None]),
}


@pytest.mark.parametrize("name", MISBEHAVIOUR)
def test_a_file_arrives_although_the_server(folder: Path, tmp_path: Path, name: str) -> None:
    tricks, ranges = MISBEHAVIOUR[name]
    path = tmp_path / "cache" / "model.pkl"
    with serve(folder, tricks) as server:
        fetch(server, path)
        assert [asked for _, asked in server.requests] == ranges
    assert path.read_bytes() == BYTES
    assert left(path) == {"model.pkl"}


REFUSALS: dict[str, tuple[Callable[[int], Tricks], str, int]] = {
    # name: what the server does, what is said, and how often it is asked
    "is gone": (lambda n: Tricks(status=404), "the server answers 404 Not Found", 1),
    "forbids it": (lambda n: Tricks(status=403), "the server answers 403", 1),
    "is always busy": (lambda n: Tricks(status=500), r"500 .*, 3 times in a row\); 0 MB are kept", 3),
    "always stalls": (lambda n: Tricks(stall_after=0), r"no answer in time, 3 times in a row", 3),
    "always serves another file": (lambda n: Tricks(content=b"<html>"), f"6 bytes with MD5 .* with {MD5}; nothing", 2),
    "always announces too few bytes": (lambda n: Tricks(announced=-9), "299991 bytes with MD5 ", 2),
    "always sends another range": (
        lambda n: Tricks(break_after=50_000) if n % 2 == 0 else Tricks(range_shift=1),
        r"another part .*, 3 times in a row\); 0 MB are kept",
        4,
    ),
    "redirects in circles": (lambda n: Tricks(location="/model.pkl"), "the server answers 302", 5),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_it_is_said_when_the_server(folder: Path, tmp_path: Path, name: str) -> None:
    tricks, message, count = REFUSALS[name]
    path = tmp_path / "cache" / "model.pkl"
    with serve(folder, tricks) as server, pytest.raises(RequestError, match=message) as caught:
        fetch(server, path)
    assert len(server.requests) == count
    assert f"fetch {server.url}/model.pkl yourself and put it at {path}" in str(caught.value)
    assert not path.exists()


def test_the_next_call_goes_on(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "model.pkl"
    with serve(folder, lambda n: Tricks(break_after=120_000) if n == 0 else Tricks(status=500)) as server:
        with pytest.raises(RequestError, match="0 MB are kept"):
            fetch(server, path)
        assert left(path) == {"model.pkl.part", "model.pkl.part.etag"}
    with serve(folder) as server:
        assert fetch(server, path)[0] == (120_000, len(BYTES))
    assert path.read_bytes() == BYTES


def test_no_server_at_all(tmp_path: Path) -> None:
    with socket.socket() as taken:  # a port on which nobody listens
        taken.bind(("127.0.0.1", 0))
        server = Server(f"http://127.0.0.1:{taken.getsockname()[1]}", [])
        with pytest.raises(RequestError, match=rf"refused, 3 times .*put it at {tmp_path}/model.pkl"):
            fetch(server, tmp_path / "model.pkl")


@pytest.mark.parametrize("variable", ["MASK2FORMER_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_mode_asks_nobody(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    path = tmp_path / "model.pkl"
    monkeypatch.setenv(variable, "1")
    with serve(folder) as server:
        with pytest.raises(RequestError, match=rf"offline mode is on; .* put it at {path}"):
            fetch(server, path)
        path.write_bytes(BYTES)
        fetch(server, path)
        assert server.requests == []


def test_no_room_is_said_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with serve(folder) as server, pytest.raises(RequestError, match=r"no room: 0 MB are needed in .*MASK2FORMER_CACHE"):
        fetch(server, tmp_path / "cache" / "model.pkl")


def test_a_server_that_sends_without_end(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST", len(BYTES) // 2)
    path = tmp_path / "cache" / "model.pkl"
    with serve(folder) as server, pytest.raises(RequestError, match="no checkpoint; nothing was kept"):
        fetch(server, path)
    assert left(path) == set()


def test_a_place_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with serve(folder) as server, pytest.raises(RequestError, match=r"cannot write .*MASK2FORMER_CACHE"):
        fetch(server, tmp_path / "file" / "model.pkl")


# The module by its file, because its package would import PyTorch.
PROGRAM = """
import importlib.util, sys
from pathlib import Path
module, url, path, md5, ready = sys.argv[1:]
spec = importlib.util.spec_from_file_location("download", module)
sys.modules["download"] = download = importlib.util.module_from_spec(spec)
spec.loader.exec_module(download)
Path(ready).touch()
download.download(url, Path(path), md5)
"""


def test_several_processes_download_once(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "model.pkl"
    command = [sys.executable, "-c", PROGRAM, str(module.__file__)]
    ready = [tmp_path / "first", tmp_path / "second"]

    def wait_for_both(number: int) -> Tricks:
        deadline = time.monotonic() + 60
        while not all(file.exists() for file in ready) and time.monotonic() < deadline:
            time.sleep(0.02)
        return Tricks()

    with serve(folder, wait_for_both) as server:
        processes = [
            subprocess.Popen([*command, f"{server.url}/model.pkl", str(path), MD5, str(file)]) for file in ready
        ]
        assert [process.wait(90) for process in processes] == [0, 0]
        assert len(server.requests) == 1
    assert path.read_bytes() == BYTES
    assert left(path) == {"model.pkl"}


def test_waiting_for_another_process_is_said(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "model.pkl"
    lock = path.with_name("model.pkl.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    release = threading.Timer(1.2, lock.close)
    release.start()
    with serve(folder) as server, caplog.at_level(logging.WARNING):
        fetch(server, path)
    release.join()
    assert caplog.messages == ["another process is downloading model.pkl; waiting for it"]


def test_the_cache_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASK2FORMER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mask2former"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mask2former"
    monkeypatch.setenv("MASK2FORMER_CACHE", "~/weights")
    assert cache_folder() == tmp_path / "weights"
