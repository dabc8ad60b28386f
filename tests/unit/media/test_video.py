"""Frames of video files by number, and videos as clips of an annotation file."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mask2former import limits
from mask2former.data.datasets.youtube_vis import YouTubeVIS
from mask2former.errors import UserError
from mask2former.media.archives import Archive, ArchivedFile
from mask2former.media.video import VideoFile, camera_stream

FRAMES = 40


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of forty frames at changing intervals; frame k has the grey 6 k, and every twelfth is a key frame."""
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "12", "crf": "10", "bf": "2"})
        stream.codec_context.time_base = Fraction(1, 75)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 6 * index, np.uint8), format="rgb24")
            frame.pts = 3 * index + index % 2
            frame.time_base = Fraction(1, 75)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("indices", [[0], [39], [3, 17], [17, 3, 17], [11, 12, 13], list(range(FRAMES)), []])
def test_frames_are_those_requested(video: Path, indices: list[int]) -> None:
    images = VideoFile(video).read(indices)
    assert [image.shape for image in images] == [(48, 64, 3)] * len(indices)
    for index, image in zip(indices, images, strict=True):
        assert abs(float(image.mean()) - 6 * index) < 3


def test_faults_are_one_sentence(video: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 40 frames; frame 40 was requested"):
        VideoFile(video).read([40])
    with pytest.raises(UserError, match="there is no video"):
        VideoFile(tmp_path / "none.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("no video at all")
    with pytest.raises(UserError, match="cannot be opened"):
        VideoFile(text).read([0])
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"cannot be opened|damaged"):
        VideoFile(cut).read([30])


def test_an_annotation_file_can_name_videos(video: Path, tmp_path: Path) -> None:
    rle = {"size": [48, 64], "counts": [100, 200, 48 * 64 - 300]}
    entry = {"id": 1, "width": 64, "height": 48, "length": FRAMES, "file_name": video.name}
    track = {"id": 1, "video_id": 1, "category_id": 1, "segmentations": [rle if k > 4 else None for k in range(FRAMES)]}
    content = {"videos": [entry], "annotations": [track], "categories": [{"id": 1, "name": "spot"}]}
    file = tmp_path / "clips.json"
    file.write_text(json.dumps(content))
    clip = YouTubeVIS([(file, video.parent)]).annotated(0, [2, 30])
    assert [round(float(frame.image.mean()) / 6) for frame in clip.frames] == [2, 30]
    assert clip.annotated.tolist() == [[False, True]]
    entry["length"] = FRAMES + 3
    track["segmentations"] = [rle] * (FRAMES + 3)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has 40 frames, but its annotations say 43; it is cut short"):
        YouTubeVIS([(file, video.parent)]).annotated(0, [2, 30])
    del entry["length"]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="needs its number of frames as 'length'"):
        YouTubeVIS([(file, video.parent)])


def test_large_frames_and_archives_are_refused(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "VIDEO_PIXELS", 64 * 48 - 1)
    with pytest.raises(UserError, match=r"is 64x48 .*3,071"):
        VideoFile(video).stream()
    with pytest.raises(UserError, match=r"all\.zip/a\.mp4' is in an archive"):
        VideoFile(ArchivedFile(Archive(tmp_path / "all.zip"), "a.mp4"))


@pytest.mark.parametrize(
    ("platform", "address", "options"),
    [
        ("linux", "/dev/video2", {"format": "v4l2"}),
        ("darwin", "2", {"format": "avfoundation", "options": {"framerate": "30"}}),
    ],
)
def test_a_camera_is_opened_as_its_system_wants(
    platform: str, address: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[Any, ...]] = []
    monkeypatch.setattr("mask2former.media.video.VideoStream", lambda *args, live: opened.append((*args, live)))
    monkeypatch.setattr(sys, "platform", platform)
    camera_stream(2)
    assert opened == [(address, "camera 2", options, True)]
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UserError, match="only on Linux and macOS"):
        camera_stream(2)


class Broken:
    """A container that fails after thirty packets."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def __enter__(self) -> Broken:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def demux(self, stream: Any) -> Iterator[Any]:
        yield from itertools.islice(self._container.demux(stream), 30)
        raise av.FFmpegError(1, "Invalid data found")


def test_a_file_that_cannot_be_read_to_its_end_gives_the_frames_before(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = av.open
    monkeypatch.setattr(av, "open", lambda *args, **options: Broken(open_file(*args, **options)))
    stream = VideoFile(video).stream()
    assert len(list(stream)) == 30
    assert any("Invalid data found (1 times)" in note for note in stream.notes)


@pytest.mark.parametrize(
    ("ending", "codec", "options"),
    [
        ("ts", "libx264", {"g": "12", "bf": "2", "crf": "10"}),
        ("ts", "libx264", {"g": "12", "crf": "10", "x264-params": "intra-refresh=1"}),
        ("mpg", "mpeg2video", {"g": "12", "bf": "2", "qmax": "2"}),
        ("flv", "libx264", {"g": "12", "bf": "2", "crf": "10"}),
    ],
)
def test_frames_of_formats_that_cannot_be_searched_exactly(
    tmp_path: Path, ending: str, codec: Any, options: dict[str, str]
) -> None:
    path = tmp_path / f"clip.{ending}"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 6 * index, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for indices in ([0], [1], [20, 5], [39]):
        images = VideoFile(path).read(indices)
        assert [round(float(image.mean()) / 6) for image in images] == indices
    part = VideoFile(path).stream(0.72, 1.0)
    found = [(round(float(image.mean()) / 6), round(25 * seconds)) for image, seconds in part]
    if "x264-params" in options:  # without a key frame after the first one
        assert found == [(k, k) for k in range(20, 25)]
        words = (
            "has frames from 0.72 s on that cannot be decoded from the key frame before them; the first is that at 0.80"
        )
        assert words in part.notes[0]
    else:
        assert found == [(k, k) for k in range(18, 25)]
        assert not part.notes


def test_a_late_start_in_a_pause_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.codec_context.time_base = Fraction(1, 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for time in (0, 1, 2, 50, 51, 100, 101, 150):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), time, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    part = VideoFile(path).stream(1.0)
    assert [round(seconds, 2) for _, seconds in part] == [2.0, 2.04, 4.0, 4.04, 6.0]
    assert not any("decoded" in note for note in part.notes)


def test_a_matroska_file_without_sound_that_is_cut_short_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(FRAMES):
            pixels = noise.integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    assert len(list(whole := VideoFile(path).stream())) == FRAMES
    assert not whole.notes
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 88 // 100])
    assert len(list(cut := VideoFile(path).stream())) == 35
    assert "it ends early, 1.60 s were expected" in cut.notes[0]
