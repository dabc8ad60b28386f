"""Damaged, rotated and unusual videos: the right frames, a note that names the loss, or an error."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mask2former.errors import UserError
from mask2former.media.frames import open_frames
from mask2former.media.video import VideoFile
from mask2former.notes import collect_notes

FRAMES = 48
PACKET = 188  # bytes, of a transport stream


def write(
    path: Path,
    *,
    num_frames: int = FRAMES,
    streams: int = 1,
    size_hw: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    x264: str = "bframes=3",
    muxing: dict[str, str] | None = None,
    ticks: Callable[[int], int] = lambda index: index,
) -> Path:
    """Write a video of 25 frames per second: frame k has the grey 5 k and some noise; every twelfth is a key frame."""
    rng = np.random.default_rng(0)
    # With one thread the file is the same every time, and so is what a decoder makes of it when it is damaged.
    options = {"g": "12", "crf": "10", "threads": "1", "x264-params": x264} if codec == "libx264" else {}
    with av.open(str(path), "w", options=muxing or {}) as container:
        made: list[Any] = [container.add_stream(codec, rate=25, options=options) for _ in range(streams)]
        for stream in made:
            (stream.height, stream.width), stream.pix_fmt = size_hw, pixels
            stream.codec_context.time_base = Fraction(1, 25)
        for index in range(num_frames):
            image = np.full((*size_hw, 3), 5 * index, np.uint8) + rng.integers(0, 12, (*size_hw, 3), dtype=np.uint8)
            for stream in made:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = ticks(index), Fraction(1, 25)
                container.mux(stream.encode(frame))
        for stream in made:
            container.mux(stream.encode())
    return path


def shown_by(path: Path, **times: float) -> tuple[list[float], list[float], str]:
    """The times of frames, the number of the frame that each shows, and the notes."""
    frames = open_frames(path, **times)
    seen = [(frame.seconds, (float(frame.image.mean()) - 5.5) / 5) for frame in frames]
    return [seconds for seconds, _ in seen], [shown for _, shown in seen], "\n".join(frames.notes)


def without(path: Path, first: int, number: int) -> Path:
    """A copy of a transport stream without some packets."""
    content = path.read_bytes()
    cut = path.with_name(f"cut{first}-{number}.ts")
    cut.write_bytes(content[: first * PACKET] + content[(first + number) * PACKET :])
    return cut


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("stream") / "whole.ts", size_hw=(96, 128))


def test_a_whole_stream_needs_no_words(stream: Path) -> None:
    seconds, shown, notes = shown_by(stream)
    assert seconds == pytest.approx([k / 25 for k in range(FRAMES)])
    assert shown == pytest.approx(range(FRAMES), abs=0.5)
    assert notes == ""


@pytest.mark.parametrize("seed", range(12))
def test_a_hole_leaves_the_order_and_is_told(stream: Path, seed: int) -> None:
    rng = random.Random(seed)
    total = stream.stat().st_size // PACKET
    number = rng.choice([2, 17, 60, 110, 300])
    seconds, shown, notes = shown_by(without(stream, rng.randrange(10, total - number - 60), number))
    assert all(after > before for before, after in pairwise(seconds))
    wrong = [k for k, (time, what) in enumerate(zip(seconds, shown, strict=True)) if abs(25 * time - what) > 0.6]
    assert "is damaged" in notes or "gap" in notes
    assert len(wrong) <= 3  # a frame whose own data is lost may be shown for another moment, with the note
    if len(seconds) < FRAMES - 3:
        assert "gap" in notes or "ends early" in notes
    if wrong:
        assert "may show something else" in notes


def test_holes_are_counted_with_their_times(stream: Path) -> None:
    cut = without(without(stream, 600, 110), 200, 110)
    _, _, notes = shown_by(cut)
    assert "has 2 gaps without frames: " in notes


def test_a_stream_without_its_first_key_frame_says_where_it_begins(stream: Path) -> None:
    seconds, _, notes = shown_by(without(stream, 3, 120))
    assert seconds[0] > 0.1 or "may show something else" in notes
    assert notes


def test_a_clock_that_is_set_back_goes_on(stream: Path) -> None:
    twice = stream.with_name("twice.ts")
    twice.write_bytes(stream.read_bytes() * 2)
    seconds, shown, notes = shown_by(twice)
    assert seconds == pytest.approx([k / 25 for k in range(2 * FRAMES)])
    assert shown == pytest.approx([*range(FRAMES), *range(FRAMES)], abs=0.6)
    assert "is set back after 1.88 s (1 times in total); its times continue from there" in notes


def overwrite_the_middle(path: Path) -> None:
    """Overwrite a third of the file, so that no decoder can mistake it for something else."""
    content, rng = bytearray(path.read_bytes()), random.Random(0)
    first, last = 2 * len(content) // 6, 4 * len(content) // 6
    content[first:last] = rng.randbytes(last - first)
    path.write_bytes(content)


def add_sound(path: Path, *, with_cover: bool = False) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        if with_cover:
            cover: Any = container.add_stream("mjpeg", rate=1)
            if not hasattr(cover, "disposition"):
                pytest.skip("this version of PyAV knows no covers")
            cover.width, cover.height, cover.pix_fmt, cover.disposition = 64, 48, "yuvj420p", 1024
            image = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(cover.encode(image) + cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: 6 * len(content) // 10])


NOTED = {
    "overwritten": ("a.mp4", {}, overwrite_the_middle, "is damaged"),
    "truncated": ("a.mp4", {"muxing": {"movflags": "faststart"}}, cut_short, r"is damaged after \d\.\d\d s"),
    "two streams": (
        "a.mp4",
        {"streams": 2},
        None,
        r"has 2 video streams \(width x height 64x48, 64x48\); the first is",
    ),
    "interlaced": ("a.mp4", {"x264": "tff=1"}, None, r"is interlaced \(48 of 48 frames\)"),
    "HDR": ("a.mp4", {"pixels": "yuv420p10le", "x264": "transfer=smpte2084"}, None, r"is HDR \(PQ\)"),
    "alpha": (
        "a.mov",
        {"codec": "prores_ks", "pixels": "yuva444p10le"},
        None,
        "has an alpha channel, which is not used; transparent pixels show the colours that are stored under them",
    ),
    "alpha of WebM": ("a.webm", {"codec": "libvpx-vp9", "pixels": "yuva420p"}, None, "has an alpha channel"),
    "oblong pixels": ("a.mp4", {"x264": "sar=4/3"}, None, r"pixels that are not square \(4:3\)"),
    "no times": ("a.h264", {}, None, "has 48 of 48 frames without a time; each is placed 1/25 s after"),
    "one gap": ("a.mp4", {"ticks": lambda k: k + 20 * (k >= 30)}, None, r"has 1 gap without frames: 1\.16 to 2\.00 s"),
}


@pytest.mark.parametrize("case", NOTED)
def test_what_is_lost_or_doubtful_is_noted(case: str, tmp_path: Path) -> None:
    name, options, change, words = NOTED[case]
    path = write(tmp_path / name, **options)
    if change is not None:
        change(path)
    seconds, _, notes = shown_by(path)
    assert all(after > before for before, after in pairwise(seconds))
    assert re.search(words, notes), notes


RIGHT = {
    "variable rate": ("a.mp4", {"ticks": lambda k: 3 * k + k % 3}),
    "odd sides": ("a.mkv", {"codec": "ffv1", "size_hw": (47, 63)}),
    "ten bits": ("a.mp4", {"pixels": "yuv420p10le"}),
    "full range": ("a.mp4", {"pixels": "yuvj420p"}),
    "Matroska": ("a.mkv", {}),
}


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_usual_is_read_without_a_word(case: str, tmp_path: Path) -> None:
    name, options = RIGHT[case]
    _, shown, notes = shown_by(write(tmp_path / name, **options))
    assert shown == pytest.approx(range(FRAMES), abs=0.6)
    assert notes == ""


REFUSED = {
    "a cover": (
        lambda path: add_sound(path, with_cover=True),
        r"no video stream \(it has: audio, cover image\); expected a video",
    ),
    "sound": (add_sound, r"has no video stream \(it has: audio\); expected a video"),
    "truncated": (cut_short, "cannot be opened: Invalid data.* cut short may have lost the index at its end"),
    "empty file": (lambda path: path.write_bytes(b""), "is an empty file; expected a video"),
    "no frames": (lambda path: path.write_bytes(write(path.with_suffix(".ts")).read_bytes()[: 4 * PACKET]), "."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_video_is_refused(case: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    change, words = REFUSED[case]
    change(path)
    with pytest.raises(UserError, match=words):
        list(open_frames(path))


def test_frames_of_annotations_are_not_counted_in_what_is_damaged(stream: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is damaged \(\d of \d+ packets\), so its frames cannot be counted"):
        VideoFile(without(stream, 350, 5)).read([40])
    with pytest.raises(UserError, match="have no distinct times"):
        VideoFile(write(tmp_path / "a.h264")).read([3])


def test_a_video_that_is_longer_than_its_annotations_is_noted(tmp_path: Path) -> None:
    """As after a conversion to twice the frame rate, where the annotations lie on other frames."""
    with collect_notes() as notes:
        VideoFile(write(tmp_path / "a.mp4")).read([0], 5)
    assert re.fullmatch(r"'.*' \(\d+ frames, 5 in the annotations\)", notes[0].example)
    assert "converted to another frame rate" in notes[0].message


# --- display matrices ------------------------------------------------------------------------------------------------

UPRIGHT = np.zeros((48, 64, 3), np.uint8)
UPRIGHT[:12, :32] = 240  # bright at the top left,
UPRIGHT[:24, :8] = 240  # and of no symmetry


def with_matrix(
    path: Path, stored: np.ndarray, matrix: tuple[float, float, float, float], perspective: int = 0
) -> Path:
    """Write an mp4 whose track header has this matrix (a, b, c, d): (x, y) is shown at (a x + c y, b x + d y)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = stored.shape[0], stored.shape[1], "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40  # after version, times, track, layer and volume
    a, b, c, d = (round(65536 * value) for value in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, perspective, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path


MATRICES = {
    "as it is": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "half turn": (-1, 0, 0, -1),
    "quarter turn": (0, 1, -1, 0),
    "quarter turn back": (0, -1, 1, 0),
    "transposed": (0, 1, 1, 0),
    "transposed the other way": (0, -1, -1, 0),
}


@pytest.mark.parametrize("case", MATRICES)
def test_frames_are_shown_by_the_display_matrix(case: str, tmp_path: Path) -> None:
    a, b, c, d = MATRICES[case]
    # What has to be stored, pixel by pixel from the definition.
    height, width = (64, 48) if b else (48, 64)
    rows, columns = np.mgrid[:height, :width]
    stored = UPRIGHT[(b * columns + d * rows - (b + d < 0)) % 48, (a * columns + c * rows - (a + c < 0)) % 64]
    path = with_matrix(tmp_path / "a.mp4", stored, (a, b, c, d))
    (image,) = VideoFile(path).read([1])
    assert image.shape == UPRIGHT.shape
    assert np.abs(image.astype(int) - UPRIGHT).mean() < 5
    frames = open_frames(path, start=0.03, end=0.07)
    (frame,) = list(frames)
    assert np.abs(frame.image.astype(int) - UPRIGHT).mean() < 5
    assert frames.notes == []


@pytest.mark.parametrize(
    ("matrix", "perspective"),
    [((0.866, 0.5, -0.5, 0.866), 0), ((1, 0.2, 0, 1), 0), ((1, 0, 1, 0), 0), ((1, 0, 0, 1), 9)],
)
def test_other_display_matrices_are_refused(matrix: tuple[float, ...], perspective: int, tmp_path: Path) -> None:
    a, b, c, d = matrix
    path = with_matrix(tmp_path / "a.mp4", UPRIGHT, (a, b, c, d), perspective)
    with pytest.raises(UserError, match=r"display matrix .* expected quarter turns and mirrors: re-encode"):
        list(open_frames(path))
    with pytest.raises(UserError, match="display matrix"):
        VideoFile(path).read([0])


def test_a_matrix_of_zeros_says_nothing(tmp_path: Path) -> None:
    (image,) = VideoFile(with_matrix(tmp_path / "a.mp4", UPRIGHT, (0, 0, 0, 0))).read([0])
    assert np.abs(image.astype(int) - UPRIGHT).mean() < 5
