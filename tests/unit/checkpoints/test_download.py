"""One file from the web: from a server that disconnects, stalls, lies, refuses or sends something else."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import logging
import random
import signal
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
from mask2former.errors import UserError

BYTES = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(BYTES).hexdigest()[:6]
CHECKSUM = f"md5:{MD5}"
SHA256 = hashlib.sha256(BYTES).hexdigest()
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
    assert download(f"{server.url}/model.pkl", path, CHECKSUM, lambda *report: reports.append(report), HASTE) == path
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
    # name: what the server does, and the ranges of the requests
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
        assert [part for _, part in server.requests] == ranges
    assert path.read_bytes() == BYTES
    assert left(path) == {"model.pkl"}


REFUSALS: dict[str, tuple[Callable[[int], Tricks], str, int]] = {
    # name: what the server does, the message, and the number of requests
    "is gone": (lambda n: Tricks(status=404), "the server answers 404 Not Found", 1),
    "forbids it": (lambda n: Tricks(status=403), "the server answers 403", 1),
    "is always busy": (lambda n: Tricks(status=500), r"500 .*, 3 times in a row\); 0 MB are kept", 3),
    "always stalls": (lambda n: Tricks(stall_after=0), r"no answer in time, 3 times in a row", 3),
    "always serves another file": (lambda n: Tricks(content=b"<html>"), f"6 bytes with MD5 .* with {MD5}; nothing", 2),
    "always announces too few bytes": (lambda n: Tricks(announced=-9), "299991 bytes with MD5 ", 2),
    "always sends another range": (
        lambda n: Tricks(break_after=50_000) if n % 2 == 0 else Tricks(range_shift=1),
        r"a different range .*, 3 times in a row\); 0 MB are kept",
        4,
    ),
    "redirects in circles": (lambda n: Tricks(location="/model.pkl"), "the server answers 302", 5),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_it_is_said_when_the_server(folder: Path, tmp_path: Path, name: str) -> None:
    tricks, message, count = REFUSALS[name]
    path = tmp_path / "cache" / "model.pkl"
    with serve(folder, tricks) as server, pytest.raises(UserError, match=message) as caught:
        fetch(server, path)
    assert len(server.requests) == count
    assert f"fetch {server.url}/model.pkl yourself and put it at {path}" in str(caught.value)
    assert not path.exists()


def test_the_next_call_goes_on(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "model.pkl"
    with serve(folder, lambda n: Tricks(break_after=120_000) if n == 0 else Tricks(status=500)) as server:
        with pytest.raises(UserError, match="0 MB are kept"):
            fetch(server, path)
        assert left(path) == {"model.pkl.part", "model.pkl.part.etag"}
    with serve(folder) as server:
        assert fetch(server, path)[0] == (120_000, len(BYTES))
    assert path.read_bytes() == BYTES


# --- other checksums than an MD5, and none --------------------------------------------------------------------------


def test_a_sha256_verifies_as_well(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "model.pkl"
    with serve(folder) as server:
        url = f"{server.url}/model.pkl"
        with pytest.raises(UserError, match=rf"300000 bytes with SHA-256 {SHA256}, expected one that begins with 0123"):
            download(url, path, "sha256:01234567", patience=HASTE)
        assert left(path) == set()
        assert download(url, path, f"sha256:{SHA256[:8]}", patience=HASTE).read_bytes() == BYTES
    assert left(path) == {"model.pkl"}


def test_what_nothing_verifies_is_remembered(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There is one warning; afterwards another file is refused, whether it is in the cache or comes from the server."""
    path = tmp_path / "cache" / "model.pkl"
    with serve(folder) as server, caplog.at_level(logging.WARNING):
        url = f"{server.url}/model.pkl"
        for _ in range(2):
            assert download(url, path, None, patience=HASTE).read_bytes() == BYTES
        record = path.with_name("model.pkl.sha256")
        assert record.read_text() == f"{SHA256}  model.pkl\n"
        assert caplog.messages == [
            f"nothing published verifies model.pkl; its SHA-256 {SHA256} is recorded in {record} and compared whenever "
            "the file is used"
        ]
        path.write_bytes(BYTES[1:])
        with pytest.raises(UserError, match=rf"but {SHA256} was recorded at its first download: .* Delete it, and"):
            download(url, path, None, patience=HASTE)
        path.unlink()
        download(url, path, None, patience=HASTE)
        assert len(server.requests) == 2
        path.unlink()
        (folder / "model.pkl").write_bytes(b"replaced")
        with pytest.raises(UserError, match=rf"8 bytes with SHA-256 .* with {SHA256}, as '{record}' recorded .*delete"):
            download(url, path, None, patience=HASTE)
        record.unlink()
        assert download(url, path, None, patience=HASTE).read_bytes() == b"replaced"
    record.write_text("no sum")
    with pytest.raises(UserError, match=r"model.pkl.sha256' contains no SHA-256; delete it"):
        download(url, path, None)


def test_what_nothing_verifies_is_not_pasted_from_two_versions(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "model.pkl"
    old = Tricks(content=b"old" * 90_000, etag="", break_after=50_000)
    with serve(folder, lambda n: old if n == 0 else Tricks(etag="")) as server:
        assert download(f"{server.url}/model.pkl", path, None, patience=HASTE).read_bytes() == BYTES
        assert [part for _, part in server.requests] == [None, None]
    message = r"does not give the size of other.pkl.* fetch http.*model.pkl yourself"
    with serve(folder, lambda n: Tricks(is_announced=False)) as server, pytest.raises(UserError, match=message):
        download(f"{server.url}/model.pkl", path.with_name("other.pkl"), None, patience=HASTE)


def test_a_file_put_there_by_hand_is_remembered_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(BYTES)
    assert download("https://127.0.0.1/model.pkl", path, None) == path
    assert path.with_name("model.pkl.sha256").read_text().startswith(SHA256)
    path.with_name("model.pkl.sha256").unlink()

    def refuse(path: Path, write: object) -> None:
        raise UserError(f"'{path}' cannot be written")

    monkeypatch.setattr(module, "write_whole", refuse)
    with caplog.at_level(logging.WARNING):
        assert download("https://127.0.0.1/model.pkl", path, None) == path  # a read-only cache can still be used
    assert f"its SHA-256 {SHA256} cannot be recorded: " in caplog.messages[-1]


def test_no_server_at_all(tmp_path: Path) -> None:
    with socket.socket() as taken:  # a port on which nobody listens
        taken.bind(("127.0.0.1", 0))
        server = Server(f"http://127.0.0.1:{taken.getsockname()[1]}", [])
        with pytest.raises(UserError, match=rf"refused, 3 times .*put it at {tmp_path}/model.pkl"):
            fetch(server, tmp_path / "model.pkl")


@pytest.mark.parametrize("variable", ["MASK2FORMER_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_mode_asks_nobody(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    path = tmp_path / "model.pkl"
    monkeypatch.setenv(variable, "1")
    with serve(folder) as server:
        with pytest.raises(UserError, match=rf"offline mode is on; .* put it at {path}"):
            fetch(server, path)
        path.write_bytes(BYTES)
        fetch(server, path)
        assert server.requests == []


def test_no_room_is_said_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with serve(folder) as server, pytest.raises(UserError, match=r"no room: 0 MB are needed in .*MASK2FORMER_CACHE"):
        fetch(server, tmp_path / "cache" / "model.pkl")


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_server_that_sends_more_than_there_is(folder: Path, tmp_path: Path, is_announced: bool) -> None:
    path = tmp_path / "cache" / "model.pkl"
    with serve(folder, lambda n: Tricks(is_announced=is_announced)) as server:
        with pytest.raises(UserError, match=r"150,000 .*; nothing was kept"):
            download(f"{server.url}/model.pkl", path, CHECKSUM, patience=HASTE, most=len(BYTES) // 2)
        assert len(server.requests) == 1
    assert left(path) == set()


TRICKLES: dict[str, Tricks] = {
    "in the body": Tricks(trickle=0.03),
    "in the head": Tricks(trickle=0.03, trickle_from="head"),
    "a little more in each connection": Tricks(break_after=1),
}


@pytest.mark.parametrize("where", TRICKLES)
def test_a_server_that_sends_too_slowly(folder: Path, tmp_path: Path, where: str) -> None:
    path = tmp_path / "cache" / "model.pkl"
    patience = Patience(timeout=5, attempts=2, pause=0.01, least_rate=100_000, window=0.1)
    with serve(folder, lambda n: TRICKLES[where]) as server:
        with pytest.raises(UserError, match=r"(fewer than 100,000 bytes per second|ended after).*, 2 times in a row"):
            download(f"{server.url}/model.pkl", path, CHECKSUM, patience=patience)
        assert len(server.requests) == 2
        assert download(f"{server.url}/model.pkl", folder / "model.pkl", CHECKSUM).is_file()  # no request


def test_a_connection_that_is_made_too_late_is_closed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = http.client.HTTPConnection.connect

    def slowly(connection: http.client.HTTPConnection) -> None:
        connect(connection)
        time.sleep(0.3)

    monkeypatch.setattr(http.client.HTTPConnection, "connect", slowly)
    patience, cache = Patience(timeout=5, attempts=1, pause=0.01, least_rate=100_000, window=0.1), tmp_path / "cache"
    with (
        serve(folder, lambda n: Tricks(content=b"abcdef", trickle=0.02)) as server,
        pytest.raises(UserError, match="fewer than 100,000 bytes per second"),
    ):
        download(f"{server.url}/model.pkl", cache / "model.pkl", CHECKSUM, patience=patience)
    assert not any(path.stat().st_size for path in cache.iterdir())  # a server that is slow for hours would be read


def test_a_slow_network_can_be_allowed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK2FORMER_DOWNLOAD_RATE", "0")
    monkeypatch.setenv("MASK2FORMER_DOWNLOAD_PAUSE", "0.5")
    patience = Patience.from_environment()
    assert (patience.least_rate, patience.longest_pause) == (0, 0.5)
    slow = Patience(attempts=1, least_rate=0, window=0.05)
    with serve(folder, lambda n: Tricks(content=b"abcdef", trickle=0.02)) as server:
        md5 = hashlib.md5(b"abcdef").hexdigest()
        download(f"{server.url}/model.pkl", tmp_path / "model.pkl", f"md5:{md5}", patience=slow)
    for nonsense in ("fast", "-1", "nan", "1e99", "\x1b[31m"):
        monkeypatch.setenv("MASK2FORMER_DOWNLOAD_RATE", nonsense)
        with pytest.raises(UserError, match=r"MASK2FORMER_DOWNLOAD_RATE=.*: expected bytes per second"):
            Patience.from_environment()


PAUSES = {
    "7": 7.0,
    "0": 1.0,
    "-5": 1.0,
    "1e9": 60.0,
    "9" * 400: 60.0,
    "nan": 1.0,
    "inf": 60.0,
    "Fri, 31 Dec 9999 23:59:59 GMT": 60.0,
    "Thu, 01 Jan 1970 00:00:00 GMT": 1.0,
    "Thu, 99 Jan 99999 00:00:00": 1.0,
    "soon": 1.0,
}


@pytest.mark.parametrize("asked", PAUSES, ids=range(len(PAUSES)))
def test_waiting_as_long_as_the_server_asks_within_limits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    path = tmp_path / "model.pkl"
    with serve(folder, lambda n: Tricks(status=503, headers={"Retry-After": asked}) if n == 0 else Tricks()) as server:
        download(f"{server.url}/model.pkl", path, CHECKSUM, patience=Patience())
    assert waited == [PAUSES[asked]]


VALIDATORS = {
    "binary": b"\xff\xfe\x00",
    "another header": b'"one"\r\nX-Evil: 1',
    "long": b'"' + b"x" * 10**6 + b'"',
    "empty": b"",
    "none in latin-1": "\u2603".encode(),
    "folder": None,
}


@pytest.mark.parametrize("kind", VALIDATORS)
def test_a_broken_validator_heals_itself(folder: Path, tmp_path: Path, kind: str) -> None:
    path, content = tmp_path / "cache" / "model.pkl", VALIDATORS[kind]
    path.parent.mkdir()
    (path.parent / "model.pkl.part").write_bytes(BYTES[:1000])
    validator = path.parent / "model.pkl.part.etag"
    validator.mkdir() if content is None else validator.write_bytes(content)
    with serve(folder) as server:
        fetch(server, path)
        assert [part for _, part in server.requests] == ["bytes=1000-"]
    assert path.read_bytes() == BYTES
    assert left(path) == {"model.pkl", *(["model.pkl.part.etag"] if content is None else [])}


def test_a_part_that_is_no_file_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "model.pkl.part").symlink_to(tmp_path / "mine")
    with serve(folder) as server, pytest.raises(UserError, match=r"model.pkl.part' is not a regular file; remove it"):
        fetch(server, tmp_path / "model.pkl")
    assert (tmp_path / "mine").read_bytes() == b"mine"


LIES: dict[str, Tricks] = {
    "a length of many digits": Tricks(lengths="9" * 5000),
    "a length in other digits": Tricks(lengths="\xb2\xb3"),
    "a negative length": Tricks(lengths="-5"),
    "no length": Tricks(is_announced=False),
    "compression that is none": Tricks(headers={"Content-Encoding": "gzip"}),
    "a tag of two lines": Tricks(etag='"a"\r\n "b"'),
    "a tag of a megabyte": Tricks(etag='"' + "x" * 60_000 + '"'),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_arrives_although_the_head_has(folder: Path, tmp_path: Path, lie: str) -> None:
    path = tmp_path / "cache" / "model.pkl"
    with serve(folder, lambda n: LIES[lie]) as server:
        fetch(server, path)
    assert path.read_bytes() == BYTES
    assert left(path) == {"model.pkl"}


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[::1", "http://127.0.0.1:port/", "http://" + "x" * 300 + "/"],
)
def test_redirections_to_elsewhere(folder: Path, tmp_path: Path, location: str) -> None:
    with serve(folder, lambda n: Tricks(location=location)) as server, pytest.raises(UserError) as caught:
        fetch(server, tmp_path / "model.pkl")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model.pkl").exists()


def test_no_way_back_from_https(tmp_path: Path) -> None:
    module.check_address("http://a/b")
    for url, is_secure in (("http://a/b", True), ("file:///etc/passwd", False), ("a/b", False)):
        with pytest.raises(UserError, match="not an allowed download address"):
            module.check_address(url, is_secure=is_secure)
    with pytest.raises(UserError, match="not an allowed download address"):
        download("file:///etc/passwd", tmp_path / "x", CHECKSUM)


def test_what_a_server_says_is_shown_as_text(folder: Path, tmp_path: Path) -> None:
    tricks, message = Tricks(status=404, reason="\x1b[31m" + "no" * 5000), r"404 \ufffd\[31mnonono"
    with serve(folder, lambda n: tricks) as server, pytest.raises(UserError, match=message) as caught:
        fetch(server, tmp_path / "model.pkl")
    assert len(str(caught.value)) < 1000


def test_a_disk_that_fills_up_meanwhile(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "cache" / "model.pkl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails instead
    try:
        with serve(folder) as server:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
            with pytest.raises(UserError, match=r"cannot write '.*model.pkl'.*MASK2FORMER_CACHE"):
                fetch(server, path)
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            fetch(server, path)  # resumes
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)
    assert path.read_bytes() == BYTES


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASK2FORMER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(UserError, match="MASK2FORMER_CACHE"):
        cache_folder()


def test_a_place_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with serve(folder) as server, pytest.raises(UserError, match=r"cannot write .*MASK2FORMER_CACHE"):
        fetch(server, tmp_path / "file" / "model.pkl")


# The module is loaded by its file, because its package would import PyTorch.
PROGRAM = """
import importlib.util, sys
from pathlib import Path
module, url, path, checksum, ready = sys.argv[1:]
spec = importlib.util.spec_from_file_location("download", module)
sys.modules["download"] = download = importlib.util.module_from_spec(spec)
spec.loader.exec_module(download)
Path(ready).touch()
download.download(url, Path(path), checksum)
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
            subprocess.Popen([*command, f"{server.url}/model.pkl", str(path), CHECKSUM, str(file)]) for file in ready
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
