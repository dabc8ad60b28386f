"""``mask2former track``: videos, folders, its output, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.cli import main
from mask2former.data.datasets.scenes import SceneClips
from mask2former.inference.predictor import Predictor
from mask2former.media.frames import open_frames
from mask2former.results_io.json import TrackDocument
from mask2former.results_io.video import VideoWriter
from mask2former.structures.tracks import TrackedFrame

NUM_FRAMES = 6


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return SceneClips(64, NUM_FRAMES, seed=2_600_000, length=1).images(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, images: list[np.ndarray]) -> Path:
    path = tmp_path_factory.mktemp("clips") / "scene"
    path.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(path / f"{index}.png")
    return path


def run(*words: object) -> int:
    return main(["track", "-m", "scenes-tiny", *map(str, words), "--short-edge", "0", "--device", "cpu"])


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_folder_becomes_a_video_and_json(
    folder: Path, images: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(folder, "-o", out, "--rate", 10, "--ytvis", tmp_path / "r.json", "--video-id", 5) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("6 frames tracked (instance, scenes-tiny), ")
    assert str(out / "scene.mp4") in lines[-1]
    assert str(out / "scene.json") in lines[-1]

    document = read(out / "scene.json")
    expected = list(Predictor.from_pretrained("scenes-tiny", device="cpu").track(images, short_edge=0, rate=10))
    assert document["frames"] == [frame.to_dict() for frame in expected]
    assert len(document["tracks"]) > 0
    assert (document["complete"], document["notes"], document["size"]) == (True, [], [64, 64])
    assert document["settings"]["window"] == 1
    frames = list(open_frames(out / "scene.mp4"))
    assert [frame.seconds for frame in frames] == pytest.approx([index / 10 for index in range(NUM_FRAMES)])
    assert {record["video_id"] for record in read(tmp_path / "r.json")} == {5}


def test_a_video_can_be_cut_and_its_stuff_kept(images: list[np.ndarray], tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for index, image in enumerate(images):
            writer.add_image(image, index / 10)
    words = ("--task", "panoptic", "--start", 0.2, "--end", 0.5, "--no-video", "--window", 2)
    assert run(tmp_path / "clip.mp4", "-o", tmp_path / "out", *words) == 0
    document = read(tmp_path / "out" / "clip.json")
    assert [frame["seconds"] for frame in document["frames"]] == pytest.approx([0.2, 0.3, 0.4])
    assert document["task"] == "panoptic"
    assert any(item["track_id"] is None for item in document["frames"][0]["objects"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.json"]


def test_results_are_not_lost_by_accident(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (folder, "-o", tmp_path, "--no-video", "--end", 0.05)
    assert run(*words) == 0
    assert run(*words) == 2
    assert "already exists; use --overwrite" in capsys.readouterr().err
    assert run(*words, "--overwrite") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.mp4"], "there is no video or folder 'none.mp4'"),
        (["FOLDER", "--start", "9"], "there are none in the requested time"),
        (["FOLDER", "--start", "2", "--end", "1"], "0 <= start < end"),
        (["FOLDER", "--window", "0"], "window"),
        (["FOLDER", "--window", "2", "--stride", "3"], "stride 3 must not be above window 2"),
        (["FOLDER", "--model", "no-such-model"], "no-such-model"),
    ],
)
def test_wrong_requests_leave_nothing(
    words: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*[str(folder) if word == "FOLDER" else word for word in words], "-o", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_the_video_itself_is_safe(images: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        writer.add_image(images[0], 0.0)
    before = (tmp_path / "clip.mp4").read_bytes()
    assert run(tmp_path / "clip.mp4", "-o", tmp_path, "--overwrite") == 2
    assert "is an input and would be overwritten" in capsys.readouterr().err
    assert (tmp_path / "clip.mp4").read_bytes() == before


@pytest.mark.usefixtures("default_signals")
def test_ctrl_c_ends_after_the_frame_in_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add = TrackDocument.add

    def add_and_press(self: TrackDocument, frame: TrackedFrame) -> None:
        if frame.index == 2:
            signal.raise_signal(signal.SIGINT)
        add(self, frame)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(TrackDocument, "add", add_and_press)
    assert run(folder, "-o", tmp_path) == 130
    assert signal.getsignal(signal.SIGINT) is before
    document = read(tmp_path / "scene.json")
    assert (document["num_frames"], len(document["frames"]), document["complete"]) == (3, 3, False)
    assert len(list(open_frames(tmp_path / "scene.mp4"))) == 3
    assert capsys.readouterr().err.startswith("stopped: 3 frames tracked (instance, scenes-tiny)")


@pytest.mark.slow
@pytest.mark.usefixtures("default_signals")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_ctrl_c_leaves_a_playable_video_and_whole_json(images: list[np.ndarray], tmp_path: Path) -> None:
    folder = tmp_path / "long"
    folder.mkdir()
    for index in range(400):
        Image.fromarray(images[index % NUM_FRAMES]).save(folder / f"{index}.png")
    out = tmp_path / "out"
    words = ["track", str(folder), "-o", str(out), "-m", "scenes-tiny", "--short-edge", "64", "--device", "cpu"]
    command = [sys.executable, "-m", "mask2former", *words]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    # The first bytes say that some frames are done.
    while time.monotonic() < deadline and process.poll() is None:
        if any(path.stat().st_size for path in out.glob("*.partial.jsonl")):
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stdout + stderr
    document = read(out / "long.json")
    assert 0 < document["num_frames"] < 400
    assert document["complete"] is False
    assert len(document["frames"]) == document["num_frames"] == len(list(open_frames(out / "long.mp4")))
    assert stderr.startswith(f"stopped: {document['num_frames']} frame")
    assert sorted(path.name for path in out.iterdir()) == ["long.json", "long.mp4"]
