"""Finished frames of ``track`` can be read at any time: after a kill, on a full disk, at a file size limit."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.cli import main
from mask2former.errors import UserError
from mask2former.media.frames import open_frames
from mask2former.results_io.json import TrackDocument
from mask2former.results_io.video import VideoWriter
from mask2former.structures import Categories
from mask2former.structures.tracks import TrackedFrame

resource = pytest.importorskip("resource")

CATEGORIES = Categories.from_names(["cat"])
NUM_FRAMES = 150


def frames(count: int = NUM_FRAMES, size_hw: tuple[int, int] = (48, 64)) -> Iterator[TrackedFrame]:
    rng = np.random.default_rng(0)
    for index in range(count):
        masks = rng.integers(0, 2, (1, *size_hw), dtype=np.uint8).astype(bool)
        image = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
        one = np.ones(1, np.int64)
        probabilities = np.ones((1, 1), np.float32)
        yield TrackedFrame(image, index, index / 25, one, masks, one - 1, np.ones(1), probabilities, CATEGORIES)


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(document: TrackDocument, count: int) -> None:
    with document:
        for frame in frames(count):
            document.add(frame)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def track(folder: Path, output: Path, *words: object) -> int:
    common = ["-m", "scenes-tiny", "--short-edge", "0", "--device", "cpu"]
    return main(["track", str(folder), "-o", str(output), *common, *map(str, words)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip"
    path.mkdir()
    for frame in frames(8):
        Image.fromarray(frame.image).save(path / f"{frame.index}.png")
    return path


@pytest.mark.parametrize("size", [10, 300, 5_000, 100_000])
def test_lines_at_a_limit_of_size_are_whole(tmp_path: Path, size: int) -> None:
    document = TrackDocument(tmp_path / "clip.json", {"model": "m"})
    with largest_file(size), pytest.raises(OSError, match="File too large") as caught:
        write(document, NUM_FRAMES)
    assert caught.value.filename == str(document.working.path)
    assert {path.name for path in tmp_path.iterdir()} <= {"clip.json", "clip.partial.jsonl"}
    if not document.count:
        return
    if document.path.exists():  # there was room for it
        found = json.loads(document.path.read_text())
        assert (found["num_frames"], found["complete"]) == (document.count, False)
    else:
        head, *finished = lines_of(document.working.path)
        assert (head["model"], head["size"]) == ("m", [48, 64])
        assert finished == [frame.to_dict() for frame in frames(document.count)]


def test_a_killed_run_leaves_what_can_be_read_and_played(tmp_path: Path) -> None:
    child = os.fork()
    if not child:  # without the end of the blocks
        with TrackDocument(tmp_path / "clip.json", {}) as document, VideoWriter(tmp_path / "clip.mp4", 25) as video:
            for frame in frames(120):
                document.add(frame)
                video.add_image(frame.image, frame.seconds)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(lines_of(tmp_path / "clip.partial.jsonl")) == 121
    assert len(list(open_frames(tmp_path / "clip.partial.mp4"))) > 60  # the encoder holds some
    assert not (tmp_path / "clip.json").exists()


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_video_is_as_if_it_had_been_written_at_once(tmp_path: Path, suffix: str) -> None:
    times = [index / 30 + 0.001 * (index % 3) for index in range(NUM_FRAMES)]
    with VideoWriter(tmp_path / f"clip{suffix}", 30) as video:
        for frame, seconds in zip(frames(), times, strict=True):
            video.add_image(frame.image, seconds)
    opened = open_frames(video.path)
    assert [frame.seconds for frame in opened] == pytest.approx(times, abs=6e-4)  # Matroska counts milliseconds
    assert opened.notes == []
    assert [path.name for path in tmp_path.iterdir()] == [f"clip{suffix}"]


def test_what_a_killed_run_left_stays_until_the_next_is_complete(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = '{"head": 1}\n' + '{"index": 0}\n' * 1000
    (tmp_path / "clip.partial.jsonl").write_text(old)

    def broken(self: TrackDocument, finished: bool) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(TrackDocument, "_end", broken)
        assert track(folder, tmp_path, "--no-video") == 1
    error = capsys.readouterr().err
    assert "a killed run left its finished frames in" in error
    assert f"error: '{tmp_path / 'clip.json'}': No space left on device; 8 finished frames can be read in " in error
    assert (tmp_path / "clip.earlier.jsonl").read_text() == old
    assert len(lines_of(tmp_path / "clip.partial.jsonl")) == 9
    assert track(folder, tmp_path, "--no-video") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["clip.json"]


def test_one_of_two_runs_at_once_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with TrackDocument(tmp_path / "clip.json", {}) as document:
        for frame in frames(3):
            document.add(frame)
        with pytest.raises(UserError, match="another run is writing"), TrackDocument(tmp_path / "clip.json", {}):
            pass
        assert track(folder, tmp_path, "--no-video") == 2
    assert "another run is writing" in capsys.readouterr().err
    assert json.loads(document.path.read_text())["num_frames"] == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UserError("frame 2 is odd"), "frame 2 is odd"),
        (MemoryError(), "frame 3 of the folder 'clip' does not fit into the memory of cpu"),
        (RuntimeError("oops\x1b[2J\nagain"), "frame 3 of the folder 'clip': RuntimeError: oops\ufffd[2J again"),
        (OSError(5, "Input/output error", "a.png"), "'a.png': Input/output error"),
    ],
)
def test_an_error_in_the_middle_says_what_is_finished(
    error: Exception,
    expected: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(self: TrackDocument, frame: TrackedFrame) -> None:
        if frame.index == 2:
            raise error
        add(self, frame)

    add = TrackDocument.add
    monkeypatch.setattr(TrackDocument, "add", failing)
    monkeypatch.chdir(folder.parent)
    assert track(Path("clip"), tmp_path, "--ytvis", tmp_path / "r.json") == 1
    said = capsys.readouterr().err
    assert f"error: {expected}" in said
    assert f"; 2 finished frames can be read in '{tmp_path / 'clip.json'}'" in said
    assert len(said.strip().splitlines()) == 1
    assert json.loads((tmp_path / "clip.json").read_text())["num_frames"] == 2
    assert len(list(open_frames(tmp_path / "clip.mp4"))) == 2


def test_sigterm_is_like_ctrl_c(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def add_and_end(self: TrackDocument, frame: TrackedFrame) -> None:
        if frame.index == 2:
            signal.raise_signal(signal.SIGTERM)
        add(self, frame)

    add, before = TrackDocument.add, signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(TrackDocument, "add", add_and_end)
    assert track(folder, tmp_path, "--no-video") == 130
    assert signal.getsignal(signal.SIGTERM) is before
    assert json.loads((tmp_path / "clip.json").read_text())["complete"] is False
    assert capsys.readouterr().err.startswith("stopped: 3 frames tracked")


def test_a_pipe_whose_reader_leaves_is_an_error_and_the_frames_stay(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "clip.json")
    descriptor = os.open(tmp_path / "clip.json", os.O_RDONLY | os.O_NONBLOCK)
    document = TrackDocument(tmp_path / "clip.json", {})
    document.__enter__()
    os.close(descriptor)
    for frame in frames(3):
        document.add(frame)
    with pytest.raises(BrokenPipeError):
        document.__exit__(None, None, None)
    assert len(lines_of(document.working.path)) == 4
    document.working.path.unlink()
