"""Hostile videos: no other file is read, and the claims of a file are checked before the work."""

from __future__ import annotations

import os
import struct
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mask2former import limits
from mask2former.errors import UserError
from mask2former.media.frames import open_frames
from mask2former.media.video import VideoFile

av = pytest.importorskip("av")


def write(path: Path, codec: str = "mpeg4", rate: int = 10, frames: int = 5, **metadata: str) -> Path:
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata)
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = {"png": "rgb24", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * index, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


LISTS: dict[str, str] = {
    "concat": "ffconcat version 1.0\nfile secret.mp4\n",
    "concat, absolute": "ffconcat version 1.0\nfile {folder}/secret.mp4\n",
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
    "HLS, absolute": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\nfile://{folder}/secret.ts\n#EXT-X-ENDLIST\n",
    "HLS, network": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration='
    '"PT1S"><Period><AdaptationSet contentType="video"><Representation id="1" bandwidth="1"><BaseURL>secret.mp4'
    "</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "metadata": ";FFMETADATA1\ntitle=x\n",
}


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ffconcat", ""])
@pytest.mark.parametrize("name", LISTS)
def test_lists_of_other_files_are_refused(name: str, suffix: str, tmp_path: Path) -> None:
    write(tmp_path / "secret.mp4")
    write(tmp_path / "secret.ts", "mpeg2video", 25)
    path = tmp_path / f"list{suffix}"
    path.write_text(LISTS[name].format(folder=tmp_path))
    start = time.perf_counter()
    with pytest.raises(UserError, match="cannot be opened"):
        open_frames(path)
    with pytest.raises(UserError, match="cannot be opened"):
        VideoFile(path).read([0])
    assert time.perf_counter() - start < 5


def test_a_name_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "concat:secret.mp4"
    write(tmp_path / "secret.mp4")
    os.rename("secret.mp4", name)
    assert len(list(open_frames(name))) == 5


def larger(content: bytes) -> bytes:
    """A file whose frames are PNGs of 64x48 pixels, which now claim 32,768x32,768."""
    old = b"IHDR" + struct.pack(">II", 64, 48)
    assert old in content
    return content.replace(old, b"IHDR" + struct.pack(">II", 32_768, 32_768))


def test_frames_that_claim_to_be_huge_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mov", "png")
    assert len(list(open_frames(path))) == 5
    path.write_bytes(larger(path.read_bytes()))
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"1,073,741,824; at most|cannot be|damaged"):
        list(open_frames(path))
    with pytest.raises(UserError, match=r"1,073,741,824; at most|cannot be|damaged"):
        VideoFile(path).read([0])
    assert time.perf_counter() - start < 5


def test_what_containers_claim_is_not_believed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", "mjpeg")
    sizes = struct.pack("<ii", 64, 48)
    path.write_bytes(path.read_bytes().replace(sizes, struct.pack("<ii", 32_768, 32_768)))
    assert {frame.image.shape for frame in open_frames(path)} == {(48, 64, 3)}  # as the frames themselves say


@pytest.mark.parametrize("rate", [Fraction(0), Fraction(-5), Fraction(10**9), Fraction(1, 10**9), Fraction(2**31 - 1)])
def test_absurd_rates_and_durations_are_only_words(
    rate: Fraction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mask2former.media import video

    path = write(tmp_path / "a.mkv")
    opened = video._open

    class Claims:
        average_rate, duration = rate, 2**62

        def __init__(self, stream: object) -> None:
            self.__dict__["stream"] = stream

        def __getattr__(self, name: str) -> object:
            return getattr(self.stream, name)

        def __setattr__(self, name: str, value: object) -> None:
            setattr(self.stream, name, value)

    def lying(*args: object, **words: object) -> object:
        container, stream, notes = opened(*args, **words)  # pyright: ignore[reportArgumentType]
        return container, Claims(stream), notes

    stream = VideoFile(path).stream()
    assert stream.num_frames == 5
    monkeypatch.setattr(video, "_open", lying)
    frames = VideoFile(path).stream()
    assert 0 < frames.rate <= limits.VIDEO_RATE
    assert frames.num_frames is None or frames.num_frames <= limits.VIDEO_FRAMES


def test_times_beyond_all_clocks_are_refused_or_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv")
    for start in (1e9, 1e18, 1e300):
        with pytest.raises(UserError, match=r"cannot be searched|yields no frames"):
            list(open_frames(path, start=start))


def test_metadata_that_is_no_text_is_no_reason_to_refuse_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "a.avi", title="QQQQ")
    path.write_bytes(path.read_bytes().replace(b"QQQQ", b"\xe9\xff\x1b["))
    assert len(list(open_frames(path))) == 5


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_pipes_and_devices_are_no_videos(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").symlink_to("/dev/zero")
    for name, kind in (("a.mp4", "pipe"), ("b.mp4", "device")):
        with pytest.raises(UserError, match=f"is a {kind}"):
            open_frames(tmp_path / name)
        with pytest.raises(UserError, match=f"is a {kind}"):
            VideoFile(tmp_path / name)
